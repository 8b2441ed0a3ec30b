"""The report of a benchmark: JSON, and a table with device, shapes, versions and ratios."""

import dataclasses
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tljax.bench import machine
from tljax.bench.compare import Comparison
from tljax.bench.measurement import Measurement
from tljax.core.units import format_bytes

QUIET = 0.05  # of the processors: less other load than that is not worth a warning


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Everything that was measured.

    sides: the result of each side by its name; the first is tljax. other_load: the mean number of processors that other
    work kept busy, None if it is unknown. notes: lines on what was left out.
    """

    what: str
    model: str
    sides: Mapping[str, dict[str, Any]]
    comparisons: list[Comparison]
    other_load: float | None
    notes: list[str]

    @property
    def ours(self) -> dict[str, Any]:
        return next(iter(self.sides.values()))

    @property
    def versions(self) -> dict[str, str]:
        return {name: text for side in self.sides.values() for name, text in side["versions"].items()}


def to_json(benchmark: Benchmark) -> dict[str, Any]:
    """Returns the report as JSON holds it."""
    return {
        "what": benchmark.what,
        "model": benchmark.model,
        "command": shlex.join(sys.argv),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "device": benchmark.ours["device"],
        "processor": machine.processor_name(),
        "versions": benchmark.versions,
        "shapes": benchmark.ours["shapes"],
        "other_load": benchmark.other_load,
        "notes": benchmark.notes,
        "sides": {
            name: {
                "device": side["device"],
                "measurements": {q: m.to_json() for q, m in side["measurements"].items()},
                **({"losses": side["losses"]} if "losses" in side else {}),
            }
            for name, side in benchmark.sides.items()
        },
        "comparisons": [dataclasses.asdict(comparison) for comparison in benchmark.comparisons],
    }


def format_report(benchmark: Benchmark) -> str:
    """Returns the head of the report, its table and its notes."""
    shapes = ", ".join(f"{name} {_format_shape(value)}" for name, value in benchmark.ours["shapes"].items())
    versions = ", ".join(f"{name} {text}" for name, text in benchmark.versions.items())
    lines = [
        f"bench:    {benchmark.what} of {benchmark.model}",
        f"device:   {benchmark.ours['device']}; {machine.processor_name()}",
        f"shapes:   {shapes}",
        f"versions: {versions}",
        f"load:     {_format_load(benchmark.other_load)}",
        "",
        *_table(benchmark),
        "",
        *(_format_comparison(comparison) for comparison in benchmark.comparisons),
        *(f"note: {note}" for note in benchmark.notes),
    ]
    return "\n".join(lines).rstrip()


def _format_shape(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _format_load(other: float | None) -> str:
    count = len(machine.usable_processors())
    if other is None:
        return "unknown; quote no figure from a machine that did other work"
    text = f"other work kept {other:.2f} of {count} processors busy"
    return text if other <= QUIET * count else f"{text}: quote the ratios, not the figures"


def _table(benchmark: Benchmark) -> list[str]:
    """Returns a line for each quantity of each side; a peer's line tells how many times better tljax is."""
    comparisons = {comparison.peer: comparison for comparison in benchmark.comparisons}
    rows: list[tuple[str, ...]] = [("quantity", "side", "median", "min", "max", "repeats", "tljax is better by")]
    for quantity in dict.fromkeys(q for side in benchmark.sides.values() for q in side["measurements"]):
        shown = quantity
        for name, side in benchmark.sides.items():
            measurement = side["measurements"].get(quantity)
            if measurement is None:
                continue
            numbers = (measurement.median, min(measurement.values), max(measurement.values))
            texts = [_format_value(number, measurement) for number in numbers]
            ratio = _format_ratio(comparisons.get(name), quantity)
            rows.append((shown, name, *texts, str(len(measurement.values)), ratio))
            shown = ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [_format_row(row, widths) for row in rows]


def _format_ratio(comparison: Comparison | None, quantity: str) -> str:
    if comparison is not None and comparison.void:
        return "void"
    return "" if comparison is None or quantity not in comparison.ratios else f"{comparison.ratios[quantity]:.2f}"


def _format_row(row: Sequence[str], widths: Sequence[int]) -> str:
    """Returns a line of the table: two columns of texts, then numbers at the right edge of their columns."""
    cells = enumerate(zip(row, widths, strict=True))
    return "  ".join(text.ljust(width) if i < 2 else text.rjust(width) for i, (text, width) in cells).rstrip()


def _format_value(number: float, measurement: Measurement) -> str:
    if measurement.unit == "bytes":
        return format_bytes(number)
    digits = 0 if number >= 1000 else 1 if number >= 100 else 2 if number >= 1 else 4
    return f"{number:,.{digits}f} {measurement.unit}"


def _format_comparison(comparison: Comparison) -> str:
    if comparison.void:
        return f"void: the comparison with {comparison.peer} says nothing: {comparison.void}"
    return f"{comparison.peer}: {comparison.agreement}"
