"""Conversion from and to the files of Hugging Face.

config.py   config.json <-> LlamaConfig
load.py     a checkpoint folder -> parameters on the mesh
export.py   parameters -> a checkpoint folder with its tokenizer
adapter.py  an adapter folder of the `peft` library <-> adapter and LoraOptions
"""
