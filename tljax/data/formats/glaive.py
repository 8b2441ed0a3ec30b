"""The format of glaive-function-calling: a whole conversation as one text.

{"system": "SYSTEM: ...\\n{<JSON object of a tool>}\\n{...}",
 "chat": "USER: ...\\n\\n\\nASSISTANT: <functioncall> {"name": ..., "arguments": '<JSON object>'} <|endoftext|>
          \\n\\n\\nFUNCTION RESPONSE: ...\\n\\n\\nASSISTANT: ... <|endoftext|>"}

Version 1 has all of it in one field, "sample".
"""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any

from tljax.core.errors import InputError
from tljax.core.json_fields import expect_type, shorten
from tljax.data.formats.fields import parse_call, parse_tools
from tljax.data.formats.openai import read_messages
from tljax.data.formats.texts import find_tool, find_tools, parse_value
from tljax.data.trajectory import Conversation

SCHEMA = '{"system", "chat": "USER: ... ASSISTANT: <functioncall> ..."} (glaive)'
MESSAGES = "chat"
SHAPE = ("system", "chat")
SAMPLE = "sample"
_ROLES = {"USER": "user", "ASSISTANT": "assistant", "A": "assistant", "FUNCTION RESPONSE": "tool"}
END = "<|endoftext|>"
CALL, _CALL_END = "<functioncall>", "</functioncall>"
_SYSTEM = re.compile(r"\A\s*SYSTEM:[ \t]*")
_NAMES = "(USER|ASSISTANT|FUNCTION RESPONSE)"
# The beginnings of messages, from the strictest rule to the loosest. Where three line ends part the messages, a line
# within one may begin with "USER:" or "ASSISTANT:". Tables of CSV files have blanks for all line ends.
_MARKERS = tuple(
    re.compile(marker)
    for marker in (
        rf"(?:\A\s*|\n[^\S\n]*\n[^\S\n]*\n[^\S\n]*|<\|endoftext\|>\s*|\n[^\S\n]*(?=FUNCTION RESPONSE:)){_NAMES}:",
        rf"(?:\A\s*|\n[^\S\n]*|<\|endoftext\|>\s*){_NAMES}:",
        r"(?:\A\s*|\n[^\S\n]*|<\|endoftext\|>\s*)(USER|A|FUNCTION RESPONSE):",
        rf"(?:\A|\s){_NAMES}:",
    )
)
_ARGUMENTS = re.compile(r"""\{\s*(?:"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*)?"arguments"\s*:\s*'""")
_CLOSE = re.compile(r"""'\s*(?:,\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*)?\}""")
MAX_CLOSES = 1000  # of one call, how many quotes are tried as the last one


def matches(record: dict[str, Any]) -> bool:
    """Returns True if the record has a text of messages as "chat" or "sample"."""
    return any(isinstance(record.get(name), str) and _MARKERS[1].search(record[name]) for name in (MESSAGES, SAMPLE))


def read(record: dict[str, Any], location: str) -> Conversation:
    """Returns the conversation of a record; `location` is its file and row. Raises InputError for a malformed one."""
    name = MESSAGES if record.get(MESSAGES) is not None or record.get(SAMPLE) is None else SAMPLE
    field = f"{location}, field {name}"
    text = expect_type(record.get(name), str, field)
    leading, messages = _split(text)
    if not messages:
        raise InputError(f'{field}: has no message; allowed: texts that begin with "USER:" or "ASSISTANT:"')

    # The system text and the tools.
    column = expect_type(record.get("system") or "", str, f"{location}, field system")
    parts = [_SYSTEM.sub("", part, count=1).strip() for part in (column, leading)]
    tools_location = f"{location}, the tools of the system text"
    tools, system = split_tools("\n\n".join(filter(None, parts)), tools_location)

    # The messages, as OpenAI would write them.
    located = []
    for i, (role, content) in enumerate(messages, start=1):
        located.append((_message(role, content, f"{field}, message {i}"), f"{field}, message {i}"))
    return Conversation(parse_tools(tools, tools_location), read_messages(located)[1], system)


def _split(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Returns the text before the first message, and the messages as (OpenAI's role, text).

    The first rule decides that finds a message of the assistant.
    """
    rules = _MARKERS[0 if "\n\n\n" in text else 1 :]
    for rule in rules:
        starts = list(rule.finditer(text))
        if any(_ROLES[match[1]] == "assistant" for match in starts):
            break
    else:
        starts = list(rules[0].finditer(text))
    if not starts:
        return text, []
    ends = [match.start() for match in starts[1:]] + [len(text)]
    messages = [
        (_ROLES[match[1]], text[match.end() : end].strip().removesuffix(END).strip())
        for match, end in zip(starts, ends, strict=True)
    ]
    return text[: starts[0].start()], messages


def split_tools(system: str, location: str) -> tuple[list[Any], str]:
    """Returns the tools of a system text, one after the other or in a list, and the text without them."""
    if (listed := find_tools(system)) is not None:
        tools, start, end = listed
        return tools, "\n".join(filter(None, (system[:start].strip(), system[end:].strip())))
    tools, rest, position = [], [], 0
    while (found := find_tool(system, position)) is not None:
        tool, start, end = found
        tools.append(tool)
        rest.append(system[position:start].strip(" \t\r\n,"))
        position = end
    rest.append(system[position:].strip(" \t\r\n,"))
    text = "\n".join(filter(None, rest))
    if re.search(r'\{\s*"name"\s*:', text):
        raise InputError(f"{location}: are not JSON: {shorten(text[text.index('{') :])}; fix them or remove the row")
    return tools, text


def _message(role: str, text: str, location: str) -> dict[str, Any]:
    """Returns a message as OpenAI would write it."""
    if role != "assistant" or CALL not in text:
        return {"role": role, "content": text}
    return {"role": role} | parse_reply(text, location)


def parse_reply(text: str, location: str) -> dict[str, Any]:
    """Returns the content and the calls of an assistant's text with calls after <functioncall>."""
    before, *parts = text.split(CALL)
    texts, calls = [before.strip()], []
    for part in parts:
        entry, rest = _entry(part.strip(), location)
        call = parse_call(entry, location)
        calls.append({"name": call.name, "arguments": call.arguments})
        texts.append(rest.replace(END, "").strip().removeprefix(_CALL_END).strip())
    return {"content": "\n".join(filter(None, texts)), "tool_calls": calls}


def _entry(text: str, location: str) -> tuple[Any, str]:
    """Returns the object of a call, and the text after it. Its arguments may be JSON between single quotes."""
    opening = _ARGUMENTS.match(text)
    if opening is None:
        try:
            value, end = json.JSONDecoder().raw_decode(text)
            return value, text[end:]
        except (ValueError, RecursionError):
            value, is_value = parse_value(text)
            if is_value:
                return value, ""
    else:
        # The first quote that closes JSON is the end: texts inside may hold single quotes too.
        for close in islice(_CLOSE.finditer(text, opening.end()), MAX_CLOSES):
            name, arguments = opening[1] or close[1], text[opening.end() : close.start()]
            for spelled in (arguments, arguments.replace("\\'", "'")):
                value = _json_or_none(spelled)
                if value is not None:
                    return {"name": _json_or_none(name or ""), "arguments": value}, text[close.end() :]
    raise InputError(
        f'{location}: {shorten(text)} is no call; allowed: {{"name": ..., "arguments": \'<JSON object>\'}}; fix it '
        "or remove the row"
    )


def _json_or_none(text: str) -> Any:
    """Returns the JSON value of a text, whose strings may have line ends; None for a text that is not JSON."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
