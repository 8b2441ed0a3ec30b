"""Scores on benchmarks as tables for a terminal, beside the paper's figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tljax.data.examples import format_counts
from tljax.evaluate.benchmarks.published import published_figures
from tljax.evaluate.benchmarks.results import OFFICIAL, ScoreDifference, SetScores, policies_of
from tljax.evaluate.benchmarks.robustness import RobustnessGroup
from tljax.evaluate.benchmarks.sets import ANY_CALL, GOLDEN, NO_CALL, format_indices
from tljax.evaluate.benchmarks.training_rows import TRAINING_ROWS
from tljax.evaluate.report import format_interval, score_cells, score_headings
from tljax.evaluate.score import METRICS, random_tool_ts, summarize, wilson_share

# What each policy compares a reply with, in the order of the table.
LABELS = {
    "any": "any golden call",
    "first": "the first golden call",
    "all": "all golden calls",
    "loose": "any, loose values",
    OFFICIAL: "RoTBench's own script",
}
_WIDTH = 24


def result_table(result: SetScores) -> str:
    """Returns a block for a set: scores by policy in percent, error kinds, the paper's figures, notes."""
    eval_set = result.set
    lines = [
        f"{eval_set.name} ({eval_set.benchmark}), {len(result.scores):,} rows",
        f"  {'':<{_WIDTH}}{score_headings()}",
    ]
    if any(example.expected_reply == GOLDEN for example in eval_set.examples):
        for policy in LABELS:
            if policy in policies_of(eval_set):
                lines.append(_policy_line(result, policy, LABELS[policy]))
        examples = eval_set.examples
        random_ts = random_tool_ts([example.golden for example in examples], [example.tools for example in examples])
        lines.append(f"  {'a listed tool at random':<{_WIDTH}}{random_ts:>6.1f}")
    else:
        lines.append(_policy_line(result, "any", _accuracy_label(result)))
    rows, models = published_figures(eval_set)
    if models:
        policy = LABELS[OFFICIAL] if eval_set.benchmark == "rotbench" else f'probably "{LABELS["any"]}"'
        lines.append(f"  published figures (arXiv 2412.15495; {policy}; intervals ours, for {rows} rows)")
        for model, figures in models:
            shares = "".join(format_interval(*wilson_share(figure / 100, rows), decimals=2) for figure in figures)
            lines.append(f"  {model:<{_WIDTH}}{shares}".rstrip())
    return "\n".join(lines + _notes(result))


def difference_table(differences: Sequence[ScoreDifference], other: str) -> str:
    """Returns a table of this run's scores minus another report's, in points."""
    lines = [
        f"difference from {other}, points with 95 % intervals (paired bootstrap)",
        f"  {'':<{_WIDTH}}{score_headings(kinds=False)}".rstrip(),
    ]
    for difference in differences:
        name, policy = difference.name, difference.policy
        label = f"{name}, {policy}" if policy != "any" else name
        points = "".join(format_interval(*difference.metrics[metric], sign="+") for metric in METRICS)
        lines.append(f"  {label:<{_WIDTH}}{points}  n = {difference.n:,}".rstrip())
    return "\n".join(lines)


def robustness_table(group: RobustnessGroup) -> str:
    """Returns a table of a group's noise levels: scores, and drops from the set without noise, also of each half."""
    clean = summarize(group.clean.scores, group.policy)
    labels = [drop.level if drop.part == "all" else f"  {drop.level}, {drop.part}" for drop in group.drops]
    width = max(_WIDTH, *(len(label) + 1 for label in labels))
    lines = [
        f"robustness of {group.name}, {LABELS[group.policy]}: scores, and drops in points (paired, 95 % intervals)",
        f"  {'':<{width}}{'n':>5}"
        + "".join(f"{metric:>7}" for metric in METRICS)
        + "".join(f"{'drop in ' + metric:>15}{'':10}" for metric in METRICS).rstrip(),
        f"  {'without noise':<{width}}{clean.n:>5,}" + "".join(f"{clean.scores[m].percent:>7.1f}" for m in METRICS),
    ]
    for label, drop in zip(labels, group.drops, strict=True):
        scores = "".join(f"{drop.scores[metric].percent:>7.1f}" for metric in METRICS)
        drops = "".join(f"{format_interval(*drop.drops[metric], sign='+'):>25}" for metric in METRICS)
        lines.append(f"  {label:<{width}}{drop.n:>5,}{scores}{drops}".rstrip())
    return "\n".join(lines)


def _accuracy_label(result: SetScores) -> str:
    expected = {example.expected_reply for example in result.set.examples}
    if expected == {NO_CALL}:
        return "makes no call"
    return "makes a call" if expected == {ANY_CALL} else "as expected"


def _policy_line(result: SetScores, policy: str, label: str) -> str:
    return f"  {label:<{_WIDTH}}{score_cells(result.scores, policy, kinds=policy == 'any')}".rstrip()


def _notes(result: SetScores) -> list[str]:
    """Notes on rows that are left out, too long for the model, or unusual."""
    eval_set, notes = result.set, []
    if eval_set.skipped and eval_set.benchmark == TRAINING_ROWS:
        reasons = Counter(row.reason.partition(":")[0] for row in eval_set.skipped)
        notes.append(f"  not scored, {len(eval_set.skipped):,} messages: {format_counts(reasons)}")
    elif eval_set.skipped:
        rows = format_indices([row.index for row in eval_set.skipped], max_listed=12)
        notes.append(f"  left out, {len(eval_set.skipped)} rows with a broken golden answer: {rows}")
    if result.num_too_long:
        notes.append(
            f"  not asked, {result.num_too_long:,} rows with a prompt too long for the model: scored as errors"
        )
    if eval_set.remarks:
        more = f" and {len(eval_set.remarks) - 2} more" if len(eval_set.remarks) > 2 else ""
        given = "given" if eval_set.benchmark == TRAINING_ROWS else "released"
        notes.append(f"  scored as {given}: {'; '.join(eval_set.remarks[:2])}{more}")
    return notes
