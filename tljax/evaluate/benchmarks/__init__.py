"""Files of the paper's benchmarks -> sets of examples -> scores of predictions -> tables, report and plots.

sets            the common form of a row (Example) and of a file (EvalSet); reading of their JSON
rotbench        files of RoTBench and ToolEyes -> EvalSet
toolalpaca      files of ToolAlpaca -> EvalSet
bfcl            files of the Berkeley function-calling leaderboard -> EvalSet
training_rows   files of training rows, in any format -> EvalSet
discover        a path -> the sets of all files below it
noisy           a set -> its versions under RoTBench's name noise
predictions     a JSONL file of predictions -> replies by set and row
results         replies -> SetScores -> the report as JSON; differences from another report
robustness      SetScores with and without noise -> drops, and their plot
published       the paper's figures for a set
tables          SetScores -> tables for a terminal
bfcl_results    replies -> result files for BFCL's own checker
scoring         the command without a model: sets and predictions -> all of the above
"""
