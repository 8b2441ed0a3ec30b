"""ShareGPT's format, as LLaMA-Factory, APIGen-MT, Hermes and ToolACE write it.

{"system": ..., "tools": "<JSON list of tools>", "conversations": [
  {"from": "human", "value": ...},
  {"from": "function_call", "value": "<JSON object or list of calls>"},
  {"from": "observation", "value": ...},
  {"from": "gpt", "value": ...}, ...]}

Hermes lists the tools between <tools> tags of the system message and writes calls in <tool_call> tags, results in
<tool_response> tags. ToolACE lists the tools as JSON within the system text and writes calls as `[f(a=1), g(b=2)]`.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tljax.calls.literals import parse_literal
from tljax.calls.parse import parse_calls
from tljax.calls.tool import Tool
from tljax.core.errors import InputError
from tljax.core.json_fields import expect_type, refuse_unknown, shorten, the_field
from tljax.data.formats.fields import WEIGHTS, parse_call, parse_messages, parse_role, parse_tools
from tljax.data.formats.openai import MESSAGES_FIELDS, TOOLS_FIELDS, read_messages
from tljax.data.trajectory import Conversation

SCHEMA = '{"tools", "conversations": [{"from", "value"}]} (ShareGPT)'
MESSAGES = "conversations"
# The role in a file -> OpenAI's role; "call" for a message that consists of calls.
ROLES = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "bot", "chatgpt"), "assistant"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
    **dict.fromkeys(("observation", "tool", "function", "function_response", "tool_response", "ipython"), "tool"),
}
_KEYS = frozenset(("from", "value", "id", "name", "tool_call_id", *WEIGHTS))
_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_RESPONSE = re.compile(r"<tool_response>(.*?)(?:</tool_response>|\Z)", re.DOTALL)
_TOOLS = re.compile(r"<tools>(.*?)</tools>", re.DOTALL)


def matches(record: dict[str, Any]) -> bool:
    """Returns True if the messages of the record have "from" or "value"."""
    lists = (record[field] for field in MESSAGES_FIELDS if isinstance(record.get(field), list))
    return any(isinstance(m, dict) and "role" not in m and ("from" in m or "value" in m) for m in next(lists, []))


def read(record: dict[str, Any], location: str) -> Conversation:
    """Returns the conversation of a record; `location` is its file and row. Raises InputError for a malformed one."""
    name = the_field(record, MESSAGES_FIELDS, location) or MESSAGES
    entries = parse_messages(record.get(name), f"{location}, field {name}")

    # The system text and the tools.
    system = expect_type(record.get("system") or "", str, f"{location}, field system")
    if isinstance(entries[0], dict) and entries[0].get("from") == "system":
        text = expect_type(entries[0].get("value"), str, f"{location}, field {name}[0].value")
        system, entries = "\n\n".join(filter(None, (system, text))), [None, *entries[1:]]
    tools_field = the_field(record, TOOLS_FIELDS, location)
    tools, system = _tools(record.get(tools_field or "") or None, system, location)

    # The messages, as OpenAI would write them.
    messages: list[tuple[dict[str, Any], str]] = []
    for i, entry in enumerate(entries):
        if entry is not None:
            entry_location = f"{location}, field {name}[{i}]"
            messages += [(message, entry_location) for message in _messages(entry, tools, entry_location)]
    leading, turns = read_messages(_split_results(messages))
    return Conversation(tools, turns, "\n\n".join(filter(None, (system, leading))))


def _tools(column: Any, system: str, location: str) -> tuple[tuple[Tool, ...], str]:
    """Returns the tools, and the system text without the list of tools in it; a column of tools has precedence."""
    block = _TOOLS.search(system)
    start, end, listed = -1, -1, None
    if block is not None:
        start, end, listed = block.start(), block.end(), block[1]
    elif column is None and (found := _json_list(system)) is not None:
        start, end = found
        listed = system[start:end]
    if listed is None:
        return (() if column is None else parse_tools(column, f"{location}, field tools")), system
    rest = "\n".join(filter(None, (system[:start].strip(), system[end:].strip())))
    if column is not None:
        return parse_tools(column, f"{location}, field tools"), rest
    value, is_value = _parse_value(listed)
    if is_value and not isinstance(value, list):
        value = [value]
    return parse_tools(value if is_value else listed, f"{location}, the tools of the system message"), rest


def _json_list(text: str) -> tuple[int, int] | None:
    """Returns start and end of the first JSON list of objects with names in a text, or None."""
    start = text.find("[{")
    if start < 0:
        return None
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return (start, end) if all(isinstance(item, dict) and "name" in item for item in value) else None


def _split_results(messages: list[tuple[dict[str, Any], str]]) -> list[tuple[dict[str, Any], str]]:
    """Returns the messages with one for each result where several calls have one message with a list of results."""
    split: list[tuple[dict[str, Any], str]] = []
    for i, (message, location) in enumerate(messages):
        num_calls = len(messages[i - 1][0].get("tool_calls", ())) if i else 0
        alone = i + 1 == len(messages) or messages[i + 1][0]["role"] != "tool"
        content = message["content"] if message["role"] == "tool" and num_calls > 1 and alone else None
        results = _parse_value(content)[0] if isinstance(content, str) else content
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
    refuse_unknown(entry, _KEYS, location, "a message's text is read from value")
    role, value = parse_role(entry, location, "from", ROLES), entry.get("value")
    shared = {key: entry[key] for key in ("name", "tool_call_id", *WEIGHTS) if entry.get(key) is not None}
    if role == "call":
        return [{"role": "assistant", "content": None, "tool_calls": _calls(value, f"{location}.value")} | shared]
    text = value if isinstance(value, dict | list) and role == "tool" else expect_type(value, str, f"{location}.value")
    if role == "tool" and isinstance(text, str):
        results = [result.strip() for result in _RESPONSE.findall(text)] or [text]
        return [{"role": "tool", "content": result} | shared for result in results]
    if role == "assistant":
        return [{"role": "assistant"} | _reply(str(text), tools, f"{location}.value") | shared]
    return [{"role": role, "content": text} | shared]


def _reply(text: str, tools: tuple[Tool, ...], location: str) -> dict[str, Any]:
    """Returns the content and the calls of an assistant's text."""
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


def _parse_value(text: str) -> tuple[Any, bool]:
    """Returns the JSON value or the Python literal of a text and True, or the text and False."""
    try:
        return json.loads(text), True
    except (ValueError, RecursionError):
        return parse_literal(text)


def _calls(value: Any, location: str) -> list[dict[str, Any]]:
    """Returns the calls of a JSON object, a list of them, or their text. Raises InputError for anything else."""
    if isinstance(value, str):
        text = value
        value, is_value = _parse_value(text)
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
