"""Files -> trajectories -> MAE -> text -> tokens -> PKT weights -> rows -> batches.

source_files.py    a file, a folder or a data set's name -> the files with its rows
records.py         a JSON or JSONL file, or another one by its first bytes -> records
tables.py          a Parquet or Arrow file, or a data set -> records
reader.py          records -> trajectories in an Arrow file
formats/           a record, in one of the formats that people have -> Trajectory
format_report.py   the formats of the rows of each file -> lines of a summary
trajectory.py      Trajectory: tools and turns
mae.py             trajectory -> a decision for each step, with the reason if it is blocked
mae_default.py     feedback of a tool -> the error that the default rule finds in it
mae_labels.py      a file with verdicts of any critic on steps, as a rule
mae_phrases.py     the phrases by which the default rule knows an error in a text
new_names.py       trajectory -> the same one with new names for its tools and parameters
rendered.py        text with the positions of replies and names
prompt.py          trajectory -> text with the spans of replies and names; chat_template.jinja: the same in Jinja
model_template.py  the same in the chat template of a model; hermes.jinja: one for models whose own leaves tools out
dialect.py         a config's dialect -> how conversations are written, and the tokenizer for it
response_template.py  a dialect -> how transformers' parse_response reads its calls
tokenizer.py       text <-> tokens with the characters that each covers
pkt.py             a tool's name among others -> key tokens and their weight
steps.py           trajectory -> Steps: text, tokens, token classes and weights of every reply
batch_arrays.py    the classes of tokens; the names and dtypes of the arrays of rows and batches
rows.py            steps -> rows: one sequence per trajectory, with targets and loss weights
batch.py           rows -> packed batches; the batch of step n is a function of (seed, n)
examples.py        a config's `data` block -> training and held-out rows, with a summary
prompt_rows.py     trajectories or rendered prompts -> rows of prompts with golden calls
prompt_table.py    a config's `data` block -> prompts with golden calls, for PPO
prompt_records.py  a file of prompts or messages -> prompts to reply to
prepare.py         trajectories -> one line of JSON per step
arrow.py           generated rows -> an Arrow file, built once per key
check.py           checks the `data` block
"""
