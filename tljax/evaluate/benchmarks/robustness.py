"""What noise in names costs: the drop from a set without noise, level by level, as a table's rows and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tljax.evaluate.benchmarks.noisy import NOISE_MARK
from tljax.evaluate.benchmarks.results import OFFICIAL, SetScores, policies_of
from tljax.evaluate.score import METRICS, Share, metric_marks, paired_difference, summarize
from tljax.storage.atomic import atomic_file
from tljax.toolbox.noise import LEVELS

CLEAN = "clean"
ROBUSTNESS_POLICIES = ("any", OFFICIAL)
PANELS_PER_ROW = 4  # panels side by side


@dataclass(frozen=True)
class ScoreDrop:
    """A level's scores and how far they lie below those without noise, in points with a 95 % interval by metric.

    level: the set's name instead, where two sets have one level.
    part: "all" rows of the level, or the half of them whose "tools" or whose "parameters" are renamed.
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
    """The name of the set without noise, and the level: of "First_Turn/slight" and of "eval_real+slight"."""
    before, mark, level = name.rpartition(NOISE_MARK)
    if mark and level in LEVELS:
        return before, level
    folder, slash, stem = name.rpartition("/")
    return (f"{folder}{slash}{CLEAN}", stem) if stem in LEVELS else (name, "")


def robustness_groups(results: Sequence[SetScores]) -> list[RobustnessGroup]:
    """A group for every set without noise of which a noisy version is there, under each policy of `POLICIES`.

    Drops are paired: a row's score without noise minus the mean of its scores with it. Versions whose rows cannot be
    paired are left out; `unpaired` tells of them.
    """
    found = []
    for clean, noisy in _versions(results):
        paired = [(label, one) for label, one in noisy if _why_unpaired(clean, one) is None]
        for policy in ROBUSTNESS_POLICIES:
            if paired and policy in policies_of(clean.set):
                drops = [drop for label, one in paired for drop in _drops(clean, one, label, policy)]
                found.append(RobustnessGroup(clean.set.name, policy, clean, tuple(drops)))
    return found


def unpaired(results: Sequence[SetScores]) -> list[str]:
    """A line on every noisy version that is left out of the groups, with the reason."""
    return [
        f"robustness of {clean.set.name}: {label} is left out, {why}"
        for clean, noisy in _versions(results)
        for label, one in noisy
        if (why := _why_unpaired(clean, one)) is not None
    ]


def _versions(results: Sequence[SetScores]) -> list[tuple[SetScores, list[tuple[str, SetScores]]]]:
    """Every set without noise that has noisy versions, and these with what they are called, in the order of LEVELS.

    Both RoTBench's own file of a level and the same level of config.noise may be there; they go by their sets' names.
    """
    found = []
    for clean in results:
        own = []
        for one in results:
            name, level = noise_level(one.set.name)
            # RoTBench's files belong together where they are files of RoTBench.
            if level and name == clean.set.name and one.set.benchmark == clean.set.benchmark:
                own.append((level, one))
        own.sort(key=lambda pair: LEVELS.index(pair[0]))
        levels = [level for level, _ in own]
        named = [(x if levels.count(x) == 1 else one.set.name.rpartition("/")[2], one) for x, one in own]
        if named:
            found.append((clean, named))
    return found


def _why_unpaired(clean: SetScores, noisy: SetScores) -> str | None:
    """Why a version's rows have no partners without noise; None where they have."""
    rows, others = clean.set.rows, noisy.set.rows
    if others not in (rows, 2 * rows):
        return f"since its {others:,} rows are neither as many as the {rows:,} without noise nor twice as many"
    if not {example.index % rows for example in noisy.set.examples} & {example.index for example in clean.set.examples}:
        return "since none of its rows has a golden answer both with noise and without"
    return None


def _drops(clean: SetScores, noisy: SetScores, level: str, policy: str) -> list[ScoreDrop]:
    """The drop of all rows, and of each half where there are two; none of a part without a row scored in both."""
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


def plot_drops(found: Sequence[RobustnessGroup], file: Path) -> None:
    """Writes the drops of whole levels as a picture: a panel for every group, a line for every metric."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(len(found), PANELS_PER_ROW)
    rows = -(-len(found) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4.2 * columns, 3.4 * rows), squeeze=False, sharey=True)
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    for group, axis in zip(found, axes.flat, strict=False):
        whole = [drop for drop in group.drops if drop.part == "all"]
        for shift, metric, marker in zip((-0.08, 0.0, 0.08), METRICS, "os^", strict=True):
            means = [drop.drops[metric][0] for drop in whole]
            errors = [
                [drop.drops[metric][0] - drop.drops[metric][1] for drop in whole],
                [drop.drops[metric][2] - drop.drops[metric][0] for drop in whole],
            ]
            places = [i + shift for i in range(len(whole))]
            axis.errorbar(places, means, yerr=errors, marker=marker, markersize=4, capsize=2, linewidth=1, label=metric)
        axis.axhline(0, color="0.6", linewidth=0.8)
        axis.set_xticks(range(len(whole)), [drop.level for drop in whole])
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
