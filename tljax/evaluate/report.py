"""Scores as tables for a terminal."""

from collections.abc import Mapping, Sequence

from tljax.evaluate.score import METRICS, Score, metric_marks, paired_difference, summarize

# The kinds of error and their column headings.
ERROR_HEADINGS = {
    "format": "format",
    "tool_hallucination": "unknown",
    "wrong_tool": "wrong",
    "parameter": "params",
    "content": "content",
}


def progress_table(
    before: Mapping[str, Sequence[Score]], after: Mapping[str, Sequence[Score]], random_ts: Mapping[str, float]
) -> str:
    """Returns a block for each set: scores before and after, the gain, 95 % intervals, and shares of the error kinds.

    All figures are in percent. before, after: scores of the same queries in the same order. random_ts: the expected TS
    of naming a listed tool at random.
    """
    blocks = [_block(name, before[name], after[name], random_ts[name]) for name in after]
    return "\n".join(line for block in blocks for line in block)


def score_table(scores: Mapping[str, Sequence[Score]], random_ts: Mapping[str, float]) -> str:
    """Returns a block for each set: its scores in percent with 95 % intervals, and shares of the error kinds."""
    lines = []
    for name, of_set in scores.items():
        lines += [_header(name, len(of_set)), _line("model", of_set), _random_line(random_ts[name])]
    return "\n".join(lines)


def score_line(scores: Mapping[str, Sequence[Score]]) -> str:
    """Returns "TS / PI / CF" of every set in percent, on one line."""
    summaries = {name: summarize(of_set).scores for name, of_set in scores.items()}
    return ", ".join(
        f"{name} {' / '.join(f'{shares[metric].percent:.1f}' for metric in METRICS)}"
        for name, shares in summaries.items()
    )


def score_headings(kinds: bool = True) -> str:
    """Returns the column headings for `score_cells`."""
    metrics = "".join(f"{metric:>6}{'':17}" for metric in METRICS)
    return metrics + ("".join(f"{heading:>8}" for heading in ERROR_HEADINGS.values()) if kinds else "")


def score_cells(scores: Sequence[Score], policy: str = "any", kinds: bool = True) -> str:
    """Returns the cells of one table row: scores with 95 % intervals, and shares of the error kinds, in percent."""
    summary = summarize(scores, policy)
    metrics = "".join(format_interval(*summary.scores[metric]) for metric in METRICS)
    return metrics + ("".join(f"{summary.kinds[kind].percent:>8.1f}" for kind in ERROR_HEADINGS) if kinds else "")


def format_interval(value: float, low: float, high: float, sign: str = "", decimals: int = 1) -> str:
    """Returns a figure with its interval, padded to the width of its heading."""
    interval = f"[{low:{sign}.1f}, {high:{sign}.1f}]"
    return f"{value:>{sign}6.{decimals}f} {interval:<16}"


def _block(name: str, before: Sequence[Score], after: Sequence[Score], random_ts: float) -> list[str]:
    gains = (paired_difference(metric_marks(before, metric), metric_marks(after, metric)) for metric in METRICS)
    gain = "".join(format_interval(*gain, sign="+") for gain in gains)
    lines = [
        _header(name, len(after)),
        _line("before", before),
        _line("after", after),
        f"  gain  {gain}",
        _random_line(random_ts),
    ]
    return [line.rstrip() for line in lines]


def _header(name: str, n: int) -> str:
    return f"{name}, {n:,} queries\n        {score_headings()}"


def _line(label: str, scores: Sequence[Score]) -> str:
    return f"  {label:<6}{score_cells(scores)}"


def _random_line(percent: float) -> str:
    return f"  random{percent:>6.1f}"
