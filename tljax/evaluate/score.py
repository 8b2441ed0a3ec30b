"""Replies -> scores: TS, PI and CF of predicted calls under several policies, their intervals, and a random pick's.

TS (tool selection), PI (parameter identification) and CF (content filling) are nested: a reply's level is 0 for none,
1 for TS, 2 for PI too, 3 for CF too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from tljax.calls.compare import KINDS, AnyValue, Comparison, ToolList, compare, tool_list
from tljax.calls.loose_equality import loosely_equal
from tljax.calls.parse import ParsedText
from tljax.calls.tool import Call, Tool
from tljax.core.errors import InputError

POLICIES = ("any", "first", "all", "loose", "rotbench_official")
METRICS = ("TS", "PI", "CF")
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Score:
    """One reply's score: `levels` by policy, 0 to 3; `kind` (one of KINDS) and `detail` of its best comparison."""

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
    """Scores of a set in percent: TS, PI and CF under `policy`, and the share of each kind in the order of KINDS."""

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
    """The level that a reply reaches under each policy, and the kind of its error; never raises for any reply.

    golden: alternatives, steps or parallel calls, whichever the set means; arguments may hold `AnyValue` and `Choices`.
    Without golden calls the right reply makes no call. tools: JSON (flat or wrapped) or Tools, in the prompt's order.
    Policies: `any` compares the first call with every golden one, `first` with the first, `all` wants as many calls as
    golden ones and pairs them one to one, `loose` is `any` with values compared loosely (`loosely_equal`),
    `rotbench_official` is RoTBench's own verdict on the first call. A reply with anything wrong in its form is level 0
    under all of them. ignored: arguments neither asked for nor compared. finish:
    the listed tool that "finish" calls as well, unless a tool of that name is listed (noise renames it).
    """
    _known(policies)
    listed = tool_list(tools)
    parsed = listed.parse(prediction)
    if not golden:
        best = _no_call(parsed, listed)
        return Score(dict.fromkeys(policies, best.level), best.kind, best.detail)
    parsed = _with_finish(parsed, listed, finish)
    compared = [compare(parsed, wanted, listed, ignored) for wanted in golden]
    best = max(compared, key=lambda one: (one.level, -one.errors))
    if best.kind == "format":
        return Score(dict.fromkeys(policies, 0), best.kind, best.detail)
    levels = {"any": best.level, "first": compared[0].level}
    if "loose" in policies:
        levels["loose"] = max(map(_loose_level, compared))
    if "all" in policies:
        pairs = [
            [compare(call, wanted, listed, ignored).level for wanted in golden] for call in _as_many(parsed, golden)
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
    """The score where any call is right, as in BFCL's relevance: level 3 for a well-formed one, whatever it calls."""
    _known(policies)
    parsed = tool_list(tools).parse(prediction)
    wrong = Comparison("format", issue=parsed.issue or "no_call") if parsed.issue or not parsed.calls else None
    best = wrong or Comparison("correct", parsed.calls[0].name)
    return Score(dict.fromkeys(policies, best.level), best.kind, best.detail)


def summarize(scores: Sequence[Score], policy: str = "any") -> ScoreSummary:
    """TS, PI and CF under `policy` and the share of every kind, in percent with 95 % Wilson intervals.

    Raises InputError for no scores, or scores that lack the policy.
    """
    if not scores:
        raise InputError("summarize: there are no scores; give at least one")
    n = len(scores)
    shares = {metric: wilson_share(sum(map(bool, metric_marks(scores, metric, policy))) / n, n) for metric in METRICS}
    kinds = {kind: wilson_share(sum(score.kind == kind for score in scores) / n, n) for kind in KINDS}
    return ScoreSummary(n, policy, shares, kinds)


def metric_marks(scores: Iterable[Score], metric: str, policy: str = "any") -> list[float]:
    """100 for every reply that passes the metric and 0 for the others: percentages to average or to pair."""
    if metric not in METRICS:
        raise InputError(f"the metric is {metric!r}; allowed: {', '.join(METRICS)}")
    _known([policy])
    level = METRICS.index(metric) + 1
    try:
        return [100.0 if score.levels[policy] >= level else 0.0 for score in scores]
    except KeyError:
        raise InputError(f"the scores lack policy {policy!r}; give it to score_reply") from None


def paired_difference(
    before: Sequence[float], after: Sequence[float], *, seed: int = 0, resamples: int = 10_000
) -> tuple[float, float, float]:
    """Mean of after - before over the same queries and its 95 % interval, in the values' unit: (mean, low, high).

    The interval is the percentile interval of a paired bootstrap: `resamples` seeded draws of the queries. Differences
    that are all equal have an interval of no width, however few there are. Raises InputError for unequal lengths, no
    queries, or values that are not finite.
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
    # Equal differences are drawn together, so that thousands of queries cost no more than their distinct values.
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
    """Expected TS in percent, policy `any`, of naming a listed tool uniformly at random: one entry for each query.

    Such a pick is level 1 at most. A query without golden calls or without tools counts as 0. Raises InputError where
    the two are not of one length, or empty.
    """
    if len(golden) != len(tools) or not golden:
        raise InputError(
            f"random_pick: {len(golden)} golden answers and {len(tools)} tool lists; give one each a query"
        )
    total = 0.0
    for wanted, listed in zip(golden, tools, strict=True):
        names = {call.name for call in wanted}
        listed = tool_list(listed).tools
        total += sum(tool.name in names for tool in listed) / max(1, len(listed))
    return 100 * total / len(golden)


def _known(policies: Sequence[str]) -> None:
    for policy in policies:
        if policy not in POLICIES:
            raise InputError(f"the policy is {policy!r}; allowed: {', '.join(POLICIES)}")


def _loose_level(compared: Comparison) -> int:
    right = compared.kind == "content" and all(loosely_equal(value, golden) for _, value, golden in compared.wrong)
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
    """The highest level at which every predicted call can have a golden call of its own; 0 for no calls."""
    return next(
        (level for level in (3, 2, 1) if levels and _matched([[one >= level for one in row] for row in levels])), 0
    )


def _matched(fits: list[list[bool]]) -> bool:
    """Whether rows and columns can be paired one to one (augmenting paths)."""
    owner: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if fit and column not in tried:
                tried.add(column)
                if column not in owner or place(owner[column], tried):
                    owner[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(fits)))


def _rotbench_official(call: Call, golden: Sequence[Call], tools: Sequence[Tool]) -> int:
    """The level that RoTBench's evaluate.py gives to a call, its quirks kept.

    A call without arguments is worth nothing; "finish" stands for the last tool, whatever that is called; the content
    of the last two tools, and of any tool named finish or ask_to_user, is free; a golden "None" is not judged, and an
    alternative that holds one removes the argument from the prediction for the alternatives after it.
    """
    name, arguments, level = call.name, dict(call.arguments), 0
    free = {"finish", "ask_to_user", *(tool.name for tool in tools[-2:])}
    for wanted in golden if arguments else ():
        if name == "finish" and tools and wanted.name == tools[-1].name:
            name = wanted.name
        if name != wanted.name:
            continue
        level = max(level, 1)
        if arguments.keys() != wanted.arguments.keys():
            continue
        level = max(level, 2)
        judged = {key: value for key, value in wanted.arguments.items() if not _unjudged(value)}
        arguments = {key: arguments[key] for key in judged}
        if name in free or _same(arguments, judged):
            return 3
    return level


def _unjudged(golden: Any) -> bool:
    return isinstance(golden, AnyValue) or golden == "None"


def _same(arguments: dict[str, Any], golden: dict[str, Any]) -> bool:
    """Python's own equality, as the official script has it: True is 1."""
    try:
        return arguments == golden
    except RecursionError:
        return False


def wilson_share(p: float, n: int) -> Share:
    """A share of n, `p` from 0 to 1, with Wilson's interval: it stays within 0 and 100 and has width at both ends."""
    spread = _Z * _Z / n
    middle = (p + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * ((p * (1 - p) + spread / 4) / n) ** 0.5
    # The ends are exact where no reply, or every reply, counts.
    low, high = 0.0 if p == 0 else middle - half, 1.0 if p == 1 else middle + half
    return Share(100 * p, 100 * low, 100 * high)
