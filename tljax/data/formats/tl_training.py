"""The format of TL-Training's released files.

{"id": ..., "conversations": [
  {"role": "system", "content": "<JSON list of tools>"},
  {"role": "user", "content": ...},
  {"role": "assistant", "content": "<tool name>\\n<JSON object of arguments>"},
  {"role": "function", "content": ...}, ...]}
"""

from __future__ import annotations

from typing import Any

from tljax.calls.tool import Call
from tljax.core.errors import InputError
from tljax.core.json_fields import check_not_blank, expect_type, refuse_unknown
from tljax.data.formats.fields import WEIGHTS, parse_arguments, parse_messages, parse_role, parse_tools, parse_weight
from tljax.data.trajectory import Conversation, Turn

SCHEMA = '{"id", "conversations"} (TL-Training)'
MESSAGES = "conversations"
SHAPE = ("conversations", "conversations[].role", "conversations[].content")
_KEYS = frozenset(("role", "content", "id", "name", *WEIGHTS))


def matches(record: dict[str, Any]) -> bool:
    """Returns True if the record has conversations."""
    return record.get(MESSAGES) is not None


def read(record: dict[str, Any], location: str) -> Conversation:
    """Returns the conversation of a record; `location` is its file and row. Raises InputError for a malformed one."""
    field = f"{location}, field {MESSAGES}"
    messages = parse_messages(record.get(MESSAGES), field)
    if parse_role(messages[0], f"{field}[0]") != "system":
        raise InputError(
            f"{field}[0].role: is {messages[0]['role']!r}, not 'system'; "
            "the first message holds the JSON list of tools (write [] where there are none)"
        )
    tools = parse_tools(messages[0].get("content"), f"{field}[0].content")
    refuse_unknown(messages[0], _KEYS, f"{field}[0]", "a message's text is read from content")
    turns = []
    for i, message in enumerate(messages[1:], start=1):
        role = parse_role(message, f"{field}[{i}]")
        refuse_unknown(message, _KEYS, f"{field}[{i}]", "a message's text is read from content")
        content = expect_type(message.get("content"), str, f"{field}[{i}].content")
        if role == "assistant":
            learned = parse_weight(message, f"{field}[{i}]")
            turns.append(_assistant_turn(content, learned, f"{field}[{i}].content"))
        else:
            turns.append(Turn(role, content))
    return Conversation(tools, tuple(turns))


def _assistant_turn(content: str, learned: bool, location: str) -> Turn:
    """Returns a turn with a call if the first line is a name and the rest a JSON object, else with plain text."""
    name, _, rest = content.partition("\n")
    name, rest = name.strip(), rest.strip()
    if name and rest.startswith("{"):
        call = Call(name, parse_arguments(rest, f"{location} after the name {name!r}"))
        return Turn("assistant", call=call, learned=learned)
    return Turn("assistant", check_not_blank(content, location), learned=learned)
