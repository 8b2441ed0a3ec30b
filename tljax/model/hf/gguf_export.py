"""Writes parameters and a tokenizer as a GGUF file that llama.cpp loads, one tensor at a time."""

import collections
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tljax.core.errors import InputError, explain_disk_errors
from tljax.distributed import processes
from tljax.model.hf.export import ExportTensor, gather_tensors, list_tensors
from tljax.model.hf.gguf_config import ROPE_FACTORS
from tljax.model.hf.gguf_file import gguf_library
from tljax.model.hf.gguf_vocabulary import Vocabulary, read_vocabulary
from tljax.model.hf.gguf_weights import PERMUTED, PERMUTED_ARCHITECTURES, gguf_table
from tljax.model.llama import LlamaConfig, Params
from tljax.model.rope import rope_frequencies
from tljax.storage.atomic import atomic_path

# config.type -> (the library's type of matrices, its name of the file's type). Vectors stay float32, as in llama.cpp.
TYPES = {
    "f32": ("F32", "ALL_F32"),
    "f16": ("F16", "MOSTLY_F16"),
    "bf16": ("BF16", "MOSTLY_BF16"),
    "q8_0": ("Q8_0", "MOSTLY_Q8_0"),
}
_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}


def export_gguf(path: Path, params: Params, c: LlamaConfig, tokenizer_folder: Path, kind: str, name: str) -> None:
    """Writes a GGUF file, which appears once it is complete.

    kind: a name of TYPES. name: the model's name in the file. Every process must call it, on the mesh of `params`;
    process 0 writes. Raises InputError for a tokenizer or a scaling that llama.cpp does not have, for a weight that is
    not finite in the type, and if the disk is full or read-only; then nothing is left behind.
    """
    tensors = list_tensors(gguf_table(c))
    arrays = gather_tensors(params, tensors, "float32")
    if not processes.is_primary():
        collections.deque(arrays, maxlen=0)
        return
    try:
        with explain_disk_errors(path), atomic_path(path) as partial:
            writer = gguf_library(path).GGUFWriter(partial, _ARCHITECTURES[c.architecture])
            _add_config(writer, c, name, kind)
            _add_vocabulary(writer, read_vocabulary(tokenizer_folder, c.vocab_size))
            _write_tensors(writer, c, tensors, arrays, kind)
    finally:
        # After an error the other processes still wait in the gathers of the remaining tensors.
        if jax.process_count() > 1:
            collections.deque(arrays, maxlen=0)


def _add_config(writer: Any, c: LlamaConfig, name: str, kind: str) -> None:
    """Adds the fields that llama.cpp reads the shape of the model from."""
    gguf = gguf_library("export")
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[TYPES[kind][1]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(c.vocab_size)
    writer.add_block_count(c.num_layers)
    writer.add_context_length(c.max_positions)
    writer.add_embedding_length(c.d_model)
    writer.add_feed_forward_length(c.d_ff)
    writer.add_head_count(c.num_heads)
    writer.add_head_count_kv(c.num_kv_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_theta)
    if c.sliding_window is not None:
        writer.add_sliding_window(c.sliding_window)
    scaling = c.rope_scaling
    if scaling is None or scaling.kind in ("llama3", "factors"):
        return
    writer.add_rope_scaling_type(gguf.RopeScalingType(scaling.kind))
    writer.add_rope_scaling_factor(scaling.factor)
    if scaling.kind == "yarn":
        if not scaling.truncate:
            raise InputError("rope_scaling.truncate is false in config.json, which llama.cpp's yarn does not have")
        writer.add_rope_scaling_orig_ctx_len(scaling.original_max_tokens)
        writer.add_rope_scaling_yarn_beta_fast(scaling.beta_fast)
        writer.add_rope_scaling_yarn_beta_slow(scaling.beta_slow)
        # llama.cpp multiplies by the published value itself.
        published = 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0
        writer.add_rope_scaling_attn_factors(scaling.attention_factor / published)


def _add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.model == "llama":
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.adds_space)
    else:
        writer.add_token_merges(vocabulary.merges)
    for name, number in vocabulary.ids.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
    writer.add_add_bos_token(vocabulary.adds_bos)
    writer.add_add_eos_token(False)
    if vocabulary.chat_template:
        writer.add_chat_template(vocabulary.chat_template)


def _tensor_kind(tensor: ExportTensor, kind: str) -> str:
    """Returns the library's type of a tensor. Rows that do not divide into blocks are float16, as in llama.cpp."""
    if len(tensor.param.hf_shape) == 1:
        return "F32"
    return "F16" if kind == "q8_0" and tensor.param.hf_shape[-1] % 32 else TYPES[kind][0]


def _write_tensors(
    writer: Any, c: LlamaConfig, tensors: list[ExportTensor], arrays: Iterator[np.ndarray], kind: str
) -> None:
    """Writes header, metadata and tensors. The library's own writer would hold all tensors in memory."""
    gguf = gguf_library("export")
    factors = _rope_factors(c)
    if factors is not None:
        writer.add_tensor_info(ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes)
    for tensor in tensors:
        shape, tensor_kind = tensor.param.hf_shape, gguf.GGMLQuantizationType[_tensor_kind(tensor, kind)]
        block, block_bytes = gguf.GGML_QUANT_SIZES[tensor_kind]
        writer.add_tensor_info(
            tensor.name, shape, np.dtype(np.float32), math.prod(shape) // block * block_bytes, tensor_kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    try:
        if factors is not None:
            writer.write_tensor_data(factors)
        for tensor, array in zip(tensors, arrays, strict=True):
            if writer.arch in PERMUTED_ARCHITECTURES and tensor.path[-1] in PERMUTED:
                array = _interleaved(array, c.head_dim)
            name = _tensor_kind(tensor, kind)
            with np.errstate(over="ignore"):  # the next check reports it
                quantized = gguf.quants.quantize(np.ascontiguousarray(array), gguf.GGMLQuantizationType[name])
            is_finite = np.isfinite(quantized if name == "F16" else array).all()
            if not is_finite:
                raise InputError(f"weight {tensor.name} is not finite in {name}; export with config.type=bf16")
            writer.write_tensor_data(quantized)
    finally:
        writer.close()


def _rope_factors(c: LlamaConfig) -> np.ndarray | None:
    """Returns the factors that divide the rotary frequencies, float32 [H / 2], where a GGUF file holds them so."""
    scaling = c.rope_scaling
    if scaling is None or scaling.kind not in ("llama3", "factors"):
        return None
    scaled = rope_frequencies(c.head_dim, c.rope_theta, scaling)
    return (rope_frequencies(c.head_dim, c.rope_theta, None) / scaled).astype(np.float32)


def _interleaved(array: np.ndarray, head_dim: int) -> np.ndarray:
    """Returns rows of queries or keys in llama.cpp's order, in which the halves of a head alternate."""
    heads = array.reshape(-1, 2, head_dim // 2, *array.shape[1:])
    return heads.swapaxes(1, 2).reshape(array.shape)
