"""Rows of counts and estimates -> tables as text, Markdown and JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tljax.evaluate.intervals import Estimate

Cell = str | int | float | Estimate | None


@dataclass
class Table:
    """Rows under columns; `name` is the key in JSON, `note` stands below the table.

    The first column holds names. A cell is text, a count, a number, an Estimate, or None if empty.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: list[Sequence[Cell]] = field(default_factory=list)
    note: str = ""

    def text(self) -> str:
        """Returns the table with aligned columns, for a terminal."""
        cells = [list(self.columns), *([format_cell(cell) for cell in row] for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = []
        for first, *others in cells:
            aligned = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
            lines.append("  " + "  ".join([first.ljust(widths[0]), *aligned]))
        note = [f"  ({self.note})"] if self.note else []
        return "\n".join(line.rstrip() for line in [self.title, *lines, *note])

    def markdown(self) -> str:
        """Returns the table in Markdown."""
        lines = ["| " + " | ".join(self.columns) + " |"]
        lines.append("| --- |" + " ---: |" * (len(self.columns) - 1))
        lines += ["| " + " | ".join(_escaped(format_cell(cell)) for cell in row) + " |" for row in self.rows]
        note = ["", self.note] if self.note else []
        return "\n".join([f"### {self.title}", "", *lines, *note])

    def json(self) -> dict[str, Any]:
        """Returns the table for JSON: a row is an object by column, an Estimate by field; infinite ends are null."""
        rows = [dict(zip(self.columns, map(_plain, row), strict=True)) for row in self.rows]
        return {"title": self.title, "rows": rows, "note": self.note}


def format_cell(cell: Cell) -> str:
    """Returns a cell as text; an Estimate as "12.3 [10.1, 14.9]"."""
    if cell is None:
        return "-"
    if isinstance(cell, Estimate):
        low, high = (f"{end:.{cell.digits}f}" if abs(end) != float("inf") else "?" for end in (cell.low, cell.high))
        return f"{cell.value:.{cell.digits}f} [{low}, {high}]"
    if isinstance(cell, float):
        return f"{cell:.1f}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _plain(cell: Cell) -> Any:
    if not isinstance(cell, Estimate):
        return cell
    ends = {"low": cell.low, "high": cell.high}
    finite = {name: end if abs(end) != float("inf") else None for name, end in ends.items()}
    return {"value": cell.value} | finite | {"n": cell.n, "groups": cell.groups}
