"""The formats that the rows of each file were read in, as lines for people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tljax.calls.render import render_call
from tljax.core.json_fields import shorten
from tljax.data.source_files import format_passed_over, list_files
from tljax.data.trajectory import Trajectory

SHOWN = 20  # the number of lines that a report has at most
SHOWN_ROWS = 3  # the number of rows that are named if a file has several formats
SHOWN_ROLES = 6  # the number of roles of a sample
SHOWN_CHARACTERS = 60  # the length of a sample's call


@dataclass(slots=True)
class FormatRows:
    """The rows of one file that were read in one format.

    rows: the numbers of the first ones; first: the index of the first one among the rows of all files
    """

    file: str
    format: str
    first: int
    count: int = 0
    rows: list[int] = field(default_factory=list)


def group_by_format(rows: Iterable[tuple[str, str, int]]) -> list[FormatRows]:
    """Returns the rows (file, format, number) of a source by file and format, in the order of the first ones.

    A row without a format, which is malformed, is in no group.
    """
    groups: dict[tuple[str, str], FormatRows] = {}
    for index, (file, name, number) in enumerate(rows):
        if not name:
            continue
        group = groups.get((file, name))
        if group is None:
            group = groups[file, name] = FormatRows(file, name, index)
        group.count += 1
        if group.count <= SHOWN_ROWS:
            group.rows.append(number)
    return [*groups.values()]


def format_groups(groups: list[FormatRows], samples: Iterable[Trajectory]) -> list[str]:
    """Returns a heading and a line for each group with its file, format and number of rows, and its first trajectory.

    `samples` yields the first trajectories of the groups, and is read no further than the lines need. The rows are
    named if the file has several formats.
    """
    lines = ["formats:"]
    files = [group.file for group in groups]
    for group, sample in zip(groups[:SHOWN], samples, strict=False):
        numbers = ", ".join(map(str, group.rows)) + ", ..." * (group.count > len(group.rows))
        named = f" ({numbers})" if files.count(group.file) > 1 else ""
        rows = "1 row" if group.count == 1 else f"{group.count:,} rows"
        text = _format_sample(group.rows[0], sample)
        lines.append(f"  {group.file}: {group.format}, {rows}{named}; {text}")
    more = len(groups) - SHOWN
    return lines + [f"  and {more:,} more"] * (more > 0)


def format_pairs(source: str, count: int) -> list[str]:
    """Returns lines for people on a source with `count` rows {"instruction", "output"}."""
    found = list_files(source)
    names = ", ".join(file.name for file in found.files[:SHOWN_ROWS]) + ", ..." * (len(found.files) > SHOWN_ROWS)
    rows = "1 row" if count == 1 else f"{count:,} rows"
    return ["formats:", f"  {names}: instruction and output, {rows}", *format_passed_over(found.passed_over)]


def _format_sample(row: int, trajectory: Trajectory) -> str:
    """Returns the row in its file, the id, the roles and the first call of a trajectory."""
    turns = trajectory.turns
    roles = ", ".join(turn.role for turn in turns[:SHOWN_ROLES])
    roles += f", ... ({len(turns):,} messages)" * (len(turns) > SHOWN_ROLES)
    call = next((turn.call for turn in turns if turn.call is not None), None)
    text = "no call" if call is None else f"first call {_cut(render_call(call, 'mae'))}"
    return f"row {row} (id {shorten(trajectory.id)}): {roles}; {text}"


def _cut(text: str) -> str:
    """Returns a text in one line, with at most SHOWN_CHARACTERS characters."""
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
