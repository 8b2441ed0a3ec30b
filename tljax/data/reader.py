"""The records of a file or a dataset -> checked trajectories in an Arrow file on disk."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from tljax.calls import tool
from tljax.calls.tool import Call, Tool, tool_from_fields, tool_to_fields
from tljax.core import json_fields
from tljax.core.errors import InputError
from tljax.data.arrow import build_dataset
from tljax.data.format_report import FormatRows, format_groups, group_by_format
from tljax.data.formats.read import AUTO, FORMAT_NAMES, read_record
from tljax.data.records import OneObjectError, read_file, source_hash
from tljax.data.source_files import SourceFile, format_passed_over, list_files
from tljax.data.trajectory import Trajectory, Turn

ON_BAD_ROW = ("refuse", "skip")
NO_ROW = "one JSON object that is no row"
SHOWN = 20  # the number of skipped rows that a summary lists
FEATURES = datasets.Features(
    {"row": datasets.Value("int64"), "undocumented": datasets.Value("int64")}
    | {name: datasets.Value("string") for name in ("id", "json", "error", "file", "format")}
)


@dataclass(frozen=True, slots=True)
class TrajectoryDataset:
    """Trajectories on disk, which are read one at a time; `len` counts the usable rows.

    file: the source; fingerprint: a hash of its content and of the code that reads it; skipped: the errors of the
    malformed rows; formats: the formats in which the rows were read; passed_over: the files of a folder that were not
    read, each with the reason; undocumented: a note on calls with arguments to tools without parameters, or ""
    """

    file: str
    fingerprint: str
    skipped: list[str]
    formats: list[FormatRows]
    passed_over: list[tuple[str, str]]
    undocumented: str
    _table: datasets.Dataset
    _usable: np.ndarray

    def __len__(self) -> int:
        return len(self._usable)

    def __getitem__(self, index: int) -> Trajectory:
        return self._decode_row(int(self._usable[index]))

    def trajectories(self) -> Iterator[Trajectory]:
        """Returns an iterator over the usable trajectories in source order."""
        return (self[i] for i in range(len(self)))

    def format_lines(self) -> list[str]:
        """Returns lines for people: the formats of each file with a sample row of each, and the files passed over.

        Calls with arguments to tools without parameters, which may have been spelled in another way, are noted too.
        """
        samples = (self._decode_row(group.first) for group in self.formats)
        lines = [*format_groups(self.formats, samples), *format_passed_over(self.passed_over)]
        return lines + [f"  note: {self.undocumented}"] * bool(self.undocumented)

    def _decode_row(self, index: int) -> Trajectory:
        return _decode(self._table[index]["json"])


def format_first_errors(errors: list[str]) -> list[str]:
    """Returns lines for people: the first SHOWN errors of skipped rows, and the number of further ones."""
    more = len(errors) - SHOWN
    return [*(f"  {error}" for error in errors[:SHOWN]), *([f"  and {more:,} more"] * (more > 0))]


def open_trajectories(
    source: str, on_bad_row: str, cache_dir: str | None = None, data_format: str = AUTO
) -> TrajectoryDataset:
    """Returns the trajectories of a file, of the files of a folder, or of a dataset on the Hugging Face hub.

    on_bad_row: "refuse" raises the InputError of the first malformed row, "skip" lists it in `skipped`. cache_dir: the
    folder for the Arrow file, None for the cache of `datasets`; a second call with the same content only opens it.
    data_format: the name of the format of all rows, AUTO for that whose shape each row has.
    """
    source = os.path.expanduser(source)
    if on_bad_row not in ON_BAD_ROW:
        raise InputError(f"data.on_bad_row is {on_bad_row!r}; allowed: {', '.join(ON_BAD_ROW)}")
    check_format_name(data_format)
    content = source_hash(source) + ("" if data_format == AUTO else f"\n{data_format}")
    fingerprint = hashlib.sha256(f"{content}\n{_code_hash()}".encode()).hexdigest()[:32]
    # The stored errors name the file, so a copy under another name is read again.
    key = hashlib.sha256(f"{fingerprint}\n{source}".encode()).hexdigest()[:32]
    table = build_dataset(_records, FEATURES, key, cache_dir or "", source=source, data_format=data_format)
    # Which rows are usable; read batch by batch, since there may be millions.
    bad, usable, passed_over = [], [], list_files(source).passed_over
    for i, (error, name, file) in enumerate(_columns(table, "error", "format", "file")):
        if error:
            bad.append(error)
        elif name:
            usable.append(i)
        else:
            passed_over.append((file, NO_ROW))
    if on_bad_row == "refuse":
        raise_first_error(bad)
    if not usable:
        first = f"is usable; the first: {bad[0]}" if bad else "has the shape of a row"
        raise InputError(f"file {source}: none of its {len(table)} rows {first}")
    groups = group_by_format(_columns(table, "file", "format", "row"))
    note = _format_undocumented(table)
    indices = np.asarray(usable, np.int64)
    return TrajectoryDataset(source, fingerprint, bad, groups, passed_over, note, table, indices)


def _format_undocumented(table: datasets.Dataset) -> str:
    """Returns a note on the calls with arguments to tools without parameters, "" if there are none."""
    counts = table.data.column("undocumented").to_numpy()
    if not counts.any():
        return ""
    first = table[int(np.flatnonzero(counts)[0])]
    total = int(counts.sum())
    calls = "1 call gives" if total == 1 else f"{total:,} calls give"
    return (
        f"{calls} arguments to a tool that is listed without parameters (first in {first['file']}, row {first['row']}, "
        f"id {first['id']!r:.60}): the prompt does not document them, and rewards and scores count them as hallucinated"
    )


def _columns(table: datasets.Dataset, *names: str) -> Iterator[Any]:
    """Yields the values of columns of every row."""
    for batch in table.data.to_batches():
        yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)


def check_format_name(data_format: str) -> None:
    """Raises InputError for a name that is not that of a format."""
    if data_format not in FORMAT_NAMES:
        raise InputError(f"config.data.format is {data_format!r}; allowed: {', '.join(FORMAT_NAMES)}")


@functools.cache
def _code_hash() -> str:
    """Returns a hash of the code that turns a file into trajectories, so that those of another version are not read."""
    data = Path(__file__).parent
    modules = ("reader", "records", "source_files", "tables", "trajectory")
    files = [*(data / f"{module}.py" for module in modules), *sorted((data / "formats").glob("*.py"))]
    files += [*sorted(Path(inspect.getfile(tool)).parent.glob("*.py")), Path(inspect.getfile(json_fields))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def raise_first_error(errors: list[str]) -> None:
    """Raises InputError with the first of the errors of malformed rows, if there are any."""
    if errors:
        more = f" (one of {len(errors)} malformed rows)" if len(errors) > 1 else ""
        raise InputError(f'{errors[0]}{more}; data.on_bad_row="skip" leaves malformed rows out')


def _records(source: str, data_format: str) -> Iterator[dict[str, Any]]:
    """Yields the rows of the Arrow file: a trajectory as JSON, or the error of a malformed row.

    A file of a folder that holds no row but one JSON object has one row without either, of number 0.
    """
    files = list_files(source).files
    before = 0  # rows of earlier files
    for file in files:
        number = 0
        try:
            for number, record in read_file(file.path):
                yield _row(record, file, number, before + number, data_format)
        except OneObjectError:
            if len(files) == 1:
                raise
            texts = dict.fromkeys(("id", "json", "error", "format"), "")
            yield {"row": 0, "file": file.name, "undocumented": 0} | texts
        before += number


def _row(record: Any, file: SourceFile, number: int, total: int, data_format: str) -> dict[str, Any]:
    """Returns a row of the Arrow file. number: counts the rows of its file; total: those of the source, which is the
    id of a record without one."""
    location = f"file {file.path}, row {number}"
    row = {"row": number, "file": file.name, "undocumented": 0}
    try:
        if isinstance(record, InputError):
            raise record
        name, trajectory = read_record(record, location, total, data_format)
        encoded = _encode(trajectory, location)
        undocumented = _count_undocumented(trajectory)
        fields = {"id": str(trajectory.id), "json": encoded, "error": "", "format": name}
        return row | fields | {"undocumented": undocumented}
    except InputError as error:
        message = str(error).replace("\n", "\\n").encode("utf-8", "backslashreplace").decode()
        return row | {"id": "", "json": "", "error": message, "format": ""}


def _count_undocumented(trajectory: Trajectory) -> int:
    """Returns the number of calls with arguments to listed tools of which no parameter is documented."""
    empty = {t.name for t in trajectory.tools} - {t.name for t in trajectory.tools if t.properties}
    calls = (turn.call for turn in trajectory.turns if turn.call is not None)
    return sum(call.name in empty and bool(call.arguments) for call in calls)


def _encode(trajectory: Trajectory, location: str) -> str:
    """Returns a trajectory as JSON. Raises InputError for text that is not valid Unicode, and for too deep nesting."""
    fields = {
        "id": trajectory.id,
        "row": trajectory.row,
        "system": trajectory.system,
        "turns": [
            [t.role, t.text, t.call and [t.call.name, t.call.arguments], t.learned, t.parallel]
            for t in trajectory.turns
        ],
    }
    try:
        encoded = f'{json.dumps(fields, ensure_ascii=False)[:-1]}, "tools": {_encode_tools(trajectory.tools)}}}'
        encoded.encode()
    except RecursionError:
        raise InputError(f"{location}: nests too deeply; take the row out") from None
    except UnicodeEncodeError as error:
        code = f"\\u{ord(error.object[error.start]):04x}"
        raise InputError(f"{location}: holds {code}, half of a character pair; mend it or take the row out") from None
    return encoded


# The id of a list of tools -> the list, which keeps the id from being used again, and its JSON. Many rows share a list.
_ENCODED: dict[int, tuple[tuple[Tool, ...], str]] = {}
_MAX_ENCODED = 64


def _encode_tools(tools: tuple[Tool, ...]) -> str:
    if id(tools) not in _ENCODED:
        if len(_ENCODED) >= _MAX_ENCODED:
            _ENCODED.clear()
        _ENCODED[id(tools)] = tools, json.dumps(list(map(tool_to_fields, tools)), ensure_ascii=False)
    return _ENCODED[id(tools)][1]


def _decode(encoded: str) -> Trajectory:
    fields = json.loads(encoded)
    tools = tuple(map(tool_from_fields, fields["tools"]))
    turns = tuple(
        Turn(role, text, Call(*call) if call else None, learned, parallel)
        for role, text, call, learned, parallel in fields["turns"]
    )
    return Trajectory(fields["id"], tools, turns, fields["system"], fields["row"])
