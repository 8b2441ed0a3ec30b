"""Parsing of argument values as models write them: Python or JSON literals with some arithmetic, without `eval`.

Why not `ast.parse`: this parser gives the same result on every Python version and no warnings for invalid escapes, and
no input makes it slow or exceeds the recursion limit.
"""

from __future__ import annotations

import json
import math
import operator
import re
from typing import Any

MAX_DEPTH = 100
# Python refuses to print longer integers (4300 digits), so nothing could render or store them.
MAX_BITS = 14_000

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>0[xX][0-9a-fA-F]+ | 0[bB][01]+ | 0[oO][0-7]+
            | (?:\d+(?:_\d+)*(?:\.(?:\d+(?:_\d+)*)?)?|\.\d+(?:_\d+)*)(?:[eE][+-]?\d+)?)(?![\w.])
        | (?P<string>[rRuU]?(?:'''(?:[^\\]|\\.)*?'''|\"{3}(?:[^\\]|\\.)*?\"{3}
            |'[^'\\]*(?:\\.[^'\\]*)*'|\"[^\"\\]*(?:\\.[^\"\\]*)*\"))
        | (?P<word>[^\W\d]\w*)
        | (?P<sign>\*\*|//|[-+*/%()\[\]{},:])
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(
    r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})"
    r"|U([0-9a-fA-F]{8})|([0-7]{1,3})|(\r\n|.))",
    re.DOTALL,
)
_PLAIN = {"\n": "", "\r\n": "", "\\": "\\", "'": "'", '"': '"', "a": "\a", "b": "\b"}
_PLAIN |= {"f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_WORDS |= {"inf": math.inf, "nan": math.nan, "Infinity": math.inf, "NaN": math.nan}
_BINARY = {
    "+": (1, operator.add),
    "-": (1, operator.sub),
    "*": (2, operator.mul),
    "/": (2, operator.truediv),
    "//": (2, operator.floordiv),
    "%": (2, operator.mod),
    "**": (4, operator.pow),
}
_UNARY = 3


def parse_literal(source: str) -> tuple[Any, bool]:
    """Returns (value, True), or (the source text, False) if the text is no literal.

    Tries in turn a Python literal with arithmetic, JSON, and one quoted text whose inner quotes lack their backslash.
    """
    source = source.strip()
    try:
        return evaluate_literal(source), True
    except (ValueError, ArithmeticError, RecursionError):
        pass
    try:
        return json.loads(source, strict=False), True
    except (ValueError, RecursionError):
        pass
    for quote in ("'''", '"""', "'", '"'):
        if len(source) >= 2 * len(quote) and source.startswith(quote) and source.endswith(quote):
            return _unescape(source[len(quote) : -len(quote)]), True
    return source, False


def evaluate_literal(source: str) -> Any:
    """Returns the value of a literal.

    Accepts constants, lists, tuples (as lists), dicts, signs, arithmetic on numbers, and concatenated strings. Raises
    ValueError for anything else, and ArithmeticError where Python does.
    """
    tokens: list[tuple[str, str]] = []
    i, end = 0, len(source.rstrip())
    while i < end:
        token = _TOKEN.match(source, i)
        if token is None:
            raise ValueError(f"no literal at character {i}")
        tokens.append((str(token.lastgroup), token[str(token.lastgroup)]))
        i = token.end()
    value, i = _expression(tokens, 0, 0, 0)
    if i != len(tokens):
        raise ValueError(f"{tokens[i][1]!r} after the value")
    return value


def _expression(tokens: list[tuple[str, str]], i: int, level: int, depth: int) -> tuple[Any, int]:
    """Returns the value of the expression at token `i`, and the index of the token after it.

    The expression ends before an operator that binds less strongly than `level` (precedence climbing).
    """
    if i >= len(tokens) or depth > MAX_DEPTH:
        raise ValueError("the value ends early or nests too deeply")
    kind, text = tokens[i]
    if text in ("-", "+") and kind == "sign":
        value, i = _expression(tokens, i + 1, _UNARY, depth + 1)
        _number(value)
        value = -value if text == "-" else value
    else:
        value, i = _atom(tokens, i, depth)
    while i < len(tokens) and tokens[i][1] in _BINARY and tokens[i][0] == "sign":
        binding, apply = _BINARY[tokens[i][1]]
        if binding < level:
            break
        # ** is right-associative, and its right operand may have a sign: 2 ** -1.
        right, j = _expression(tokens, i + 1, _UNARY if apply is operator.pow else binding + 1, depth + 1)
        value, i = _apply(apply, value, right), j
    return value, i


def _atom(tokens: list[tuple[str, str]], i: int, depth: int) -> tuple[Any, int]:
    """Returns the value of the constant or the bracketed expression at token `i`, and the index after it."""
    kind, text = tokens[i]
    if kind == "number":
        return _literal_number(text), i + 1
    if kind == "string":
        parts = []
        while i < len(tokens) and tokens[i][0] == "string":
            parts.append(_literal_string(tokens[i][1]))
            i += 1
        return "".join(parts), i
    if kind == "word" and text in _WORDS:
        return _WORDS[text], i + 1
    if text in ("(", "["):
        items, comma, i = _items(tokens, i + 1, ")" if text == "(" else "]", depth)
        return (items[0] if text == "(" and len(items) == 1 and not comma else items), i
    if text == "{":
        return _mapping(tokens, i + 1, depth)
    raise ValueError(f"{text!r} is not part of a literal")


def _items(tokens: list[tuple[str, str]], i: int, close: str, depth: int) -> tuple[list[Any], bool, int]:
    """Returns the items up to `close`, True if they are none or end in a comma, and the index after `close`."""
    items, comma = [], True
    while i < len(tokens) and tokens[i][1] != close and comma:
        value, i = _expression(tokens, i, 0, depth + 1)
        items.append(value)
        comma = i < len(tokens) and tokens[i][1] == ","
        i += comma
    _expect(tokens, i, close)
    return items, comma, i + 1


def _mapping(tokens: list[tuple[str, str]], i: int, depth: int) -> tuple[dict[Any, Any], int]:
    mapping, comma = {}, True
    while i < len(tokens) and tokens[i][1] != "}" and comma:
        key, i = _expression(tokens, i, 0, depth + 1)
        _expect(tokens, i, ":")
        value, i = _expression(tokens, i + 1, 0, depth + 1)
        if isinstance(key, list | dict):
            raise ValueError("a key must be a string or a number")
        mapping[key] = value
        comma = i < len(tokens) and tokens[i][1] == ","
        i += comma
    _expect(tokens, i, "}")
    return mapping, i + 1


def _expect(tokens: list[tuple[str, str]], i: int, sign: str) -> None:
    """Raises ValueError unless token `i` is this sign."""
    if i >= len(tokens) or tokens[i] != ("sign", sign):
        raise ValueError(f"{sign!r} is missing")


def _apply(apply: Any, left: Any, right: Any) -> Any:
    """Returns the result of a binary operator. Raises ValueError for operands that are no numbers or a long result."""
    if isinstance(left, str) and isinstance(right, str) and apply is operator.add:
        return left + right
    _number(left)
    _number(right)
    if isinstance(left, int) and isinstance(right, int):
        # Checked beforehand: 9 ** 9 ** 9 would take forever.
        bits = left.bit_length() * max(right, 1) if apply is operator.pow else left.bit_length() + right.bit_length()
        if (apply is operator.pow or apply is operator.mul) and bits > MAX_BITS:
            raise ValueError("the number is too long")
    return _number(apply(left, right))


def _number(value: Any) -> Any:
    """Returns the value. Raises ValueError if it is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("arithmetic takes numbers")
    return value


def _literal_number(text: str) -> int | float:
    text = text.replace("_", "")
    if text[:2].lower() in ("0x", "0b", "0o"):
        if len(text) * 4 > MAX_BITS:
            raise ValueError("the number is too long")
        return int(text, 0)
    if text.isdigit():
        if len(text) > 1 and text[0] == "0" and text.strip("0"):
            raise ValueError("a number does not begin with 0")  # 02134 is a zip code
        return int(text)
    return float(text)


def _literal_string(text: str) -> str:
    raw = text[0] in "rR"
    text = text.lstrip("rRuU")
    quotes = 3 if text[:3] in ("'''", '"""') else 1
    text = text[quotes:-quotes]
    return text if raw else _unescape(text)


def _unescape(text: str) -> str:
    return _ESCAPE.sub(_unescape_character, text) if "\\" in text else text


def _unescape_character(match: re.Match[str]) -> str:
    high, low, x, u, long, octal, plain = match.groups()
    if high:
        # In JSON, two escapes make one character outside the basic multilingual plane.
        return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00)
    if plain is not None:
        return _PLAIN.get(plain, match[0])
    code = int(x or u or long or octal, 8 if octal else 16)
    return chr(code) if code <= 0x10FFFF else match[0]
