"""Counts of the analyses -> plots for a paper, as png and pdf. matplotlib is imported only to draw them."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tljax.analysis.call_errors import CALL_ERRORS
from tljax.analysis.corrections import ANY, ReplyCounts
from tljax.analysis.feedback_errors import FeedbackCounts
from tljax.analysis.token_losses import RANK_BINS, TokenCounts
from tljax.calls.compare import KINDS
from tljax.core.errors import InputError
from tljax.evaluate.intervals import Estimate

# Okabe and Ito's palette, which colour-blind readers can tell apart (jfly.uni-koeln.de/color).
BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
SKY = "#56B4E9"
GREY = "#999999"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType, which journals require
    "svg.fonttype": "none",
}
WIDTH = 6.3  # inches, the text width of a page
DPI = 200
RANK_COLOURS = (BLUE, SKY, "#BBBBBB", "#F0C95C", ORANGE, VERMILION)


def check_matplotlib() -> None:
    """Raises InputError if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("the plots need matplotlib, which is not installed; run: pip install matplotlib")


def draw_feedback(counts: FeedbackCounts, folder: Path) -> list[str]:
    """Draws the first analysis in `folder`, as png and pdf; returns the names of the plots, without the suffix."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        return _feedback(counts, folder)


def draw_model(tokens: TokenCounts, replies: ReplyCounts, folder: Path) -> list[str]:
    """Draws the second and third analysis in `folder`, as png and pdf; returns the names of the plots."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        names = _tokens(tokens, folder)
        if replies.classes():
            names.append(_corrections(replies, folder))
        return [*names, _kinds(replies, folder)]


def _feedback(counts: FeedbackCounts, folder: Path) -> list[str]:
    names = []
    kinds, n = counts.kinds("default"), int(counts.sums("answered").count)
    if n:
        both = [counts.count("both", kind) for kind in kinds]
        default_only = [counts.count("default", kind) - n_both for kind, n_both in zip(kinds, both, strict=True)]
        labels, release_only = [*kinds, "no error found"], counts.count("rules", "release only")
        figure, axes = _figure(0.3 * len(labels) + 1.4)
        parts = {
            "both rules": ([*both, 0], BLUE),
            "rule default alone": ([*default_only, 0], ORANGE),
            "rule release alone": ([*(0 for _ in kinds), release_only], PURPLE),
        }
        _stacked(axes, labels, {name: ([100 * x / n for x in values], c) for name, (values, c) in parts.items()})
        keys = [*(("default", kind) for kind in kinds), ("rules", "release only")]
        blocked = [counts.shares(*key) for key in keys]
        _points(axes, labels, [sums.share() for _, sums in blocked], PointStyle("#333333", marker="none"))
        for i, (count, sums) in enumerate(blocked):
            share = sums.share()
            _beside(axes, share.high if share else 0.0, i, f"{count:,}")
        _finish(axes, f"steps blocked, % of {n:,} with tool feedback", "kind of feedback (rule default)")
        names.append(_save(figure, folder, "feedback_errors"))
    num_calls = int(counts.sums("checked").count)
    if num_calls:
        labels = [*CALL_ERRORS, "any error", "fits"]
        figure, (left, right) = _figure(2.9, columns=2, sharey=True)
        shares = [counts.shares("call", kind)[1].share() for kind in labels]
        failed = [counts.sums("failed", kind).share() for kind in labels]
        names_shown = [*labels[:-1], "fits the documentation"]
        _points(left, names_shown, shares, PointStyle(BLUE))
        _points(right, names_shown, failed, PointStyle(VERMILION))
        for i, share in enumerate(failed):
            _beside(right, 102, i, f"n = {share.n if share else 0:,}")
        _finish(left, f"% of {num_calls:,} calls", "call, by its documentation", limits=(0, 100))
        _finish(right, "tool feedback is an error, % of these", "", limits=(0, 100))
        names.append(_save(figure, folder, "call_errors"))
    return names


def _tokens(tokens: TokenCounts, folder: Path) -> list[str]:
    names, classes = [], tokens.names()
    labels = [f"{name} (n = {int(tokens.loss[name].count):,})" for name in classes]
    figure, (left, right) = _figure(0.3 * len(classes) + 1.3, columns=2, sharey=True)
    _points(left, labels, [tokens.mean_loss(name) for name in classes], PointStyle(BLUE))
    _points(right, labels, [tokens.first[name].share() for name in classes], PointStyle(GREEN))
    _finish(left, "mean loss, nats a token", "golden token")
    left.set_xlim(left=0)
    _finish(right, "first choice, % of tokens", "", limits=(0, 100))
    names.append(_save(figure, folder, "token_classes"))

    figure, axes = _figure(0.3 * len(classes) + 1.5)
    shares = [tokens.ranks(name) for name in classes]
    parts = {rank: ([by_rank[i] for by_rank in shares], RANK_COLOURS[i]) for i, rank in enumerate(RANK_BINS)}
    _stacked(axes, labels, parts, title="rank", columns=len(RANK_BINS))
    _finish(axes, "% of tokens", "golden token", limits=(0, 100))
    names.append(_save(figure, folder, "token_ranks"))

    figure, axes = _figure(0.45 * len(classes) + 1.3)
    for k, (field, colour, label) in enumerate(
        [("tokens", GREY, "of the tokens"), ("weight", ORANGE, "of PKT's weight"), ("loss", BLUE, "of the loss")]
    ):
        shares = [tokens.part(field, name) for name in classes]
        heights = [i + 0.27 * (k - 1) for i in range(len(classes))]
        values = [share.value if share else 0.0 for share in shares]
        axes.barh(heights, values, height=0.25, color=colour, label=label, xerr=_errors(shares), error_kw=_ERROR)
    _ticks(axes, labels)
    axes.legend(loc="lower right")
    _finish(axes, "share, %", "golden token")
    axes.set_xlim(left=0)
    names.append(_save(figure, folder, "token_shares"))

    return names


def _kinds(replies: ReplyCounts, folder: Path) -> str:
    figure, axes = _figure(2.4)
    _points(
        axes,
        [kind.replace("_", " ") for kind in KINDS],
        [replies.share("kind", kind) for kind in KINDS],
        PointStyle(BLUE),
    )
    _finish(axes, f"% of {int(replies.replies.count):,} greedy replies", "kind of the call's error", limits=(0, 100))
    return _save(figure, folder, "error_kinds")


def _corrections(replies: ReplyCounts, folder: Path) -> str:
    """Draws the shares of correct replies before and after the correction of the first wrong token."""
    rows = [*replies.classes(), ANY]
    shares = [[replies.share(field, name) for name in rows] for field in ("right before", "right after")]
    labels = [f"{name} (n = {after.n if after else 0:,})" for name, after in zip(rows, shares[1], strict=True)]
    figure, axes = _figure(0.36 * len(rows) + 1.5)
    _points(axes, labels, shares[0], PointStyle(GREY, -0.12, "o", "as decoded"))
    _points(axes, labels, shares[1], PointStyle(VERMILION, 0.12, "s", "first wrong token corrected"))
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)
    _finish(axes, "replies with a correct call, %", "first wrong token", limits=(0, 100))
    return _save(figure, folder, "corrections")


_ERROR = {"elinewidth": 1.0, "capsize": 2, "ecolor": "#333333"}


def _figure(height: float, columns: int = 1, sharey: bool = False) -> tuple[Any, Any]:
    # pyplot would keep every figure in memory and look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, sharey=sharey)


def _ticks(axes: Any, labels: Sequence[str]) -> None:
    """Writes the names of the rows, from top to bottom."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _errors(estimates: Sequence[Estimate | None]) -> list[list[float]]:
    """Returns the lengths of the error bars below and above; 0 if an end is unknown."""
    ends = [(x.value - x.low, x.high - x.value) if x else (0.0, 0.0) for x in estimates]
    return [[max(pair[i], 0.0) if pair[i] != float("inf") else 0.0 for pair in ends] for i in (0, 1)]


@dataclass(frozen=True, slots=True)
class PointStyle:
    """The look of a series of points; shift: its distance below the middle of a row; label: its legend entry."""

    colour: str
    shift: float = 0.0
    marker: str = "o"
    label: str | None = None


def _points(axes: Any, labels: Sequence[str], estimates: Sequence[Estimate | None], style: PointStyle) -> None:
    """Draws a point with its interval in each row; nothing in a row without an estimate."""
    points = [(i + style.shift, estimate) for i, estimate in enumerate(estimates) if estimate is not None]
    if points:
        heights, drawn = zip(*points, strict=True)
        look = {"fmt": style.marker, "color": style.colour, "markersize": 5, "elinewidth": 1.2, "capsize": 2.5}
        axes.errorbar([x.value for x in drawn], heights, xerr=_errors(drawn), label=style.label, **look)
    _ticks(axes, labels)


def _stacked(
    axes: Any,
    labels: Sequence[str],
    parts: Mapping[str, tuple[Sequence[float], str]],
    title: str = "",
    columns: int = 3,
) -> None:
    """Draws stacked bars with a legend above them."""
    left = [0.0] * len(labels)
    for name, (values, colour) in parts.items():
        axes.barh(range(len(labels)), values, left=left, height=0.7, color=colour, label=name)
        left = [a + b for a, b in zip(left, values, strict=True)]
    _ticks(axes, labels)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=columns, title=title or None, columnspacing=1.0)


def _beside(axes: Any, x: float, i: int, text: str) -> None:
    """Writes a note in row `i`, to the right of x."""
    axes.annotate(text, (x, i), (4, 0), textcoords="offset points", va="center", fontsize=8, annotation_clip=False)


def _finish(axes: Any, x: str, y: str, limits: tuple[float, float] | None = None) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if limits is not None:
        axes.set_xlim(limits[0] - 2 if limits[0] == 0 else limits[0], limits[1] + 2)


def _save(figure: Any, folder: Path, name: str) -> str:
    figure.savefig(folder / f"{name}.png", dpi=DPI)
    # Without a creation date, equal figures give equal files.
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
    return name
