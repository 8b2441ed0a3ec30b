"""Parsing of tool calls in text in the JSON syntaxes of Hermes, Llama, Mistral, glaive and ReAct prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Container
from typing import Any

from tljax.calls.markup import Markup
from tljax.calls.tool import Call

# A text without any of these strings holds no call in JSON.
_SIGNS = ('"name"', '"function"', "[TOOL_CALLS]", "[ARGS]", "<function=", "Action Input:")
# The beginning of an object that may be a call, or the tool's name before an object of arguments.
_START = re.compile(
    r"""
    \[?\s*+\{\s*+"(?:name|arguments|parameters|type|id|function|tool_calls)"
    | <function=(?P<tag>[^<>\n]{1,200})>\s*+(?=\{)
    | \[TOOL_CALLS\]\s*+(?P<mistral>[^\s{}\[\]()]++)\s*+(?:\[CALL_ID\]\w*+\s*+)?(?:\[ARGS\]\s*+)?(?=\{)
    | (?<![\w.-])(?P<args>[\w.-]++)\[ARGS\]\s*+(?=\{)
    | ^[ \t]*+Action:(?P<action>[^\n]*+)\n\s*+Action[ ]Input:\s*+(?=\{)
    """,
    re.VERBOSE | re.MULTILINE,
)
# In glaive's rows the text of the arguments has single quotes.
_GLAIVE = re.compile(
    r"""\{\s*"name":\s*"([^"\\]{1,200})",\s*"arguments":\s*'([^'\\]{0,20000}(?:\\.[^'\\]{0,20000}){0,2000})'\s*\}"""
)


def parse_json_calls(text: str, marks: Markup, names: Container[str], i: int) -> tuple[list[Call], bool, int]:
    """Returns the calls in text[i:], True if an object gives a field twice, and the index of the first call.

    Takes time linear in the length of the text: once the failed readings have read it several times, the search ends.
    names: the listed tools. An object with the name of one of them and nothing else is a call without arguments.
    """
    calls: list[Call] = []
    begin, failed = len(text), 0
    if not any(sign in text for sign in _SIGNS):
        return calls, False, begin
    repeated: list[str] = []

    def as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            repeated.append("")
        return fields

    decoder = json.JSONDecoder(strict=False, object_pairs_hook=as_dict)
    while failed <= 4 * len(text) and (start := _next_start(text, marks, i)) is not None:
        name = start["tag"] or start["mistral"] or start["args"] or start["action"]
        at = start.start() if name is None else start.end()
        num_repeated = len(repeated)
        try:
            value, i = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            del repeated[num_repeated:]
            glaive = _GLAIVE.match(text, at) if name is None else None
            failed += len(text) - at if error.msg.startswith("Unterminated") else 2 * (error.pos - at)
            if glaive is None:
                # A list that never ends may hold complete objects.
                i = at + 1 if name is None else start.end()
                continue
            failed += glaive.end() - at
            value = {"name": glaive[1], "arguments": glaive[2].replace("\\'", "'")}
            i = glaive.end()
        except (ValueError, RecursionError):  # an integer of more than 4300 digits, an object that nests too deeply
            break
        found = _calls_of(value, names) if name is None else [Call(name.strip(), value)]
        if found:
            begin = begin if calls else start.start()
            calls += found
        else:
            del repeated[num_repeated:]
    return calls, bool(repeated), begin


def _next_start(text: str, marks: Markup, i: int) -> re.Match[str] | None:
    """Returns the first match of _START from `i` on that is part of the reply and of no reasoning."""
    start = _START.search(text, i)
    thought, stop = marks.next_thought(i) if marks.opens else None, marks.next_stop(i)
    while start is not None:
        while thought is not None and thought[1] <= start.start():
            # The reply does not end within reasoning.
            stop = marks.next_stop(thought[1]) if thought[0] < stop else stop
            thought = marks.next_thought(thought[1])
        if thought is None or start.start() < thought[0]:
            return start if start.start() < stop else None
        start = _START.search(text, thought[1])
    return None


def _calls_of(value: Any, names: Container[str]) -> list[Call]:
    """Returns the calls of an object or of a list of objects; [] if one of them is no call."""
    if isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
        value = value["tool_calls"]
    calls = [_call_of(item, names) for item in (value if isinstance(value, list) else [value])]
    complete = [call for call in calls if call is not None]
    return complete if len(complete) == len(calls) else []


def _call_of(value: Any, names: Container[str]) -> Call | None:
    """Returns the call in {"name": ..., "arguments" or "parameters": ...}, also within {"function": ...}, or None."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or "description" in value:  # the documentation of a tool
        return None
    name = value.get("name", value.get("function"))
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments, strict=False) if arguments.strip() else {}
        except (ValueError, RecursionError):
            return None
    if arguments is None and isinstance(name, str) and name in names:
        arguments = {}
    return Call(name, arguments) if isinstance(name, str) and name and isinstance(arguments, dict) else None
