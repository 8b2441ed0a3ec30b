"""Weighted fine-tuning: rows with PKT weights and a model in, a fine-tuned model out.

check.py    checks configs/sft.py before any device work
loss.py     log-probabilities and weights -> weighted negative log-likelihood, as sums
step.py     (state, batch) -> (state, metrics), jitted; the same for evaluation
samples.py  a held-out batch and its scores -> replies token by token, for people
run.py      configs/sft.py -> a run's folder
"""
