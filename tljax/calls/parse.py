"""Tool calls in text: `name(key=value, ...)` of either dialect, parsed without ever raising."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tljax.calls.literals import parse_literal
from tljax.calls.tool import Call, Tool


@dataclass(frozen=True, slots=True)
class ParsedText:
    """The calls of a text in order.

    `issue` is the first thing wrong with it: "no_call", "truncated" (never closed; complete arguments are kept),
    "duplicate_argument" (the last one wins), "too_many_positional", or None. `text_before` precedes the first call.
    """

    calls: tuple[Call, ...]
    issue: str | None
    text_before: str = ""


@dataclass(frozen=True, slots=True)
class _Opening:
    name: str
    start: int
    paren: int


# End of the reply, wherever no call is open.
_STOP = re.compile(r"</s>|\n(?:User|Output|Assistant|System):")
_FENCE = re.compile(r"```[^\n`(]*\n")
# What may precede a name on its line without belonging to it: closing marks of the call before, list markers, quotes.
_LEAD = re.compile(r"(?:Assistant:|[-*+](?=\s)|\d+[.)](?=\s)|[\s,;\[\]`(])*")
_MARK = re.compile(r"""['"()\[\]{},=]""")
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
# How sure an opening is: a word and a blank, the end of a sentence, a line of its own.
_WORD, _IN_SENTENCE, _ALONE = range(3)
_PAIRS = {")": "(", "]": "[", "}": "{"}


def parse_calls(text: str, tools: Sequence[Tool] = ()) -> ParsedText:
    """All calls that `text` makes, for any text and in time linear in its length; never raises.

    The tool list resolves what the text alone leaves open: names with blanks, parameter names with quotes, brackets,
    commas or "=", and the parameters that positional arguments stand for. Positional arguments of a tool that is not
    listed, and those beyond its parameters, are named by their position ("0", "1", ...). Without the list a tool name
    holds no blank and no "(" and does not begin with a mark that may precede a call (comma, semicolon, square bracket,
    backtick, "Assistant:"); a parameter name holds no quote, bracket, comma or "=" and no outer blank.
    """
    text = text.strip()
    fence = _FENCE.match(text)
    i = fence.end() if fence else 0
    parameters: dict[str, list[str]] = {}
    for tool in tools:
        known = parameters.setdefault(tool.name, [])
        known += [name for name in tool.parameters if name not in known]
    calls: list[Call] = []
    issue, before, first, lenient = None, "", i, True
    stop = _stop(text, i)
    while (opening := _next_opening(text, i, stop, parameters, further=bool(calls))) is not None:
        if not calls:
            before = text[first : opening.start].strip()
            before = "" if _LEAD.fullmatch(before + " ") else before
        call, wrong, end, lenient = _call(text, opening, parameters.get(opening.name), lenient)
        calls.append(call)
        issue = issue or wrong
        if end is None:
            break
        i = end
        # Only a stop inside a call is passed over; searching after every call would take quadratic time.
        stop = stop if i <= stop else _stop(text, i)
    return ParsedText(tuple(calls), issue if calls else "no_call", before)


def _stop(text: str, i: int) -> int:
    """Where the first stop string from `i` on begins, or the text ends."""
    stop = _STOP.search(text, i)
    return len(text) if stop is None else stop.start()


def _next_opening(text: str, i: int, end: int, parameters: dict[str, list[str]], further: bool) -> _Opening | None:
    """The next call's name and parenthesis in text[i:end].

    A parenthesis in prose opens no call: one after a blank and several words, or, once a call has been read, one after
    several words of which the last is no tool. A call of a listed tool on a line of its own goes before an unlisted
    name in the middle of a sentence, and any call on a line of its own before a word, a blank and a parenthesis.
    """
    candidate, certainty = None, -1
    while i < end:
        line_end = text.find("\n", i, end)
        line_end = end if line_end < 0 else line_end
        opening, certain = _opening_on_line(text, i, line_end, parameters, further)
        if opening is not None:
            if certain == _ALONE and (certainty < _IN_SENTENCE or opening.name in parameters):
                return opening
            if certain > certainty and not further:
                candidate, certainty = opening, certain
        i = line_end + 1
    return candidate


def _opening_on_line(
    text: str, i: int, end: int, parameters: dict[str, list[str]], further: bool
) -> tuple[_Opening | None, int]:
    """The first call that opens in text[i:end], and how certain it is."""
    lead = _LEAD.match(text, i, end)
    begin = lead.end() if lead else i
    for start in dict.fromkeys((i, begin)):
        for name in parameters:
            if "(" in name and text.startswith(name + "(", start):
                return _Opening(name, start, start + len(name)), _ALONE
    paren = text.find("(", i, end)
    while paren >= 0:
        prefix = text[i:paren].rstrip()
        for start in (i + len(prefix) - len(prefix.lstrip()), begin):
            if start < paren and text[start:paren].rstrip() in parameters:
                return _Opening(text[start:paren].rstrip(), start, paren), _ALONE
        words = text[begin:paren].split(maxsplit=1) if begin < paren else []
        known = _known_ending(prefix, parameters) if len(words) > 1 else None
        if known is not None:
            return _Opening(known, i + len(prefix) - len(known), paren), _ALONE
        blank = text[paren - 1 : paren].isspace()
        if len(words) == 1:
            return _Opening(words[0], begin, paren), _WORD if blank else _ALONE
        if len(words) > 1 and not blank and not further and text[paren - 1] != "(":
            name = prefix.split()[-1]
            return _Opening(name, i + len(prefix) - len(name), paren), _IN_SENTENCE
        paren = text.find("(", paren + 1, end)
    return None, -1


def _known_ending(prefix: str, parameters: dict[str, list[str]]) -> str | None:
    """The longest listed tool that `prefix` ends with as a word of its own."""
    names = (name for name in parameters if name and prefix.endswith(name))
    apart = (name for name in names if not re.match(r"[\w.-]", prefix[-len(name) - 1 : -len(name)]))
    return max(apart, key=len, default=None)


def _call(
    text: str, opening: _Opening, parameters: list[str] | None, lenient: bool
) -> tuple[Call, str | None, int | None, bool]:
    """The call that opens at `opening`, what is wrong with it, where it ends (None: nowhere), `lenient` for the next.

    A lenient scan that reaches the end of the text would do so for every later call too, in quadratic time.
    """
    names = sorted(parameters or (), key=len, reverse=True)
    segments, end = _segments(text, opening.paren + 1, names, lenient=False)
    values = [parse_literal(source) for _, source in segments]
    unread = sum(not read for _, read in values)
    if lenient and (end is None or unread):
        loose, loose_end = _segments(text, opening.paren + 1, names, lenient=True)
        lenient = loose_end is not None
        if lenient:
            loose_values = [parse_literal(source) for _, source in loose]
            if end is None or sum(not read for _, read in loose_values) < unread:
                segments, end, values = loose, loose_end, loose_values
    arguments: dict[str, Any] = {}
    issue, position = None, 0
    for (key, _), (value, _) in zip(segments, values, strict=True):
        if key is None:
            if parameters is not None and position >= len(parameters):
                issue = issue or "too_many_positional"
            key = parameters[position] if parameters and position < len(parameters) else str(position)
            position += 1
        if key in arguments:
            issue = issue or "duplicate_argument"
        arguments[key] = value
    return Call(opening.name, arguments), "truncated" if end is None else issue, end, lenient


def _segments(text: str, i: int, names: list[str], lenient: bool) -> tuple[list[tuple[str | None, str]], int | None]:
    """Arguments as (key or None, source of the value), and the index after the closing parenthesis.

    Strict: strings are Python's, brackets match. Lenient: a quote opens a string only where a value begins and closes
    it only before ")" or ", key=", and brackets may be wrong.
    """
    segments: list[tuple[str | None, str]] = []
    stack: list[str] = []
    key, begin = _key_at(text, i, names)
    equals, i = None, begin
    while (mark := _MARK.search(text, i)) is not None:
        at, char = mark.start(), mark[0]
        i = at + 1
        if char in "'\"":
            if lenient and text[begin:at].rstrip()[-1:] not in ("", *_BEFORE_STRING):
                continue
            close = _string_end(text, at, lenient, bool(stack))
            if close is None:
                return segments, None
            i = close
        elif char in "([{":
            stack.append(char)
        elif char == ")" and (not stack or (lenient and "(" not in stack)):
            _append(segments, text, key, begin, equals, at)
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
            _append(segments, text, key, begin, equals, at)
            key, begin = _key_at(text, i, names)
            equals, i = None, begin
        elif char == "=" and key is None and equals is None:
            if text[i : i + 1] == "=" or text[at - 1] == "=":
                continue
            equals = at
    return segments, None


def _append(
    segments: list[tuple[str | None, str]], text: str, key: str | None, begin: int, equals: int | None, end: int
) -> None:
    if key is None and equals is not None:
        key, begin = text[begin:equals].strip(), equals + 1
        if len(key) > 1 and key[0] == key[-1] and key[0] in "'\"":
            key = key[1:-1]
    source = text[begin:end].strip()
    if key is not None or source:
        segments.append((key, source))


def _key_at(text: str, i: int, names: list[str]) -> tuple[str | None, int]:
    """A listed parameter name followed by "=" at `i` (blanks aside) and where its value begins; else (None, i)."""
    rest = len(text) - len(text[i:].lstrip()) if names else i
    for name in names:
        for start in (i, i + 1, rest):
            if text.startswith(name, start) and (start == i or text[i].isspace()):
                equals = _EQUALS.match(text, start + len(name))
                if equals is not None:
                    return name, equals.end()
    return None, i


def _string_end(text: str, at: int, lenient: bool, nested: bool) -> int | None:
    """The index after the string that opens at `at`, None where it never closes."""
    quote = text[at : at + 3] if text[at : at + 3] in _STRINGS else text[at]
    if not lenient:
        match = _STRINGS[quote].match(text, at)
        return None if match is None else match.end()
    for end in _ENDS[quote].finditer(text, at + len(quote)):
        if end[1] is not None and (end[2] is not None or (nested and end[3] is not None)):
            return end.end()
    return None
