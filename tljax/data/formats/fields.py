"""Parts of a record that several formats share; `location` names the file, row and field in every error."""

from __future__ import annotations

import marshal
from collections.abc import Collection, Mapping
from typing import Any

from tljax.calls.tool import Call, Tool, tool_from_json
from tljax.core.errors import InputError
from tljax.core.json_fields import check_not_blank, expect_type, parse_json, refuse_unknown, shorten, the_field

# The role in a file -> the role of a Turn.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "function": "function",
    "tool": "function",
}


def parse_messages(messages: Any, location: str) -> list[Any]:
    """Returns the messages of a record. Raises InputError unless they are a list with at least one element."""
    if not expect_type(messages, list, location):
        raise InputError(f"{location}: is empty; a trajectory needs at least one assistant message")
    return messages


def parse_role(message: Any, location: str, field: str = "role", roles: Mapping[str, str] = ROLES) -> str:
    """Returns the value in `roles` of the role in a field of a message: by default, the role of its Turn.

    Raises InputError for a role that is not in `roles`.
    """
    role = expect_type(message, dict, location).get(field)
    if not isinstance(role, str) or role not in roles:
        problem = "is missing" if role is None else f"{shorten(role)} is not a role"
        raise InputError(f"{location}.{field}: {problem}; allowed: {', '.join(roles)}; rename it or take the row out")
    return roles[role]


_PART_KEYS = ("type", "text", "refusal", "annotations", "citations", "cache_control", "logprobs", "id")


def parse_texts(parts: list[Any], types: Collection[str], location: str) -> list[str]:
    """Returns the texts of a list of content parts. Raises InputError for a part of another type than `types`."""
    texts = []
    for k, part in enumerate(parts):
        part = expect_type(part, dict, f"{location}[{k}]")
        if part.get("type", "text") not in types:
            raise InputError(f"{location}[{k}].type: is {shorten(part['type'])}; allowed: text, the only modality")
        refuse_unknown(part, _PART_KEYS, f"{location}[{k}]", "a part's text is read from text")
        field = "refusal" if part.get("type") == "refusal" else "text"
        texts.append(expect_type(part.get(field), str, f"{location}[{k}].{field}"))
    return texts


# A list of tools, as text or as marshal writes it, -> the tools. Many rows of a file have the same list.
_PARSED: dict[str | bytes, tuple[Tool, ...]] = {}
_MAX_PARSED = 1024


def parse_tools(tools: Any, location: str) -> tuple[Tool, ...]:
    """Returns the tools of a list, of the JSON text of a list, or of a blank text. Raises InputError for others."""
    try:
        key = tools if isinstance(tools, str) else marshal.dumps(tools, 2)  # a fifth of the time of JSON
    except (TypeError, ValueError, RecursionError):
        return _parse_tools(tools, location)
    if key not in _PARSED:
        parsed = _parse_tools(tools, location)
        if len(_PARSED) >= _MAX_PARSED:
            _PARSED.clear()
        _PARSED[key] = parsed
    return _PARSED[key]


def _parse_tools(tools: Any, location: str) -> tuple[Tool, ...]:
    if isinstance(tools, str):
        tools = parse_json(tools, location) if tools.strip() else []
    parsed = []
    for i, tool in enumerate(expect_type(tools, list, location)):
        # A column of a table may hold each tool as JSON text.
        is_text = isinstance(tool, str) and tool.lstrip().startswith("{")
        parsed.append(tool_from_json(parse_json(tool, f"{location}[{i}]") if is_text else tool, f"{location}[{i}]"))
    return tuple(parsed)


def tells_tools_first(messages: list[Any]) -> bool:
    """Returns True if the first message is a JSON list, as TL-Training's list of tools."""
    first = messages[0] if messages else None
    return isinstance(first, dict) and str(first.get("content")).lstrip().startswith("[")


# The spellings of a call's arguments: OpenAI's, Llama's, Anthropic's, LangChain's.
ARGUMENTS = ("arguments", "parameters", "input", "args")
CALL_KEYS = ("name", "id", "call_id", "type", "index", *ARGUMENTS)


def parse_call(entry: Any, location: str) -> Call:
    """Returns the call of an object with a name and arguments, which may be spelled in any of the ways of ARGUMENTS.

    The object may be wrapped in {"id": ..., "function": {...}}. Raises InputError for a missing name, and for content
    under any other key.
    """
    entry = expect_type(entry, dict, location)
    if entry.get("function") is not None:
        refuse_unknown(entry, ("id", "type", "index", "function"), location, "a call's content is read from function")
        location = f"{location}.function"
        entry = expect_type(entry["function"], dict, location)
    name = check_not_blank(expect_type(entry.get("name"), str, f"{location}.name"), f"{location}.name")
    refuse_unknown(entry, CALL_KEYS, location, f"arguments are read from {', '.join(ARGUMENTS)}")
    field = the_field(entry, ARGUMENTS, location) or ARGUMENTS[0]
    return Call(name, parse_arguments(entry.get(field), f"{location}.{field}"))


# An assistant message with 0 or false in one of them stays context: OpenAI's fine-tuning, verl, axolotl and ms-swift.
WEIGHTS = ("weight", "loss_mask", "train", "loss")


def parse_weight(message: dict[str, Any], location: str) -> bool:
    """Returns False if an assistant message is not to be learned. Raises InputError for a weight other than 0 and 1."""
    field = the_field(message, WEIGHTS, location)
    if field is not None and message[field] not in (0, 1):
        raise InputError(f"{location}.{field}: is {shorten(message[field])}; allowed: 0 (context alone) or 1 (learned)")
    return field is None or bool(message[field])


def parse_arguments(arguments: Any, location: str) -> dict[str, Any]:
    """Returns the arguments of a call, given as an object, as JSON text, or as nothing ("" or null)."""
    if arguments is None or arguments == "":
        return {}
    if isinstance(arguments, str):
        arguments = parse_json(arguments, location)
    return expect_type(arguments, dict, location)
