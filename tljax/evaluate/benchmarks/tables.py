"""Scores on benchmarks as tables that people read on a terminal, the paper's figures beside ours."""

from __future__ import annotations

from collections.abc import Sequence

from tljax.evaluate.benchmarks.published import published_figures
from tljax.evaluate.benchmarks.results import OFFICIAL, ScoreDifference, SetScores, policies_of
from tljax.evaluate.benchmarks.robustness import RobustnessGroup
from tljax.evaluate.benchmarks.sets import ANY_CALL, GOLDEN, NO_CALL, format_indices
from tljax.evaluate.report import format_interval, score_cells, score_headings
from tljax.evaluate.score import METRICS, random_tool_ts, summarize, wilson_share

# Policies by what they compare, in the order of the table.
LABELS = {
    "any": "any golden call",
    "first": "the first golden call",
    "all": "all golden calls",
    "loose": "any, loose values",
    OFFICIAL: "RoTBench's own script",
}
_WIDTH = 24


def result_table(result: SetScores) -> str:
    """A block for a set: scores by policy in percent with 95 % intervals, error kinds, the paper's figures, remarks."""
    one = result.set
    lines = [f"{one.name} ({one.benchmark}), {len(result.scores):,} rows", f"  {'':<{_WIDTH}}{score_headings()}"]
    if any(example.expected_reply == GOLDEN for example in one.examples):
        for policy in LABELS:
            if policy in policies_of(one):
                lines.append(_policy_line(result, policy, LABELS[policy]))
        pick = random_tool_ts([example.golden for example in one.examples], [example.tools for example in one.examples])
        lines.append(f"  {'a listed tool at random':<{_WIDTH}}{pick:>6.1f}")
    else:
        lines.append(_policy_line(result, "any", _accuracy_label(result)))
    rows, models = published_figures(one)
    if models:
        how = LABELS[OFFICIAL] if one.benchmark == "rotbench" else f'probably "{LABELS["any"]}"'
        lines.append(f"  published figures (arXiv 2412.15495; {how}; intervals ours, for {rows} rows)")
        for model, figures in models:
            shares = "".join(format_interval(*wilson_share(figure / 100, rows), decimals=2) for figure in figures)
            lines.append(f"  {model:<{_WIDTH}}{shares}".rstrip())
    return "\n".join(lines + _notes(result))


def difference_table(differences: Sequence[ScoreDifference], other: str) -> str:
    """Our scores minus another report's, in points."""
    lines = [
        f"difference from {other}, points with 95 % intervals (paired bootstrap)",
        f"  {'':<{_WIDTH}}{score_headings(kinds=False)}".rstrip(),
    ]
    for one in differences:
        label = f"{one.name}, {one.policy}" if one.policy != "any" else one.name
        points = "".join(format_interval(*one.metrics[metric], sign="+") for metric in METRICS)
        lines.append(f"  {label:<{_WIDTH}}{points}  n = {one.n:,}".rstrip())
    return "\n".join(lines)


def robustness_table(group: RobustnessGroup) -> str:
    """A group's levels: scores, and drops from the set without noise, of all rows and of each half."""
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
    """What a reader of the scores has to know about the rows."""
    one, notes = result.set, []
    if one.skipped:
        rows = format_indices([row.index for row in one.skipped], max_listed=12)
        notes.append(f"  left out, {len(one.skipped)} rows with a broken golden answer: {rows}")
    if result.unasked:
        notes.append(f"  not asked, {result.unasked:,} rows with a prompt too long for the model: scored as errors")
    if one.remarks:
        more = f" and {len(one.remarks) - 2} more" if len(one.remarks) > 2 else ""
        notes.append(f"  scored as released: {'; '.join(one.remarks[:2])}{more}")
    return notes
