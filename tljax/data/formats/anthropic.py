"""The format of Anthropic's messages API.

{"system": ..., "tools": [{"name", "description", "input_schema"}], "messages": [
  {"role": "user", "content": ...},
  {"role": "assistant", "content": [{"type": "text", "text": ...}, {"type": "tool_use", "id", "name", "input"}]},
  {"role": "user", "content": [{"type": "tool_result", "tool_use_id", "content": ..., "is_error": ...}]}, ...]}
"""

from __future__ import annotations

from typing import Any

from tljax.core.errors import InputError
from tljax.core.json_fields import expect_type, refuse_unknown, shorten
from tljax.data.formats.fields import WEIGHTS, parse_messages, parse_texts, parse_tools
from tljax.data.formats.openai import read_messages
from tljax.data.trajectory import Conversation

SCHEMA = '{"tools", "messages": [{"content": [{"type": "tool_use"}]}]} (Anthropic)'
MESSAGES = "messages"
SHAPE = ("system", "messages", "messages[].role", "messages[].content")
# Type of a block -> its fields; the data of redacted thinking is encrypted.
BLOCKS = {
    "text": ("type", "text", "citations", "cache_control"),
    "thinking": ("type", "thinking", "signature"),
    "redacted_thinking": ("type", "data"),
    "tool_use": ("type", "id", "name", "input", "caller", "cache_control"),
    "tool_result": ("type", "tool_use_id", "content", "is_error", "cache_control"),
}
OWN_BLOCKS = tuple(BLOCKS)[1:]
_KEYS = frozenset(("role", "content", "id", "type", "model", "usage", "stop_reason", "stop_sequence", *WEIGHTS))


def matches(record: dict[str, Any]) -> bool:
    """Returns True if a message of the record has a block of Anthropic's own types."""
    messages = record.get(MESSAGES)
    contents = (m.get("content") for m in messages if isinstance(m, dict)) if isinstance(messages, list) else ()
    blocks = (block for content in contents if isinstance(content, list) for block in content)
    return any(isinstance(block, dict) and block.get("type") in OWN_BLOCKS for block in blocks)


def read(record: dict[str, Any], location: str) -> Conversation:
    """Returns the conversation of a record; `location` is its file and row. Raises InputError for a malformed one."""
    field = f"{location}, field {MESSAGES}"
    tools = () if record.get("tools") is None else parse_tools(record["tools"], f"{location}, field tools")
    located = []
    for i, message in enumerate(parse_messages(record.get(MESSAGES), field)):
        located += [(part, f"{field}[{i}]") for part in _messages(message, f"{field}[{i}]")]
    system, turns = read_messages(located)
    leading = _text(record.get("system") or "", f"{location}, field system")
    return Conversation(tools, turns, "\n\n".join(filter(None, (leading, system))))


def _messages(message: Any, location: str) -> list[dict[str, Any]]:
    """Returns the OpenAI messages that a message stands for: its results, then its text and its calls."""
    message = expect_type(message, dict, location)
    refuse_unknown(message, _KEYS, location, "a message is read from content")
    if not isinstance(message.get("content"), list):
        return [{key: value for key, value in message.items() if key in ("role", "content", *WEIGHTS)}]
    results: list[dict[str, Any]] = []
    texts, thoughts, calls = [], [], []
    for k, block in enumerate(message["content"]):
        block_location = f"{location}.content[{k}]"
        block = expect_type(block, dict, block_location)
        kind = block.get("type")
        if not isinstance(kind, str) or kind not in BLOCKS:
            raise InputError(f"{block_location}.type: is {shorten(kind)}; allowed: {', '.join(BLOCKS)}")
        refuse_unknown(block, BLOCKS[kind], block_location, f"a block of type {kind} has no such field")
        if kind == "text":
            texts.append(expect_type(block.get("text"), str, f"{block_location}.text"))
        elif kind == "thinking":
            thoughts.append(expect_type(block.get("thinking"), str, f"{block_location}.thinking"))
        elif kind == "tool_use":
            calls.append({key: block.get(key) for key in ("id", "name", "input")})
        elif kind == "tool_result":
            results.append(_result(block, block_location))
    rest: dict[str, Any] = {"role": message.get("role"), "content": "".join(texts)}
    rest |= {key: message[key] for key in WEIGHTS if key in message}
    rest |= {"tool_calls": calls} if calls else {}
    rest |= {"reasoning_content": "\n".join(thoughts)} if thoughts else {}
    return [*results, rest] if texts or calls or thoughts or not results else results


def _result(block: dict[str, Any], location: str) -> dict[str, Any]:
    """Returns a result as a tool's message. "Error: " before the text of a failed call is what shows it to MAE."""
    text = _text(block.get("content") or "", f"{location}.content")
    if block.get("is_error") is True and not text.lower().startswith("error"):
        text = f"Error: {text}"
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text}


def _text(content: Any, location: str) -> str:
    """Returns the text of a string or of a list of text blocks. Raises InputError for other blocks."""
    if isinstance(content, list):
        return "\n".join(parse_texts(content, ("text",), location))
    return expect_type(content, str, location)
