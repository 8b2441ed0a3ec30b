"""A tool as its documentation describes it, and a call to one."""

from dataclasses import dataclass
from typing import Any

from tljax.core.errors import InputError
from tljax.core.json_fields import expect_type, get_or_default, join_names, shorten


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call; `arguments` maps parameter names to JSON values in the order they were written."""

    name: str
    arguments: dict[str, Any]


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


def tool_from_json(obj: Any, where: str) -> Tool:
    """A tool from its JSON, flat or wrapped in `{"type": "function", "function": {...}}`.

    A missing `required` means none, a missing description is empty. `where` begins every InputError.
    """
    if isinstance(obj, dict) and isinstance(obj.get("function"), dict):
        obj, where = obj["function"], f"{where}.function"
    obj = expect_type(obj, dict, where)
    name = expect_type(obj.get("name"), str, f"{where}.name")
    if not name.strip():
        raise InputError(f"{where}.name: is empty; every tool needs a name")
    description = expect_type(get_or_default(obj, "description", ""), str, f"{where}.description")
    where = f"{where}.parameters"
    parameters = expect_type(get_or_default(obj, "parameters", {}), dict, where)
    properties = {}
    for key, schema in expect_type(get_or_default(parameters, "properties", {}), dict, f"{where}.properties").items():
        # Arrow gives every row the union of all tools' parameters, with null for those of other tools.
        if schema is not None:
            properties[key] = _property(schema, parameters, f"{where}.properties.{key}")
    required = expect_type(get_or_default(parameters, "required", []), list, f"{where}.required")
    for i, key in enumerate(required):
        if not isinstance(key, str) or key not in properties:
            raise InputError(
                f"{where}.required[{i}]: {shorten(key)} is not in properties; allowed: {join_names(properties)}; "
                "describe the parameter in properties or take it out of required"
            )
    return Tool(name, description, properties, tuple(dict.fromkeys(required)))


def _property(schema: Any, parameters: dict[str, Any], at: str) -> dict[str, Any]:
    schema = _resolved(expect_type(schema, dict, at), parameters)
    for union in ("anyOf", "oneOf"):
        if isinstance(schema.get(union), list):
            members = [_resolved(m, parameters) if isinstance(m, dict) else m for m in schema[union]]
            schema = {**schema, union: members}
    if schema.get("description") is not None:
        expect_type(schema["description"], str, f"{at}.description")
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
