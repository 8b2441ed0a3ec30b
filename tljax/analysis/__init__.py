"""Trajectories, and a model if there is one -> the three analyses of TL-Training: tables, plots and CSV files.

call_errors       call and tools -> the kinds of error that the documentation alone shows
feedback_errors   trajectories -> which steps failed, by tool feedback and by documentation (first analysis)
golden_steps      trajectories -> a sample of steps with calls: prompt tokens and golden reply tokens
token_classes     golden reply -> the class of every token: name, parameter, value, syntax
token_scores      model and golden steps -> loss, rank and most likely token for every golden token
token_losses      token scores -> loss and rank by token class (second analysis)
corrections       greedy replies -> error kinds, and the effect of correcting the first wrong token (third analysis)
tables            rows of counts and estimates -> text, Markdown, JSON
plots             counts of the analyses -> png and pdf
report            tables and plots -> the report's folder, which appears complete or not at all
run               the command: config -> all of these
"""
