"""IRM reward: a number for each kind of error in a predicted call (TL-Training, section on the reward mechanism)."""

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
# Keyed by whether arguments are hallucinated, redundant, missing.
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
    """What a reply is worth, the kind of its error (`compare.KINDS`) and the offending tool, parameters or values."""

    value: float
    kind: str
    detail: str


def reward(
    prediction: str, golden: str, tools: ToolList | Sequence[Tool | Mapping[str, Any]], rule: str = "table"
) -> Reward:
    """The reward of a reply given the golden call, both as text; never raises for any text.

    tools: what the prompt lists, flat or wrapped in {"type": "function", ...}. A call to any other tool is a tool
    hallucination, even where the golden call makes it. Rule `table`: the paper's table on parsed calls; the first call
    of the reply counts, and none does if the reply or the golden call is malformed. Rule `release`: the released
    function's result on the prompt of these tools, its errors kept (see `_release`).
    Raises InputError for another rule, or a tool that is none.
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
    wanted = _golden(golden, tools)
    if wanted.issue is not None:
        return Comparison("format", issue=f"the golden call cannot be read ({wanted.issue})")
    parsed = tools.parse(prediction)
    if parsed.issue is None and parsed.calls[0].name not in tools.schemas:
        return Comparison("tool_hallucination", parsed.calls[0].name)
    return compare(parsed, wanted.calls[0], tools)


@lru_cache(maxsize=16384)
def _golden(text: str, tools: ToolList) -> ParsedText:
    return tools.parse(text)


_WORD_AND_TEXT = re.compile(r"(?<!\w)(\w++)\s*+=\s*+'([^']*)'")
_DEFINITION = re.compile(r"def\s+([^\s(]+)\((.*?)\):", re.DOTALL)


def _release(prediction: str, golden: str, tools: ToolList) -> Comparison:
    """The released rule (`test_answer_for_reward` for tool code), on the names and parameters that it sees.

    Its errors: arguments end at the first ")", and only `word = 'text'` counts among them, so that numbers, lists and
    double-quoted texts are invisible and texts end at their first apostrophe; whatever else stands on the line before
    "(" belongs to the name; a text after the call is ignored; a golden argument that is not documented is hallucinated.
    """
    given, wanted = _release_call(prediction), _release_call(golden)
    if given is None or wanted is None:
        return Comparison("format", issue="no_call" if given is None else "the golden call cannot be read (no_call)")
    signatures = _signatures(tools)
    if given.name not in signatures and given.name != "":
        return Comparison("tool_hallucination", given.name)
    if given.name != wanted.name:
        return Comparison("wrong_tool", given.name, wanted.name)
    # Without a name on both sides no parameter is known, and none is then hallucinated or redundant.
    known = signatures.get(given.name, given.arguments)
    undocumented = tuple(name for name in given.arguments if name not in known)
    extra = (name for name in given.arguments if name not in wanted.arguments and given.name in signatures)
    redundant = tuple(name for name in extra if name in known)
    missing = tuple(name for name in wanted.arguments if name not in given.arguments)
    if undocumented or redundant or missing:
        return Comparison("parameter", given.name, wanted.name, "", undocumented, redundant, missing)
    wrong = tuple(
        (name, given.arguments.get(name), wanted.arguments.get(name))
        for name in dict.fromkeys((*wanted.arguments, *given.arguments))
        if given.arguments.get(name) != wanted.arguments.get(name)
    )
    return Comparison("content" if wrong else "correct", given.name, wanted.name, wrong=wrong)


def _release_call(text: str) -> Call | None:
    """The first "(" that any ")" follows: the name is what precedes it on its line, the arguments reach to that ")"."""
    opening = text.find("(")
    closing = text.find(")", opening)
    if opening < 0 or closing < 0:
        return None
    name = text[text.rfind("\n", 0, opening) + 1 : opening].strip()
    return Call(name, dict(_WORD_AND_TEXT.findall(text[opening + 1 : closing])))


@lru_cache(maxsize=1024)
def _signatures(tools: ToolList) -> dict[str, set[str]]:
    """Tools and parameters as the released trainer reads them back from the prompt: split at commas and colons.

    A "def ...(...):" in a description counts too, and of two tools with one name the second.
    """
    signatures = {}
    for name, parameters in _DEFINITION.findall(render_tools(tools.tools, "mae")):
        pieces = (piece.split(":")[:-1] for piece in parameters.split(","))
        signatures[name] = {part.strip() for piece in pieces for part in piece}
    return signatures
