"""Parameters that are not wrapped in "properties", as in xLAM's files: a JSON schema of an object comes out."""

from __future__ import annotations

import re
from typing import Any

from tljax.core.json_fields import expect_type

# Keys of a JSON schema. A parameter may have the same name: its value is an object with a type or a description.
SCHEMA_KEYS = frozenset(
    "type properties required $defs definitions $schema additionalProperties patternProperties title description "
    "strict default examples allOf anyOf oneOf not".split()
)
# JSON's types -> Python's.
PYTHON_TYPES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
    "null": "None",
}
_JSON_TYPES = {name.lower(): json_name for json_name, name in PYTHON_TYPES.items()} | {"tuple": "array", "set": "array"}
_OPTIONAL = re.compile(r",\s*optional\b\.?|\boptional\s*$", re.IGNORECASE)
_WRAPPED = re.compile(r"optional\[(.*)\]", re.IGNORECASE | re.DOTALL)


def unflatten_parameters(parameters: Any, location: str) -> dict[str, Any]:
    """Returns the parameters as a JSON schema of an object; one that has "properties" stays as it is.

    Two other forms are read: {"a": {"type": "int, optional", ...}}, and a list [{"name": "a", "type": "int", ...}].
    Python's names of types become JSON's there. A parameter is optional if its type says so, if it has a default, or if
    it has "required": false. Raises InputError for a parameter that is no object.
    """
    if isinstance(parameters, list):
        named = {}
        for i, item in enumerate(parameters):
            item = expect_type(item, dict, f"{location}[{i}]")
            named[expect_type(item.get("name"), str, f"{location}[{i}].name")] = {
                key: value for key, value in item.items() if key != "name"
            }
        parameters = named
    parameters = expect_type(parameters, dict, location)
    if parameters.get("properties") is not None:
        return parameters
    flat = {name: schema for name, schema in parameters.items() if schema is not None and not _is_keyword(name, schema)}
    if not flat:
        return parameters
    properties, required = {}, []
    for name, schema in flat.items():
        properties[name], optional = _parameter(expect_type(schema, dict, f"{location}.{name}"))
        required += [] if optional else [name]
    keywords = {name: value for name, value in parameters.items() if name not in flat and value is not None}
    # A list of the required names beside the parameters has precedence.
    return {"required": required, **keywords, "properties": properties}


def _is_keyword(name: str, schema: Any) -> bool:
    """Returns True for a part of a JSON schema, which is no parameter."""
    if name in ("$defs", "definitions", "additionalProperties", "patternProperties"):
        return True
    described = isinstance(schema, dict) and ("type" in schema or "description" in schema)
    return name in SCHEMA_KEYS and not described


def _parameter(schema: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Returns the schema of a flat parameter with JSON's types, and True if it is optional."""
    type_ = schema.get("type")
    optional = "default" in schema or schema.get("required") is False
    if isinstance(type_, str):
        plain = _OPTIONAL.sub("", type_).strip()
        wrapped = _WRAPPED.fullmatch(plain)
        optional = optional or plain != type_.strip() or wrapped is not None
        type_ = _json_type(wrapped[1] if wrapped else plain)
    schema = {key: value for key, value in schema.items() if key != "required" or not isinstance(value, bool)}
    return (schema if type_ is None else {**schema, "type": type_}), optional


def _json_type(name: str) -> str:
    """Returns JSON's name of a Python type such as "str" or "List[int]"; other names stay as they are."""
    return _JSON_TYPES.get(re.split(r"[\[(]", name)[0].strip().lower(), name)
