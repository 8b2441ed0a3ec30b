"""Parsing of the tool list of a rendered prompt: the inverse of `render_tools`.

A list in the dialect `full` is read as `mae`: a description then holds what `full` adds to it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tljax.calls.render import python_types, render_tools
from tljax.calls.tool import Tool
from tljax.core.errors import InputError

_FIRST = re.compile(r"(?:\A|\n|System: )(?=Function:\ndef )")
_TURN = re.compile(r"\n(?:User|Assistant|Output):")
_HEAD_END = '):\n    """\n    '
# The closing quotes of a block. A description may hold quotes too, but no block, message or end of text follows them.
_CLOSING = re.compile(r'\n    """(?=\n*\Z|\n\nFunction:\ndef |\n*\n(?:System|User|Assistant|Output):)')
_ANY_CLOSING = re.compile(r'\n    """(?=\n|\Z)')
_ARGS = "\n\n    Args:"
_PARAMETER = re.compile(r"\s*([^\s:=,][^:=]*?)\s*:\s*([^:=]*?)\s*(=\s*[^,]*)?\s*(?:,|\Z)")


@dataclass(frozen=True, slots=True)
class _Layout:
    """The marks of a dialect: between name and type in a signature, and before a line of the Args block."""

    dialect: str
    colon: str
    indent: str


_LAYOUTS = {"mae": _Layout("mae", ": ", "\n    "), "readme": _Layout("readme", ":", "\n        ")}


def parse_tools(text: str, location: str = "prompt") -> tuple[Tool, ...]:
    """Returns the tools that the system message of a prompt defines, () if it defines none.

    They have all that rendering shows: names, descriptions, and the parameters' types and which of them are required. A
    parameter of type `any` gets no type. A text that is the same in both dialects counts as `mae`. From a text in
    neither dialect, only the signatures are read. Raises InputError, beginning with `location`, for a signature that
    cannot be read.
    """
    # The blocks of the system message.
    first, turn = _FIRST.search(text), _TURN.search(text)
    if first is None or (turn is not None and turn.start() < first.start()):
        return ()
    blocks, end = _blocks(text, first.end(), location)
    listed = text[first.end() : end]
    # The dialect in which they render to the same text again.
    parsed = []
    for dialect, layout in _LAYOUTS.items():
        tools = [_tool(*block, layout) for block in blocks]
        parsed.append(tools)
        if None not in tools and _same(listed, render_tools([t for t in tools if t is not None], dialect)):
            break
    else:
        # In neither: each tool in the dialect that can read it, or by its signature alone.
        exact = [next((tool for tool in tools if tool is not None), None) for tools in zip(*parsed, strict=True)]
        return tuple(tool or _tool_of_signature(*block, location) for tool, block in zip(exact, blocks, strict=True))
    return tuple(tool for tool in tools if tool is not None)


def _same(listed: str, rendered: str) -> bool:
    """Returns True if the texts are equal, apart from the blank line after the last block of `readme`."""
    return listed == rendered.removesuffix("\n\n")


def _blocks(text: str, start: int, location: str) -> tuple[list[tuple[str, str]], int]:
    """Returns (text after `def `, text in triple quotes) of the blocks from `start` on, and the end of the last one."""
    blocks, end = [], start
    while text.startswith("Function:\ndef ", start):
        head = start + len("Function:\ndef ")
        colon = text.find(_HEAD_END, head)
        closing = None
        if colon >= 0:
            body = colon + len(_HEAD_END)
            closing = _CLOSING.search(text, body) or _ANY_CLOSING.search(text, body)
        if closing is None:
            line = text[start:].split("\n", 2)[1]
            raise InputError(
                f"{location}: the tool at {line[:60]!r} has no text in triple quotes; write it as tools are rendered"
            )
        blocks.append((text[head:colon], text[body : closing.start()]))
        end = closing.end()
        start = end + 2 if text.startswith("\n\nFunction:\ndef ", end) else len(text)
    return blocks, end


def _tool(head: str, body: str, layout: _Layout) -> Tool | None:
    """Returns the tool of a block that is written exactly as the dialect does, else None."""
    for description, lines in _split_body(body, layout.dialect):
        for paren in (i for i, character in enumerate(head) if character == "(" and head[:i].strip()):
            properties = _properties(head[paren + 1 :], lines, layout)
            if properties is not None:
                required = tuple(name for name, (_, is_required) in properties.items() if is_required)
                schemas = {name: schema for name, (schema, _) in properties.items()}
                return Tool(head[:paren], description, schemas, required)
    return None


def _split_body(body: str, dialect: str) -> Iterator[tuple[str, str]]:
    """Yields (description, lines of the Args block) for each "Args:"; all but one of them belong to the description."""
    index = body.find(_ARGS)
    while index >= 0:
        yield body[:index], body[index + len(_ARGS) :]
        index = body.find(_ARGS, index + 1)
    if dialect == "readme":
        yield body, ""


@dataclass(frozen=True, slots=True)
class _Heading:
    """A line `name (types): ` of the Args block that agrees with the signature.

    line, description: the indices of the line and of its description in the Args block. rest: the index of the next
    parameter in the signature.
    """

    name: str
    types: list[str]
    required: bool
    line: int
    description: int
    rest: int


def _properties(signature: str, lines: str, layout: _Layout) -> dict[str, tuple[dict[str, Any], bool]] | None:
    """Returns (schema, True if required) of every parameter, or None where signature and Args block differ.

    Both are needed: only the Args block shows where an unusual name ends, and only the signature shows which lines
    begin a parameter.
    """
    # The line of each parameter.
    headings: list[_Heading] = []
    position, line_position = 0, 0
    while position < len(signature):
        heading = next(_headings(signature, position, lines, line_position, layout), None)
        if heading is None:
            return None
        if (not headings and heading.line != 0) or any(heading.name == earlier.name for earlier in headings):
            return None
        headings.append(heading)
        position, line_position = heading.rest, heading.description
    if not headings:
        return None if lines else {}
    # Its description ends at the line of the next one.
    ends = [heading.line for heading in headings[1:]] + [len(lines)]
    properties = {}
    for heading, end in zip(headings, ends, strict=True):
        types = heading.types
        schema: dict[str, Any] = {} if types == ["any"] else {"type": types[0] if len(types) == 1 else types}
        if lines[heading.description : end]:
            schema["description"] = lines[heading.description : end]
        properties[heading.name] = (schema, heading.required)
    return properties


def _headings(signature: str, position: int, lines: str, line_position: int, layout: _Layout) -> Iterator[_Heading]:
    """Yields the lines from `line_position` on that agree with the parameter at `position` in the signature."""
    start = lines.find(layout.indent, line_position)
    while start >= 0:
        begin = start + len(layout.indent)
        stop = lines.find("\n", begin)
        line = lines[begin : stop if stop >= 0 else len(lines)]
        # The name ends at one of the line's " (".
        for opening in (i for i in range(len(line)) if line.startswith(" (", i)):
            name = line[:opening]
            if not signature.startswith(name + layout.colon, position):
                continue
            after = position + len(name) + len(layout.colon)
            # The types end at one of its "): ".
            for closing in (i for i in range(opening, len(line)) if line.startswith("): ", i)):
                types = line[opening + 2 : closing].split(" | ")
                annotation = " | ".join(types if layout.dialect == "mae" else python_types(types))
                if not signature.startswith(annotation, after):
                    continue
                end = after + len(annotation)
                optional = signature.startswith(" = None", end)
                end += len(" = None") * optional
                if end == len(signature) or signature.startswith(", ", end):
                    rest = end if end == len(signature) else end + 2
                    yield _Heading(name, types, not optional, start, begin + closing + 3, rest)
        start = lines.find(layout.indent, begin)


def _tool_of_signature(head: str, body: str, location: str) -> Tool:
    """Returns a tool by its signature alone, with any blanks in it; types stay as they are written.

    Raises InputError for a signature without a name, or with a parameter that cannot be read.
    """
    name, opening, signature = head.partition("(")
    properties: dict[str, dict[str, Any]] = {}
    required, position = [], 0
    while position < len(signature):
        match = _PARAMETER.match(signature, position)
        if match is None or not opening:
            rest = signature[position : position + 20]
            raise InputError(
                f"{location}: the signature def {head[:60]}: cannot be read at {rest!r}; "
                'allowed: "name: type" and "name: type = None" with commas between'
            )
        properties[match[1]] = {"type": match[2]} if match[2] and match[2] != "any" else {}
        if match[3] is None:
            required.append(match[1])
        position = match.end()
    if not name.strip() or not opening:
        raise InputError(f'{location}: def {head[:60]}: names no tool; allowed: "def name(...):"')
    return Tool(name.strip(), body.partition(_ARGS)[0], properties, tuple(required))
