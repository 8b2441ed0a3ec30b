"""A call and the listed tools -> the kinds of error that the documentation alone shows."""

from collections.abc import Mapping, Sequence
from typing import Any

from tljax.calls.schema_text import json_types
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
    """Returns the kinds of error in a call, each once, in the order of CALL_ERRORS; () if the call fits.

    If several tools have the called name, the one that fits best counts. A call of an unknown tool has that error
    alone. An optional parameter may be null, since documentation writes a missing value so (`= None`).
    """
    by_tool = [_errors(call, tool) for tool in tools if tool.name == call.name]
    kinds = min(by_tool, key=len, default={"unknown tool"})
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
                continue  # nested too deeply for Python to check; it counts as fitting
    return kinds - {""}


def _misfit(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Returns the error kind of a value, or of a value nested in it; None if it fits its schema."""
    if not any(_is(value, kind.lower()) for kind in json_types(dict(schema))):
        return "wrong type"
    nested: list[tuple[Any, Any]] = []
    if isinstance(value, list):
        nested = [(item, schema.get("items")) for item in value]
    elif isinstance(value, dict) and isinstance(schema.get("properties"), dict):
        nested = [(item, schema["properties"].get(key)) for key, item in value.items()]
    for item, item_schema in nested:
        if isinstance(item_schema, dict) and (kind := _misfit(item, item_schema)):
            return kind
    allowed = schema.get("enum")
    allowed = [schema["const"]] if "const" in schema else allowed
    if isinstance(allowed, list) and allowed and not any(_same(value, option) for option in allowed):
        return "value not allowed"
    return None


def _is(value: Any, kind: str) -> bool:
    """Returns True if a JSON value is of the documented type. Every value is of an unknown type."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind in _INTEGER:
        return number and value == value // 1
    checks = {_NUMBER: number, _STRING: isinstance(value, str), _BOOLEAN: isinstance(value, bool)}
    checks |= {_ARRAY: isinstance(value, list | tuple), _OBJECT: isinstance(value, dict), _NULL: value is None}
    return next((fits for names, fits in checks.items() if kind in names), True)


def _same(value: Any, allowed: Any) -> bool:
    """Compares as JSON does: 1 equals 1.0, but true is not a number."""
    return value == allowed and isinstance(value, bool) == isinstance(allowed, bool)
