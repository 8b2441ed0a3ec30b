"""The toolbox: small local tools, seeded tasks for them, and the trajectories that train and test the small base.

schema: a typed Python function -> a tool with its OpenAI schema.
domains: the tools themselves, a file for each domain.
tools: the domains -> all tools by name and by split.
execute: a tool call -> its result, or Python's error text, as feedback.
tasks: a seed, split and index -> a query and the calls that solve it.
noise: a row -> the same row with the names of its tools or parameters changed.
trajectories: tasks, failing calls and noise -> rows in the raw schema.
words: rows -> their content words, for the comparison of splits.
lexicon: the words and values from which invented tools are drawn.
invented: a seed -> rows with invented tools, on which the small base is pretrained.
tokenizer: invented rows -> the small tokenizer.
embedded: "toolbox", "invented" or "base" in a config -> a file of rows, or the folder of the small base.
"""
