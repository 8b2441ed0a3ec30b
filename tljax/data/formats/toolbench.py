"""The format of ToolBench, on which ToolLLaMA was trained: calls as texts "Action: ... Action Input: ...".

{"id": ..., "conversations": [
  {"from": "system", "value": "... you have access to the following APIs: [<Python list of tools>]"},
  {"from": "user", "value": ...},
  {"from": "assistant", "value": "Thought: ...\\nAction: <tool name>\\nAction Input: <JSON object>"},
  {"from": "function", "value": ...}, ...]}

Its raw answers have OpenAI's messages: {"answer_generation": {"function": [<tools>], "train_messages": [[...], ...]}},
in which each list of messages continues the one before.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from tljax.core.errors import InputError
from tljax.core.json_fields import expect_type, refuse_unknown, shorten, the_field
from tljax.data.formats import openai
from tljax.data.formats.fields import WEIGHTS, parse_call, parse_messages, parse_role, parse_tools, tells_tools_first
from tljax.data.formats.openai import MESSAGES_FIELDS, TOOLS_FIELDS, read_messages
from tljax.data.formats.sharegpt import ROLES, keys_of
from tljax.data.formats.texts import find_tools, parse_value
from tljax.data.trajectory import Conversation

SCHEMA = '{"conversations": [{"from", "value": "Thought: ... Action: ... Action Input: ..."}]} (ToolBench)'
MESSAGES = "conversations"
SHAPE = ("conversations", "conversations[].from", "conversations[].value")
_ANSWER = "answer_generation"
_KEYS = frozenset(("from", "value", "role", "content", "id", "name", "tool_call_id", *WEIGHTS))
_ACTION = re.compile(r"^[ \t]*Action:[ \t]*(.*?)[ \t]*\n\s*Action Input:", re.MULTILINE)
_OBSERVATION = re.compile(r"\s*Observation:(.*?)(?=^[ \t]*Thought:|\Z)", re.MULTILINE | re.DOTALL)
_THOUGHT = re.compile(r"^[ \t]*Thought:[ \t]*", re.MULTILINE)
_NEXT = re.compile(r"^[ \t]*(?:Thought|Action|Observation):", re.MULTILINE)


def matches(record: dict[str, Any]) -> bool:
    """Returns True if an assistant's text holds an action, and no message has calls in a field of its own."""
    if isinstance(record.get(_ANSWER), dict):
        return True
    messages = next((record[field] for field in MESSAGES_FIELDS if isinstance(record.get(field), list)), [])
    found = False
    if tells_tools_first(messages):
        return False
    for message in messages:
        if not isinstance(message, dict) or message.get("tool_calls") or message.get("function_call"):
            return False
        role, text = (message.get(key) for key in keys_of(message))
        found = found or (role in ("assistant", "gpt") and isinstance(text, str) and "Action Input:" in text)
    return found


def read(record: dict[str, Any], location: str) -> Conversation:
    """Returns the conversation of a record; `location` is its file and row. Raises InputError for a malformed one."""
    if isinstance(record.get(_ANSWER), dict):
        return _read_answer(record[_ANSWER], f"{location}, field {_ANSWER}")
    name = the_field(record, MESSAGES_FIELDS, location) or MESSAGES
    field = f"{location}, field {name}"
    system = expect_type(record.get("system") or "", str, f"{location}, field system")
    messages: list[tuple[dict[str, Any], str]] = []
    for i, entry in enumerate(parse_messages(record.get(name), field)):
        parts = _messages(entry, f"{field}[{i}]")
        if i == 0 and parts[0]["role"] == "system":
            system = "\n\n".join(filter(None, (system, parts[0]["content"])))
        else:
            messages += [(message, f"{field}[{i}]") for message in parts]

    # A column of tools has precedence over the list in the system text.
    listed, rest = _split_tools(system)
    tools_field = the_field(record, TOOLS_FIELDS, location)
    if tools_field is not None:
        tools = parse_tools(record[tools_field], f"{location}, field {tools_field}")
    else:
        tools = parse_tools(listed, f"{location}, the APIs of the system message")
    return Conversation(tools, read_messages(messages)[1], rest)


def _read_answer(answer: dict[str, Any], location: str) -> Conversation:
    """Returns the conversation of a raw answer. Raises InputError if its lists of messages are no one conversation."""
    lists = expect_type(answer.get("train_messages"), list, f"{location}.train_messages")
    lists = [expect_type(part, list, f"{location}.train_messages[{i}]") for i, part in enumerate(lists)]
    longest = max(lists, key=len, default=[])
    for i, part in enumerate(lists):
        if longest[: len(part)] != part:
            raise InputError(
                f"{location}.train_messages[{i}]: does not begin the longest list of messages; keep one conversation, "
                "or take the row out"
            )
    return openai.read({"messages": longest, "tools": answer.get("function")}, location)


@lru_cache(maxsize=64)
def _split_tools(system: str) -> tuple[list[Any], str]:
    """Returns the list of tools in a system text, and the text without it."""
    found = find_tools(system)
    if found is None:
        return [], system.strip()
    tools, start, end = found
    return tools, "\n".join(filter(None, (system[:start].strip(), system[end:].strip())))


def _messages(entry: Any, location: str) -> list[dict[str, Any]]:
    """Returns the OpenAI messages that an entry stands for."""
    entry = expect_type(entry, dict, location)
    refuse_unknown(entry, _KEYS, location, "a message's text is read from value or content")
    role_key, text_key = keys_of(entry)
    role = parse_role(entry, location, role_key, ROLES)
    text = expect_type(entry.get(text_key), str, f"{location}.{text_key}").strip()
    shared = {key: entry[key] for key in ("name", "tool_call_id", *WEIGHTS) if entry.get(key) is not None}
    if role != "assistant":
        return [{"role": role, "content": text} | shared]
    return [message | shared for message in _replies(text, f"{location}.{text_key}")]


def _replies(text: str, location: str) -> list[dict[str, Any]]:
    """Returns the messages of an assistant's text: its thoughts and calls, and observations that follow calls in it."""
    if "Action Input:" in text and _ACTION.search(text) is None:
        raise InputError(
            f"{location}: {shorten(text)} has an Action Input without an Action before it; allowed: "
            '"Action: name\\nAction Input: <JSON object>"; fix it or remove the row'
        )
    messages: list[dict[str, Any]] = []
    thoughts, calls, position = [], [], 0
    for action in _ACTION.finditer(text):
        thoughts.append(text[position : action.start()])
        following = _NEXT.search(text, action.end())
        position = following.start() if following else len(text)
        arguments = _arguments(text[action.end() : position].strip(), location)
        call = parse_call({"name": action[1], "arguments": arguments}, location)
        calls.append({"name": call.name, "arguments": call.arguments})
        observation = _OBSERVATION.match(text, position)
        if observation is not None:
            messages += [_reply(thoughts, calls), {"role": "tool", "content": observation[1].strip()}]
            thoughts, calls, position = [], [], observation.end()
    thoughts.append(text[position:])
    if calls or not messages or text[position:].strip():
        messages.append(_reply(thoughts, calls))
    return messages


def _reply(thoughts: list[str], calls: list[dict[str, Any]]) -> dict[str, Any]:
    content = "\n".join(filter(None, (_THOUGHT.sub("", part).strip() for part in thoughts)))
    return {"role": "assistant", "content": content} | ({"tool_calls": calls} if calls else {})


def _arguments(text: str, location: str) -> dict[str, Any]:
    """Returns the arguments of an action. Raises InputError for a text that is no object."""
    try:
        value = json.loads(text or "{}", strict=False)
    except (ValueError, RecursionError):
        value = parse_value(text)[0]
    if not isinstance(value, dict):
        raise InputError(f"{location}: the Action Input {shorten(text)} is not a JSON object; fix it or remove the row")
    return value
