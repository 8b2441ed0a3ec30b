"""Files -> trajectories -> MAE -> text -> tokens -> PKT weights -> rows -> batches.

reader.py          a JSON or JSONL file, or a data set's name -> records; -> trajectories in an Arrow file
formats/           a record, in one of the formats that people have -> Trajectory
trajectory.py      Trajectory: tools and turns
mae.py             trajectory -> which steps may be learned from, and why not; mae_default.py: the default rule
prompt.py          trajectory -> text with the spans of replies and names; the chat template of an export
tokenizer.py       text <-> tokens with the characters that each covers
pkt.py             a tool's name among others -> key tokens and their weight
steps.py           trajectory -> Steps: tokens and weights of every reply
batch_arrays.py    the classes of tokens
rows.py            steps -> rows: one sequence per trajectory, with targets and normalized weights
batch.py           rows -> packed batches; the batch of step n is a function of (seed, n)
examples.py        a config's `data` block -> training and held-out rows, with a summary
prompt_table.py    a config's `data` block -> prompts with golden calls, for PPO
prompt_records.py  a file of prompts or messages -> prompts to reply to
prepare.py         trajectories -> one line of JSON per step
arrow.py           generated rows -> an Arrow file, built once per key
check.py           checks the `data` block
"""
