"""Parsing of tool calls in text: `name(key=value, ...)`, in either dialect, and JSON. Any text is accepted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tljax.calls.arguments import Opening, parse_call
from tljax.calls.markup import Markup, find_markup
from tljax.calls.parse_json import parse_json_calls
from tljax.calls.tool import Call, Tool


@dataclass(frozen=True, slots=True)
class ParsedText:
    """The calls of a text, in order.

    issue: the first problem: "no_call", "truncated" (a call never closes; its complete arguments stay),
    "duplicate_argument" (the last value counts), "too_many_positional", "colon_argument"
    (`name: value` for `name=value`), or None. text_before: the text before the first call, without reasoning.
    """

    calls: tuple[Call, ...]
    issue: str | None
    text_before: str = ""


_FENCE = re.compile(r"```[^\n`(]*\n")
# Text before a name on its line that is no part of the name: closing marks of the previous call, list markers, quotes.
_LEAD = re.compile(r"(?:Assistant:|[-*+](?=\s)|\d+[.)](?=\s)|[\s,;\[\]`(])*")
# Marks that may precede the name of a listed tool without a blank.
_QUOTES = "*\"'>|~"
# Levels of certainty that a call opens: a word and a blank before "(", a name within a sentence, a name that begins
# its line.
_WORD, _IN_SENTENCE, _ALONE = range(3)


def parse_calls(text: str, tools: Sequence[Tool] = ()) -> ParsedText:
    """Returns all calls in `text`, in time linear in its length. Never raises.

    The tool list resolves ambiguous texts: tool names with blanks, parameter names with quotes, brackets, commas or
    "=", and the names of positional arguments. Positional arguments of an unlisted tool, and those beyond a tool's
    parameters, are named by their position ("0", "1", ...). The name of an unlisted tool has no blank and no "(", and
    does not begin with a mark that may precede a call (comma, semicolon, square bracket, backtick, "Assistant:", and
    those of markup.py). The name of an unlisted parameter has no quote, bracket, comma or "=", and no blank at either
    end.
    """
    # The parameters of each tool, and the beginning of the reply.
    text = text.strip()
    parameters: dict[str, list[str]] = {}
    for tool in tools:
        parameters[tool.name] = list(dict.fromkeys((*parameters.get(tool.name, ()), *tool.parameters)))
    marks = find_markup(text, parameters)
    # One call after the other.
    parsed, spans = _parse_from(text, marks, 0, tools, parameters)
    thought = marks.unopened_thought() if marks.closes else None
    after = 0
    if thought is not None and not any(begin <= thought[0] < end for begin, end in spans):
        after = thought[1]
        parsed, spans = _parse_from(text, marks, after, tools, parameters)
    if "{" not in text:
        return parsed
    # Calls in JSON, unless a call of a listed tool begins before them or contains them.
    json_calls, repeated, begin = parse_json_calls(text, marks, parameters, after)
    if json_calls and not any(
        start < begin and (begin < end or call.name in parameters)
        for call, (start, end) in zip(parsed.calls, spans, strict=False)
    ):
        issue = "duplicate_argument" if repeated else None
        return ParsedText(tuple(json_calls), issue, _text_between(text, marks, _beginning(marks, after), begin))
    return parsed


def _parse_from(
    text: str, marks: Markup, i: int, tools: Sequence[Tool], parameters: dict[str, list[str]]
) -> tuple[ParsedText, list[tuple[int, int]]]:
    """Returns the calls in text[i:], and the begin and end of those that close."""
    begin = i = _beginning(marks, i) if marks.opens or i or not marks.visible[:1].isalnum() else i
    calls: list[Call] = []
    spans: list[tuple[int, int]] = []
    issue, before, lenient = None, "", True
    while (opening := _next_opening(marks, i, parameters, further=bool(calls))) is not None:
        if not calls:
            before = _text_between(text, marks, begin, opening.start) if opening.start > begin else ""
        call, call_issue, end, lenient = parse_call(text, opening, parameters.get(opening.name), tools, lenient)
        calls.append(call)
        issue = issue or call_issue
        if end is None:
            break
        spans.append((opening.start, end))
        i = end
        if i == len(text):
            break
    return ParsedText(tuple(calls), issue if calls else "no_call", before), spans


def _beginning(marks: Markup, i: int) -> int:
    """Returns the index after the blanks, the reasoning parts and the line of a fence with which text[i:] begins."""
    thought = marks.next_thought(i) if marks.opens else None
    while thought is not None and not marks.visible[i : thought[0]].strip():
        i = thought[1]
        thought = marks.next_thought(i)
    i += len(marks.visible[i:]) - len(marks.visible[i:].lstrip()) if marks.visible[i : i + 1].isspace() else 0
    fence = _FENCE.match(marks.visible, i)
    return fence.end() if fence else i


def _text_between(text: str, marks: Markup, i: int, end: int) -> str:
    """Returns text[i:end] without its reasoning parts, and without the marks at its end; "" if nothing else is left."""
    parts = []
    while marks.opens and (thought := marks.next_thought(i)) is not None and thought[0] < end:
        parts.append(text[i : thought[0]])
        i = thought[1]
    parts.append(text[i : i + len(marks.visible[i:end].rstrip())])
    before = "".join(parts).strip()
    return "" if _LEAD.fullmatch(before.strip(_QUOTES) + " ") else before


def _next_opening(marks: Markup, i: int, parameters: dict[str, list[str]], further: bool) -> Opening | None:
    """Returns the opening of the next call from `i` on, outside of reasoning, or None.

    further: True after the first call. A parenthesis in prose opens no call: one after several words and a blank, and
    after the first call also one after several words of which the last is no tool. A call of a listed tool that begins
    its line has precedence over an unlisted name within a sentence; any call that begins its line has precedence over a
    word, a blank and a parenthesis.
    """
    candidate, certainty = None, -1
    text, end = marks.visible, marks.next_stop(i)
    while i < end:
        line_end = text.find("\n", i, end)
        line_end = end if line_end < 0 else line_end
        after = line_end + 1
        # A reasoning part ends the line, and the reply does not end inside of it.
        thought = marks.next_thought(i) if marks.opens else None
        if thought is not None and thought[0] <= line_end:
            line_end, after = thought
            end = marks.next_stop(after)
        opening, certain = _opening_on_line(text, i, line_end, parameters, further)
        if opening is not None:
            if certain == _ALONE and (certainty < _IN_SENTENCE or opening.name in parameters):
                return opening
            if certain > certainty and not further:
                candidate, certainty = opening, certain
        i = after
    return candidate


def _opening_on_line(
    text: str, i: int, end: int, parameters: dict[str, list[str]], further: bool
) -> tuple[Opening | None, int]:
    """Returns the first opening in text[i:end], which is one line, and how certain it is; (None, -1) without one."""
    # A listed name that holds a parenthesis itself.
    lead = _LEAD.match(text, i, end)
    begin = lead.end() if lead else i
    names = [name for name in parameters if "(" in name]
    for start in (i, begin) if names else ():
        for name in names:
            if text.startswith(name + "(", start):
                return Opening(name, start, start + len(name)), _ALONE
    # Otherwise each parenthesis in turn, with the text before it on the line.
    paren = text.find("(", i, end)
    while paren >= 0:
        prefix = text[i:paren].rstrip()
        for start in (i + len(prefix) - len(prefix.lstrip()), begin):
            if start < paren and text[start:paren].rstrip() in parameters:
                return Opening(text[start:paren].rstrip(), start, paren), _ALONE
        words = text[begin:paren].split(maxsplit=1) if begin < paren else []
        listed = _listed_ending(prefix, parameters) if len(words) > 1 else None
        if listed is not None:
            return Opening(listed, i + len(prefix) - len(listed), paren), _ALONE
        blank = text[paren - 1 : paren].isspace()
        if len(words) == 1 and words[0][0] in _QUOTES and (bare := words[0].lstrip(_QUOTES)) in parameters:
            return Opening(bare, begin + len(words[0]) - len(bare), paren), _ALONE
        if len(words) == 1:
            return Opening(words[0], begin, paren), _WORD if blank else _ALONE
        if len(words) > 1 and not blank and not further and text[paren - 1] != "(":
            name = prefix.split()[-1]
            return Opening(name, i + len(prefix) - len(name), paren), _IN_SENTENCE
        paren = text.find("(", paren + 1, end)
    return None, -1


def _listed_ending(prefix: str, parameters: dict[str, list[str]]) -> str | None:
    """Returns the longest listed tool that is the last word or words of `prefix`, or None."""
    names = (name for name in parameters if name and prefix.endswith(name))
    apart = (name for name in names if not re.match(r"[\w.-]", prefix[-len(name) - 1 : -len(name)]))
    return max(apart, key=len, default=None)
