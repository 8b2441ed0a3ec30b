"""The tensors of a GGUF file -> tensors with the names and the layout of Hugging Face, read one at a time."""

import math
from typing import Any

import jax
import ml_dtypes
import numpy as np

from tljax.core.errors import InputError
from tljax.model.hf.gguf_config import ROPE_FACTORS
from tljax.model.hf.gguf_file import GGUFFile, GGUFTensor, read_tensor
from tljax.model.hf.load import Index, StoredTensor, check_tensors
from tljax.model.llama import LlamaConfig, Param, is_param, params_table

# Our names of the weights -> those of GGUF, which is "blk.{}." before the names of a layer.
NAMES = {
    **{"embed": "token_embd.weight", "final_norm": "output_norm.weight", "lm_head": "output.weight"},
    **{"attn_norm": "attn_norm.weight", "mlp_norm": "ffn_norm.weight"},
    **{"q": "attn_q.weight", "k": "attn_k.weight", "v": "attn_v.weight", "o": "attn_output.weight"},
    **{"q_norm": "attn_q_norm.weight", "k_norm": "attn_k_norm.weight"},
    **{"q_bias": "attn_q.bias", "k_bias": "attn_k.bias", "v_bias": "attn_v.bias"},
    **{"gate": "ffn_gate.weight", "up": "ffn_up.weight", "down": "ffn_down.weight"},
}
# llama.cpp's converter reorders the rows of queries and keys in the architectures of Llama and Mistral alone.
PERMUTED_ARCHITECTURES = ("llama", "mistral")
PERMUTED = ("q", "k", "q_bias", "k_bias")
_DTYPES = {"F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}


def gguf_table(c: LlamaConfig) -> dict[str, Any]:
    """Returns the table of weights with GGUF's names in place of those of Hugging Face."""

    def rename(path: tuple[Any, ...], p: Param) -> Param:
        name = NAMES[path[-1].key]
        return p._replace(hf_name=f"blk.{{}}.{name}" if p.stacked else name)

    return jax.tree_util.tree_map_with_path(rename, params_table(c), is_leaf=is_param)


def gguf_tensors(file: GGUFFile, c: LlamaConfig) -> dict[str, StoredTensor]:
    """Returns the model's tensors by their names in Hugging Face, without their data.

    Quantized tensors are dequantized to float32 when they are read. Raises InputError for tensors that are missing,
    unexpected or of wrong shape.
    """
    permuted = file.metadata["general.architecture"] in PERMUTED_ARCHITECTURES
    stored = {name: _stored(tensor) for name, tensor in file.tensors.items() if name != ROPE_FACTORS}
    table = gguf_table(c)
    check_tensors(stored, table, f"{file}: tensors that do not fit its metadata", "fetch the file again")
    renamed: dict[str, StoredTensor] = {}
    ours = jax.tree_util.tree_leaves_with_path(params_table(c), is_leaf=is_param)
    theirs = jax.tree.leaves(table, is_leaf=is_param)
    for (path, p), gguf_param in zip(ours, theirs, strict=True):
        for layer in range(p.shape[0] if p.stacked else 1):
            tensor = stored[gguf_param.hf_name.format(layer)]
            if permuted and path[-1].key in PERMUTED:
                tensor = _unpermuted(tensor, c.head_dim)
            renamed[p.hf_name.format(layer)] = tensor
    return renamed


def weights_dtype(file: GGUFFile) -> str:
    """Returns the dtype of the matrices: "float16" or "bfloat16" where all have it, "float32" where any is quantized.

    Norms do not count: llama.cpp keeps them in float32 in every file.
    """
    kinds = {tensor.kind for tensor in file.tensors.values() if len(tensor.shape) > 1}
    return _DTYPES[kinds.pop()].name if len(kinds) == 1 and kinds <= set(_DTYPES) else "float32"


def _stored(tensor: GGUFTensor) -> StoredTensor:
    def read(index: Index) -> np.ndarray:
        # Values of a row are quantized together, so rows are read whole.
        return read_tensor(tensor, index[0])[(slice(None), *index[1:])]

    return StoredTensor(tensor.path.name, _DTYPES.get(tensor.kind, np.dtype(np.float32)), tensor.shape, read)


def _unpermuted(tensor: StoredTensor, head_dim: int) -> StoredTensor:
    """Returns queries or keys with the rows in Hugging Face's order.

    llama.cpp rotates neighbours (2 i, 2 i + 1) of a head, Hugging Face (i, i + H / 2), so its converter interleaves the
    halves of each head.
    """

    def read(index: Index) -> np.ndarray:
        start, stop, _ = index[0].indices(tensor.shape[0])
        # Whole heads are read, and what the slice leaves out is cut.
        first, last = start // head_dim * head_dim, math.ceil(stop / head_dim) * head_dim
        stored = tensor.read((slice(first, last), *index[1:]))
        heads = stored.reshape(-1, head_dim // 2, 2, *stored.shape[1:])
        return heads.swapaxes(1, 2).reshape(stored.shape)[start - first : stop - first]

    return tensor._replace(read=read)


def check_vocabulary(file: GGUFFile, c: LlamaConfig, words: int) -> None:
    """Raises InputError where the tokenizer has more words than the embedding has rows."""
    if words > c.vocab_size:
        raise InputError(
            f"{file}: its tokenizer has {words:,} words, but token_embd.weight only {c.vocab_size:,} rows; fetch the "
            "file again"
        )
