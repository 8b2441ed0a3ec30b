"""Loose equality of argument values: how much of CF's errors is spelling and quotes around numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tljax.calls.compare import AcceptedValues, AnyValue, normalize_string

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?")


def normalized_equal(value: Any, golden: Any) -> bool:
    """Whether a value is the golden one with BFCL's folding of strings, and "5" as good as 5, "true" as true.

    Strings that are both numbers are compared as numbers, others without case, quotes' kind and the characters
    " ,./-_*^". A golden `AnyValue` is equal to all, `Choices` to what is equal to one of them.
    """
    try:
        return _equal(value, golden)
    except (RecursionError, ValueError, OverflowError):  # too deep, or integers too long to be written or a float
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
                _equal(value[key], wanted) if key in value else isinstance(wanted, AcceptedValues) and wanted.optional
                for key, wanted in golden.items()
            )
        )
    if isinstance(golden, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(golden)
            and all(_equal(one, wanted) for one, wanted in zip(value, golden, strict=True))
        )
    if isinstance(value, Mapping | list | tuple):
        return False
    number, wanted = _number(value), _number(golden)
    if number is not None and wanted is not None:
        return number == wanted
    return normalize_string(str(value)) == normalize_string(str(golden))


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value.strip()) else None
    return float(value) if isinstance(value, int | float) else None
