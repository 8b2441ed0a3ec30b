"""Replies -> the scores of a set, and the report of all sets as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tljax.calls.compare import KINDS, as_tool_list
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
    """The scores of a set's examples, in their order. `num_too_long` of their prompts were too long for the model."""

    set: EvalSet
    scores: tuple[Score, ...]
    num_too_long: int


def policies_of(eval_set: EvalSet) -> tuple[str, ...]:
    """The policies under which a set is scored; RoTBench's own verdict is for sets of RoTBench only."""
    return tuple(policy for policy in POLICIES if policy != OFFICIAL or eval_set.benchmark == "rotbench")


def score_set(eval_set: EvalSet, replies: Replies) -> SetScores:
    """Scores the replies to all examples of a set, which must have golden answers."""
    policies = policies_of(eval_set)
    scores = tuple(score_example(example, replies[example.index], policies) for example in eval_set.examples)
    return SetScores(eval_set, scores, sum(replies[example.index] is None for example in eval_set.examples))


def score_example(example: Example, reply: str | None, policies: Sequence[str]) -> Score:
    """Scores the reply to an example; None, for a prompt that is too long for the model, is a format error."""
    if reply is None:
        return Score(dict.fromkeys(policies, 0), "format", PROMPT_TOO_LONG)
    tools = as_tool_list(example.tools)
    if example.expected_reply == ANY_CALL:
        return score_any_call(reply, tools, policies)
    return score_reply(reply, example.golden, tools, policies, ignored=example.ignored, finish=example.finish)


def benchmark_report(results: Sequence[SetScores]) -> dict[str, Any]:
    """Returns the report as JSON: the scores of every set in percent with intervals, its error kinds, and its rows."""
    return {"sets": [_set_report(result) for result in results]}


def _set_report(result: SetScores) -> dict[str, Any]:
    eval_set = result.set
    summaries = {policy: summarize(result.scores, policy) for policy in policies_of(eval_set)}
    any_policy = summaries["any"]
    return {
        "name": eval_set.name,
        "benchmark": eval_set.benchmark,
        "file": eval_set.file or [name for name, _ in eval_set.parts],
        "n": any_policy.n,
        "skipped": [row.index for row in eval_set.skipped],
        "scores": {p: {metric: s.scores[metric].percent for metric in METRICS} for p, s in summaries.items()},
        "intervals": {p: {metric: list(s.scores[metric][1:]) for metric in METRICS} for p, s in summaries.items()},
        "kinds": {kind: any_policy.kinds[kind].percent for kind in KINDS},
        "why_skipped": [{"index": row.index, "id": row.id, "why": row.reason} for row in eval_set.skipped],
        "remarks": list(eval_set.remarks),
        "unasked": result.num_too_long,
        "rows": [
            {"index": example.index, "levels": score.levels, "kind": score.kind}
            for example, score in zip(eval_set.examples, result.scores, strict=True)
        ],
    }


def read_report(file: Path) -> dict[str, list[tuple[int, Score]]]:
    """Returns row numbers and scores by set from a report. Raises InputError if the file is not a report."""
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        return {str(entry["name"]): [_report_row(row) for row in entry["rows"]] for entry in report["sets"]}
    except OSError as error:
        raise InputError(
            f"config.compare {file}: cannot be read ({error.strerror}); give another report.json"
        ) from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise InputError(
            f"config.compare {file}: is no report of this command ({problem}); give its config.out"
        ) from None


def _report_row(row: Any) -> tuple[int, Score]:
    """Reads a row of a report. Raises ValueError, TypeError or KeyError if it is malformed."""
    index, levels = row["index"], dict(row["levels"])
    for name, value in {"index": index, **levels}.items():
        if not isinstance(value, int):
            raise ValueError(f"row {index!r:.20}, {name}: {value!r:.20} is no whole number")
    return index, Score(levels, row["kind"], "")


@dataclass(frozen=True)
class ScoreDifference:
    """This run's scores of a set minus another report's, in points: (mean, low, high) by metric.

    The 95 % interval is that of a paired bootstrap.
    """

    name: str
    policy: str
    n: int
    metrics: dict[str, tuple[float, float, float]]


def read_other_scores(sets: Sequence[EvalSet], other: Path) -> dict[str, list[Score]]:
    """Returns the scores that another report has for `sets`, by name; sets that it lacks are left out.

    Raises InputError if it has none of them, or if the rows of a set differ.
    """
    report, scores = read_report(other), {}
    for eval_set in sets:
        rows = report.get(eval_set.name)
        if rows is None:
            continue
        indices = [example.index for example in eval_set.examples]
        if [index for index, _ in rows] != indices:
            unshared = sorted({index for index, _ in rows} ^ set(indices))
            problem = f"rows in one alone: {format_indices(unshared)}" if unshared else "they are in another order"
            raise InputError(f"config.compare {other}: set {eval_set.name} has other rows there ({problem})")
        scores[eval_set.name] = [score for _, score in rows]
    if not scores:
        ours = ", ".join(eval_set.name for eval_set in sets)
        raise InputError(
            f"config.compare {other}: has none of the sets {ours}; its sets: {', '.join(report) or 'none'}"
        )
    return scores


def score_differences(results: Sequence[SetScores], other: Path) -> list[ScoreDifference]:
    """Returns the differences from another report on the sets that both have.

    They are under the policy `any`, and under RoTBench's own where both have it. Raises InputError as
    `read_other_scores` does.
    """
    other_scores, differences = read_other_scores([result.set for result in results], other), []
    for result in results:
        before = other_scores.get(result.set.name, [])
        for policy in ("any", OFFICIAL):
            if before and policy in policies_of(result.set) and all(policy in score.levels for score in before):
                metrics = {
                    m: paired_difference(metric_marks(before, m, policy), metric_marks(result.scores, m, policy))
                    for m in METRICS
                }
                differences.append(ScoreDifference(result.set.name, policy, len(before), metrics))
    return differences
