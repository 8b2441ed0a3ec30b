"""Comparison of a predicted call with a golden call. The reward and the scores both use the kind of error it gives."""

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
    "colon_argument": "an argument written as name: value, not as name=value",
}


@dataclass(frozen=True, slots=True)
class AnyValue:
    """A golden value that every value equals; the argument must be present all the same."""


@dataclass(frozen=True, slots=True)
class AcceptedValues:
    """Golden values, any of which is correct; the argument may be left out if one of them is "".

    They are compared by BFCL's rules: strings without case and without the characters " ,./-_*^"; a float does not
    equal an integer if the parameter's schema says integer.
    """

    values: tuple[Any, ...]

    @property
    def optional(self) -> bool:
        return any(isinstance(value, str) and value == "" for value in self.values)


@dataclass(frozen=True, slots=True, eq=False)
class ToolList:
    """The tools of one prompt.

    schemas: tool name -> parameter name -> JSON schema; tools of the same name are merged.
    """

    tools: tuple[Tool, ...]
    schemas: dict[str, dict[str, dict[str, Any]]]

    def parse(self, text: str) -> ParsedText:
        """Returns the calls in a text, by `parse_calls`.

        Leaves out the tools whose names are not in the text: they cost time and cannot change the result.
        """
        if "\\" in text and '"name"' in text:  # JSON may write a name with escapes
            return parse_calls(text, self.tools)
        return parse_calls(text, [tool for tool in self.tools if tool.name in text])


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of a comparison.

    kind: one of KINDS. called, golden: names of the called and the golden tool. issue: the issue of the ParsedText, for
    the kind "format". hallucinated: arguments that are neither in the golden call nor documented. redundant: documented
    arguments that are not in the golden call. missing: golden arguments that are not in the call. wrong: (argument,
    value, golden value) of the arguments whose values differ.
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
        """The correct part: 0 nothing, 1 the tool, 2 also the parameters' names, 3 also their values."""
        return {"correct": 3, "content": 2, "parameter": 1}.get(self.kind, 0)

    @property
    def errors(self) -> int:
        """The number of wrong arguments."""
        return len(self.hallucinated) + len(self.redundant) + len(self.missing) + len(self.wrong)

    @property
    def detail(self) -> str:
        """The wrong tool, parameters or values in one line; "" if the call is correct."""
        if self.kind == "format":
            return _ISSUES.get(self.issue, self.issue)
        if self.kind == "tool_hallucination":
            return f"{_format_value(self.called)} is not listed"
        if self.kind == "wrong_tool":
            called = _format_value(self.called)
            return f"{called}, not {_format_value(self.golden)}" if self.golden else called
        if self.kind == "parameter":
            parts = {"hallucinated": self.hallucinated, "redundant": self.redundant, "missing": self.missing}
            return "; ".join(f"{part}: {', '.join(map(_shorten, names))}" for part, names in parts.items() if names)
        return "; ".join(
            f"{_shorten(name)} = {_format_value(value)}, not {_format_value(golden)}"
            for name, value, golden in self.wrong
        )


def as_tool_list(tools: ToolList | Sequence[Tool | Mapping[str, Any]]) -> ToolList:
    """Returns the tools as a ToolList. JSON tools may be flat or wrapped in {"type": "function", "function": ...}.

    Equal JSON lists are converted once and share a ToolList. Raises InputError for a malformed tool.
    """
    if isinstance(tools, ToolList):
        return tools
    try:
        # Version 2 of the format gives equal bytes for equal lists; later versions also mark shared objects.
        content = marshal.dumps(list(tools), 2)
    except ValueError:  # not plain JSON, such as Tool objects
        return _tool_list(tools)
    return _from_bytes(content)


@lru_cache(maxsize=1024)
def _from_bytes(content: bytes) -> ToolList:
    return _tool_list(marshal.loads(content))


def _tool_list(tools: Sequence[Tool | Mapping[str, Any]]) -> ToolList:
    parsed = tuple(
        tool if isinstance(tool, Tool) else tool_from_json(tool, f"tools[{i}]") for i, tool in enumerate(tools)
    )
    schemas: dict[str, dict[str, dict[str, Any]]] = {}
    for tool in parsed:
        properties = schemas.setdefault(tool.name, {})
        for name, schema in tool.properties.items():
            properties.setdefault(name, schema)
    return ToolList(parsed, schemas)


def compare(
    prediction: ParsedText | Call, golden: Call, tools: ToolList, ignored: Set[str] = frozenset()
) -> Comparison:
    """Returns the first error of the prediction's first call, in the order of KINDS. Never raises.

    Golden arguments may be AnyValue or AcceptedValues, also inside lists and dicts. Arguments named in `ignored` are
    neither required nor compared. A call of the golden tool is never a tool hallucination, even if no tool list has it.
    """
    # The format and the tool.
    if isinstance(prediction, ParsedText):
        if prediction.issue is not None or not prediction.calls:
            return Comparison("format", issue=prediction.issue or "no_call")
        prediction = prediction.calls[0]
    called, arguments = prediction.name, prediction.arguments
    if called != golden.name:
        return Comparison("wrong_tool" if called in tools.schemas else "tool_hallucination", called, golden.name)
    # The names of the arguments.
    documented = tools.schemas.get(called, {})
    compared = {name: value for name, value in golden.arguments.items() if name not in ignored}
    extra = [name for name in arguments if name not in golden.arguments and name not in ignored]
    missing = tuple(name for name, value in compared.items() if name not in arguments and not _optional(value))
    if extra or missing:
        hallucinated = tuple(name for name in extra if name not in documented)
        redundant = tuple(name for name in extra if name in documented)
        return Comparison("parameter", called, called, "", hallucinated, redundant, missing)
    # The values of the arguments.
    wrong = tuple(
        (name, arguments[name], value)
        for name, value in compared.items()
        if name in arguments and not values_equal(arguments[name], value, documented.get(name))
    )
    return Comparison("content" if wrong else "correct", called, called, wrong=wrong)


def values_equal(value: Any, golden: Any, schema: Mapping[str, Any] | None = None) -> bool:
    """Returns True if a value equals the golden one.

    1 equals 1.0 and no boolean; strings are compared exactly, lists in order, dicts by key. schema: the parameter's
    JSON schema, which matters for AcceptedValues only. Values that nest too deeply to be compared are not equal.
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
        # NaN does not equal itself, but it is the same text in both calls.
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
    """Returns a string as BFCL compares it: lower case, double quotes, without the characters " ,./-_*^"."""
    return _FOLDED.sub("", text).lower().replace("'", '"')


def _shorten(name: Any, limit: int = 60) -> str:
    text = " ".join(str(name).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _format_value(value: Any, limit: int = 60) -> str:
    """Returns a value as text of at most `limit` characters on one line."""
    if isinstance(value, AcceptedValues):
        return " or ".join(_format_value(choice, limit) for choice in value.values[:5]) or "anything"
    try:
        text = repr(value[:limit] if isinstance(value, str) else value)
    except (ValueError, RecursionError):  # an integer of more than 4300 digits, a list that nests too deeply
        text = f"a {type(value).__name__}"
    return _shorten(text, limit)
