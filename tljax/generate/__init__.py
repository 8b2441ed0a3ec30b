"""Turns prompts into replies, with a cache of keys and values.

load.py      a model's path -> the model's description and its tokenizer
sampling.py  logits [B, V] -> tokens and their log-probabilities, under SampleOptions
slots.py     rows that are decoded together: what each holds, and how a prompt gets into one
decode.py    padded prompts [n, P] -> keys and values; slots -> slots with one more token of every row a step
batches.py   lengths -> the few shapes in which prompts are computed; Reply
sampler.py   token lists of any length -> Reply objects; waiting prompts take the slots of replies that ended
progress.py  counts of finished replies -> a bar or lines of progress
run.py       configs/generate.py and a file of prompts -> a file of replies, resumable
"""
