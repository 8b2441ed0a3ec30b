"""Conversion from and to the files of Hugging Face.

config.py          config.json <-> LlamaConfig
rope_config.py     the rotary fields of config.json <-> theta and RopeScaling
files.py           a checkpoint folder -> its tensors by name, without their data
load.py            a checkpoint folder -> parameters on the mesh
export.py          parameters -> a checkpoint folder with its tokenizer
adapter.py         an adapter folder of the `peft` library <-> adapter and LoraOptions
gguf_file.py       a GGUF file of llama.cpp -> its metadata and where its tensors lie
gguf_config.py     metadata -> LlamaConfig
gguf_weights.py    tensors of a GGUF file -> tensors with the names and the layout of Hugging Face
pre_tokenizers.py  llama.cpp's names of pre-tokenizers <-> those of tokenizer.json
gguf_tokenizer.py  metadata -> the files of a tokenizer
gguf_vocabulary.py the files of a tokenizer -> the tokenizer in the metadata of a GGUF file
gguf_export.py     parameters and tokenizer -> a GGUF file
gguf_folder.py     a GGUF file -> a folder of config and tokenizer in the cache, and the tensors
"""
