"""Scores as tables that people read on a terminal."""

from collections.abc import Mapping, Sequence

from tljax.evaluate.score import METRICS, Score, marks, paired_difference, summarize

# Kinds of error and their headings.
ERRORS = {
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


def _block(name: str, before: Sequence[Score], after: Sequence[Score], pick: float) -> list[str]:
    gains = (paired_difference(marks(before, metric), marks(after, metric)) for metric in METRICS)
    gain = "".join(_cell(*gain, sign="+") for gain in gains)
    lines = [_header(name, len(after)), _line("before", before), _line("after", after), f"  gain  {gain}", _pick(pick)]
    return [line.rstrip() for line in lines]


def _header(name: str, n: int) -> str:
    columns = "".join(f"{metric:>6}{'':17}" for metric in METRICS)
    kinds = "".join(f"{heading:>8}" for heading in ERRORS.values())
    return f"{name}, {n:,} queries\n        {columns}{kinds}"


def _line(label: str, scores: Sequence[Score]) -> str:
    summary = summarize(scores)
    cells = "".join(_cell(*summary.scores[metric]) for metric in METRICS)
    kinds = "".join(f"{summary.kinds[kind].percent:>8.1f}" for kind in ERRORS)
    return f"  {label:<6}{cells}{kinds}"


def _pick(percent: float) -> str:
    return f"  random{percent:>6.1f}"


def _cell(middle: float, low: float, high: float, sign: str = "") -> str:
    interval = f"[{low:{sign}.1f}, {high:{sign}.1f}]"
    return f"{middle:>{sign}6.1f} {interval:<16}"
