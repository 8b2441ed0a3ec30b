"""Rendering of tools, calls and values as text; parse.py and parse_tools.py are the inverse.

There are two byte-exact dialects: the released mae.py writes `mae`, and the released TL-CodeLLaMA-2 expects `readme`.
`full` is `mae` with all that the parameters' schemas say besides: allowed values, defaults, nested properties.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tljax.calls.flat_parameters import PYTHON_TYPES
from tljax.calls.schema_text import json_types, nested_lines, with_facts
from tljax.calls.tool import Call, Tool
from tljax.core.errors import InputError

DIALECTS = ("mae", "readme", "full")
EQUALS = {"mae": "=", "readme": " = ", "full": "="}  # between a parameter's name and its value


def render_tools(tools: Sequence[Tool], dialect: str) -> str:
    """Returns the tool list of the system message. In `readme`, a blank line also follows the last tool."""
    blocks = [render_tool(tool, dialect) for tool in tools]
    return "".join(block + "\n\n" for block in blocks) if dialect == "readme" else "\n\n".join(blocks)


def render_tool(tool: Tool, dialect: str) -> str:
    """Returns a tool as a Python signature with a docstring: required parameters, then optional ones, `= None`."""
    check_dialect(dialect)
    colon, indent = (":", "        ") if dialect == "readme" else (": ", "    ")
    signature, lines = [], []
    for name in tool.parameters:
        schema = tool.properties[name]
        types = json_types(schema)
        annotation = " | ".join(python_types(types) if dialect == "readme" else types)
        signature.append(f"{name}{colon}{annotation}" + ("" if name in tool.required else " = None"))
        description = with_facts(schema) if dialect == "full" else schema.get("description") or ""
        lines.append(f"\n{indent}{name} ({' | '.join(types)}): {description}")
        if dialect == "full":
            lines.append(nested_lines(schema, indent))
    # For a tool without parameters, mae.py writes an empty Args block, and the released README writes none.
    arguments = "\n\n    Args:" + "".join(lines) if lines or dialect != "readme" else ""
    return f'Function:\ndef {tool.name}({", ".join(signature)}):\n    """\n    {tool.description}{arguments}\n    """'


def render_call(call: Call, dialect: str) -> str:
    """Returns a call: `f(a = 'x', n = 1)` with Python values (`readme`), else `f(a="x", n=1)` with JSON values."""
    check_dialect(dialect)
    arguments = (f"{key}{EQUALS[dialect]}{render_value(value, dialect)}" for key, value in call.arguments.items())
    return f"{call.name}({', '.join(arguments)})"


def render_value(value: Any, dialect: str) -> str:
    """Returns an argument's value as `render_call` writes it."""
    return repr(value) if dialect == "readme" else json.dumps(value, ensure_ascii=False)


def check_dialect(dialect: str) -> None:
    """Raises InputError unless `dialect` is one of DIALECTS."""
    if dialect not in DIALECTS:
        raise InputError(f"data.dialect is {dialect!r}; allowed: {', '.join(DIALECTS)}")


def python_types(types: list[str]) -> list[str]:
    """Returns JSON types as a `readme` signature writes them; a type without a counterpart in Python stays as it is."""
    return [PYTHON_TYPES.get(name, name) for name in types]
