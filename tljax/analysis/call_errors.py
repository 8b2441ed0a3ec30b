"""What is wrong with a call by the documentation alone, before any tool answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from tljax.calls.render import json_types
from tljax.calls.tool import Call, Tool

# Kinds of call error, in the order in which they are reported.
CALL_ERRORS = {
    "unknown tool": "the prompt lists no tool of that name",
    "missing parameter": "a required parameter is not given",
    "unexpected parameter": "a parameter is given that the tool does not have",
    "wrong type": "a value is not of the documented type",
    "value not allowed": "a value is not among those that the documentation lists (enum, const)",
}

_NUMBER = ("number", "float", "double")
_INTEGER = ("integer", "int", "long")
_STRING = ("string", "str")
_BOOLEAN = ("boolean", "bool")
_ARRAY = ("array", "list", "tuple")
_OBJECT = ("object", "dict", "map")
_NULL = ("null", "none", "nonetype")


def call_errors(call: Call, tools: Sequence[Tool]) -> tuple[str, ...]:
    """The kinds of error in a call, each once, in the order of CALL_ERRORS; () where it fits the documentation.

    Of several tools with the called name the call may fit any. Nothing else is judged of an unknown tool. An optional
    parameter may be null, which is how its absence is documented (`= None`).
    """
    found = [_errors(call, tool) for tool in tools if tool.name == call.name]
    kinds = min(found, key=len, default={"unknown tool"})
    return tuple(kind for kind in CALL_ERRORS if kind in kinds)


def _errors(call: Call, tool: Tool) -> set[str]:
    kinds = set()
    if any(name not in call.arguments for name in tool.required):
        kinds.add("missing parameter")
    for name, value in call.arguments.items():
        schema = tool.properties.get(name)
        if schema is None:
            kinds.add("unexpected parameter")
        elif value is not None or name in tool.required:
            try:
                kinds.add(_misfit(value, schema) or "")
            except RecursionError:
                continue  # deeper than Python can follow: nothing is known against it
    return kinds - {""}


def _misfit(value: Any, schema: Mapping[str, Any]) -> str | None:
    """What keeps a value from its schema: the type, the types of what it holds, the list of allowed values."""
    if not any(_is(value, kind.lower()) for kind in json_types(dict(schema))):
        return "wrong type"
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, list):
        inner = [(item, schema.get("items")) for item in value]
    elif isinstance(value, dict) and isinstance(schema.get("properties"), dict):
        inner = [(item, schema["properties"].get(key)) for key, item in value.items()]
    for item, own in inner:
        if isinstance(own, dict) and (kind := _misfit(item, own)):
            return kind
    allowed = schema.get("enum")
    allowed = [schema["const"]] if "const" in schema else allowed
    if isinstance(allowed, list) and allowed and not any(_same(value, one) for one in allowed):
        return "value not allowed"
    return None


def _is(value: Any, kind: str) -> bool:
    """Whether a JSON value is of a documented type; of a type nobody knows, every value is."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind in _INTEGER:
        return number and value == value // 1
    checks = {_NUMBER: number, _STRING: isinstance(value, str), _BOOLEAN: isinstance(value, bool)}
    checks |= {_ARRAY: isinstance(value, list | tuple), _OBJECT: isinstance(value, dict), _NULL: value is None}
    return next((fits for names, fits in checks.items() if kind in names), True)


def _same(value: Any, allowed: Any) -> bool:
    """JSON's equality: 1 is 1.0, but true is no number."""
    return value == allowed and isinstance(value, bool) == isinstance(allowed, bool)
