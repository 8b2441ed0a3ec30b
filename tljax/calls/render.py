"""Rendering of tools, calls and values as text; parse.py and parse_tools.py are the inverse.

There are two byte-exact dialects: the released mae.py writes `mae`, and the released TL-CodeLLaMA-2 expects `readme`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tljax.calls.flat_parameters import PYTHON_TYPES
from tljax.calls.tool import Call, Tool
from tljax.core.errors import InputError

DIALECTS = ("mae", "readme")
EQUALS = {"mae": "=", "readme": " = "}  # between a parameter's name and its value


def render_tools(tools: Sequence[Tool], dialect: str) -> str:
    """Returns the tool list of the system message. In `readme`, a blank line also follows the last tool."""
    blocks = [render_tool(tool, dialect) for tool in tools]
    return "\n\n".join(blocks) if dialect == "mae" else "".join(block + "\n\n" for block in blocks)


def render_tool(tool: Tool, dialect: str) -> str:
    """Returns a tool as a Python signature with a docstring: required parameters, then optional ones, `= None`."""
    check_dialect(dialect)
    colon, indent = (": ", "    ") if dialect == "mae" else (":", "        ")
    signature, lines = [], []
    for name in tool.parameters:
        schema = tool.properties[name]
        types = json_types(schema)
        annotation = " | ".join(types if dialect == "mae" else python_types(types))
        signature.append(f"{name}{colon}{annotation}" + ("" if name in tool.required else " = None"))
        lines.append(f"\n{indent}{name} ({' | '.join(types)}): {schema.get('description') or ''}")
    # For a tool without parameters, mae.py writes an empty Args block, and the released README writes none.
    arguments = "\n\n    Args:" + "".join(lines) if lines or dialect == "mae" else ""
    return f'Function:\ndef {tool.name}({", ".join(signature)}):\n    """\n    {tool.description}{arguments}\n    """'


def render_call(call: Call, dialect: str) -> str:
    """Returns a call: `f(a="x", n=1)` with JSON values (`mae`), `f(a = 'x', n = 1)` with Python values (`readme`)."""
    check_dialect(dialect)
    arguments = (f"{key}{EQUALS[dialect]}{render_value(value, dialect)}" for key, value in call.arguments.items())
    return f"{call.name}({', '.join(arguments)})"


def render_value(value: Any, dialect: str) -> str:
    """Returns an argument's value as `render_call` writes it."""
    return json.dumps(value, ensure_ascii=False) if dialect == "mae" else repr(value)


def check_dialect(dialect: str) -> None:
    """Raises InputError unless `dialect` is one of DIALECTS."""
    if dialect not in DIALECTS:
        raise InputError(f"data.dialect is {dialect!r}; allowed: {', '.join(DIALECTS)}")


def python_types(types: list[str]) -> list[str]:
    """Returns JSON types as a `readme` signature writes them; a type without a counterpart in Python stays as it is."""
    return [PYTHON_TYPES.get(name, name) for name in types]


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
