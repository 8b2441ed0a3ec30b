"""The rotary fields of config.json <-> theta and RopeScaling."""

import math
from typing import Any

from tljax.core.errors import InputError
from tljax.model.rope import RopeScaling

# The fields of each type that must be set; _OPTIONAL may be set as well, with these defaults of the published methods.
_ORIGINAL = "original_max_position_embeddings"
_REQUIRED = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL),
    "yarn": ("factor", _ORIGINAL),
    "longrope": ("short_factor", "long_factor"),
}
# arXiv 2309.00071 names 32 and 1 for yarn's betas.
_OPTIONAL: dict[str, tuple[str, ...]] = {
    "yarn": ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"),
    "longrope": (_ORIGINAL, "factor", "attention_factor"),
}
_ALL_FIELDS = {name for names in (*_REQUIRED.values(), *_OPTIONAL.values()) for name in names}


def read_rope(config: dict[str, Any], where: str) -> tuple[float, RopeScaling | None]:
    """Returns theta and scaling.

    transformers 5 writes them as `rope_parameters`, older versions as `rope_theta` and `rope_scaling`. Raises
    InputError for a type or a field that is unknown, and for a value that is missing or wrong.
    """
    field = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    rope = config.get(field) or {}
    if not isinstance(rope, dict):
        raise InputError(f"{where}: {field} is {rope!r}; it must be an object or null")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in _REQUIRED:
        raise InputError(f"{where}: {field} has the type {kind!r}; supported are {', '.join(_REQUIRED)}")
    theta = rope.get("rope_theta")
    # Hugging Face's own default for the Llama 2 configs that were written before the field existed.
    theta = number(rope if theta else config, "rope_theta", where, 10000.0)
    unknown = sorted(set(rope) - {"rope_type", "type", "rope_theta", "partial_rotary_factor"} - _ALL_FIELDS)
    if unknown or rope.get("partial_rotary_factor", 1) != 1:
        names = ", ".join(unknown) or "partial_rotary_factor"
        raise InputError(f"{where}: {field} sets {names}, which would change the result and is not supported")
    inside = f"{where}: {field}"
    if _ORIGINAL in _REQUIRED[kind] and config.get(_ORIGINAL) is not None:
        rope = rope | {_ORIGINAL: config[_ORIGINAL]}  # transformers lets the outer field win
    if kind == "longrope":
        return theta, _factors(rope, inside)
    factors = {name: number(rope, name, inside) for name in _REQUIRED[kind]}
    if kind == "default":
        return theta, None
    if kind == "yarn":
        return theta, _yarn(rope, inside)
    return theta, RopeScaling(
        kind=kind,
        factor=factors["factor"],
        low_freq_factor=factors.get("low_freq_factor", 1.0),
        high_freq_factor=factors.get("high_freq_factor", 1.0),
        original_max_tokens=int(factors.get(_ORIGINAL, 0)),
    )


def number(config: dict[str, Any], field: str, where: str, default: float | None = None) -> float:
    """Returns a positive number. Raises InputError for another value, or for none without a default."""
    value = config.get(field)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        state = "is missing" if value is None else f"is {value!r}"
        raise InputError(f"{where}: {field} {state}; it must be a positive float")
    return float(value)


def _yarn(rope: dict[str, Any], where: str) -> RopeScaling:
    factor = number(rope, "factor", where)
    truncate = rope.get("truncate", True)
    if not isinstance(truncate, bool):
        raise InputError(f"{where}: truncate is {truncate!r}; it must be true or false")

    def magnitude(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    attention = magnitude(1.0)
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        attention = magnitude(number(rope, "mscale", where)) / magnitude(number(rope, "mscale_all_dim", where))
    return RopeScaling(
        kind="yarn",
        factor=factor,
        original_max_tokens=int(number(rope, _ORIGINAL, where)),
        beta_fast=number(rope, "beta_fast", where, 32.0),
        beta_slow=number(rope, "beta_slow", where, 1.0),
        attention_factor=number(rope, "attention_factor", where, attention),
        truncate=truncate,
    )


def _factors(rope: dict[str, Any], where: str) -> RopeScaling:
    """Returns the scaling by a factor per frequency. Lists that depend on the length of a text are not supported."""
    short, long = rope.get("short_factor"), rope.get("long_factor")
    for name, factors in (("short_factor", short), ("long_factor", long)):
        if not isinstance(factors, list) or not all(isinstance(x, int | float) and x > 0 for x in factors):
            raise InputError(f"{where}: {name} is not a list of positive numbers")
    if short != long or rope.get("attention_factor") != 1:
        problem = "attention_factor is not 1" if short == long else "short_factor and long_factor differ"
        raise InputError(f"{where}: {problem}, which would change the result and is not supported")
    assert isinstance(short, list)
    return RopeScaling(kind="factors", factor=1.0, factors=tuple(float(x) for x in short))


def rope_fields(scaling: RopeScaling | None, max_positions: int) -> dict[str, Any] | None:
    """Returns the value of `rope_scaling` in a config.json."""
    if scaling is None:
        return None
    if scaling.kind == "factors":
        factors = list(scaling.factors)
        fields = {"short_factor": factors, "long_factor": factors, "factor": 1.0, "attention_factor": 1.0}
        return {"rope_type": "longrope", **fields, _ORIGINAL: max_positions}
    values = {
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        _ORIGINAL: scaling.original_max_tokens,
        "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow,
        "attention_factor": scaling.attention_factor,
        "truncate": scaling.truncate,
    }
    names = _REQUIRED[scaling.kind]
    if scaling.kind == "yarn":
        names = ("factor", _ORIGINAL, "beta_fast", "beta_slow", "attention_factor", "truncate")
    return {"rope_type": scaling.kind, **{name: values[name] for name in names}}
