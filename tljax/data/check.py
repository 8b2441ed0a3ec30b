"""Checks the values of a config's `data` block."""

import math
from typing import Any

from tljax.core.errors import InputError
from tljax.data.dialect import DIALECT_NAMES
from tljax.data.formats.read import FORMAT_NAMES
from tljax.data.pkt import PKT_RULES
from tljax.data.reader import ON_BAD_ROW

ALLOWED = {
    "format": FORMAT_NAMES,
    "pkt": PKT_RULES,
    "dialect": DIALECT_NAMES,
    "rows": ("trajectory", "step"),
    "on_bad_row": ON_BAD_ROW,
}


def check_data(data: Any) -> None:
    """Raises InputError for a value of a config's `data` block that is not allowed."""
    for name, allowed in ALLOWED.items():
        if data[name] not in allowed:
            raise InputError(f"config.data.{name} is {data[name]!r}; allowed: {', '.join(allowed)}")
    for name, minimum in (("w_max", 1), ("max_tokens", 2)):
        if not data[name] >= minimum:
            raise InputError(f"config.data.{name} is {data[name]}; it must be at least {minimum}")
    if not 0 <= data.prompt_weight < math.inf:
        raise InputError(f"config.data.prompt_weight is {data.prompt_weight}; it must be at least 0 and finite")
    if data.prompt_weight > 0 and data.mae != "none":
        raise InputError(
            f"config.data.prompt_weight is {data.prompt_weight} with data.mae = {data.mae!r}: failed calls that it "
            "blocks lie in later prompts and would be learned there; set data.mae=none or data.prompt_weight=0"
        )
    if not 0 <= data.new_names <= 1:
        raise InputError(f"config.data.new_names is {data.new_names}; it must be from 0 to 1")
    if not 0 <= data.eval_fraction < 1:
        raise InputError(f"config.data.eval_fraction is {data.eval_fraction}; it must be at least 0 and below 1")
