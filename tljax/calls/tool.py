"""A tool as its documentation describes it, and a call of a tool."""

import json
from dataclasses import dataclass, field
from typing import Any

from tljax.calls.flat_parameters import unflatten_parameters
from tljax.calls.references import resolve_references
from tljax.core.errors import InputError
from tljax.core.json_fields import expect_type, get_or_default, join_names, refuse_unknown, shorten, the_field

# The spellings of the schema of a tool's parameters: OpenAI's, Anthropic's and MCP's.
PARAMETERS = ("parameters", "input_schema", "inputSchema")
TOOL_KEYS = ("name", "description", "type", "strict", "function", "title", "annotations", *PARAMETERS)


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call; `arguments` maps parameter names to JSON values, in the order of the text."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as a prompt shows it.

    properties: parameter name -> JSON schema, in the order of the documentation, with `$ref`s resolved.
    required: names of the required parameters.
    document: the JSON that the tool was read from, None where it is not known; `tool_to_json` returns it.
    """

    name: str
    description: str
    properties: dict[str, dict[str, Any]]
    required: tuple[str, ...]
    document: dict[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters' names in rendered order: required ones, then optional ones, each in their own order."""
        return (*self.required, *(name for name in self.properties if name not in self.required))


def tool_from_json(obj: Any, location: str) -> Tool:
    """Returns a tool from its JSON, flat or wrapped in `{"type": "function", "function": {...}}`.

    Its parameters are a JSON schema under one of the names PARAMETERS, or flat (flat_parameters.py).

    A missing `required` means no parameter, and a missing description is "". Raises InputError for a malformed tool;
    `location` is the tool's file, row and field, which begin its message.
    """
    document = obj
    if isinstance(obj, dict) and isinstance(obj.get("function"), dict):
        obj, location = obj["function"], f"{location}.function"
    obj = expect_type(obj, dict, location)
    name = expect_type(obj.get("name"), str, f"{location}.name")
    if not name.strip():
        raise InputError(f"{location}.name: is empty; every tool needs a name")
    description = expect_type(get_or_default(obj, "description", ""), str, f"{location}.description")
    key = the_field(obj, PARAMETERS, location)
    if key is None:
        refuse_unknown(obj, TOOL_KEYS, location, f"parameters are read from {', '.join(PARAMETERS)}")
    location = f"{location}.{key or PARAMETERS[0]}"
    parameters = unflatten_parameters(obj[key] if key else {}, location)
    properties = {}
    for key, schema in expect_type(
        get_or_default(parameters, "properties", {}), dict, f"{location}.properties"
    ).items():
        # In Arrow, every row has the union of all tools' parameters, with null for those of other tools.
        if schema is not None:
            properties[key] = _property(schema, parameters, f"{location}.properties.{key}")
    required = expect_type(get_or_default(parameters, "required", []), list, f"{location}.required")
    for i, key in enumerate(required):
        if not isinstance(key, str) or key not in properties:
            raise InputError(
                f"{location}.required[{i}]: {shorten(key)} is not in properties; allowed: {join_names(properties)}; "
                "describe the parameter in properties or remove it from required"
            )
    return Tool(name, description, properties, tuple(dict.fromkeys(required)), document)


def tool_to_json(tool: Tool) -> dict[str, Any]:
    """Returns a tool as OpenAI's API takes it, as chat templates expect it: as it was read, if it was read so."""
    document = _openai_document(tool)
    # A tool may have been changed since, by noise in its names for example.
    if document is not None and tool_from_json(document, "tool") == tool:
        return document
    parameters = {"type": "object", "properties": tool.properties, "required": list(tool.required)}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _openai_document(tool: Tool) -> dict[str, Any] | None:
    """Returns the JSON that a tool was read from in OpenAI's form, None if it was in another form."""
    document = tool.document
    if document is None or isinstance(document.get("function"), dict):
        return document
    if not isinstance(document.get("parameters"), dict):
        return None
    return {"type": "function", "function": {key: value for key, value in document.items() if key != "type"}}


def tool_to_fields(tool: Tool) -> list[Any]:
    """Returns a tool as JSON that `tool_from_fields` reads; its document is left out if it says nothing more."""
    fields = [tool.name, tool.description, tool.properties, tool.required]
    document = _openai_document(tool)
    if document is not None:
        bare = tool_to_json(Tool(tool.name, tool.description, tool.properties, tool.required))
        # Equal objects may still differ in the order of their keys, which a chat template may show.
        if document != bare or json.dumps(document) != json.dumps(bare):
            fields.append(document)
    return fields


def tool_from_fields(fields: list[Any]) -> Tool:
    """Returns the tool that `tool_to_fields` wrote."""
    name, description, properties, required, *document = fields
    return Tool(name, description, properties, tuple(required), *document)


def _property(schema: Any, parameters: dict[str, Any], location: str) -> dict[str, Any]:
    """Returns a parameter's schema with `$ref`s resolved. Raises InputError if its description is no string."""
    schema = resolve_references(expect_type(schema, dict, location), parameters, location)
    if schema.get("description") is not None:
        expect_type(schema["description"], str, f"{location}.description")
    return schema
