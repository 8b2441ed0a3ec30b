"""Trajectories and the two row schemas they come from: TL-Training raw JSON and OpenAI messages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tljax.core.errors import InputError
from tljax.data.calls import Call

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "function": "function",
    "tool": "function",
}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as the prompt shows it; `properties` are JSON schemas in document order, with `$ref`s resolved."""

    name: str
    description: str
    properties: dict[str, dict[str, Any]]
    required: tuple[str, ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Parameter names in rendered order: the required ones as listed, then the optional ones as documented."""
        return (*self.required, *(name for name in self.properties if name not in self.required))


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


def tool_from_json(obj: Any, where: str) -> Tool:
    """A tool from its JSON, flat or wrapped in `{"type": "function", "function": {...}}`.

    A missing `required` means none, a missing description is empty. `where` begins every InputError.
    """
    if isinstance(obj, dict) and isinstance(obj.get("function"), dict):
        obj, where = obj["function"], f"{where}.function"
    obj = _expect(obj, dict, where)
    name = _expect(obj.get("name"), str, f"{where}.name")
    if not name.strip():
        raise InputError(f"{where}.name: is empty; every tool needs a name")
    description = _expect(_default(obj, "description", ""), str, f"{where}.description")
    where = f"{where}.parameters"
    parameters = _expect(_default(obj, "parameters", {}), dict, where)
    properties = {}
    for key, schema in _expect(_default(parameters, "properties", {}), dict, f"{where}.properties").items():
        # Arrow gives every row the union of all tools' parameters, with null for those of other tools.
        if schema is not None:
            properties[key] = _property(schema, parameters, f"{where}.properties.{key}")
    required = _expect(_default(parameters, "required", []), list, f"{where}.required")
    for i, key in enumerate(required):
        if not isinstance(key, str) or key not in properties:
            raise InputError(
                f"{where}.required[{i}]: {_show(key)} is not in properties; allowed: {_list(properties)}; "
                "describe the parameter in properties or take it out of required"
            )
    return Tool(name, description, properties, tuple(dict.fromkeys(required)))


def trajectory_from_row(obj: Any, where: str, row: int) -> Trajectory:
    """A trajectory from one row of either schema; `where` is the file, `row` its number from 1.

    Raises InputError in one line: file, row, field, what is wrong, what is allowed.
    """
    at = f"file {where}, row {row}"
    if not isinstance(obj, dict):
        raise InputError(f"{at}: is {_kind(obj)}, not an object; a row is {_SCHEMAS}")
    if obj.get("conversations") is not None:
        read, field = _raw, "conversations"
    elif obj.get("messages") is not None:
        read, field = _openai, "messages"
    else:
        raise InputError(f"{at}, field conversations: is missing (fields here: {_list(obj)}); a row is {_SCHEMAS}")
    at = f"{at}, field "
    messages = _expect(obj[field], list, at + field)
    if not messages:
        raise InputError(f"{at}{field}: is empty; a trajectory needs at least one assistant message")
    tools, system, turns = read(obj, messages, at)
    if all(turn.role != "assistant" for turn in turns):
        raise InputError(f"{at}{field}: has no assistant message, so there is nothing to learn; take the row out")
    identity = obj.get("id")
    if identity is None or identity == "":
        identity = row
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise InputError(f"{at}id: is {_kind(identity)}; allowed: a string or an integer")
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
        content = _expect(message.get("content"), str, f"{field}[{i}].content")
        turns.append(_raw_reply(content, f"{field}[{i}].content") if role == "assistant" else Turn(role, content))
    return tools, "", turns


def _raw_reply(content: str, at: str) -> Turn:
    """`name` on the first line and a JSON object from the second on; anything else is plain text."""
    name, _, rest = content.partition("\n")
    name, rest = name.strip(), rest.strip()
    if name and rest.startswith("{"):
        return Turn("assistant", call=Call(name, _arguments(rest, f"{at} after the name {name!r}")))
    return Turn("assistant", _filled(content, at))


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
            turns.append(Turn("assistant", _filled(text, f"{here}.content")))
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
        listed, name = _expect(_default(message, "tool_calls", []), list, f"{at}.tool_calls"), "tool_calls"
    calls, ids = [], []
    for k, entry in enumerate(listed):
        here = f"{at}.{name}[{k}]" if name == "tool_calls" else f"{at}.{name}"
        entry = _expect(entry, dict, here)
        ids.append(entry.get("id"))
        if entry.get("function") is not None:
            entry, here = _expect(entry["function"], dict, f"{here}.function"), f"{here}.function"
        called = _expect(entry.get("name"), str, f"{here}.name")
        calls.append(Call(_filled(called, f"{here}.name"), _arguments(entry.get("arguments"), f"{here}.arguments")))
    return calls, ids


def _arguments(value: Any, at: str) -> dict[str, Any]:
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        value = _json(value, at)
    return _expect(value, dict, at)


def _tools(value: Any, at: str) -> tuple[Tool, ...]:
    if isinstance(value, str):
        value = _json(value, at)
    return tuple(tool_from_json(tool, f"{at}[{i}]") for i, tool in enumerate(_expect(value, list, at)))


def _role(message: Any, at: str) -> str:
    role = _expect(message, dict, at).get("role")
    if not isinstance(role, str) or role not in ROLES:
        what = "is missing" if role is None else f"{_show(role)} is not a role"
        raise InputError(f"{at}.role: {what}; allowed: {', '.join(ROLES)}; rename it or take the row out")
    return ROLES[role]


def _content(message: dict[str, Any], at: str) -> str:
    """The text of an OpenAI message: a string, null, or a list of text parts."""
    content = _default(message, "content", "")
    if isinstance(content, list):
        parts = []
        for k, part in enumerate(content):
            part = _expect(part, dict, f"{at}.content[{k}]")
            if part.get("type", "text") not in ("text", "input_text", "output_text"):
                raise InputError(f"{at}.content[{k}].type: is {_show(part['type'])}; allowed: text, the only modality")
            parts.append(_expect(part.get("text"), str, f"{at}.content[{k}].text"))
        return "".join(parts)
    return _expect(content, str, f"{at}.content")


def _property(schema: Any, parameters: dict[str, Any], at: str) -> dict[str, Any]:
    schema = _resolved(_expect(schema, dict, at), parameters)
    for union in ("anyOf", "oneOf"):
        if isinstance(schema.get(union), list):
            members = [_resolved(m, parameters) if isinstance(m, dict) else m for m in schema[union]]
            schema = {**schema, union: members}
    if schema.get("description") is not None:
        _expect(schema["description"], str, f"{at}.description")
    return schema


def _resolved(schema: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """A schema with its `$ref` into the tool's own definitions replaced by what it points to."""
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return schema
    for block in ("$defs", "definitions"):
        definitions, prefix = parameters.get(block), f"#/{block}/"
        if isinstance(definitions, dict) and reference.startswith(prefix):
            target = definitions.get(reference.removeprefix(prefix))
            if isinstance(target, dict):
                return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


def _default(obj: dict[str, Any], key: str, default: Any) -> Any:
    value = obj.get(key)
    return default if value is None else value


def _filled(text: str, at: str) -> str:
    if not text.strip():
        raise InputError(f"{at}: is empty; write the reply or take the row out")
    return text


def _json(text: str, at: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{at}: is not JSON ({error}): {_show(text)}; mend it or take the row out") from None


_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null or missing"}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")


def _expect(value: Any, kind: type, at: str) -> Any:
    if not isinstance(value, kind):
        raise InputError(f"{at}: is {_kind(value)}, not {_KINDS[kind]}; mend it or take the row out")
    return value


def _show(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _list(names: Any) -> str:
    return ", ".join(names) or "none"
