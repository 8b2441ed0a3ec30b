"""Replies -> scores: TS, PI and CF of predicted calls under several policies, with intervals and a random baseline.

TS (tool selection), PI (parameter identification) and CF (content filling) are nested: a reply's level is 0 if it
reaches none of them, 1 for TS, 2 for TS and PI, 3 for all three.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from tljax.calls.compare import KINDS, AnyValue, Comparison, ToolList, as_tool_list, compare
from tljax.calls.normalized_equality import normalized_equal
from tljax.calls.parse import ParsedText
from tljax.calls.tool import Call, Tool
from tljax.core.errors import InputError

POLICIES = ("any", "first", "all", "loose", "rotbench_official")
METRICS = ("TS", "PI", "CF")
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one reply.

    levels: its level from 0 to 3 under each policy. kind (one of KINDS) and detail describe its best comparison with a
    golden call.
    """

    levels: dict[str, int]
    kind: str
    detail: str


class Share(NamedTuple):
    """A share in percent with its 95 % Wilson interval."""

    percent: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """TS, PI and CF of `n` replies under `policy`, and the share of each kind in the order of KINDS, in percent."""

    n: int
    policy: str
    scores: dict[str, Share]
    kinds: dict[str, Share]


def score_reply(
    prediction: str,
    golden: Sequence[Call],
    tools: ToolList | Sequence[Tool | Mapping[str, Any]],
    policies: Sequence[str] = ("any", "first", "all"),
    *,
    ignored: Set[str] = frozenset(),
    finish: str | None = None,
) -> Score:
    """Returns the level that a reply reaches under each policy, and the kind of its error. No reply makes it raise.

    golden: alternative, successive or parallel calls, depending on the set; arguments may hold `AnyValue` and
    `AcceptedValues`. Without golden calls the right reply makes no call. tools: JSON (flat or wrapped) or Tools, in the
    prompt's order. Policies: `any` compares the first call with every golden call, `first` with the first golden call;
    `all` requires as many calls as golden calls and pairs them one to one; `loose` is `any` with values compared by
    `normalized_equal`; `rotbench_official` is the verdict of RoTBench's script on the first call. A malformed reply has
    level 0 under all policies. ignored: arguments that are neither required nor compared. finish: the listed tool for
    which "finish" is a second name, unless a tool called "finish" is listed (noise renames it).

    Raises InputError for an unknown policy.
    """
    _check_policies(policies)
    listed = as_tool_list(tools)
    parsed = listed.parse(prediction)
    if not golden:
        best = _no_call(parsed, listed)
        return Score(dict.fromkeys(policies, best.level), best.kind, best.detail)
    parsed = _with_finish(parsed, listed, finish)
    compared = [compare(parsed, golden_call, listed, ignored) for golden_call in golden]
    best = max(compared, key=lambda comparison: (comparison.level, -comparison.errors))
    if best.kind == "format":
        return Score(dict.fromkeys(policies, 0), best.kind, best.detail)
    levels = {"any": best.level, "first": compared[0].level}
    if "loose" in policies:
        levels["loose"] = max(map(_loose_level, compared))
    if "all" in policies:
        pairs = [
            [compare(call, golden_call, listed, ignored).level for golden_call in golden]
            for call in _as_many(parsed, golden)
        ]
        levels["all"] = _one_to_one(pairs)
    if "rotbench_official" in policies:
        levels["rotbench_official"] = _rotbench_official(parsed.calls[0], golden, listed.tools)
    return Score({policy: levels[policy] for policy in policies}, best.kind, best.detail)


def score_any_call(
    prediction: str,
    tools: ToolList | Sequence[Tool | Mapping[str, Any]],
    policies: Sequence[str] = ("any", "first", "all"),
) -> Score:
    """Scores a reply for which any call is right, as in BFCL's relevance rows: every well-formed call has level 3."""
    _check_policies(policies)
    parsed = as_tool_list(tools).parse(prediction)
    if parsed.issue or not parsed.calls:
        best = Comparison("format", issue=parsed.issue or "no_call")
    else:
        best = Comparison("correct", parsed.calls[0].name)
    return Score(dict.fromkeys(policies, best.level), best.kind, best.detail)


def summarize(scores: Sequence[Score], policy: str = "any") -> ScoreSummary:
    """Returns TS, PI and CF under `policy` and the share of every kind, in percent with 95 % Wilson intervals.

    Raises InputError if there are no scores, or if they lack the policy.
    """
    if not scores:
        raise InputError("summarize: there are no scores; give at least one")
    n = len(scores)
    shares = {metric: wilson_share(sum(map(bool, metric_marks(scores, metric, policy))) / n, n) for metric in METRICS}
    kinds = {kind: wilson_share(sum(score.kind == kind for score in scores) / n, n) for kind in KINDS}
    return ScoreSummary(n, policy, shares, kinds)


def metric_marks(scores: Iterable[Score], metric: str, policy: str = "any") -> list[float]:
    """Returns 100 for every reply that passes the metric and 0 for the others, so that the mean is a percentage."""
    if metric not in METRICS:
        raise InputError(f"the metric is {metric!r}; allowed: {', '.join(METRICS)}")
    _check_policies([policy])
    level = METRICS.index(metric) + 1
    try:
        return [100.0 if score.levels[policy] >= level else 0.0 for score in scores]
    except KeyError:
        raise InputError(f"the scores lack policy {policy!r}; give it to score_reply") from None


def paired_difference(
    before: Sequence[float], after: Sequence[float], *, seed: int = 0, resamples: int = 10_000
) -> tuple[float, float, float]:
    """Returns (mean, low, high): the mean of after - before over the same queries and its 95 % interval.

    All three have the unit of the values. The interval is the percentile interval of a paired bootstrap with
    `resamples` seeded draws of the queries. Differences that are all equal have an interval of width 0, however few
    there are. Raises InputError for unequal lengths, no queries, or values that are not finite.
    """
    if len(before) != len(after) or not len(before):
        raise InputError(
            f"paired_difference: {len(before)} values before and {len(after)} after; "
            "give one of each for every query, and at least one query"
        )
    difference = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    if not np.isfinite(difference).all():
        row = int(np.flatnonzero(~np.isfinite(difference))[0])
        raise InputError(
            f"paired_difference: query {row} has {before[row]} before and {after[row]} after; give numbers"
        )
    # Equal differences are drawn together, so the cost grows with the distinct values, not with the queries.
    values, counts = np.unique(difference, return_counts=True)
    generator, n = np.random.default_rng(seed), len(difference)
    block = max(1, 1_000_000 // len(values))
    means = [
        generator.multinomial(n, counts / n, size=min(block, resamples - start)) @ values / n
        for start in range(0, resamples, block)
    ]
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return float(difference.mean()), float(low), float(high)


def random_tool_ts(golden: Sequence[Sequence[Call]], tools: Sequence[Sequence[Tool | Mapping[str, Any]]]) -> float:
    """Returns the expected TS in percent, under policy `any`, of naming a listed tool uniformly at random.

    golden and tools have one entry for each query. A query without golden calls or without tools counts as 0. Raises
    InputError if the two differ in length or are empty.
    """
    if len(golden) != len(tools) or not golden:
        raise InputError(
            f"random_tool_ts: {len(golden)} golden answers and {len(tools)} tool lists; give both for each query"
        )
    total = 0.0
    for calls, listed in zip(golden, tools, strict=True):
        names = {call.name for call in calls}
        listed = as_tool_list(listed).tools
        total += sum(tool.name in names for tool in listed) / max(1, len(listed))
    return 100 * total / len(golden)


def _check_policies(policies: Sequence[str]) -> None:
    for policy in policies:
        if policy not in POLICIES:
            raise InputError(f"the policy is {policy!r}; allowed: {', '.join(POLICIES)}")


def _loose_level(compared: Comparison) -> int:
    right = compared.kind == "content" and all(normalized_equal(value, golden) for _, value, golden in compared.wrong)
    return 3 if right else compared.level


def _no_call(parsed: ParsedText, tools: ToolList) -> Comparison:
    if not parsed.calls:
        return Comparison("correct")
    called = parsed.calls[0].name
    return Comparison("wrong_tool" if called in tools.schemas else "tool_hallucination", called)


def _with_finish(parsed: ParsedText, tools: ToolList, finish: str | None) -> ParsedText:
    if finish is None or "finish" in tools.schemas:
        return parsed
    calls = (replace(call, name=finish) if call.name == "finish" else call for call in parsed.calls)
    return replace(parsed, calls=tuple(calls))


def _as_many(parsed: ParsedText, golden: Sequence[Call]) -> tuple[Call, ...]:
    return parsed.calls if len(parsed.calls) == len(golden) else ()


def _one_to_one(levels: list[list[int]]) -> int:
    """The highest level at which predicted and golden calls can be paired one to one; 0 if there are no calls."""
    for level in (3, 2, 1):
        if levels and _can_pair([[pair >= level for pair in row] for row in levels]):
            return level
    return 0


def _can_pair(fits: list[list[bool]]) -> bool:
    """Returns True if rows and columns can be paired one to one, found by augmenting paths."""
    owner: dict[int, int] = {}

    def assign(row: int, tried: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if fit and column not in tried:
                tried.add(column)
                if column not in owner or assign(owner[column], tried):
                    owner[column] = row
                    return True
        return False

    return all(assign(row, set()) for row in range(len(fits)))


def _rotbench_official(call: Call, golden: Sequence[Call], tools: Sequence[Tool]) -> int:
    """The level that RoTBench's evaluate.py assigns to a call, with the quirks of that script.

    A call without arguments has level 0. "finish" stands for the last tool, whatever its name. The argument values of
    the last two tools, and of any tool named finish or ask_to_user, are not compared. A golden "None" is not compared,
    and an alternative that contains one removes the argument from the prediction for all later alternatives.
    """
    name, arguments, level = call.name, dict(call.arguments), 0
    free = {"finish", "ask_to_user", *(tool.name for tool in tools[-2:])}
    for golden_call in golden if arguments else ():
        if name == "finish" and tools and golden_call.name == tools[-1].name:
            name = golden_call.name
        if name != golden_call.name:
            continue
        level = max(level, 1)
        if arguments.keys() != golden_call.arguments.keys():
            continue
        level = max(level, 2)
        compared = {key: value for key, value in golden_call.arguments.items() if not _is_free(value)}
        arguments = {key: arguments[key] for key in compared}
        if name in free or _same(arguments, compared):
            return 3
    return level


def _is_free(golden: Any) -> bool:
    return isinstance(golden, AnyValue) or golden == "None"


def _same(arguments: dict[str, Any], golden: dict[str, Any]) -> bool:
    """Python's equality, as in the official script: True equals 1."""
    try:
        return arguments == golden
    except RecursionError:
        return False


def wilson_share(p: float, n: float) -> Share:
    """Returns the share `p` (0 to 1) of `n` observations in percent with its 95 % Wilson interval.

    The interval stays within 0 and 100, and has a width even where p is 0 or 1. n: a number of independent
    observations; the effective number, which need not be whole, where they are not independent.
    """
    spread = _Z * _Z / n
    middle = (p + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * ((p * (1 - p) + spread / 4) / n) ** 0.5
    # The ends are exact where no observation, or every observation, counts.
    low, high = 0.0 if p == 0 else middle - half, 1.0 if p == 1 else middle + half
    return Share(100 * p, 100 * low, 100 * high)
