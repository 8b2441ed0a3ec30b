"""The drop in scores that noise in names causes, level by level, as rows of a table and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tljax.evaluate.benchmarks.noisy import NOISE_MARK
from tljax.evaluate.benchmarks.results import OFFICIAL, SetScores, policies_of
from tljax.evaluate.score import METRICS, Share, metric_marks, paired_difference, summarize
from tljax.storage.atomic import atomic_file
from tljax.toolbox.noise import NOISE_LEVELS

CLEAN = "clean"
ROBUSTNESS_POLICIES = ("any", OFFICIAL)
PANELS_PER_ROW = 4  # panels side by side


@dataclass(frozen=True)
class ScoreDrop:
    """The scores under a noise level, and their drop from the scores without noise: (mean, low, high) by metric.

    Drops are in points, with 95 % intervals. level: the name of the set if two sets have the same level. part: "all"
    rows of the level, or the half in which "tools" or "parameters" are renamed.
    """

    level: str
    part: str
    n: int
    scores: dict[str, Share]
    drops: dict[str, tuple[float, float, float]]


@dataclass(frozen=True)
class RobustnessGroup:
    """A set without noise and its noisy versions, under one policy."""

    name: str
    policy: str
    clean: SetScores
    drops: tuple[ScoreDrop, ...]


def noise_level(name: str) -> tuple[str, str]:
    """Returns the name of the set without noise, and the level; "" for a set without noise.

    Both forms of a name are known: "First_Turn/slight" and "eval_real+slight".
    """
    before, mark, level = name.rpartition(NOISE_MARK)
    if mark and level in NOISE_LEVELS:
        return before, level
    folder, slash, stem = name.rpartition("/")
    return (f"{folder}{slash}{CLEAN}", stem) if stem in NOISE_LEVELS else (name, "")


def robustness_groups(results: Sequence[SetScores]) -> list[RobustnessGroup]:
    """Returns a group for every set that has noisy versions, under each of ROBUSTNESS_POLICIES.

    Drops are paired: the score of a row without noise minus the mean of its scores with noise. Versions whose rows
    cannot be paired are left out; `unpaired` lists them.
    """
    groups = []
    for clean, noisy in _versions(results):
        paired = [(label, result) for label, result in noisy if _why_unpaired(clean, result) is None]
        for policy in ROBUSTNESS_POLICIES:
            if paired and policy in policies_of(clean.set):
                drops = [drop for label, result in paired for drop in _drops(clean, result, label, policy)]
                groups.append(RobustnessGroup(clean.set.name, policy, clean, tuple(drops)))
    return groups


def unpaired(results: Sequence[SetScores]) -> list[str]:
    """Returns a line with the reason for every noisy version that is left out of the groups."""
    return [
        f"robustness of {clean.set.name}: {label} is left out, {why}"
        for clean, noisy in _versions(results)
        for label, result in noisy
        if (why := _why_unpaired(clean, result)) is not None
    ]


def _versions(results: Sequence[SetScores]) -> list[tuple[SetScores, list[tuple[str, SetScores]]]]:
    """Every set with noisy versions, and these versions with their labels, in the order of LEVELS.

    A label is the level, or the name of the set if a level occurs twice: in RoTBench's own file and by config.noise.
    """
    versions = []
    for clean in results:
        noisy = []
        for result in results:
            name, level = noise_level(result.set.name)
            # A file called "slight" belongs to one called "clean" only if both are of the same benchmark.
            if level and name == clean.set.name and result.set.benchmark == clean.set.benchmark:
                noisy.append((level, result))
        noisy.sort(key=lambda pair: NOISE_LEVELS.index(pair[0]))
        levels = [level for level, _ in noisy]
        labelled = [
            (level if levels.count(level) == 1 else result.set.name.rpartition("/")[2], result)
            for level, result in noisy
        ]
        if labelled:
            versions.append((clean, labelled))
    return versions


def _why_unpaired(clean: SetScores, noisy: SetScores) -> str | None:
    """The reason why the rows of a noisy version have no partners without noise; None if they have partners."""
    rows, others = clean.set.rows, noisy.set.rows
    if others not in (rows, 2 * rows):
        return f"since its {others:,} rows are neither as many as the {rows:,} without noise nor twice as many"
    if not {example.index % rows for example in noisy.set.examples} & {example.index for example in clean.set.examples}:
        return "since none of its rows has a golden answer both with noise and without"
    return None


def _drops(clean: SetScores, noisy: SetScores, level: str, policy: str) -> list[ScoreDrop]:
    """The drops of all rows and, if there are two halves, of each half. A part without any paired row is left out."""
    rows = clean.set.rows
    parts = [("all", range(noisy.set.rows))]
    if noisy.set.rows == 2 * rows:
        parts += [("tools", range(rows)), ("parameters", range(rows, 2 * rows))]
    drops = []
    for part, indices in parts:
        chosen = [(e.index, s) for e, s in zip(noisy.set.examples, noisy.scores, strict=True) if e.index in indices]
        if not {index % rows for index, _ in chosen} & {example.index for example in clean.set.examples}:
            continue
        summary = summarize([score for _, score in chosen], policy)
        metrics = {}
        for metric in METRICS:
            after: dict[int, list[float]] = {}
            for (index, _), mark in zip(
                chosen, metric_marks([score for _, score in chosen], metric, policy), strict=True
            ):
                after.setdefault(index % rows, []).append(mark)
            before = {
                example.index: mark
                for example, mark in zip(clean.set.examples, metric_marks(clean.scores, metric, policy), strict=True)
            }
            both = [index for index in before if index in after]
            mean, low, high = paired_difference(
                [sum(after[index]) / len(after[index]) for index in both], [before[index] for index in both]
            )
            metrics[metric] = (mean, low, high)
        drops.append(ScoreDrop(level, part, summary.n, summary.scores, metrics))
    return drops


def plot_drops(groups: Sequence[RobustnessGroup], file: Path) -> None:
    """Writes a PNG of the drops over all rows of each level: a panel for every group, a line for every metric."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(len(groups), PANELS_PER_ROW)
    rows = -(-len(groups) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4.2 * columns, 3.4 * rows), squeeze=False, sharey=True)
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    for group, axis in zip(groups, axes.flat, strict=False):
        drops = [drop for drop in group.drops if drop.part == "all"]
        for shift, metric, marker in zip((-0.08, 0.0, 0.08), METRICS, "os^", strict=True):
            means = [drop.drops[metric][0] for drop in drops]
            errors = [
                [drop.drops[metric][0] - drop.drops[metric][1] for drop in drops],
                [drop.drops[metric][2] - drop.drops[metric][0] for drop in drops],
            ]
            positions = [i + shift for i in range(len(drops))]
            style = {"marker": marker, "markersize": 4, "capsize": 2, "linewidth": 1}
            axis.errorbar(positions, means, yerr=errors, label=metric, **style)
        axis.axhline(0, color="0.6", linewidth=0.8)
        axis.set_xticks(range(len(drops)), [drop.level for drop in drops])
        title = group.name if group.policy == "any" else f"{group.name}\n(RoTBench's own script)"
        axis.set_title(f"{title}, n = {len(group.clean.scores)}", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("drop, points (95 % interval)", fontsize=9)
    axes[0][0].legend(frameon=False, fontsize=9)
    figure.tight_layout()
    with atomic_file(file, "wb") as image:
        figure.savefig(image, dpi=160, format="png")
    pyplot.close(figure)
