"""The format of OpenAI's chat API.

{"tools": [...], "messages": [
  {"role": "system", "content": ...},
  {"role": "user", "content": ...},
  {"role": "assistant", "content": null, "tool_calls": [
    {"id": ..., "function": {"name": ..., "arguments": "<JSON object>"}}, ...]},
  {"role": "tool", "tool_call_id": ..., "content": ...}, ...]}
"""

from __future__ import annotations

import json
from typing import Any

from tljax.calls.tool import Call
from tljax.core.json_fields import check_not_blank, expect_type, get_or_default, parse_json, refuse_unknown, the_field
from tljax.data.formats.fields import (
    WEIGHTS,
    parse_call,
    parse_messages,
    parse_role,
    parse_texts,
    parse_tools,
    parse_weight,
    tells_tools_first,
)
from tljax.data.formats.pairing import pair_feedback
from tljax.data.trajectory import Conversation, Turn

SCHEMA = '{"tools", "messages"} (OpenAI)'
MESSAGES = "messages"
SHAPE = ("messages", "messages[].role", "messages[].content")
# The spellings of the field that holds the messages, and of the one that holds the tools.
MESSAGES_FIELDS = (MESSAGES, "conversations", "conversation")
TOOLS_FIELDS = ("tools", "functions")
# Keys of a message that are read, or that say nothing about the conversation.
_REASONING = ("reasoning_content", "reasoning", "thinking")
_KEYS = frozenset((*_REASONING, *WEIGHTS)) | frozenset(
    "role content tool_calls function_call tool_call_id name refusal "
    "id _id index type timestamp created created_at time date model usage annotations logprobs finish_reason "
    "meta metadata status cost source provider_specific_fields".split()
)


def matches(record: dict[str, Any]) -> bool:
    """Returns True if the record has messages, or conversations whose messages are OpenAI's."""
    if record.get(MESSAGES) is not None:
        return True
    messages = next((record[field] for field in MESSAGES_FIELDS if isinstance(record.get(field), list)), [])
    if tells_tools_first(messages):
        return False
    messages = [message for message in messages if isinstance(message, dict)]
    tools = any(record.get(field) is not None for field in TOOLS_FIELDS)
    named = {"tool_calls", "function_call", "tool_call_id"}
    return any("role" in m for m in messages) and (tools or any(not named.isdisjoint(m) for m in messages))


def read(record: dict[str, Any], location: str) -> Conversation:
    """Returns the conversation of a record; `location` is its file and row. Raises InputError for a malformed one.

    A message with several calls becomes as many assistant turns, each followed by its own feedback.
    """
    name = the_field(record, MESSAGES_FIELDS, location) or MESSAGES
    field = f"{location}, field {name}"
    messages = parse_messages(record.get(name), field)
    tools_field = the_field(record, TOOLS_FIELDS, location)
    tools = () if tools_field is None else parse_tools(record[tools_field], f"{location}, field {tools_field}")
    system, turns = read_messages([(message, f"{field}[{i}]") for i, message in enumerate(messages)])
    return Conversation(tools, turns, system)


def read_messages(located: list[tuple[Any, str]]) -> tuple[str, tuple[Turn, ...]]:
    """Returns the leading system text and the turns of messages, which come with their locations."""
    messages, locations = [message for message, _ in located], [location for _, location in located]

    # The leading system message.
    system, i = "", 0
    if messages and parse_role(messages[0], locations[0]) == "system":
        system, i = _text(messages[0], locations[0]), 1

    # All other messages; the feedback that follows a message with calls is read together with it.
    turns: list[Turn] = []
    while i < len(messages):
        message, message_field = messages[i], locations[i]
        role, text = parse_role(message, message_field), _text(message, message_field)
        i += 1
        if role != "assistant":
            turns.append(Turn(role, text))
            continue
        learned = parse_weight(message, message_field)
        calls, ids = _calls(message, message_field)
        if not calls:
            turns.append(Turn("assistant", check_not_blank(text, f"{message_field}.content"), learned=learned))
            continue
        start = i
        while i < len(messages) and parse_role(messages[i], locations[i]) == "function":
            i += 1
        feedback: list[list[Turn]] = [[] for _ in calls]
        for j, k in zip(range(start, i), pair_feedback(calls, ids, messages[start:i]), strict=True):
            feedback[k].append(Turn("function", _text(messages[j], locations[j])))
        for k, call in enumerate(calls):
            turns.append(Turn("assistant", text if k == 0 else "", call, learned, parallel=k > 0))
            turns.extend(feedback[k])
    return system, tuple(turns)


def _calls(message: dict[str, Any], location: str) -> tuple[list[Call], list[Any]]:
    """Returns the calls of an assistant message and their ids, from `tool_calls` or the older `function_call`."""
    if message.get("tool_calls") is None and message.get("function_call") is not None:
        entries, fields = [message["function_call"]], [f"{location}.function_call"]
    else:
        entries = get_or_default(message, "tool_calls", [])
        if isinstance(entries, str):
            entries = parse_json(entries, f"{location}.tool_calls") if entries.strip() else []
        expect_type(entries, list, f"{location}.tool_calls")
        fields = [f"{location}.tool_calls[{k}]" for k in range(len(entries))]
    calls, ids = [], []
    for entry, field in zip(entries, fields, strict=True):
        calls.append(parse_call(entry, field))
        ids.append(entry.get("id"))
    return calls, ids


def _text(message: dict[str, Any], location: str) -> str:
    """Returns the text of a message, with its reasoning in <think> tags before it.

    The content is a string, null, a list of text parts, or the JSON value that a tool gave. Raises InputError for
    another type, and for content under an unknown key.
    """
    refuse_unknown(message, _KEYS, location, "a message's text is read from content, its calls from tool_calls")
    text = _content(message, location)
    reasoning = the_field(message, _REASONING, location)
    if reasoning is not None and message[reasoning]:
        thought = expect_type(message[reasoning], str, f"{location}.{reasoning}")
        text = f"<think>\n{thought.strip()}\n</think>\n\n{text}"
    return text


def _content(message: dict[str, Any], location: str) -> str:
    content = get_or_default(message, "content", get_or_default(message, "refusal", ""))
    has_texts = isinstance(content, list) and all(isinstance(part, dict) and "text" in part for part in content)
    if message.get("role") in ("tool", "function") and isinstance(content, dict | list) and not has_texts:
        return json.dumps(content, ensure_ascii=False)
    if isinstance(content, list):
        return "".join(parse_texts(content, ("text", "input_text", "output_text", "refusal"), f"{location}.content"))
    return expect_type(content, str, f"{location}.content")
