"""A parameter's JSON schema as text: its types, and for the dialect `full` its facts and what is nested in it."""

from __future__ import annotations

import json
from typing import Any

# The keys of a schema whose values `full` writes after the description, in this order, and the words before them.
FACTS = {
    "enum": "One of",
    "const": "Always",
    "default": "Default",
    "format": "Format",
    "pattern": "Pattern",
    "minimum": "Minimum",
    "exclusiveMinimum": "Above",
    "maximum": "Maximum",
    "exclusiveMaximum": "Below",
    "multipleOf": "Multiple of",
    "minLength": "Minimum length",
    "maxLength": "Maximum length",
    "minItems": "Minimum items",
    "maxItems": "Maximum items",
    "uniqueItems": "Unique items",
    "examples": "Examples",
}
LISTS = ("enum", "examples")  # their members stand without the brackets of a list
UNIONS = {"anyOf": "or", "oneOf": "or", "allOf": "and"}


def with_facts(schema: dict[str, Any]) -> str:
    """Returns the description and the facts of a schema: `The unit. One of: "C", "F". Default: "C".`"""
    parts = [schema["description"]] if isinstance(schema.get("description"), str) and schema["description"] else []
    for key, words in FACTS.items():
        if key in schema:
            value = schema[key]
            members = value if key in LISTS and isinstance(value, list) else [value]
            parts.append(f"{words}: {', '.join(json.dumps(member, ensure_ascii=False) for member in members)}.")
    return " ".join(parts)


def nested_lines(schema: dict[str, Any], indent: str) -> str:
    """Returns a line `name (types): description` for each schema inside `schema`, each four blanks further in.

    They are the properties of an object (`name (types, required)` for those that it requires), `any other key` for the
    schema of the rest, `items` of an array, and the members of a union that say more than their type: `or`, `and`.
    """
    inner = indent + "    "
    required = schema.get("required")
    nested = []
    properties = schema.get("properties")
    for name, value in properties.items() if isinstance(properties, dict) else ():
        nested.append((name, ", required" if isinstance(required, list) and name in required else "", value))
    nested.append(("any other key", "", schema.get("additionalProperties")))
    nested.append(("items", "", schema.get("items")))
    for union, word in UNIONS.items():
        members = schema.get(union)
        nested += [(word, "", member) for member in members if _says_more(member)] if isinstance(members, list) else []
    lines = ""
    for name, mark, value in nested:
        if isinstance(value, dict) and value:
            lines += f"\n{inner}{name} ({' | '.join(json_types(value))}{mark}): {with_facts(value)}"
            lines += nested_lines(value, inner)
    return lines


def _says_more(member: Any) -> bool:
    """Returns True if a member of a union says more than its type and its title."""
    return isinstance(member, dict) and any(key not in ("type", "title") for key in member)


def json_types(schema: dict[str, Any]) -> list[str]:
    """Returns the JSON types of a parameter; `["any"]` if its schema names none."""
    type_ = schema.get("type")
    if isinstance(type_, str):
        return [type_]
    if isinstance(type_, list):
        return [str(name) for name in type_] or ["any"]
    members = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(members, list):
        names = [name for member in members if isinstance(member, dict) for name in json_types(member)]
        return list(dict.fromkeys(names)) or ["any"]
    values = schema.get("enum")
    if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
        return ["string"]
    return ["any"]
