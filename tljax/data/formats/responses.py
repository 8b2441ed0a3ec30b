"""The format of OpenAI's Responses API: items of one conversation, those sent before those received.

{"instructions": ..., "tools": [{"type": "function", "name", "description", "parameters"}],
 "input": <text of the user> or [
  {"role": "user", "content": ...},
  {"type": "reasoning", "summary": [{"type": "summary_text", "text": ...}]},
  {"type": "function_call", "call_id": ..., "name": ..., "arguments": "<JSON object>"},
  {"type": "function_call_output", "call_id": ..., "output": ...}, ...],
 "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": ...}]}, ...]}
"""

from __future__ import annotations

from typing import Any

from tljax.core.errors import InputError
from tljax.core.json_fields import expect_type, get_or_default, refuse_unknown, shorten
from tljax.data.formats.fields import ARGUMENTS, WEIGHTS, parse_role, parse_texts, parse_tools
from tljax.data.formats.openai import read_messages
from tljax.data.trajectory import Conversation

SCHEMA = '{"tools", "input", "output": [{"type": "function_call", "call_id"}]} (OpenAI Responses)'
MESSAGES = "output"
SHAPE = ("input", "output", "output[].type")
ITEMS = ("message", "reasoning", "function_call", "function_call_output")
_TEXTS = ("text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal")
_KEYS = {
    "message": frozenset(("type", "role", "content", "id", "status", "phase", *WEIGHTS)),
    "reasoning": frozenset(("type", "summary", "content", "id", "status", "encrypted_content", *WEIGHTS)),
    "function_call": frozenset(("type", "name", "id", "call_id", "status", "namespace", *ARGUMENTS, *WEIGHTS)),
    "function_call_output": frozenset(("type", "call_id", "output", "id", "status")),
}
Located = list[tuple[dict[str, Any], str]]


def matches(record: dict[str, Any]) -> bool:
    """Returns True if the record has a list of items as output, or items of the API's own types as input."""
    sent, received = record.get("input"), record.get(MESSAGES)
    items = [item for part in (sent, received) if isinstance(part, list) for item in part]
    types = {item.get("type") for item in items if isinstance(item, dict) and isinstance(item.get("type"), str)}
    return bool(types & set(ITEMS[1:])) or (isinstance(received, list) and "message" in types)


def read(record: dict[str, Any], location: str) -> Conversation:
    """Returns the conversation of a record; `location` is its file and row. Raises InputError for a malformed one."""
    if record.get("previous_response_id"):
        raise InputError(
            f"{location}, field previous_response_id: is {shorten(record['previous_response_id'])}, so the messages "
            "before are not in the row; put them into input and remove the field"
        )
    tools = _tools(record.get("tools"), f"{location}, field tools")
    system = expect_type(get_or_default(record, "instructions", ""), str, f"{location}, field instructions")

    # The items, those sent before those received.
    items: Located = []
    sent = get_or_default(record, "input", [])
    if isinstance(sent, str):
        items.append(({"role": "user", "content": sent}, f"{location}, field input"))
        sent = []
    for field, part in (("input", sent), (MESSAGES, get_or_default(record, MESSAGES, []))):
        for i, item in enumerate(expect_type(part, list, f"{location}, field {field}")):
            items.append(_checked(item, f"{location}, field {field}[{i}]"))
    if not items:
        raise InputError(f"{location}, field input: is null or missing; a row is {SCHEMA}")

    leading, turns = read_messages(_messages(items))
    return Conversation(tools, turns, "\n\n".join(filter(None, (system, leading))))


def _tools(tools: Any, location: str) -> tuple[Any, ...]:
    """Returns the tools. Raises InputError for a tool that runs at OpenAI's, which has no parameters to render."""
    for i, tool in enumerate(tools if isinstance(tools, list) else []):
        if isinstance(tool, dict) and tool.get("type", "function") != "function":
            raise InputError(
                f"{location}[{i}].type: is {shorten(tool['type'])}; allowed: function; take the tool out, or the row"
            )
    return () if tools is None else parse_tools(tools, location)


def _checked(item: Any, location: str) -> tuple[dict[str, Any], str]:
    """Returns an item of a known type with its location. Raises InputError for another type or an unknown field."""
    item = expect_type(item, dict, location)
    kind = item.get("type", "message")
    if kind not in ITEMS:
        raise InputError(f"{location}.type: is {shorten(kind)}; allowed: {', '.join(ITEMS)}; take the row out")
    refuse_unknown(item, _KEYS[kind], location, f"an item of type {kind} has no such field")
    return item, location


def _messages(items: Located) -> Located:
    """Returns the items as OpenAI's chat API would write them."""
    messages: Located = []
    run: Located = []  # the assistant's items since the last one of another role
    for item, location in items:
        kind = item.get("type", "message")
        if kind in ("reasoning", "function_call"):
            run.append((item, location))
        elif kind == "function_call_output":
            message = {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
            messages += [*_assistant_messages(run), (message, location)]
            run = []
        elif parse_role(item, location) == "assistant":
            run.append((item, location))
        else:
            message = {"role": item["role"], "content": item.get("content")}
            messages += [*_assistant_messages(run), (message, location)]
            run = []
    return messages + _assistant_messages(run)


def _assistant_messages(run: Located) -> Located:
    """Returns the messages of a run of the assistant's items.

    The calls of a run are parallel calls of one message, whose text and reasoning are the items between its first and
    last one and the message before them.
    """
    calls = [i for i, (item, _) in enumerate(run) if item.get("type") == "function_call"]
    messages: Located = []
    thoughts: list[str] = []
    texts: list[str] = []
    entries: list[dict[str, Any]] = []
    flags: dict[str, Any] = {}
    for i, (item, location) in enumerate(run):
        kind = item.get("type", "message")
        if kind == "reasoning":
            thoughts += [_text(get_or_default(item, key, []), f"{location}.{key}") for key in ("summary", "content")]
        elif kind == "function_call":
            entries.append({"id": item.get("call_id"), **{k: v for k, v in item.items() if k in ("name", *ARGUMENTS)}})
        else:
            texts.append(_text(item.get("content"), f"{location}.content"))
        flags |= {key: item[key] for key in WEIGHTS if key in item}
        in_calls = bool(calls) and calls[0] <= i < calls[-1]
        before_calls = i + 1 in calls or (kind == "reasoning" and i + 1 < len(run))
        if in_calls or before_calls:
            continue
        if not texts and not entries:
            raise InputError(f"{location}: is reasoning without a reply or a call after it; take the row out")
        message: dict[str, Any] = {"role": "assistant", "content": "\n".join(filter(None, texts))} | flags
        message |= {"tool_calls": entries} if entries else {}
        message |= {"reasoning_content": "\n".join(filter(None, thoughts))} if any(thoughts) else {}
        messages.append((message, location))
        thoughts, texts, entries, flags = [], [], [], {}
    return messages


def _text(value: Any, location: str) -> str:
    """Returns a text, or the texts of a list of parts."""
    if isinstance(value, list):
        return "\n".join(parse_texts(value, _TEXTS, location))
    return expect_type(value, str, location)
