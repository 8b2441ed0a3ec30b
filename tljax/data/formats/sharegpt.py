"""ShareGPT's format, as LLaMA-Factory, APIGen-MT, Hermes and ToolACE write it.

{"system": ..., "tools": "<JSON list of tools>", "conversations": [
  {"from": "human", "value": ...},
  {"from": "function_call", "value": "<JSON object or list of calls>"},
  {"from": "observation", "value": ...},
  {"from": "gpt", "value": ...}, ...]}

Hermes lists the tools between <tools> tags of the system message and writes calls in <tool_call> tags, results in
<tool_response> tags. ToolACE lists the tools as JSON within the system text and writes calls as `[f(a=1), g(b=2)]`.
glaive's calls follow <functioncall>. Messages with such texts may have OpenAI's keys, {"role", "content"}.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tljax.calls.parse import parse_calls
from tljax.calls.tool import Tool
from tljax.core.errors import InputError
from tljax.core.json_fields import expect_type, refuse_unknown, shorten, the_field
from tljax.data.formats import glaive
from tljax.data.formats.fields import WEIGHTS, parse_call, parse_messages, parse_role, parse_tools, tells_tools_first
from tljax.data.formats.openai import MESSAGES_FIELDS, TOOLS_FIELDS, read_messages
from tljax.data.formats.texts import find_tool, find_tools, parse_value
from tljax.data.trajectory import Conversation

SCHEMA = '{"tools", "conversations": [{"from", "value"}]} (ShareGPT)'
MESSAGES = "conversations"
SHAPE = ("conversations", "conversations[].from", "conversations[].value")
# The role in a file -> OpenAI's role; "call" for a message that consists of calls.
ROLES = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "bot", "chatgpt"), "assistant"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
    **dict.fromkeys(("observation", "tool", "function", "function_response", "tool_response", "ipython"), "tool"),
}
_KEYS = frozenset(("from", "value", "role", "content", "id", "name", "tool_call_id", *WEIGHTS))
_READ_KEYS = "a message's text is read from value or content"
_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_RESPONSE = re.compile(r"<tool_response>(.*?)(?:</tool_response>|\Z)", re.DOTALL)
_TOOLS = re.compile(r"<tools>(.*?)</tools>", re.DOTALL)
_CALLS_IN_TEXT = re.compile(r"\s*\[[^\[\]()\n]+\(.*\)\]\s*\Z|.*(?:<tool_call>|<functioncall>)", re.DOTALL)
_CALL_FIELDS = ("tool_calls", "function_call", "tool_call_id")


def matches(record: dict[str, Any]) -> bool:
    """Returns True if the messages of the record have "from" or "value", or calls in their texts alone."""
    messages = next((record[field] for field in MESSAGES_FIELDS if isinstance(record.get(field), list)), [])
    entries = [message for message in messages if isinstance(message, dict)]
    if any("role" not in entry and ("from" in entry or "value" in entry) for entry in entries):
        return True
    if tells_tools_first(messages) or any(entry.get(field) for entry in entries for field in _CALL_FIELDS):
        return False
    replies = [entry.get("content") for entry in entries if entry.get("role") == "assistant"]
    return any(isinstance(reply, str) and _CALLS_IN_TEXT.match(reply) for reply in replies)


def keys_of(message: dict[str, Any]) -> tuple[str, str]:
    """Returns the keys of a message's role and text: ShareGPT's, or OpenAI's where the message has those."""
    return ("role", "content") if "role" in message and "from" not in message else ("from", "value")


def read(record: dict[str, Any], location: str) -> Conversation:
    """Returns the conversation of a record; `location` is its file and row. Raises InputError for a malformed one."""
    name = the_field(record, MESSAGES_FIELDS, location) or MESSAGES
    entries = parse_messages(record.get(name), f"{location}, field {name}")

    # The system text and the tools.
    system = expect_type(record.get("system") or "", str, f"{location}, field system")
    role_key, text_key = keys_of(entries[0]) if isinstance(entries[0], dict) else ("from", "value")
    if isinstance(entries[0], dict) and entries[0].get(role_key) == "system":
        refuse_unknown(entries[0], _KEYS, f"{location}, field {name}[0]", _READ_KEYS)
        text = expect_type(entries[0].get(text_key), str, f"{location}, field {name}[0].{text_key}")
        system, entries = "\n\n".join(filter(None, (system, text))), [None, *entries[1:]]
    tools_field = the_field(record, TOOLS_FIELDS, location)
    column = record.get(tools_field or "") or None
    is_glaive = any(isinstance(entry, dict) and glaive.CALL in str(entry.get(text_key)) for entry in entries)
    tools, system = _tools(column, system, is_glaive, location)

    # The messages, as OpenAI would write them.
    messages: list[tuple[dict[str, Any], str]] = []
    for i, entry in enumerate(entries):
        if entry is not None:
            entry_location = f"{location}, field {name}[{i}]"
            messages += [(message, entry_location) for message in _messages(entry, tools, entry_location)]
    leading, turns = read_messages(_split_results(messages))
    return Conversation(tools, turns, "\n\n".join(filter(None, (system, leading))))


def _tools(column: Any, system: str, is_glaive: bool, location: str) -> tuple[tuple[Tool, ...], str]:
    """Returns the tools, and the system text without the list of tools in it; a column of tools has precedence.

    is_glaive: True if the system text holds one tool after the other and no list
    """
    field = f"{location}, the tools of the system message"
    block = _TOOLS.search(system) if "</tools>" in system else None
    if block is not None:
        listed, rest = _objects(block[1]), _join(system[: block.start()], system[block.end() :])
    elif is_glaive:
        listed, rest = glaive.split_tools(system, field)
    elif column is not None:
        return parse_tools(column, f"{location}, field tools"), system
    elif (found := find_tools(system)) is not None:
        listed, rest = found[0], _join(system[: found[1]], system[found[2] :])
    else:
        return (), system
    if column is not None:
        return parse_tools(column, f"{location}, field tools"), rest
    return parse_tools(listed, field), rest


def _objects(text: str) -> Any:
    """Returns the list that a text holds, or its objects, one after the other; the text if it holds neither."""
    value, is_value = parse_value(text)
    if is_value:
        return value if isinstance(value, list) else [value]
    objects, position = [], 0
    while (found := find_tool(text, position)) is not None and not text[position : found[1]].strip(" \t\r\n,"):
        objects.append(found[0])
        position = found[2]
    return objects if objects and not text[position:].strip() else text


def _join(before: str, after: str) -> str:
    return "\n".join(filter(None, (before.strip(), after.strip())))


def _split_results(messages: list[tuple[dict[str, Any], str]]) -> list[tuple[dict[str, Any], str]]:
    """Returns the messages with one for each result where several calls have one message with a list of results."""
    split: list[tuple[dict[str, Any], str]] = []
    for i, (message, location) in enumerate(messages):
        num_calls = len(messages[i - 1][0].get("tool_calls", ())) if i else 0
        alone = i + 1 == len(messages) or messages[i + 1][0]["role"] != "tool"
        content = message["content"] if message["role"] == "tool" and num_calls > 1 and alone else None
        results = parse_value(content)[0] if isinstance(content, str) else content
        if isinstance(results, list) and len(results) == num_calls:
            for result in results:
                name = result.get("name") if isinstance(result, dict) else None
                text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
                split.append(({**message, "content": text, "name": name}, location))
        else:
            split.append((message, location))
    return split


def _messages(entry: Any, tools: tuple[Tool, ...], location: str) -> list[dict[str, Any]]:
    """Returns the OpenAI messages that an entry stands for; several results in one entry become several messages."""
    entry = expect_type(entry, dict, location)
    refuse_unknown(entry, _KEYS, location, _READ_KEYS)
    role_key, text_key = keys_of(entry)
    role, value = parse_role(entry, location, role_key, ROLES), entry.get(text_key)
    shared = {key: entry[key] for key in ("name", "tool_call_id", *WEIGHTS) if entry.get(key) is not None}
    if role == "call":
        return [{"role": "assistant", "content": None, "tool_calls": _calls(value, f"{location}.{text_key}")} | shared]
    text = (
        value
        if isinstance(value, dict | list) and role == "tool"
        else expect_type(value, str, f"{location}.{text_key}")
    )
    if role == "tool" and isinstance(text, str):
        results = [result.strip() for result in _RESPONSE.findall(text)] or [text]
        return [{"role": "tool", "content": result} | shared for result in results]
    if role == "assistant":
        return [{"role": "assistant"} | _reply(str(text), tools, f"{location}.{text_key}") | shared]
    return [{"role": role, "content": text} | shared]


def _reply(text: str, tools: tuple[Tool, ...], location: str) -> dict[str, Any]:
    """Returns the content and the calls of an assistant's text."""
    if glaive.CALL in text:
        return glaive.parse_reply(text.strip().removesuffix(glaive.END), location)
    blocks = list(_CALL.finditer(text))
    if blocks:
        calls = [call for block in blocks for call in _calls(block[1], location)]
        return {"content": _CALL.sub("", text).strip(), "tool_calls": calls}
    stripped = text.strip()
    if tools and stripped.startswith("[") and stripped.endswith(")]"):
        parsed = parse_calls(stripped, tools)
        listed = {tool.name for tool in tools}
        if parsed.issue is None and all(call.name in listed for call in parsed.calls):
            return {"tool_calls": [{"name": call.name, "arguments": call.arguments} for call in parsed.calls]}
    return {"content": text}


def _calls(value: Any, location: str) -> list[dict[str, Any]]:
    """Returns the calls of a JSON object, a list of them, or their text. Raises InputError for anything else."""
    if isinstance(value, str):
        text = value
        value, is_value = parse_value(text)
        if not is_value:
            raise InputError(
                f"{location}: {shorten(text)} is no call; allowed: a JSON object with name and arguments, or a list of "
                "them; fix it or remove the row"
            )
    entries = value if isinstance(value, list) else [value]
    if not entries:
        raise InputError(f"{location}: is an empty list of calls; fix it or remove the row")
    calls = []
    for k, entry in enumerate(entries):
        call = parse_call(entry, location if len(entries) == 1 else f"{location}[{k}]")
        calls.append({"name": call.name, "arguments": call.arguments, "id": entry.get("id")})
    return calls
