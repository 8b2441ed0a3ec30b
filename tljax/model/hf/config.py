"""Converts Hugging Face's config.json from and to LlamaConfig.

A field that would change the result and is not supported is refused by name.
"""

import json
from pathlib import Path
from typing import Any

from tljax.core.errors import InputError
from tljax.model.hf.rope_config import read_rope, rope_fields
from tljax.model.llama import LlamaConfig

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_QWEN = ("Qwen2ForCausalLM", "Qwen3ForCausalLM")

# Fields that change the result, with the only values that this model computes; absent and null are allowed.
# Fields of other architectures are not listed, as the architecture is refused first. pretraining_tp only reorders sums.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1, 1.0),
    "quantization_config": (),
    "auto_map": (),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
}

DTYPES = ("float32", "bfloat16", "float16")


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file. Raises InputError if the file has none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a Hugging Face checkpoint folder") from None
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error}); fetch the file again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a JSON {type(value).__name__}; it must be an object")
    return value


def _number(config: dict[str, Any], field: str, where: str, kind: type = int, default: Any = None) -> Any:
    """Returns a positive number of the config. Raises InputError for another value, or for none without a default."""
    value = config.get(field)
    value = default if value is None else value
    allowed = (int, float) if kind is float else (int,)
    if isinstance(value, bool) or not isinstance(value, allowed) or value <= 0:
        state = "is missing" if value is None else f"is {value!r}"
        raise InputError(f"{where}: {field} {state}; it must be a positive {kind.__name__}")
    return kind(value)


def _architecture(config: dict[str, Any], where: str) -> str:
    names: Any = config.get("architectures")
    if not names:
        kind = config.get("model_type")
        names = [ARCHITECTURES[kind]] if kind in ARCHITECTURES else [f"of model_type {kind}"]
    if not isinstance(names, list) or len(names) != 1 or names[0] not in ARCHITECTURES.values():
        raise InputError(f"{where}: architectures is {names!r}; supported are {', '.join(ARCHITECTURES.values())}")
    return names[0]


def _has_window_layers(config: dict[str, Any], where: str) -> bool:
    """Returns True if a layer of a Qwen model attends to a window; the first max_window_layers attend to all tokens.

    transformers 5 writes the kind of every layer as `layer_types`, which counts before max_window_layers.
    """
    if not config.get("use_sliding_window"):
        return False
    layers, kinds = _number(config, "num_hidden_layers", where), config.get("layer_types")
    if kinds is not None:
        allowed = ("full_attention", "sliding_attention")
        if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in allowed for kind in kinds):
            raise InputError(f"{where}: layer_types is {kinds!r:.80}; it must be a list of {layers} of {allowed}")
        return "sliding_attention" in kinds
    full = config.get("max_window_layers")
    if full is not None and (isinstance(full, bool) or not isinstance(full, int) or full < 0):
        raise InputError(f"{where}: max_window_layers is {full!r}; it must be a whole number from 0")
    return full is None or full < layers


def _sliding_window(config: dict[str, Any], architecture: str, where: str) -> int | None:
    if architecture == "LlamaForCausalLM":
        return None
    if architecture in _QWEN and not _has_window_layers(config, where):
        return None
    # An absent field means Hugging Face's default of 4096; null means no window.
    window = config.get("sliding_window", 4096)
    return None if window is None else _number(config, "sliding_window", where, default=4096)


def parse_config(config: dict[str, Any], where: str) -> LlamaConfig:
    """Returns the LlamaConfig for the content of a config.json; `where` names the file in errors.

    Raises InputError for a field that is missing or wrong, and for one that would change the result and is not
    supported.
    """
    architecture = _architecture(config, where)
    for field, values in _SUPPORTED.items():
        value = config.get(field)
        if value is not None and value not in values:
            allowed = f"supported is {values[0]!r}" if values else "it is not supported; use a checkpoint without it"
            raise InputError(f"{where}: {field} is {value!r}, which would change the result; {allowed}")
    heads, d_model = (_number(config, field, where) for field in ("num_attention_heads", "hidden_size"))
    # One key head per query head is Llama's default; Mistral's is 8 and Qwen 2's 32, so there the field must be set.
    same = heads if architecture == "LlamaForCausalLM" or "num_key_value_heads" in config else None
    kv_heads = _number(config, "num_key_value_heads", where, default=same)
    # Qwen 3's default is 128, whatever the width, so there the field must be set.
    is_free = d_model % heads or architecture == "Qwen3ForCausalLM"
    head_dim = _number(config, "head_dim", where, default=None if is_free else d_model // heads)
    if heads % kv_heads or head_dim % 2:
        raise InputError(
            f"{where}: num_attention_heads {heads} must be a multiple of num_key_value_heads {kv_heads}, "
            f"and head_dim {head_dim} must be even"
        )
    theta, scaling = read_rope(config, where)
    return LlamaConfig(
        num_layers=_number(config, "num_hidden_layers", where),
        d_model=d_model,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        d_ff=_number(config, "intermediate_size", where),
        vocab_size=_number(config, "vocab_size", where),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=_number(config, "rms_norm_eps", where, float),
        tie_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=architecture == "Qwen2ForCausalLM",
        max_positions=_number(config, "max_position_embeddings", where),
        sliding_window=_sliding_window(config, architecture, where),
        architecture=architecture,
        qk_norm=architecture == "Qwen3ForCausalLM",
    )


def read_config(folder: str | Path) -> LlamaConfig:
    """The model that a checkpoint folder's config.json describes; InputError as in `parse_config`."""
    path = Path(folder) / "config.json"
    return parse_config(read_json(path), str(path))


def to_hf_config(c: LlamaConfig, dtype: str, source: dict[str, Any] | None) -> dict[str, Any]:
    """Returns the config.json of an export: `source`, the model's own config, with the new dtype, or a config from `c`.

    The latter has the fields of transformers 4 (`rope_theta`, `torch_dtype`), which version 5 and other programs
    understand too. Raises ValueError if `source` describes another model than `c`.
    """
    if source is not None:
        if parse_config(source, "source_config") != c:
            raise ValueError("source_config describes another model than the one to export")
        kept = {name: value for name, value in source.items() if name not in ("dtype", "torch_dtype")}
        return kept | {"dtype" if "dtype" in source else "torch_dtype": dtype}
    config = {
        "architectures": [c.architecture],
        "model_type": next(kind for kind, name in ARCHITECTURES.items() if name == c.architecture),
        "vocab_size": c.vocab_size,
        "hidden_size": c.d_model,
        "intermediate_size": c.d_ff,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": c.max_positions,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,
        "rope_scaling": rope_fields(c.rope_scaling, c.max_positions),
        "tie_word_embeddings": c.tie_embeddings,
        "torch_dtype": dtype,
    }
    if c.architecture == "MistralForCausalLM":
        config["sliding_window"] = c.sliding_window
    if c.architecture in _QWEN:
        config |= {"use_sliding_window": c.sliding_window is not None, "sliding_window": c.sliding_window}
        config["max_window_layers"] = 0  # the number of first layers without a window
    return config
