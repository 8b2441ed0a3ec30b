"""The toolbox: small local tools, seeded tasks for them, and trajectories that train and test the small base.

schema: a typed Python function -> a tool with its OpenAI schema.
domains: the tools, one file per domain.
tools: the domains -> all tools, by name and by split.
execute: a tool call -> its result, or Python's error text.
tasks: a seed, split and index -> a query and the calls that solve it.
noise: a row -> the same row with changed names of tools or parameters.
trajectories: tasks, failing calls and noise -> rows in the raw schema.
words: rows -> their content words, by which splits are compared.
lexicon: lexicon.txt -> words and values for invented tools.
invented: a seed -> rows with invented tools, on which the small base is pretrained.
tokenizer: invented rows -> the small tokenizer.
embedded: "toolbox" or "invented" in a config -> a file of rows; "base" -> the folder of the small base.
"""
