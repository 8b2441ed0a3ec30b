"""A predicted call against a golden one: the kind of its error, shared by the reward and the scores."""

from __future__ import annotations

import marshal
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tljax.calls.parse import ParsedText, parse_calls
from tljax.calls.tool import Call, Tool, tool_from_json

KINDS = ("correct", "format", "tool_hallucination", "wrong_tool", "parameter", "content")
_FOLDED = re.compile(r"[ ,./\-_*^]")
_ISSUES = {
    "no_call": "no call in the reply",
    "truncated": "a call that never closes",
    "duplicate_argument": "an argument given twice",
    "too_many_positional": "more positional arguments than parameters",
}


@dataclass(frozen=True, slots=True)
class AnyValue:
    """A golden value that is not judged; whether the argument is there still is."""


@dataclass(frozen=True, slots=True)
class AcceptedValues:
    """Golden values of which any is right; "" among them lets the argument be left out.

    Inside, BFCL's rules hold: strings are compared without case and the characters " ,./-_*^", and a float is no
    answer where the documentation and the choice say integer.
    """

    values: tuple[Any, ...]

    @property
    def optional(self) -> bool:
        return any(isinstance(value, str) and value == "" for value in self.values)


@dataclass(frozen=True, slots=True, eq=False)
class ToolList:
    """The tools of one prompt; `schemas` maps a tool's name to its parameters' schemas, same names merged."""

    tools: tuple[Tool, ...]
    schemas: dict[str, dict[str, dict[str, Any]]]

    def parse(self, text: str) -> ParsedText:
        """`parse_calls` with this list; tools whose names the text lacks cannot change the result and cost time."""
        return parse_calls(text, [tool for tool in self.tools if tool.name in text])


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is wrong with a call. `kind` is one of KINDS; `level` 0 none, 1 tool, 2 parameter names, 3 values too.

    hallucinated: arguments that neither the golden call nor the documentation has; redundant: documented ones that the
    golden call does without; missing: golden ones not given; wrong: (argument, value, golden value).
    """

    kind: str
    called: str = ""
    golden: str = ""
    issue: str = ""
    hallucinated: tuple[str, ...] = ()
    redundant: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    wrong: tuple[tuple[str, Any, Any], ...] = ()

    @property
    def level(self) -> int:
        return {"correct": 3, "content": 2, "parameter": 1}.get(self.kind, 0)

    @property
    def errors(self) -> int:
        return len(self.hallucinated) + len(self.redundant) + len(self.missing) + len(self.wrong)

    @property
    def detail(self) -> str:
        """The offending tool, parameters or values in one line; "" where the call is correct."""
        if self.kind == "format":
            return _ISSUES.get(self.issue, self.issue)
        if self.kind == "tool_hallucination":
            return f"{_shown(self.called)} is not listed"
        if self.kind == "wrong_tool":
            return f"{_shown(self.called)}, not {_shown(self.golden)}" if self.golden else f"{_shown(self.called)}"
        if self.kind == "parameter":
            parts = {"hallucinated": self.hallucinated, "redundant": self.redundant, "missing": self.missing}
            return "; ".join(f"{what}: {', '.join(map(_name, names))}" for what, names in parts.items() if names)
        return "; ".join(f"{_name(name)} = {_shown(value)}, not {_shown(golden)}" for name, value, golden in self.wrong)


def as_tool_list(tools: ToolList | Sequence[Tool | Mapping[str, Any]]) -> ToolList:
    """The tools of a prompt, ready to compare with; JSON tools flat or wrapped in {"type": "function", ...}.

    JSON lists are read once per content. Raises InputError for a tool that is none.
    """
    if isinstance(tools, ToolList):
        return tools
    try:
        # Version 2 writes equal lists as equal bytes; later versions mark objects that are shared.
        content = marshal.dumps(list(tools), 2)
    except ValueError:  # not plain JSON: Tools, for instance
        return _tool_list(tools)
    return _from_bytes(content)


@lru_cache(maxsize=1024)
def _from_bytes(content: bytes) -> ToolList:
    return _tool_list(marshal.loads(content))


def _tool_list(tools: Sequence[Tool | Mapping[str, Any]]) -> ToolList:
    read = tuple(
        tool if isinstance(tool, Tool) else tool_from_json(tool, f"tools[{i}]") for i, tool in enumerate(tools)
    )
    schemas: dict[str, dict[str, dict[str, Any]]] = {}
    for tool in read:
        known = schemas.setdefault(tool.name, {})
        for name, schema in tool.properties.items():
            known.setdefault(name, schema)
    return ToolList(read, schemas)


def compare(
    prediction: ParsedText | Call, golden: Call, tools: ToolList, ignored: Set[str] = frozenset()
) -> Comparison:
    """The first error of the prediction's first call, in the order of KINDS; never raises, whatever the values.

    Golden arguments may be `AnyValue` or `Choices`, also inside lists and dicts. `ignored` arguments are neither asked
    for nor compared. A call of the golden tool is never a tool hallucination, listed or not.
    """
    if isinstance(prediction, ParsedText):
        if prediction.issue is not None or not prediction.calls:
            return Comparison("format", issue=prediction.issue or "no_call")
        prediction = prediction.calls[0]
    called, given, asked = prediction.name, prediction.arguments, golden.arguments
    if called != golden.name:
        return Comparison("wrong_tool" if called in tools.schemas else "tool_hallucination", called, golden.name)
    documented = tools.schemas.get(called, {})
    extra = [name for name in given if name not in asked and name not in ignored]
    missing = tuple(name for name in asked if name not in given and name not in ignored and not _optional(asked[name]))
    if extra or missing:
        hallucinated = tuple(name for name in extra if name not in documented)
        redundant = tuple(name for name in extra if name in documented)
        return Comparison("parameter", called, called, "", hallucinated, redundant, missing)
    wrong = tuple(
        (name, given[name], value)
        for name, value in asked.items()
        if name in given and name not in ignored and not values_equal(given[name], value, documented.get(name))
    )
    return Comparison("content" if wrong else "correct", called, called, wrong=wrong)


def values_equal(value: Any, golden: Any, schema: Mapping[str, Any] | None = None) -> bool:
    """Whether a value is the golden one: 1 is 1.0 and no boolean, strings exact, lists in order, dicts by key.

    schema: the parameter's JSON schema, which only `Choices` look at. Values too deep to compare are not equal.
    """
    try:
        return _equal(value, golden, schema or {}, folded=False)
    except RecursionError:
        return False


def _equal(value: Any, golden: Any, schema: Mapping[str, Any], folded: bool) -> bool:
    if isinstance(golden, AnyValue):
        return True
    if isinstance(golden, AcceptedValues):
        return any(_equal(value, choice, schema, folded=True) for choice in golden.values)
    if isinstance(value, bool) or isinstance(golden, bool):
        return value is golden
    if isinstance(value, int | float) and isinstance(golden, int | float):
        if folded and schema.get("type") == "integer" and isinstance(value, float) and not isinstance(golden, float):
            return False
        # A value that is not a number equals no other, itself included; as text it is the same answer.
        return value == golden or (value != value and golden != golden)
    if isinstance(value, str) and isinstance(golden, str):
        return value == golden or (folded and normalize_string(value) == normalize_string(golden))
    if isinstance(value, list | tuple) and isinstance(golden, list | tuple):
        items = schema.get("items")
        items = items if isinstance(items, Mapping) else {}
        return len(value) == len(golden) and all(
            _equal(v, g, items, folded) for v, g in zip(value, golden, strict=True)
        )
    if isinstance(value, Mapping) and isinstance(golden, Mapping):
        return all(key in golden for key in value) and all(
            _equal(value[key], g, {}, folded) if key in value else _optional(g) for key, g in golden.items()
        )
    return type(value) is type(golden) and bool(value == golden)


def _optional(golden: Any) -> bool:
    return isinstance(golden, AcceptedValues) and golden.optional


def normalize_string(text: str) -> str:
    """BFCL's folding of strings: without case, quotes' kind and the characters " ,./-_*^"."""
    return _FOLDED.sub("", text).lower().replace("'", '"')


def _name(name: Any, limit: int = 60) -> str:
    text = " ".join(str(name).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _shown(value: Any, limit: int = 60) -> str:
    if isinstance(value, AcceptedValues):
        return " or ".join(_shown(choice, limit) for choice in value.values[:5]) or "anything"
    try:
        text = repr(value[:limit] if isinstance(value, str) else value)
    except (ValueError, RecursionError):  # integers of more than 4300 digits, lists too deep to write
        text = f"a {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
