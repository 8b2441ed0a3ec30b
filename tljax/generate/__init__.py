"""Turns prompts into replies, with a cache of keys and values.

load.py      a model's path -> the model's description and its tokenizer
sampling.py  logits [B, V] -> tokens and their log-probabilities, under SampleOptions
decode.py    padded prompts [B, P] -> ReplyBatch: prefill, then one token of every row a step
batches.py   token lists of any length -> batches of few shapes -> Reply objects
progress.py  counts of finished replies -> a bar or lines of progress
run.py       configs/generate.py and a file of prompts -> a file of replies, resumable
"""
