"""Parsing of tool calls in text: `name(key=value, ...)`, in either dialect. Any text is accepted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tljax.calls.literals import parse_literal
from tljax.calls.tool import Call, Tool


@dataclass(frozen=True, slots=True)
class ParsedText:
    """The calls of a text, in order.

    issue: the first problem: "no_call", "truncated" (a call never closes; its complete arguments stay),
    "duplicate_argument" (the last value counts), "too_many_positional", or None. text_before: the text before the
    first call.
    """

    calls: tuple[Call, ...]
    issue: str | None
    text_before: str = ""


@dataclass(frozen=True, slots=True)
class _Opening:
    """The beginning of a call: the tool's name, the index of the name, and the index of the parenthesis."""

    name: str
    start: int
    paren: int


# The end of the reply, outside of calls.
_STOP = re.compile(r"</s>|\n(?:User|Output|Assistant|System):")
_FENCE = re.compile(r"```[^\n`(]*\n")
# Text before a name on its line that is no part of the name: closing marks of the previous call, list markers, quotes.
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
# Levels of certainty that a call opens: a word and a blank before "(", a name within a sentence, a name that begins
# its line.
_WORD, _IN_SENTENCE, _ALONE = range(3)
_PAIRS = {")": "(", "]": "[", "}": "{"}


def parse_calls(text: str, tools: Sequence[Tool] = ()) -> ParsedText:
    """Returns all calls in `text`, in time linear in its length. Never raises.

    The tool list resolves ambiguous texts: tool names with blanks, parameter names with quotes, brackets, commas or
    "=", and the names of positional arguments. Positional arguments of an unlisted tool, and those beyond a tool's
    parameters, are named by their position ("0", "1", ...). The name of an unlisted tool has no blank and no "(", and
    does not begin with a mark that may precede a call (comma, semicolon, square bracket, backtick, "Assistant:"). The
    name of an unlisted parameter has no quote, bracket, comma or "=", and no blank at either end.
    """
    # The beginning of the reply, and the parameters of each tool.
    text = text.strip()
    fence = _FENCE.match(text)
    i = fence.end() if fence else 0
    parameters: dict[str, list[str]] = {}
    for tool in tools:
        names = parameters.setdefault(tool.name, [])
        names += [name for name in tool.parameters if name not in names]
    # One call after the other.
    calls: list[Call] = []
    issue, before, begin, lenient = None, "", i, True
    stop = _find_stop(text, i)
    while (opening := _next_opening(text, i, stop, parameters, further=bool(calls))) is not None:
        if not calls:
            before = text[begin : opening.start].strip()
            before = "" if _LEAD.fullmatch(before + " ") else before
        call, call_issue, end, lenient = _parse_call(text, opening, parameters.get(opening.name), lenient)
        calls.append(call)
        issue = issue or call_issue
        if end is None:
            break
        i = end
        # A new search is needed only if the stop was inside the call. One search per call would take quadratic time.
        stop = stop if i <= stop else _find_stop(text, i)
    return ParsedText(tuple(calls), issue if calls else "no_call", before)


def _find_stop(text: str, i: int) -> int:
    """Returns the index of the first stop string from `i` on, or the length of the text."""
    stop = _STOP.search(text, i)
    return len(text) if stop is None else stop.start()


def _next_opening(text: str, i: int, end: int, parameters: dict[str, list[str]], further: bool) -> _Opening | None:
    """Returns the opening of the next call in text[i:end], or None.

    further: True after the first call. A parenthesis in prose opens no call: one after several words and a blank, and
    after the first call also one after several words of which the last is no tool. A call of a listed tool that begins
    its line has precedence over an unlisted name within a sentence; any call that begins its line has precedence over a
    word, a blank and a parenthesis.
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
    """Returns the first opening in text[i:end], which is one line, and how certain it is; (None, -1) without one."""
    # A listed name that holds a parenthesis itself.
    lead = _LEAD.match(text, i, end)
    begin = lead.end() if lead else i
    for start in dict.fromkeys((i, begin)):
        for name in parameters:
            if "(" in name and text.startswith(name + "(", start):
                return _Opening(name, start, start + len(name)), _ALONE
    # Otherwise each parenthesis in turn, with the text before it on the line.
    paren = text.find("(", i, end)
    while paren >= 0:
        prefix = text[i:paren].rstrip()
        for start in (i + len(prefix) - len(prefix.lstrip()), begin):
            if start < paren and text[start:paren].rstrip() in parameters:
                return _Opening(text[start:paren].rstrip(), start, paren), _ALONE
        words = text[begin:paren].split(maxsplit=1) if begin < paren else []
        listed = _listed_ending(prefix, parameters) if len(words) > 1 else None
        if listed is not None:
            return _Opening(listed, i + len(prefix) - len(listed), paren), _ALONE
        blank = text[paren - 1 : paren].isspace()
        if len(words) == 1:
            return _Opening(words[0], begin, paren), _WORD if blank else _ALONE
        if len(words) > 1 and not blank and not further and text[paren - 1] != "(":
            name = prefix.split()[-1]
            return _Opening(name, i + len(prefix) - len(name), paren), _IN_SENTENCE
        paren = text.find("(", paren + 1, end)
    return None, -1


def _listed_ending(prefix: str, parameters: dict[str, list[str]]) -> str | None:
    """Returns the longest listed tool that is the last word or words of `prefix`, or None."""
    names = (name for name in parameters if name and prefix.endswith(name))
    apart = (name for name in names if not re.match(r"[\w.-]", prefix[-len(name) - 1 : -len(name)]))
    return max(apart, key=len, default=None)


def _parse_call(
    text: str, opening: _Opening, parameters: list[str] | None, lenient: bool
) -> tuple[Call, str | None, int | None, bool]:
    """Returns the call at `opening`, its issue, the index after it (None if it never closes), and a new `lenient`.

    lenient: True allows a second, lenient scan of a call that the strict scan cannot read. It becomes False after a
    lenient scan that reaches the end of the text: every later one would too, which takes quadratic time.
    """
    # The arguments as text and as values: strictly, and leniently if that reads more of them.
    names = sorted(parameters or (), key=len, reverse=True)
    segments, end = _segments(text, opening.paren + 1, names, lenient=False)
    values = [parse_literal(source) for _, source in segments]
    num_failed = sum(not parsed for _, parsed in values)
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
    """Returns the arguments as (key or None, text of the value), and the index after the closing parenthesis.

    The index is None if the call never closes. The strict scan reads Python's strings and matching brackets. In the
    lenient scan a quote opens a string only where a value begins, a quote closes it only before ")" or ", key=", and
    brackets need not match.
    """
    segments: list[tuple[str | None, str]] = []
    stack: list[str] = []
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
        elif char in "([{":
            stack.append(char)
        elif char == ")" and (not stack or (lenient and "(" not in stack)):
            _append(segments, text[begin:start], key, None if equals is None else equals - begin)
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
            _append(segments, text[begin:start], key, None if equals is None else equals - begin)
            key, begin = _listed_key(text, i, names)
            equals, i = None, begin
        elif char == "=" and key is None and equals is None:
            if text[i : i + 1] == "=" or text[start - 1] == "=":
                continue
            equals = start
    return segments, None


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
    rest = len(text) - len(text[i:].lstrip()) if names else i
    for name in names:
        for start in (i, i + 1, rest):
            if text.startswith(name, start) and (start == i or text[i].isspace()):
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
