"""CodeLLaMA as a pytree: one table of weights, and pure functions over it.

hf/            a Hugging Face folder <-> LlamaConfig and parameters
config.py      LlamaConfig, the shape of a model, and the published sizes
llama.py       LlamaConfig -> table of weights -> parameters; tokens [B, T] -> hidden states [B, T, D] -> logits
rope.py        positions [B, T] -> rotary angles; rotated queries and keys
attention.py   queries, keys, values and segments -> mixed values, by the implementation for the platform
blocked_attention.py  the implementation for processors: one block of queries and keys at a time
blocks.py      rows in equal blocks, their padding, and the mask of the keys that a query attends to
shared_prompt.py  a prompt and several replies -> one row, in which the prompt is computed once
sequence.py    rows [B, T] -> their positions sharded over the mesh axis "sequence", and back
product.py     activations times a weight, with gradients in a form that processors compute fast
remat.py       config.model.remat -> the policy that says what a layer keeps for the backward pass
head.py        hidden states [B, M, D] -> a score of each position, without logits for whole rows
lora.py        LoraOptions -> adapter; parameters and adapter -> parameters with the adapter attached or merged
value.py       hidden states -> the critic's values
cost.py        LlamaConfig -> numbers of weights, operations of a token
memory.py      numbers of weights, and a device's batch -> bytes of a training state and of activations
"""
