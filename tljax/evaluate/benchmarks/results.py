"""Replies -> the scores of a set, and the report of all sets as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tljax.calls.compare import KINDS, tool_list
from tljax.core.errors import InputError
from tljax.evaluate.benchmarks.predictions import Replies
from tljax.evaluate.benchmarks.sets import ANY_CALL, EvalSet, Example, format_indices
from tljax.evaluate.score import (
    METRICS,
    POLICIES,
    Score,
    metric_marks,
    paired_difference,
    score_any_call,
    score_reply,
    summarize,
)

OFFICIAL = "rotbench_official"
PROMPT_TOO_LONG = "not asked: the prompt is too long for the model"


@dataclass(frozen=True)
class SetScores:
    """The scores of a set's examples, in their order; `unasked` of them are of rows that the model was not asked."""

    set: EvalSet
    scores: tuple[Score, ...]
    unasked: int


def policies_of(one: EvalSet) -> tuple[str, ...]:
    """The policies a set is scored under: RoTBench's own verdict is for RoTBench alone."""
    return tuple(policy for policy in POLICIES if policy != OFFICIAL or one.benchmark == "rotbench")


def score_set(one: EvalSet, replies: Replies) -> SetScores:
    """The scores of replies to all examples of a set, which must have golden answers."""
    policies = policies_of(one)
    scores = tuple(score_example(example, replies[example.index], policies) for example in one.examples)
    return SetScores(one, scores, sum(replies[example.index] is None for example in one.examples))


def score_example(example: Example, reply: str | None, policies: Sequence[str]) -> Score:
    """The score of a reply to one row; None, of a row that was not asked, is an error of form."""
    if reply is None:
        return Score(dict.fromkeys(policies, 0), "format", PROMPT_TOO_LONG)
    tools = tool_list(example.tools)
    if example.expected_reply == ANY_CALL:
        return score_any_call(reply, tools, policies)
    return score_reply(reply, example.golden, tools, policies, ignored=example.ignored, finish=example.finish)


def benchmark_report(results: Sequence[SetScores]) -> dict[str, Any]:
    """The report: of every set its scores by policy in percent with their intervals, kinds, and rows."""
    return {"sets": [_set_report(result) for result in results]}


def _set_report(result: SetScores) -> dict[str, Any]:
    one = result.set
    summaries = {policy: summarize(result.scores, policy) for policy in policies_of(one)}
    any_ = summaries["any"]
    return {
        "name": one.name,
        "benchmark": one.benchmark,
        "file": one.file or [name for name, _ in one.parts],
        "n": any_.n,
        "skipped": [row.index for row in one.skipped],
        "scores": {p: {metric: s.scores[metric].percent for metric in METRICS} for p, s in summaries.items()},
        "intervals": {p: {metric: list(s.scores[metric][1:]) for metric in METRICS} for p, s in summaries.items()},
        "kinds": {kind: any_.kinds[kind].percent for kind in KINDS},
        "why_skipped": [{"index": row.index, "id": row.id, "why": row.reason} for row in one.skipped],
        "remarks": list(one.remarks),
        "unasked": result.unasked,
        "rows": [
            {"index": example.index, "levels": score.levels, "kind": score.kind}
            for example, score in zip(one.examples, result.scores, strict=True)
        ],
    }


def read_report(file: Path) -> dict[str, list[tuple[int, Score]]]:
    """Row numbers and scores by set from a report. Raises InputError where the file is none."""
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        return {str(one["name"]): [_row(row) for row in one["rows"]] for one in report["sets"]}
    except OSError as error:
        raise InputError(
            f"config.compare {file}: cannot be read ({error.strerror}); give another report.json"
        ) from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"config.compare {file}: is no report of this command ({what}); give its config.out") from None


def _row(row: Any) -> tuple[int, Score]:
    """A report's row. Raises ValueError, TypeError or KeyError where it is none."""
    index, levels = row["index"], dict(row["levels"])
    for name, value in {"index": index, **levels}.items():
        if not isinstance(value, int):
            raise ValueError(f"row {index!r:.20}, {name}: {value!r:.20} is no whole number")
    return index, Score(levels, row["kind"], "")


@dataclass(frozen=True)
class ScoreDifference:
    """Ours minus another model's in points, with a 95 % interval by a paired bootstrap: (mean, low, high) by metric."""

    name: str
    policy: str
    n: int
    metrics: dict[str, tuple[float, float, float]]


def read_other_scores(sets: Sequence[EvalSet], other: Path) -> dict[str, list[Score]]:
    """The scores in another report of those of `sets` that it has, by name.

    Raises InputError where it has none of them, or where a set's rows are not the same.
    """
    theirs, found = read_report(other), {}
    for one in sets:
        rows = theirs.get(one.name)
        if rows is None:
            continue
        indices = [example.index for example in one.examples]
        if [index for index, _ in rows] != indices:
            odd = sorted({index for index, _ in rows} ^ set(indices))
            what = f"rows in one alone: {format_indices(odd)}" if odd else "they are in another order"
            raise InputError(f"config.compare {other}: set {one.name} has other rows there ({what})")
        found[one.name] = [score for _, score in rows]
    if not found:
        ours = ", ".join(one.name for one in sets)
        raise InputError(
            f"config.compare {other}: has none of the sets {ours}; its sets: {', '.join(theirs) or 'none'}"
        )
    return found


def score_differences(results: Sequence[SetScores], other: Path) -> list[ScoreDifference]:
    """Differences from another report on the sets that both have, under `any` and where there is one the official.

    Raises InputError as `scores_there` does.
    """
    theirs, found = read_other_scores([result.set for result in results], other), []
    for result in results:
        before = theirs.get(result.set.name, [])
        for policy in ("any", OFFICIAL):
            if before and policy in policies_of(result.set) and all(policy in score.levels for score in before):
                metrics = {
                    m: paired_difference(metric_marks(before, m, policy), metric_marks(result.scores, m, policy))
                    for m in METRICS
                }
                found.append(ScoreDifference(result.set.name, policy, len(before), metrics))
    return found
