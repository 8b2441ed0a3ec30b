"""Scores as tables that people read on a terminal."""

from collections.abc import Mapping, Sequence

from tljax.evaluate.score import METRICS, Score, metric_marks, paired_difference, summarize

# Kinds of error and their headings.
ERROR_HEADINGS = {
    "format": "format",
    "tool_hallucination": "unknown",
    "wrong_tool": "wrong",
    "parameter": "params",
    "content": "content",
}


def progress_table(
    before: Mapping[str, Sequence[Score]], after: Mapping[str, Sequence[Score]], picks: Mapping[str, float]
) -> str:
    """A block a set: scores before and after with the gain, all in percent with 95 % intervals, and the error kinds.

    before, after: scores of the same queries in the same order. picks: expected TS of naming a listed tool at random.
    """
    blocks = [_block(name, before[name], after[name], picks[name]) for name in after]
    return "\n".join(line for block in blocks for line in block)


def score_table(scores: Mapping[str, Sequence[Score]], picks: Mapping[str, float]) -> str:
    """A block a set: its scores in percent with 95 % intervals, and the error kinds."""
    lines = []
    for name, found in scores.items():
        lines += [_header(name, len(found)), _line("model", found), _pick(picks[name])]
    return "\n".join(lines)


def score_line(scores: Mapping[str, Sequence[Score]]) -> str:
    """TS / PI / CF of every set in percent, in a line."""
    summaries = {name: summarize(found).scores for name, found in scores.items()}
    return ", ".join(
        f"{name} {' / '.join(f'{found[metric].percent:.1f}' for metric in METRICS)}"
        for name, found in summaries.items()
    )


def score_headings(kinds: bool = True) -> str:
    """The headings over `cells`."""
    metrics = "".join(f"{metric:>6}{'':17}" for metric in METRICS)
    return metrics + ("".join(f"{heading:>8}" for heading in ERROR_HEADINGS.values()) if kinds else "")


def score_cells(scores: Sequence[Score], policy: str = "any", kinds: bool = True) -> str:
    """Scores in percent with 95 % intervals, and the shares of the error kinds."""
    summary = summarize(scores, policy)
    metrics = "".join(format_interval(*summary.scores[metric]) for metric in METRICS)
    return metrics + ("".join(f"{summary.kinds[kind].percent:>8.1f}" for kind in ERROR_HEADINGS) if kinds else "")


def format_interval(middle: float, low: float, high: float, sign: str = "", decimals: int = 1) -> str:
    """A figure with its interval, as wide as its heading."""
    interval = f"[{low:{sign}.1f}, {high:{sign}.1f}]"
    return f"{middle:>{sign}6.{decimals}f} {interval:<16}"


def _block(name: str, before: Sequence[Score], after: Sequence[Score], pick: float) -> list[str]:
    gains = (paired_difference(metric_marks(before, metric), metric_marks(after, metric)) for metric in METRICS)
    gain = "".join(format_interval(*gain, sign="+") for gain in gains)
    lines = [_header(name, len(after)), _line("before", before), _line("after", after), f"  gain  {gain}", _pick(pick)]
    return [line.rstrip() for line in lines]


def _header(name: str, n: int) -> str:
    return f"{name}, {n:,} queries\n        {score_headings()}"


def _line(label: str, scores: Sequence[Score]) -> str:
    return f"  {label:<6}{score_cells(scores)}"


def _pick(percent: float) -> str:
    return f"  random{percent:>6.1f}"
