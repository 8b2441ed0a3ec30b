"""The metadata of a GGUF file -> LlamaConfig, with no default for what decides the result."""

import math
from typing import Any

import numpy as np

from tljax.core.errors import InputError
from tljax.model.hf.gguf_file import GGUFFile, read_tensor
from tljax.model.llama import LlamaConfig
from tljax.model.rope import RopeScaling, rope_frequencies

# general.architecture -> the Hugging Face class. llama.cpp writes Mistral's models as "llama".
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
ROPE_FACTORS = "rope_freqs.weight"  # the tensor of the factors that divide the rotary frequencies

# Fields of the architecture that are read below, or never change the result. Any other one that is set is refused.
_KNOWN = frozenset(
    "vocab_size context_length embedding_length block_count feed_forward_length attention.head_count "
    "attention.head_count_kv attention.layer_norm_rms_epsilon attention.key_length attention.value_length "
    "attention.sliding_window rope.dimension_count rope.freq_base rope.scaling.type rope.scaling.factor "
    "rope.scaling.original_context_length rope.scaling.attn_factor rope.scaling.finetuned rope.scale_linear "
    "rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow "
    "tensor_data_layout pooling_type".split()
)
# The published scalings of the kind llama3, which a GGUF file holds as factors alone: Llama 3.1, and Llama 3.2.
_LLAMA3 = tuple(
    RopeScaling(kind="llama3", factor=factor, low_freq_factor=1.0, high_freq_factor=4.0, original_max_tokens=8192)
    for factor in (8.0, 32.0)
)


def gguf_config(file: GGUFFile) -> LlamaConfig:
    """Returns the shape of a GGUF file's model.

    Raises InputError for an architecture that is not supported, a field that is missing or wrong, and a field that
    would change the result and is unknown.
    """
    architecture = file.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise InputError(f"{file}: general.architecture is {architecture!r}; supported are {', '.join(ARCHITECTURES)}")
    fields = {
        name.removeprefix(f"{architecture}."): value
        for name, value in file.metadata.items()
        if name.startswith(f"{architecture}.")
    }
    where = f"{file}: {architecture}."
    _check_fields(fields, where)
    heads, d_model = (_integer(fields, name, where) for name in ("attention.head_count", "embedding_length"))
    # By the format, a model without the field has as many key heads as query heads.
    kv_heads = _integer(fields, "attention.head_count_kv", where, default=heads)
    head_dim = _integer(fields, "attention.key_length", where, default=None if d_model % heads else d_model // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if _integer(fields, name, where, default=head_dim) != head_dim:
            raise InputError(
                f"{where}{name} is {fields[name]}, but a head has {head_dim} values; another length is not supported"
            )
    if heads % kv_heads or head_dim % 2:
        raise InputError(
            f"{where}attention.head_count {heads} must be a multiple of attention.head_count_kv {kv_heads}, and the "
            f"length {head_dim} of a head must be even"
        )
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise InputError(f"{file}: has no tensor token_embd.weight; fetch the file again")
    vocab_size = embedding.shape[0]
    if fields.get("vocab_size", vocab_size) != vocab_size:
        raise InputError(
            f"{where}vocab_size is {fields['vocab_size']:,}, but token_embd.weight has {vocab_size:,} rows; fetch the "
            "file again"
        )
    window = _integer(fields, "attention.sliding_window", where, default=0, minimum=0) or None
    name = ARCHITECTURES[architecture]
    # The format's own value where the field is absent, as in files of Llama 2.
    theta = _decimal(fields, "rope.freq_base", where, default=10000.0)
    return LlamaConfig(
        num_layers=_integer(fields, "block_count", where),
        d_model=d_model,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        d_ff=_integer(fields, "feed_forward_length", where),
        vocab_size=vocab_size,
        rope_theta=theta,
        rope_scaling=_rope_scaling(file, fields, where, head_dim, theta),
        norm_eps=_decimal(fields, "attention.layer_norm_rms_epsilon", where),
        tie_embeddings="output.weight" not in file.tensors,
        qkv_bias=name == "Qwen2ForCausalLM",
        max_positions=_integer(fields, "context_length", where),
        sliding_window=window,
        # transformers' Llama has no window.
        architecture="MistralForCausalLM" if window and name == "LlamaForCausalLM" else name,
        qk_norm=name == "Qwen3ForCausalLM",
    )


def _check_fields(fields: dict[str, Any], where: str) -> None:
    """Raises InputError for a field that is set and unknown, such as the number of a mixture's experts."""
    for name, value in fields.items():
        if name not in _KNOWN and value not in (0, False, "", None):
            raise InputError(f"{where}{name} is {value!r}, which would change the result and is not supported")


def _integer(fields: dict[str, Any], name: str, where: str, default: int | None = None, minimum: int = 1) -> int:
    """Returns a whole number; a list with one value per layer must repeat the same one."""
    value = fields.get(name, default)
    if isinstance(value, list) and value and value.count(value[0]) == len(value):
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        state = "is missing" if value is None else f"is {value!r}"
        raise InputError(f"{where}{name} {state}; it must be a whole number of at least {minimum}")
    return value


def _decimal(fields: dict[str, Any], name: str, where: str, default: float | None = None) -> float:
    """Returns a positive number: the shortest decimal of the file's float32, as 1e-05 for 9.9999997e-06."""
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        state = "is missing" if value is None else f"is {value!r}"
        raise InputError(f"{where}{name} {state}; it must be a positive number")
    return float(str(np.float32(value)))


def _rope_scaling(
    file: GGUFFile, fields: dict[str, Any], where: str, head_dim: int, theta: float
) -> RopeScaling | None:
    """Returns the scaling that the fields name, or that the tensor of factors holds."""
    kind = fields.get("rope.scaling.type", "none")
    if "rope.scale_linear" in fields and kind == "none":  # how old files name it
        kind, fields = "linear", fields | {"rope.scaling.factor": fields["rope.scale_linear"]}
    scaling = None
    if kind == "linear":
        factor = _decimal(fields, "rope.scaling.factor", where)
        scaling = RopeScaling(kind="linear", factor=factor) if factor != 1 else None
    elif kind == "yarn":
        scaling = _yarn(fields, where)
    elif kind != "none":
        raise InputError(f"{where}rope.scaling.type is {kind!r}; supported are none, linear, yarn")
    if kind != "yarn" and fields.get("rope.scaling.attn_factor", 1.0) != 1:
        problem = f"rope.scaling.attn_factor is {fields['rope.scaling.attn_factor']}"
        raise InputError(f"{where}{problem}; supported is 1 for the type {kind}")
    return scaling if ROPE_FACTORS not in file.tensors else _from_factors(file, scaling, head_dim, theta)


def _yarn(fields: dict[str, Any], where: str) -> RopeScaling:
    """Returns yarn's scaling. llama.cpp multiplies attn_factor by the value that arXiv 2309.00071 gives."""
    factor = _decimal(fields, "rope.scaling.factor", where)
    attention = _decimal(fields, "rope.scaling.attn_factor", where, default=1.0)
    return RopeScaling(
        kind="yarn",
        factor=factor,
        original_max_tokens=_integer(fields, "rope.scaling.original_context_length", where),
        beta_fast=_decimal(fields, "rope.scaling.yarn_beta_fast", where, default=32.0),
        beta_slow=_decimal(fields, "rope.scaling.yarn_beta_slow", where, default=1.0),
        attention_factor=attention * (0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0),
    )


def _from_factors(file: GGUFFile, scaling: RopeScaling | None, head_dim: int, theta: float) -> RopeScaling | None:
    """Returns the scaling whose factors the file's tensor holds: one of Llama 3's, or "factors" with the numbers."""
    tensor = file.tensors[ROPE_FACTORS]
    if scaling is not None or tensor.shape != (head_dim // 2,):
        problem = "is set beside rope.scaling.type" if scaling else f"has the shape {list(tensor.shape)}"
        raise InputError(f"{file}: tensor {ROPE_FACTORS} {problem}; it must be alone and have {head_dim // 2} values")
    factors = read_tensor(tensor, slice(None)).astype(np.float32)
    if not (np.isfinite(factors).all() and (factors > 0).all()):
        raise InputError(f"{file}: tensor {ROPE_FACTORS} holds a value that is not above 0; fetch the file again")
    if (factors == 1).all():
        return None
    plain = rope_frequencies(head_dim, theta, None)
    for known in _LLAMA3:
        if np.allclose(plain / rope_frequencies(head_dim, theta, known), factors, rtol=1e-5, atol=0.0):
            return known
    return RopeScaling(kind="factors", factor=1.0, factors=tuple(float(str(x)) for x in factors))
