"""Replies -> scores: TS, PI and CF with intervals, on held-out queries and on the paper's benchmarks.

score             reply text, golden calls and tools -> Score; Scores -> summary in percent with Wilson intervals
intervals         sums over groups (replies of a dialogue, steps of a trajectory) -> means and shares with intervals
report            Scores -> tables for a terminal
toolbox_queries   the toolbox's held-out tasks -> queries with one golden call each
benchmarks/       benchmark files -> sets of examples; predictions -> scores and reports
scored_replies    model and queries -> greedy replies with their scores -> JSONL rows
in_training       the same for eval.sets while a model trains: metrics, a file for each step, the selection loss
benchmark_run     model and benchmark sets -> a predictions file that an interrupted run continues -> report
run               the command: toolbox queries or benchmarks, by config.data
"""
