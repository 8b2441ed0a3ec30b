"""Tools, calls and values as text, in two byte-exact dialects; parse.py and parse_tools.py read it back.

`mae` is what the released mae.py writes, `readme` what the released TL-CodeLLaMA-2 expects.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tljax.calls.tool import Call, Tool
from tljax.core.errors import InputError

DIALECTS = ("mae", "readme")
EQUALS = {"mae": "=", "readme": " = "}  # between a parameter's name and its value
PYTHON_TYPES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
    "null": "None",
}


def render_tools(tools: Sequence[Tool], dialect: str) -> str:
    """The tool list of the system message; `readme` closes every block, the last too, with a blank line."""
    blocks = [render_tool(tool, dialect) for tool in tools]
    return "\n\n".join(blocks) if dialect == "mae" else "".join(block + "\n\n" for block in blocks)


def render_tool(tool: Tool, dialect: str) -> str:
    """One tool as a Python signature with a docstring: required parameters first, optional ones `= None`."""
    check_dialect(dialect)
    colon, indent = (": ", "    ") if dialect == "mae" else (":", "        ")
    signature, lines = [], []
    for name in tool.parameters:
        schema = tool.properties[name]
        kinds = json_types(schema)
        shown = kinds if dialect == "mae" else python_types(kinds)
        signature.append(f"{name}{colon}{' | '.join(shown)}" + ("" if name in tool.required else " = None"))
        lines.append(f"\n{indent}{name} ({' | '.join(kinds)}): {schema.get('description') or ''}")
    # mae.py writes the Args block of a tool without parameters too; the released README does not.
    arguments = "\n\n    Args:" + "".join(lines) if lines or dialect == "mae" else ""
    return f'Function:\ndef {tool.name}({", ".join(signature)}):\n    """\n    {tool.description}{arguments}\n    """'


def render_call(call: Call, dialect: str) -> str:
    """A call as text: `f(a="x", n=1)` with JSON values (`mae`) or `f(a = 'x', n = 1)` with Python values (`readme`)."""
    check_dialect(dialect)
    arguments = (f"{key}{EQUALS[dialect]}{render_value(value, dialect)}" for key, value in call.arguments.items())
    return f"{call.name}({', '.join(arguments)})"


def render_value(value: Any, dialect: str) -> str:
    """An argument's value as `render_call` writes it."""
    return json.dumps(value, ensure_ascii=False) if dialect == "mae" else repr(value)


def check_dialect(dialect: str) -> None:
    if dialect not in DIALECTS:
        raise InputError(f"data.dialect is {dialect!r}; allowed: {', '.join(DIALECTS)}")


def python_types(kinds: list[str]) -> list[str]:
    """JSON types as a `readme` signature writes them: Python's, where there is one."""
    return [PYTHON_TYPES.get(kind, kind) for kind in kinds]


def json_types(schema: dict[str, Any]) -> list[str]:
    """The JSON types that a parameter may take; `["any"]` where its schema names none."""
    kind = schema.get("type")
    if isinstance(kind, str):
        return [kind]
    if isinstance(kind, list):
        return [str(name) for name in kind] or ["any"]
    members = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(members, list):
        names = [name for member in members if isinstance(member, dict) for name in json_types(member)]
        return list(dict.fromkeys(names)) or ["any"]
    values = schema.get("enum")
    if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
        return ["string"]
    return ["any"]
