"""The format of OpenAI's chat API.

{"tools": [...], "messages": [
  {"role": "system", "content": ...},
  {"role": "user", "content": ...},
  {"role": "assistant", "content": null, "tool_calls": [
    {"id": ..., "function": {"name": ..., "arguments": "<JSON object>"}}, ...]},
  {"role": "tool", "tool_call_id": ..., "content": ...}, ...]}
"""

from __future__ import annotations

from typing import Any

from tljax.calls.tool import Call
from tljax.core.errors import InputError
from tljax.core.json_fields import check_not_blank, expect_type, get_or_default, refuse_unknown, shorten
from tljax.data.formats.fields import parse_call, parse_messages, parse_role, parse_tools
from tljax.data.formats.pairing import pair_feedback
from tljax.data.trajectory import Conversation, Turn

SCHEMA = '{"tools", "messages"} (OpenAI)'
MESSAGES = "messages"


def matches(record: dict[str, Any]) -> bool:
    """Returns True if the record has messages."""
    return record.get(MESSAGES) is not None


def read(record: dict[str, Any], location: str) -> Conversation:
    """Returns the conversation of a record; `location` is its file and row. Raises InputError for a malformed one.

    A message with several calls becomes as many assistant turns, each followed by its own feedback.
    """
    field = f"{location}, field {MESSAGES}"
    messages = parse_messages(record[MESSAGES], field)
    tools = () if record.get("tools") is None else parse_tools(record["tools"], f"{location}, field tools")

    # The leading system message.
    system, i = "", 0
    if parse_role(messages[0], f"{field}[0]") == "system":
        system, i = _text(messages[0], f"{field}[0]"), 1

    # All other messages; the feedback that follows a message with calls is read together with it.
    turns: list[Turn] = []
    while i < len(messages):
        message, message_field = messages[i], f"{field}[{i}]"
        role, text = parse_role(message, message_field), _text(message, message_field)
        i += 1
        if role != "assistant":
            turns.append(Turn(role, text))
            continue
        calls, ids = _calls(message, message_field)
        if not calls:
            turns.append(Turn("assistant", check_not_blank(text, f"{message_field}.content")))
            continue
        start = i
        while i < len(messages) and parse_role(messages[i], f"{field}[{i}]") == "function":
            i += 1
        feedback: list[list[Turn]] = [[] for _ in calls]
        for j, k in zip(range(start, i), pair_feedback(calls, ids, messages[start:i]), strict=True):
            feedback[k].append(Turn("function", _text(messages[j], f"{field}[{j}]")))
        for k, call in enumerate(calls):
            turns.append(Turn("assistant", text if k == 0 else "", call))
            turns.extend(feedback[k])
    return Conversation(tools, tuple(turns), system)


def _calls(message: dict[str, Any], location: str) -> tuple[list[Call], list[Any]]:
    """Returns the calls of an assistant message and their ids, from `tool_calls` or the older `function_call`."""
    if message.get("tool_calls") is None and message.get("function_call") is not None:
        entries, fields = [message["function_call"]], [f"{location}.function_call"]
    else:
        entries = expect_type(get_or_default(message, "tool_calls", []), list, f"{location}.tool_calls")
        fields = [f"{location}.tool_calls[{k}]" for k in range(len(entries))]
    calls, ids = [], []
    for entry, field in zip(entries, fields, strict=True):
        entry = expect_type(entry, dict, field)
        ids.append(entry.get("id"))
        if entry.get("function") is not None:
            refuse_unknown(entry, ("id", "type", "index", "function"), field, "a call's content is read from function")
            entry, field = expect_type(entry["function"], dict, f"{field}.function"), f"{field}.function"
        calls.append(parse_call(entry, field))
    return calls, ids


def _text(message: dict[str, Any], location: str) -> str:
    """Returns the text of a message whose content is a string, null, or a list of text parts."""
    content = get_or_default(message, "content", "")
    if not isinstance(content, list):
        return expect_type(content, str, f"{location}.content")
    texts = []
    for k, part in enumerate(content):
        part = expect_type(part, dict, f"{location}.content[{k}]")
        if part.get("type", "text") not in ("text", "input_text", "output_text"):
            raise InputError(
                f"{location}.content[{k}].type: is {shorten(part['type'])}; allowed: text, the only modality"
            )
        texts.append(expect_type(part.get("text"), str, f"{location}.content[{k}].text"))
    return "".join(texts)
