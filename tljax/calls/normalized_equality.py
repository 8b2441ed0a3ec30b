"""Equality of argument values apart from spelling and quotes; the difference to CF is errors of these two kinds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tljax.calls.compare import AcceptedValues, AnyValue, normalize_string

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?")


def normalized_equal(value: Any, golden: Any) -> bool:
    """Returns True if a value equals the golden one after both are normalized.

    "5" equals 5, and "true" equals True. Two numbers, also as strings, are compared as numbers, other values as
    strings by `normalize_string`. AnyValue equals every value, AcceptedValues every value that equals one of them.
    """
    try:
        return _equal(value, golden)
    except (RecursionError, ValueError, OverflowError):  # nests too deeply, or an integer too long for str or float
        return False


def _equal(value: Any, golden: Any) -> bool:
    if isinstance(golden, AnyValue):
        return True
    if isinstance(golden, AcceptedValues):
        return any(_equal(value, choice) for choice in golden.values)
    if isinstance(golden, Mapping):
        return (
            isinstance(value, Mapping)
            and all(key in golden for key in value)
            and all(
                _equal(value[key], g) if key in value else isinstance(g, AcceptedValues) and g.optional
                for key, g in golden.items()
            )
        )
    if isinstance(golden, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(golden)
            and all(_equal(v, g) for v, g in zip(value, golden, strict=True))
        )
    if isinstance(value, Mapping | list | tuple):
        return False
    number, golden_number = _number(value), _number(golden)
    if number is not None and golden_number is not None:
        return number == golden_number
    return normalize_string(str(value)) == normalize_string(str(golden))


def _number(value: Any) -> float | None:
    """Returns a number, or a string that is a number, as a float; None for any other value."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value.strip()) else None
    return float(value) if isinstance(value, int | float) else None
