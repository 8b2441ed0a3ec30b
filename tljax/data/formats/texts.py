"""Lists and objects inside texts, as JSON or as Python's literals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import islice
from typing import Any

from tljax.calls.literals import MAX_DEPTH, parse_literal

# Of one text, how many brackets are tried as JSON and as Python's literals. Each may close at the end of the text, so
# that many of them in a long text would take quadratic time.
MAX_OPENINGS, MAX_LITERALS = 1000, 20
_LIST = re.compile(r"\[\s*\{")
_OBJECT = re.compile(r"\{")
# The parts of a text that decide where a bracket closes: strings with their escapes, and brackets.
_BRACKETS = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[\[\]{}]""", re.DOTALL)


def parse_value(text: str) -> tuple[Any, bool]:
    """Returns the JSON value or the Python literal of a text and True, or the text and False."""
    try:
        return json.loads(text), True
    except (ValueError, RecursionError):
        return parse_literal(text)


def find_tools(text: str) -> tuple[list[Any], int, int] | None:
    """Returns the first list of objects with names in a text, and its start and end; None if there is none."""
    return _find(text, _LIST, lambda value: isinstance(value, list) and bool(value) and all(map(_is_named, value)))


def find_tool(text: str, start: int) -> tuple[dict[str, Any], int, int] | None:
    """Returns the first object with a name in text[start:], and its start and end in the text; None for none."""
    return _find(text, _OBJECT, _is_named, start)


def _is_named(value: Any) -> bool:
    """Returns True for an object that names a tool, which may be wrapped in {"function": {...}}."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    return isinstance(value, dict) and ("name" in value or "api_name" in value)


def _find(
    text: str, opening: re.Pattern[str], accepts: Callable[[Any], bool], start: int = 0
) -> tuple[Any, int, int] | None:
    """Returns the first value that begins with `opening` and is accepted, with its start and end."""
    num_literals = 0
    for match in islice(opening.finditer(text, start), MAX_OPENINGS):
        begin = match.start()
        try:
            value, end = json.JSONDecoder().raw_decode(text, begin)
        except (ValueError, RecursionError):
            num_literals += 1
            end = _closing(text, begin) if num_literals <= MAX_LITERALS else 0
            value = parse_literal(text[begin:end])[0] if end else None
        if accepts(value):
            return value, begin, end
    return None


def _closing(text: str, begin: int) -> int:
    """Returns the index after the bracket that closes the one at `begin`, 0 if none does or if they nest too deeply."""
    depth = 0
    for match in _BRACKETS.finditer(text, begin):
        if len(match[0]) == 1:
            depth += 1 if match[0] in "[{" else -1
            if depth == 0:
                return match.end()
            if depth > MAX_DEPTH:
                return 0
    return 0
