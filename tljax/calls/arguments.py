"""Parsing of a call's arguments: `(key=value, ...)` in either dialect, from the parenthesis on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tljax.calls.literals import parse_literal
from tljax.calls.schema_text import json_types
from tljax.calls.tool import Call, Tool


@dataclass(slots=True)
class Opening:
    """The beginning of a call: the tool's name, the index of the name, and the index of the parenthesis."""

    name: str
    start: int
    paren: int


_MARK = re.compile(r"""['"()\[\]{},=#]""")
_EQUALS = re.compile(r"\s*=(?!=)")
_BEFORE_STRING = "=,([{:+"
_STRINGS = {
    "'": re.compile(r"'[^'\\]*(?:\\.[^'\\]*)*'", re.DOTALL),
    '"': re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL),
    "'''": re.compile(r"'''(?:[^\\]|\\.)*?'''", re.DOTALL),
    '"""': re.compile(r'"""(?:[^\\]|\\.)*?"""', re.DOTALL),
}
_ENDS = {
    quote: re.compile(rf"\\.|({quote})(?=(\s*\)|\s*,\s*[^\s=,()'\"\[\]{{}}]+\s*=(?!=))?(\s*[\]}}),:])?)", re.DOTALL)
    for quote in _STRINGS
}
# The beginning of an argument with a colon.
_COLON = re.compile(r"""['"]?(?!lambda\b)([^\W\d]\w*)['"]?\s*:(\s*)""")
# JSON's name of an object, and BFCL's.
_OBJECTS = {"object", "dict"}
# Comments end at the end of the line. A "#" begins one only after a mark or a complete value.
_COMMENT = re.compile(r"#[^\n]{0,1000}\n")
_BEFORE_COMMENT = re.compile(
    r"""(?:[=,(\[{:\n]\s*(?:[-+]?[\d.][\w.+-]*|True|False|None|true|false|null)?|['")\]}])\s*\Z"""
)
_PAIRS = {")": "(", "]": "[", "}": "{"}


def parse_call(
    text: str, opening: Opening, parameters: list[str] | None, tools: Sequence[Tool], lenient: bool
) -> tuple[Call, str | None, int | None, bool]:
    """Returns the call at `opening`, its issue, the index after it (None if it never closes), and a new `lenient`.

    lenient: True allows a second, lenient scan of a call that the strict scan cannot read. It becomes False after a
    lenient scan that reaches the end of the text: every later one would too, which takes quadratic time.
    """
    # The arguments as text and as values: strictly, and leniently if that reads more of them.
    names = sorted(parameters or (), key=len, reverse=True)
    segments, end = _segments(text, opening.paren + 1, names, lenient=False)
    values = [parse_literal(source) for _, source in segments]
    num_failed = [parsed for _, parsed in values].count(False)
    if lenient and (end is None or num_failed):
        lenient_segments, lenient_end = _segments(text, opening.paren + 1, names, lenient=True)
        lenient = lenient_end is not None
        if lenient:
            lenient_values = [parse_literal(source) for _, source in lenient_segments]
            if end is None or sum(not parsed for _, parsed in lenient_values) < num_failed:
                segments, end, values = lenient_segments, lenient_end, lenient_values
    # The arguments' names.
    arguments: dict[str, Any] = {}
    issue, position = None, 0
    for (key, source), (value, is_literal) in zip(segments, values, strict=True):
        if key is None:
            unpacked = _unpack(source, value, len(segments) == 1, opening.name, tools)
            if unpacked is not None:
                if not arguments.keys().isdisjoint(unpacked):
                    issue = issue or "duplicate_argument"
                arguments.update(unpacked)
                continue
            if parameters is not None and position >= len(parameters):
                issue = issue or "too_many_positional"
            if not is_literal and _has_colon(source, parameters or ()):
                issue = issue or "colon_argument"
            key = parameters[position] if parameters and position < len(parameters) else str(position)
            position += 1
        if key in arguments:
            issue = issue or "duplicate_argument"
        arguments[key] = value
    return Call(opening.name, arguments), "truncated" if end is None else issue, end, lenient


def _unpack(source: str, value: Any, alone: bool, name: str, tools: Sequence[Tool]) -> dict[str, Any] | None:
    """Returns the arguments in `**{...}`, or in one object whose keys are parameters of the tool; None otherwise.

    An object stays one argument if the tool's single parameter takes an object.
    """
    if source.startswith("**"):
        value, _ = parse_literal(source[2:])
    elif not alone or not isinstance(value, dict):
        return None
    else:
        properties = {key: schema for tool in tools if tool.name == name for key, schema in tool.properties.items()}
        if not value or not value.keys() <= properties.keys():
            return None
        if len(properties) == 1 and not _OBJECTS.isdisjoint(json_types(*properties.values())):
            return None
    return value if isinstance(value, dict) and all(isinstance(key, str) for key in value) else None


def _has_colon(source: str, parameters: Sequence[str]) -> bool:
    """Returns True for `name: value`, and for `name:value` if the name is one of the parameters."""
    match = _COLON.match(source)
    return match is not None and (match[2] != "" or match[1] in parameters)


def _segments(text: str, i: int, names: list[str], lenient: bool) -> tuple[list[tuple[str | None, str]], int | None]:
    """Returns the arguments as (key or None, text of the value), and the index after the closing parenthesis.

    The index is None if the call never closes. The strict scan reads Python's strings and matching brackets. In the
    lenient scan a quote opens a string only where a value begins, a quote closes it only before ")" or ", key=", and
    brackets need not match.
    """
    segments: list[tuple[str | None, str]] = []
    stack: list[str] = []
    comments: list[tuple[int, int]] = []
    key, begin = _listed_key(text, i, names)
    equals, i = None, begin
    while (mark := _MARK.search(text, i)) is not None:
        start, char = mark.start(), mark[0]
        i = start + 1
        if char in "'\"":
            if lenient and text[begin:start].rstrip()[-1:] not in ("", *_BEFORE_STRING):
                continue
            close = _string_end(text, start, lenient, bool(stack))
            if close is None:
                return segments, None
            i = close
        elif char == "#":
            comment = _COMMENT.match(text, start)
            if comment is not None and _BEFORE_COMMENT.search(text[max(begin - 1, start - 100) : start]):
                i = comment.end()
                if key is None and not text[begin:start].strip():
                    key, begin = _listed_key(text, i, names)
                    i = begin
                else:
                    comments.append(comment.span())
        elif char in "([{":
            stack.append(char)
        elif char == ")" and (not stack or (lenient and "(" not in stack)):
            source = _blank(text, begin, start, comments) if comments else text[begin:start]
            _append(segments, source, key, None if equals is None else equals - begin)
            return segments, i
        elif char in _PAIRS:
            if stack and stack[-1] == _PAIRS[char]:
                stack.pop()
            elif not lenient:
                return segments, None
            elif char == ")":
                while stack.pop() != "(":
                    pass
        elif stack:
            continue
        elif char == ",":
            source = _blank(text, begin, start, comments) if comments else text[begin:start]
            _append(segments, source, key, None if equals is None else equals - begin)
            comments = []
            key, begin = _listed_key(text, i, names)
            equals, i = None, begin
        elif char == "=" and key is None and equals is None:
            if text[i : i + 1] == "=" or text[start - 1] == "=":
                continue
            equals = start
    return segments, None


def _blank(text: str, begin: int, end: int, comments: list[tuple[int, int]]) -> str:
    """Returns text[begin:end] with blanks in place of its comments."""
    parts = []
    for start, stop in comments:
        parts += [text[begin:start], " " * (stop - start)]
        begin = stop
    return "".join((*parts, text[begin:end]))


def _append(segments: list[tuple[str | None, str]], argument: str, key: str | None, equals: int | None) -> None:
    """Appends one argument. If `key` is None, `equals` is the index of the "=" after its key, or None."""
    if key is None and equals is not None:
        key, argument = argument[:equals].strip(), argument[equals + 1 :]
        if len(key) > 1 and key[0] == key[-1] and key[0] in "'\"":
            key = key[1:-1]
    source = argument.strip()
    if key is not None or source:
        segments.append((key, source))


def _listed_key(text: str, i: int, names: list[str]) -> tuple[str | None, int]:
    """Returns the listed parameter name at `i` and the index of its value; (None, i) if there is none with a "="."""
    if not names:
        return None, i
    starts = (i,)
    if text[i : i + 1].isspace():
        starts = (i, i + 1, len(text) - len(text[i:].lstrip()))
    for name in names:
        for start in starts:
            if text.startswith(name, start):
                equals = _EQUALS.match(text, start + len(name))
                if equals is not None:
                    return name, equals.end()
    return None, i


def _string_end(text: str, start: int, lenient: bool, nested: bool) -> int | None:
    """Returns the index after the string that opens at `start`, None if it never closes.

    nested: True inside of brackets, where also a comma, a colon or a bracket may follow the closing quote.
    """
    quote = text[start : start + 3] if text[start : start + 3] in _STRINGS else text[start]
    if not lenient:
        match = _STRINGS[quote].match(text, start)
        return None if match is None else match.end()
    for end in _ENDS[quote].finditer(text, start + len(quote)):
        if end[1] is not None and (end[2] is not None or (nested and end[3] is not None)):
            return end.end()
    return None
