"""Weighted fine-tuning: rows with PKT weights and a model in, a fine-tuned model out.

check.py     checks configs/sft.py before any device work
context.py   SFTContext: the parts of a run that never change
batches.py   rows of examples -> batches for training and evaluation -> arrays on the mesh
loss.py      log-probabilities and weights -> weighted negative log-likelihood, as sums
step.py      (state, batch) -> (state, metrics), jitted; the same for evaluation
samples.py   a held-out batch and its scores -> replies token by token, for people
held_out.py  held-out batches -> their loss and metrics
run.py       configs/sft.py -> a run's folder
"""
