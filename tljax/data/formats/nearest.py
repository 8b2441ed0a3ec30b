"""A record of an unknown shape -> the known format that is nearest to it, and what differs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from tljax.core.json_fields import join_names, json_type_name

# The keys of a message, of which at least one is there in a known format.
_MESSAGE_KEYS = ("role", "content", "from", "value")


def has_known_messages(messages: Any) -> bool:
    """Returns False for a list whose first message is an object without any key of a known format."""
    first = messages[0] if isinstance(messages, list) and messages else None
    return not isinstance(first, dict) or any(key in first for key in _MESSAGE_KEYS)


def nearest_format(record: dict[str, Any], shapes: Mapping[str, tuple[str, ...]]) -> tuple[str, str] | None:
    """Returns the name of the nearest format and what differs from it; None if no format has a field of the record.

    shapes: the fields of each format, "messages" or, for a field of the elements of a list, "messages[].role". Of
    equally near formats the first is chosen.
    """
    present = _fields(record)
    scores = {name: sum(_nearness(field, present) for field in shape) / len(shape) for name, shape in shapes.items()}
    name = max(scores, key=lambda name: scores[name])
    if not scores[name]:
        return None
    missing = [field for field in shapes[name] if field not in present]
    # A field of elements is told only where the list itself is there.
    told = [field for field in missing if field.partition("[]")[0] not in missing or "[]" not in field]
    return name, "; ".join(dict.fromkeys(_difference(field, record, present) for field in told))


def _fields(record: dict[str, Any]) -> list[str]:
    """Returns the fields of a record that are not null, and those of the first elements of its lists."""
    fields = [name for name, value in record.items() if value is not None]
    for name in [*fields]:
        elements = record[name][:3] if isinstance(record[name], list) else []
        fields += [f"{name}[].{key}" for element in elements if isinstance(element, dict) for key in element]
    return list(dict.fromkeys(fields))


def _similar(field: str, present: list[str]) -> str | None:
    """Returns the present field whose name is most like that of a missing one, at the same place."""
    prefix, _, name = field.rpartition(".")
    candidates = {other.rpartition(".")[2]: other for other in present if other.rpartition(".")[0] == prefix}
    return next((candidates[match] for match in difflib.get_close_matches(name, candidates, n=1, cutoff=0.75)), None)


def _nearness(field: str, present: list[str]) -> float:
    """Returns 1 for a field that is there, 0.5 for one whose name, or whose list's name, is spelled alike, else 0."""
    owner, is_element, key = field.partition("[]")
    similar = _similar(owner, present) if is_element and owner not in present else None
    if field in present:
        return 1.0
    return 0.5 if _similar(field, present) or (similar and f"{similar}[]{key}" in present) else 0.0


def _difference(field: str, record: dict[str, Any], present: list[str]) -> str:
    """Returns a clause on a missing field: what stands in its place."""
    owner, is_element, _ = field.partition("[]")
    similar = _similar(field, present)
    if similar is not None:
        return f"{field} is missing, but {similar} is there"
    if is_element and not isinstance(record[owner], list):
        return f"{owner} is {json_type_name(record[owner])}, not a list"
    keys = [name.rpartition(".")[2] for name in present if name.startswith(f"{owner}[].")] if is_element else []
    return f"{field} is missing" + (f" (there: {join_names(keys)})" if keys else "")
