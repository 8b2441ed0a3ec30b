"""A rendered prompt's tool list, read back: the inverse of `prompt.render_tools`, in both dialects."""

import re
from collections.abc import Iterator
from typing import Any

from tljax.calls.render import DIALECTS, python_types, render_tools
from tljax.calls.tool import Tool
from tljax.core.errors import InputError

_FIRST = re.compile(r"(?:\A|\n|System: )(?=Function:\ndef )")
_TURN = re.compile(r"\n(?:User|Assistant|Output):")
_HEAD_END = '):\n    """\n    '
# The closing quotes of a block: another block, a message or nothing follows. A description may hold quotes of its own.
_CLOSING = re.compile(r'\n    """(?=\n*\Z|\n\nFunction:\ndef |\n*\n(?:System|User|Assistant|Output):)')
_ANY_CLOSING = re.compile(r'\n    """(?=\n|\Z)')
_ARGS = "\n\n    Args:"
_PARAMETER = re.compile(r"\s*([^\s:=,][^:=]*?)\s*:\s*([^:=]*?)\s*(=\s*[^,]*)?\s*(?:,|\Z)")


def parse_tools(text: str, at: str = "prompt") -> tuple[Tool, ...]:
    """The tools that the system message of `text` defines, () where it defines none.

    Names, parameters, types, which are required, descriptions: all that rendering shows. A parameter of type `any` gets
    no type. What reads the same in both dialects is taken for `mae`. Text of another hand is read as far as its
    signatures go. Raises InputError, which begins with `at`, for a signature that cannot be read.
    """
    first, turn = _FIRST.search(text), _TURN.search(text)
    if first is None or (turn is not None and turn.start() < first.start()):
        return ()
    blocks, end = _blocks(text, first.end(), at)
    listed = text[first.end() : end]
    readings = []
    for dialect in DIALECTS:
        tools = [_tool(*block, dialect) for block in blocks]
        readings.append(tools)
        if None not in tools and _same(listed, render_tools([t for t in tools if t is not None], dialect)):
            break
    else:
        # No rendering of ours: every tool as the dialect has it that can read it, and by its signature alone else.
        exact = [next((tool for tool in tools if tool is not None), None) for tools in zip(*readings, strict=True)]
        return tuple(tool or _plain(*block, at) for tool, block in zip(exact, blocks, strict=True))
    return tuple(tool for tool in tools if tool is not None)


def _same(listed: str, rendered: str) -> bool:
    """`readme` closes its last block with a blank line, which is none of the block's."""
    return listed == rendered.removesuffix("\n\n")


def _blocks(text: str, start: int, at: str) -> tuple[list[tuple[str, str]], int]:
    """The text in `def ...:` and the text in quotes of every block from `start` on, and where the last one ends."""
    blocks, end = [], start
    while text.startswith("Function:\ndef ", start):
        head = start + len("Function:\ndef ")
        colon = text.find(_HEAD_END, head)
        closing = None
        if colon >= 0:
            body = colon + len(_HEAD_END)
            # One character back: an empty description, and no Args, leave no line of their own.
            closing = _CLOSING.search(text, body) or _ANY_CLOSING.search(text, body)
        if closing is None:
            line = text[start:].split("\n", 2)[1]
            raise InputError(
                f"{at}: the tool at {line[:60]!r} has no text in triple quotes; write it as tools are shown"
            )
        blocks.append((text[head:colon], text[body : closing.start()]))
        end = closing.end()
        start = end + 2 if text.startswith("\n\nFunction:\ndef ", end) else len(text)
    return blocks, end


def _tool(head: str, body: str, dialect: str) -> Tool | None:
    """The tool of a block if it is written exactly as `dialect` does, else None."""
    for description, lines in _divided(body, dialect):
        for paren in (i for i, character in enumerate(head) if character == "(" and head[:i].strip()):
            properties = _properties(head[paren + 1 :], lines, dialect)
            if properties is not None:
                required = tuple(name for name, (_, must) in properties.items() if must)
                schemas = {name: schema for name, (schema, _) in properties.items()}
                return Tool(head[:paren], description, schemas, required)
    return None


def _divided(body: str, dialect: str) -> Iterator[tuple[str, str]]:
    """Description and lines of the Args block, for every place where that may begin; a description may hold one too."""
    place = body.find(_ARGS)
    while place >= 0:
        yield body[:place], body[place + len(_ARGS) :]
        place = body.find(_ARGS, place + 1)
    if dialect == "readme":
        yield body, ""


def _properties(signature: str, lines: str, dialect: str) -> dict[str, tuple[dict[str, Any], bool]] | None:
    """Schema of every parameter, and whether it is required, where lines and signature tell the same of all.

    Only the lines say where an odd name ends; only the signature says which lines begin a parameter.
    """
    colon, indent = (": ", "\n    ") if dialect == "mae" else (":", "\n        ")
    found: list[tuple[str, list[str], bool, int, int]] = []  # the last two: where its line and its description begin
    place, read = 0, 0
    while place < len(signature):
        heading = next(_headings(signature, place, lines, read, colon, indent, dialect), None)
        if heading is None:
            return None
        name, kinds, start, read, place, required = heading
        if (not found and start != 0) or any(name == known[0] for known in found):
            return None
        found.append((name, kinds, required, start, read))
    if not found:
        return None if lines else {}
    ends = [start for _, _, _, start, _ in found[1:]] + [len(lines)]
    properties = {}
    for (name, kinds, required, _, begin), end in zip(found, ends, strict=True):
        schema: dict[str, Any] = {} if kinds == ["any"] else {"type": kinds[0] if len(kinds) == 1 else kinds}
        if lines[begin:end]:
            schema["description"] = lines[begin:end]
        properties[name] = (schema, required)
    return properties


def _headings(
    signature: str, place: int, lines: str, read: int, colon: str, indent: str, dialect: str
) -> Iterator[tuple[str, list[str], int, int, int, bool]]:
    """Lines from `read` on that read `name (types): ` of the parameter that the signature has at `place`.

    Yields name, types, where the line and the description begin, where the signature goes on, whether it is required.
    """
    start = lines.find(indent, read)
    while start >= 0:
        begin = start + len(indent)
        stop = lines.find("\n", begin)
        line = lines[begin : stop if stop >= 0 else len(lines)]
        for opening in (i for i in range(len(line)) if line.startswith(" (", i)):
            name = line[:opening]
            if not signature.startswith(name + colon, place):
                continue
            after = place + len(name) + len(colon)
            for closing in (i for i in range(opening, len(line)) if line.startswith("): ", i)):
                kinds = line[opening + 2 : closing].split(" | ")
                shown = " | ".join(kinds if dialect == "mae" else python_types(kinds))
                if not signature.startswith(shown, after):
                    continue
                rest = after + len(shown)
                optional = signature.startswith(" = None", rest)
                rest += len(" = None") * optional
                if rest == len(signature) or signature.startswith(", ", rest):
                    goes_on = rest if rest == len(signature) else rest + 2
                    yield name, kinds, start, begin + closing + 3, goes_on, not optional
        start = lines.find(indent, begin)


def _plain(head: str, body: str, at: str) -> Tool:
    """A tool by its signature alone, however it is spaced; types stay as they are written."""
    name, opening, signature = head.partition("(")
    properties: dict[str, dict[str, Any]] = {}
    required, place = [], 0
    while place < len(signature):
        match = _PARAMETER.match(signature, place)
        if match is None or not opening:
            raise InputError(
                f"{at}: the signature def {head[:60]}: cannot be read at {signature[place : place + 20]!r}; "
                'allowed: "name: type" and "name: type = None" with commas between'
            )
        properties[match[1]] = {"type": match[2]} if match[2] and match[2] != "any" else {}
        if match[3] is None:
            required.append(match[1])
        place = match.end()
    if not name.strip() or not opening:
        raise InputError(f'{at}: def {head[:60]}: names no tool; allowed: "def name(...):"')
    return Tool(name.strip(), body.partition(_ARGS)[0], properties, tuple(required))
