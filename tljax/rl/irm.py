"""The IRM reward: a number for each kind of error in a predicted call (TL-Training, on the reward mechanism)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tljax.calls.compare import Comparison, ToolList, as_tool_list, compare
from tljax.calls.parse import ParsedText
from tljax.calls.render import render_tools
from tljax.calls.tool import Call, Tool
from tljax.core.errors import InputError

RULES = ("table", "release")
REWARDS = {"correct": 1.0, "content": -0.25, "wrong_tool": -1.5, "tool_hallucination": -2.0, "format": -2.0}
# The keys say whether any argument is hallucinated, redundant, missing.
PARAMETER_REWARDS = {
    (True, True, True): -1.8,
    (True, True, False): -1.3,
    (True, False, True): -1.3,
    (False, True, True): -1.0,
    (True, False, False): -0.8,
    (False, True, False): -0.5,
    (False, False, True): -0.5,
}


@dataclass(frozen=True, slots=True)
class Reward:
    """The reward of a reply, with the kind of its error."""

    value: float
    kind: str  # one of compare.KINDS
    detail: str  # the wrong tool, parameters or values


def reward(
    prediction: str, golden: str, tools: ToolList | Sequence[Tool | Mapping[str, Any]], rule: str = "table"
) -> Reward:
    """Returns the reward of a reply, given the golden call; both are text, and no text raises an error.

    tools: the tools in the prompt, flat or wrapped in {"type": "function", ...}. A call to any other tool is a tool
    hallucination, even if the golden call is such a call. Rule `table`: the paper's table, applied to the first call of
    the reply; a reply or a golden call that cannot be parsed is a format error. Rule `release`: the result of the
    released function on the prompt of these tools, its errors included (see `_release`).
    Raises InputError for any other rule, and for a tool that is malformed.
    """
    if rule not in RULES:
        raise InputError(f"the reward rule is {rule!r}; allowed: {', '.join(RULES)}")
    listed = as_tool_list(tools)
    comparison = (_table if rule == "table" else _release)(prediction, golden, listed)
    if comparison.kind == "parameter":
        wrong = (bool(comparison.hallucinated), bool(comparison.redundant), bool(comparison.missing))
        return Reward(PARAMETER_REWARDS[wrong], comparison.kind, comparison.detail)
    return Reward(REWARDS[comparison.kind], comparison.kind, comparison.detail)


def _table(prediction: str, golden: str, tools: ToolList) -> Comparison:
    expected = _parse_golden(golden, tools)
    if expected.issue is not None:
        return Comparison("format", issue=f"the golden call cannot be read ({expected.issue})")
    parsed = tools.parse(prediction)
    if parsed.issue is None and parsed.calls[0].name not in tools.schemas:
        return Comparison("tool_hallucination", parsed.calls[0].name)
    return compare(parsed, expected.calls[0], tools)


@lru_cache(maxsize=16384)
def _parse_golden(text: str, tools: ToolList) -> ParsedText:
    return tools.parse(text)


_WORD_AND_TEXT = re.compile(r"(?<!\w)(\w++)\s*+=\s*+'([^']*)'")
_DEFINITION = re.compile(r"def\s+([^\s(]+)\((.*?)\):", re.DOTALL)


def _release(prediction: str, golden: str, tools: ToolList) -> Comparison:
    """The released rule (`test_answer_for_reward` for tool code), on the names and parameters that it sees.

    Its errors: the arguments end at the first ")". It sees only arguments of the form `word = 'text'`, so it misses
    numbers, lists and double-quoted texts, and a text ends at its first apostrophe. The name is all that precedes "("
    on its line. A text after the call is ignored. A golden argument that is not documented is hallucinated.
    """
    predicted, expected = _parse_release_call(prediction), _parse_release_call(golden)
    if predicted is None or expected is None:
        issue = "no_call" if predicted is None else "the golden call cannot be read (no_call)"
        return Comparison("format", issue=issue)
    signatures = _signatures(tools)
    name, arguments = predicted.name, predicted.arguments
    # The name.
    if name not in signatures and name != "":
        return Comparison("tool_hallucination", name)
    if name != expected.name:
        return Comparison("wrong_tool", name, expected.name)
    # The parameters. If both names are "", no parameter is known, and none is hallucinated or redundant.
    known = signatures.get(name, arguments)
    undocumented = tuple(argument for argument in arguments if argument not in known)
    extra = (argument for argument in arguments if argument not in expected.arguments and name in signatures)
    redundant = tuple(argument for argument in extra if argument in known)
    missing = tuple(argument for argument in expected.arguments if argument not in arguments)
    if undocumented or redundant or missing:
        return Comparison("parameter", name, expected.name, "", undocumented, redundant, missing)
    # The values.
    wrong = tuple(
        (argument, arguments.get(argument), expected.arguments.get(argument))
        for argument in dict.fromkeys((*expected.arguments, *arguments))
        if arguments.get(argument) != expected.arguments.get(argument)
    )
    return Comparison("content" if wrong else "correct", name, expected.name, wrong=wrong)


def _parse_release_call(text: str) -> Call | None:
    """Returns the call at the first "(" that has a ")" after it, None if there is no such "(".

    The name is the text before "(" on its line, and the arguments end at the first ")".
    """
    opening = text.find("(")
    closing = text.find(")", opening)
    if opening < 0 or closing < 0:
        return None
    name = text[text.rfind("\n", 0, opening) + 1 : opening].strip()
    return Call(name, dict(_WORD_AND_TEXT.findall(text[opening + 1 : closing])))


@lru_cache(maxsize=1024)
def _signatures(tools: ToolList) -> dict[str, set[str]]:
    """Returns the parameters of each tool as the released trainer parses them from the prompt, at commas and colons.

    It also takes a "def ...(...):" in a description for a tool. If two tools share a name, the second one counts.
    """
    signatures = {}
    for name, parameters in _DEFINITION.findall(render_tools(tools.tools, "mae")):
        pieces = (piece.split(":")[:-1] for piece in parameters.split(","))
        signatures[name] = {part.strip() for piece in pieces for part in piece}
    return signatures
