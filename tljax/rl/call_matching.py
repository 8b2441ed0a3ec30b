"""Rewards of all calls of a turn, matched to the golden ones: ToolRL's in parts, and Tool-N1's right or wrong."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from tljax.calls.compare import ToolList, compare, values_equal
from tljax.calls.tool import Call
from tljax.rl.irm import Reward, reward


def matched_reward(prediction: str, golden: str, tools: ToolList, rule: str) -> Reward:
    """Returns the reward of a reply by one of MATCHED_RULES, with the kind and detail of IRM's rule "table"."""
    by_table, found, wanted = reward(prediction, golden, tools), tools.parse(prediction), tools.parse(golden)
    calls = found.calls if found.issue is None and wanted.issue is None else None
    return Reward(MATCHED_RULES[rule](calls, wanted.calls, tools), by_table.kind, by_table.detail)


def toolrl_reward(calls: Sequence[Call] | None, golden: Sequence[Call], tools: ToolList) -> float:
    """Returns a reward from -3 to 4 (ToolRL, arXiv 2504.13958, section 3.3); calls: None if none can be read.

    1 for a reply with readable calls, and -3 to 3 for the share of what can be matched that does match: the tools'
    names (intersection over union), and of each golden call the parameters' names (the same) and each value. Every
    golden call is matched to one call of the same tool at most, so that the sum is largest.
    """
    if not calls:
        return -3.0
    names = _overlap([call.name for call in calls], [call.name for call in golden])
    scores = np.array([[_match(call, wanted, tools) for call in calls] for wanted in golden], np.float64)
    matched = scores[linear_sum_assignment(scores, maximize=True)].sum()
    possible = 1 + len(golden) + sum(len(wanted.arguments) for wanted in golden)
    return float(1 + 6 * (names + matched) / possible - 3)


def binary_reward(calls: Sequence[Call] | None, golden: Sequence[Call], tools: ToolList) -> float:
    """Returns 1 if the calls are the golden ones, in any order, and else 0 (Tool-N1, arXiv 2505.00024, section 3.2)."""
    if not calls or len(calls) != len(golden):
        return 0.0
    equal = np.array([[compare(call, wanted, tools).kind == "correct" for call in calls] for wanted in golden])
    return float(equal[linear_sum_assignment(equal, maximize=True)].all())


def _match(call: Call, golden: Call, tools: ToolList) -> float:
    """Returns the overlap of the parameters' names plus the number of equal values, 0 for another tool."""
    if call.name != golden.name:
        return 0.0
    schemas: Mapping[str, Any] = tools.schemas.get(call.name, {})
    equal = (
        values_equal(call.arguments[name], value, schemas.get(name))
        for name, value in golden.arguments.items()
        if name in call.arguments
    )
    return _overlap(list(call.arguments), list(golden.arguments)) + sum(equal)


def _overlap(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Returns intersection over union, as multisets; 1 if both are empty."""
    a, b = Counter(found), Counter(wanted)
    union = (a | b).total()
    return (a & b).total() / union if union else 1.0


MATCHED_RULES = {"binary": binary_reward, "toolrl": toolrl_reward}
