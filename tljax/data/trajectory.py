"""Trajectories and the two row schemas they come from: TL-Training raw JSON and OpenAI messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tljax.calls.tool import Call, Tool, tool_from_json
from tljax.core.errors import InputError
from tljax.core.json_fields import (
    check_not_blank,
    expect_type,
    get_or,
    join_names,
    json_kind,
    parse_json,
    shorten,
)

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "function": "function",
    "tool": "function",
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. An assistant turn makes at most one `call`; `text` is what stands before it, or the whole reply."""

    role: str
    text: str = ""
    call: Call | None = None


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A conversation with its tools.

    The leading system message is no turn: its tool list is `tools`, its free text `system`. `row` counts from 1 and is
    the `id` where the row has none.
    """

    id: str | int
    tools: tuple[Tool, ...]
    turns: tuple[Turn, ...]
    system: str = ""
    row: int = 0


def trajectory_from_row(obj: Any, where: str, row: int) -> Trajectory:
    """A trajectory from one row of either schema; `where` is the file, `row` its number from 1.

    Raises InputError in one line: file, row, field, what is wrong, what is allowed.
    """
    at = f"file {where}, row {row}"
    if not isinstance(obj, dict):
        raise InputError(f"{at}: is {json_kind(obj)}, not an object; a row is {_SCHEMAS}")
    if obj.get("conversations") is not None:
        read, field = _raw, "conversations"
    elif obj.get("messages") is not None:
        read, field = _openai, "messages"
    else:
        raise InputError(f"{at}, field conversations: is missing (fields here: {join_names(obj)}); a row is {_SCHEMAS}")
    at = f"{at}, field "
    messages = expect_type(obj[field], list, at + field)
    if not messages:
        raise InputError(f"{at}{field}: is empty; a trajectory needs at least one assistant message")
    tools, system, turns = read(obj, messages, at)
    if all(turn.role != "assistant" for turn in turns):
        raise InputError(f"{at}{field}: has no assistant message, so there is nothing to learn; take the row out")
    identity = obj.get("id")
    if identity is None or identity == "":
        identity = row
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise InputError(f"{at}id: is {json_kind(identity)}; allowed: a string or an integer")
    return Trajectory(identity, tools, tuple(turns), system, row)


_SCHEMAS = 'either {"id", "conversations"} (TL-Training) or {"tools", "messages"} (OpenAI)'


def _raw(obj: dict[str, Any], messages: list[Any], at: str) -> tuple[tuple[Tool, ...], str, list[Turn]]:
    field = f"{at}conversations"
    if _role(messages[0], f"{field}[0]") != "system":
        raise InputError(
            f"{field}[0].role: is {messages[0]['role']!r}, not 'system'; "
            "the first message holds the JSON list of tools (write [] where there are none)"
        )
    tools = _tools(messages[0].get("content"), f"{field}[0].content")
    turns = []
    for i, message in enumerate(messages[1:], start=1):
        role = _role(message, f"{field}[{i}]")
        content = expect_type(message.get("content"), str, f"{field}[{i}].content")
        turns.append(_raw_reply(content, f"{field}[{i}].content") if role == "assistant" else Turn(role, content))
    return tools, "", turns


def _raw_reply(content: str, at: str) -> Turn:
    """`name` on the first line and a JSON object from the second on; anything else is plain text."""
    name, _, rest = content.partition("\n")
    name, rest = name.strip(), rest.strip()
    if name and rest.startswith("{"):
        return Turn("assistant", call=Call(name, _arguments(rest, f"{at} after the name {name!r}")))
    return Turn("assistant", check_not_blank(content, at))


def _openai(obj: dict[str, Any], messages: list[Any], at: str) -> tuple[tuple[Tool, ...], str, list[Turn]]:
    listed = obj.get("tools")
    tools = () if listed is None else _tools(listed, f"{at}tools")
    field = f"{at}messages"
    system, first = "", 0
    if _role(messages[0], f"{field}[0]") == "system":
        system, first = _content(messages[0], f"{field}[0]"), 1
    turns: list[Turn] = []
    i = first
    while i < len(messages):
        here, message = f"{field}[{i}]", messages[i]
        role, text = _role(message, here), _content(message, here)
        i += 1
        if role != "assistant":
            turns.append(Turn(role, text))
            continue
        calls, ids = _tool_calls(message, here)
        if not calls:
            turns.append(Turn("assistant", check_not_blank(text, f"{here}.content")))
            continue
        replies: list[list[Turn]] = [[] for _ in calls]
        while i < len(messages) and _role(messages[i], f"{field}[{i}]") == "function":
            reply = Turn("function", _content(messages[i], f"{field}[{i}]"))
            _own_replies(replies, ids, messages[i].get("tool_call_id")).append(reply)
            i += 1
        for k, call in enumerate(calls):
            turns.append(Turn("assistant", text if k == 0 else "", call))
            turns.extend(replies[k])
    return tools, system, turns


def _own_replies(replies: list[list[Turn]], ids: list[Any], identity: Any) -> list[Turn]:
    """The replies of the call that a tool message answers: by id, else the first call without a reply."""
    if identity is not None and identity in ids:
        return replies[ids.index(identity)]
    return next((own for own in replies if not own), replies[-1])


def _tool_calls(message: dict[str, Any], at: str) -> tuple[list[Call], list[Any]]:
    if message.get("tool_calls") is None and message.get("function_call") is not None:
        listed, name = [message["function_call"]], "function_call"
    else:
        listed, name = expect_type(get_or(message, "tool_calls", []), list, f"{at}.tool_calls"), "tool_calls"
    calls, ids = [], []
    for k, entry in enumerate(listed):
        here = f"{at}.{name}[{k}]" if name == "tool_calls" else f"{at}.{name}"
        entry = expect_type(entry, dict, here)
        ids.append(entry.get("id"))
        if entry.get("function") is not None:
            entry, here = expect_type(entry["function"], dict, f"{here}.function"), f"{here}.function"
        called = expect_type(entry.get("name"), str, f"{here}.name")
        calls.append(
            Call(check_not_blank(called, f"{here}.name"), _arguments(entry.get("arguments"), f"{here}.arguments"))
        )
    return calls, ids


def _arguments(value: Any, at: str) -> dict[str, Any]:
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        value = parse_json(value, at)
    return expect_type(value, dict, at)


def _tools(value: Any, at: str) -> tuple[Tool, ...]:
    if isinstance(value, str):
        value = parse_json(value, at)
    return tuple(tool_from_json(tool, f"{at}[{i}]") for i, tool in enumerate(expect_type(value, list, at)))


def _role(message: Any, at: str) -> str:
    role = expect_type(message, dict, at).get("role")
    if not isinstance(role, str) or role not in ROLES:
        what = "is missing" if role is None else f"{shorten(role)} is not a role"
        raise InputError(f"{at}.role: {what}; allowed: {', '.join(ROLES)}; rename it or take the row out")
    return ROLES[role]


def _content(message: dict[str, Any], at: str) -> str:
    """The text of an OpenAI message: a string, null, or a list of text parts."""
    content = get_or(message, "content", "")
    if isinstance(content, list):
        parts = []
        for k, part in enumerate(content):
            part = expect_type(part, dict, f"{at}.content[{k}]")
            if part.get("type", "text") not in ("text", "input_text", "output_text"):
                raise InputError(
                    f"{at}.content[{k}].type: is {shorten(part['type'])}; allowed: text, the only modality"
                )
            parts.append(expect_type(part.get("text"), str, f"{at}.content[{k}].text"))
        return "".join(parts)
    return expect_type(content, str, f"{at}.content")
