"""A JSON or JSONL file, or the name of a dataset -> records -> checked trajectories in an Arrow file on disk."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import ijson
import numpy as np

from tljax.calls import tool
from tljax.calls.tool import Call, Tool
from tljax.core import json_fields
from tljax.core.errors import InputError
from tljax.data.arrow import build_dataset, without_progress_bars
from tljax.data.formats.read import trajectory_from_record
from tljax.data.trajectory import Trajectory, Turn

ON_BAD_ROW = ("refuse", "skip")
SHOWN = 20  # the number of skipped rows that a summary lists
FEATURES = datasets.Features(
    {"row": datasets.Value("int64")} | {name: datasets.Value("string") for name in ("id", "json", "error")}
)
_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")
_FILE_SUFFIX = re.compile(r"\.(json|jsonl|ndjson|txt|gz|zip|xz|bz2|zst|csv|parquet)$", re.IGNORECASE)
_COMPRESSED = (b"\x1f\x8b", b"PK\x03\x04", b"\xfd7zXZ", b"BZh", b"\x28\xb5\x2f\xfd")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class TrajectoryDataset:
    """Trajectories on disk, which are read one at a time; `len` counts the usable rows.

    file: the source; fingerprint: a hash of its content and of the code that reads it; skipped: the errors of the
    malformed rows
    """

    file: str
    fingerprint: str
    skipped: list[str]
    _table: datasets.Dataset
    _usable: np.ndarray

    def __len__(self) -> int:
        return len(self._usable)

    def __getitem__(self, index: int) -> Trajectory:
        return _decode(self._table[int(self._usable[index])]["json"])

    def trajectories(self) -> Iterator[Trajectory]:
        """Returns an iterator over the usable trajectories in source order."""
        return (self[i] for i in range(len(self)))


def format_first_errors(errors: list[str]) -> list[str]:
    """Returns lines for people: the first SHOWN errors of skipped rows, and the number of further ones."""
    more = len(errors) - SHOWN
    return [*(f"  {error}" for error in errors[:SHOWN]), *([f"  and {more:,} more"] * (more > 0))]


def open_trajectories(source: str, on_bad_row: str, cache_dir: str | None = None) -> TrajectoryDataset:
    """Returns the trajectories of a file, of a folder with a dataset, or of a dataset on the Hugging Face hub.

    on_bad_row: "refuse" raises the InputError of the first malformed row, "skip" lists it in `skipped`. cache_dir: the
    folder for the Arrow file, None for the cache of `datasets`; a second call with the same content only opens it.
    """
    source = os.path.expanduser(source)
    if on_bad_row not in ON_BAD_ROW:
        raise InputError(f"data.on_bad_row is {on_bad_row!r}; allowed: {', '.join(ON_BAD_ROW)}")
    content = source_hash(source)
    fingerprint = hashlib.sha256(f"{content}\n{_code_hash()}".encode()).hexdigest()[:32]
    # The stored errors name the file, so a copy under another name is read again.
    key = hashlib.sha256(f"{fingerprint}\n{source}".encode()).hexdigest()[:32]
    table = build_dataset(_records, FEATURES, key, cache_dir or "", source=source)
    errors = table.data.column("error").to_pylist()
    bad = [error for error in errors if error]
    if on_bad_row == "refuse":
        raise_first_error(bad)
    if len(bad) == len(errors):
        raise InputError(f"file {source}: none of its {len(errors)} rows is usable; the first: {bad[0]}")
    usable = np.asarray([i for i, error in enumerate(errors) if not error], dtype=np.int64)
    return TrajectoryDataset(source, fingerprint, bad, table, usable)


def source_hash(source: str) -> str:
    """Returns a hash of the content of a file or a dataset."""
    return _hash_file(source) if os.path.isfile(source) else _load_dataset(source)._fingerprint


def _code_hash() -> str:
    """Returns a hash of the code that turns a file into trajectories, so that those of another version are not read."""
    data = Path(__file__).parent
    files = [data / "reader.py", data / "trajectory.py", *sorted((data / "formats").glob("*.py"))]
    files += [*sorted(Path(inspect.getfile(tool)).parent.glob("*.py")), Path(inspect.getfile(json_fields))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def raise_first_error(errors: list[str]) -> None:
    """Raises InputError with the first of the errors of malformed rows, if there are any."""
    if errors:
        more = f" (one of {len(errors)} malformed rows)" if len(errors) > 1 else ""
        raise InputError(f'{errors[0]}{more}; data.on_bad_row="skip" leaves malformed rows out')


def read_records(source: str) -> Iterator[tuple[int, Any | InputError]]:
    """Yields (number from 1, record) one at a time; for a broken line of JSONL the record is an InputError.

    Raises InputError if nothing more can be read: the source does not exist, has no rows, or is a JSON array that is
    broken in the middle.
    """
    if not os.path.isfile(source):
        rows: Iterator[tuple[int, Any]] = enumerate(map(_without_nulls, _load_dataset(source)), start=1)
    else:
        rows = _read_file(source)
    number = 0
    for number, row in rows:
        yield number, row
    if number == 0:
        raise InputError(f"file {source}: holds no rows; a source needs at least one trajectory")


def _without_nulls(value: Any) -> Any:
    """Returns a value of an Arrow table without the fields of objects that are null.

    Every object of a column has the fields of all of them there, so f(a="x") beside g(b="y") is f(a="x", b=null).
    """
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _read_file(source: str) -> Iterator[tuple[int, Any]]:
    """Yields the numbered records of a JSON array or a JSONL file; the first character decides which it is."""
    location = f"file {source}"
    try:
        with open(source, "rb") as file:
            head = file.read(8)
            if head.startswith(_COMPRESSED):
                raise InputError(
                    f"{location}: is compressed; unpack it first (allowed: a JSON array or JSONL in UTF-8)"
                )
            if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
                raise InputError(f"{location}: is not text in UTF-8; save it as UTF-8 (allowed: a JSON array or JSONL)")
            skip = len(_BOM) if head.startswith(_BOM) else 0
            file.seek(skip)
            first = _first_character(file)
            file.seek(skip)
            if first == b"[":
                yield from _read_array(file, skip, location)
            elif first == b"{":
                yield from _read_lines(file, location, Path(source).suffix.lower() == ".json")
            elif first:
                raise InputError(
                    f"{location}: begins with {first.decode('latin-1')!r}; allowed: a JSON array of rows, or JSONL"
                )
    except OSError as error:
        raise InputError(f"{location}: cannot be read ({error.strerror}); check the path and its permissions") from None


def _first_character(file: BinaryIO) -> bytes:
    while chunk := file.read(4096):
        if chunk.strip():
            return chunk.strip()[:1]
    return b""


def _read_array(file: BinaryIO, skip: int, location: str) -> Iterator[tuple[int, Any]]:
    """Yields the numbered elements of a JSON array that begins after `skip` bytes."""
    number = 0
    try:
        try:
            for row in ijson.items(file, "item", use_float=True):
                number += 1
                yield number, row
        except ijson.JSONError as error:
            if "integer overflow" not in str(error):
                raise
            # The C parser has 64-bit integers. The one in Python has no such limit, but is far slower.
            file.seek(skip)
            slow = ijson.get_backend("python").items(file, "item", use_float=True)
            for n, row in enumerate(slow, start=1):
                if n > number:
                    number = n
                    yield n, row
    except (ijson.JSONError, ValueError) as error:
        # The C parser reports bytes if it cannot decode the bad character.
        reason = error.args[0] if error.args else "broken"
        reason = (reason.decode("latin-1") if isinstance(reason, bytes) else str(reason)).strip().partition("\n")[0]
        position = f"after row {number}" if number else "row 1"
        raise InputError(
            f"{location}, {position}: is not JSON ({reason}); the file is cut or damaged there: mend it or get it again"
        ) from None


def _read_lines(file: BinaryIO, location: str, json_suffix: bool) -> Iterator[tuple[int, Any]]:
    """Yields the numbered lines of a JSONL file. `json_suffix`: True if the file's name ends with .json."""
    number, first_row = 0, None
    for line in file:
        if not line.strip():
            continue
        number += 1
        row = _parse_line(line, f"{location}, row {number}")
        if number == 1:
            # One object in a .json file, on one line or many, is most likely a wrapper around the rows.
            first_row = row
            continue
        if number == 2:
            if isinstance(first_row, InputError) and isinstance(row, InputError) and json_suffix:
                raise InputError(_ONE_OBJECT.format(location=location))
            yield 1, first_row
        yield number, row
    if number == 1:
        if json_suffix:
            raise InputError(_ONE_OBJECT.format(location=location))
        yield 1, first_row


_ONE_OBJECT = (
    "{location}: holds one JSON object; allowed: a JSON array of rows, or JSONL (one row a line): "
    "put the rows into [ ], or name a file with a single row .jsonl"
)


def _parse_line(line: bytes, location: str) -> Any:
    """Returns the value of a line, or the InputError that says why it has none."""
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return InputError(
            f"{location}: is not UTF-8 ({error.reason} at byte {error.start}); mend it or take the row out"
        )
    except (ValueError, RecursionError) as error:
        return InputError(f"{location}: is not JSON ({error}); mend it or take the row out")


def _load_dataset(source: str) -> datasets.Dataset:
    """Returns the dataset in a folder, or of a hub name; `name:split` names another split than "train"."""
    folder = os.path.isdir(source)
    if not folder and (_NAME.fullmatch(source) is None or _FILE_SUFFIX.search(source)):
        raise InputError(f"file {source}: does not exist; give an existing file, a folder with a dataset or a hub name")
    name, _, split = (source, "", "") if folder else source.partition(":")
    try:
        if folder and os.path.isfile(os.path.join(source, "state.json")):
            return datasets.Dataset.load_from_disk(source)
        return without_progress_bars(lambda: datasets.load_dataset(name, split=split or "train"))
    # Each failure of the hub and of files has its own exception; each means that the source cannot be read.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        kind = "folder" if folder else "dataset"
        raise InputError(
            f"{kind} {source}: cannot be loaded ({reason}); give an existing file, a folder with a dataset or a hub "
            "name, with name:split for another split than train"
        ) from None


def _records(source: str) -> Iterator[dict[str, Any]]:
    """Yields the rows of the Arrow file: a trajectory as JSON, or the error of a malformed row."""
    for number, row in read_records(source):
        try:
            if isinstance(row, InputError):
                raise row
            trajectory = trajectory_from_record(row, source, number)
            encoded = _encode(trajectory, source)
            yield {"id": str(trajectory.id), "row": number, "json": encoded, "error": ""}
        except InputError as error:
            message = str(error).replace("\n", "\\n").encode("utf-8", "backslashreplace").decode()
            yield {"id": "", "row": number, "json": "", "error": message}


def _encode(trajectory: Trajectory, source: str) -> str:
    """Returns a trajectory as JSON. Raises InputError for text that is not valid Unicode, and for too deep nesting."""
    location = f"file {source}, row {trajectory.row}"
    fields = {
        "id": trajectory.id,
        "row": trajectory.row,
        "system": trajectory.system,
        "tools": [[t.name, t.description, t.properties, t.required] for t in trajectory.tools],
        "turns": [[t.role, t.text, t.call and [t.call.name, t.call.arguments], t.learned] for t in trajectory.turns],
    }
    try:
        encoded = json.dumps(fields, ensure_ascii=False)
        encoded.encode()
    except RecursionError:
        raise InputError(f"{location}: nests too deeply; take the row out") from None
    except UnicodeEncodeError as error:
        code = f"\\u{ord(error.object[error.start]):04x}"
        raise InputError(f"{location}: holds {code}, half of a character pair; mend it or take the row out") from None
    return encoded


def _decode(encoded: str) -> Trajectory:
    fields = json.loads(encoded)
    tools = tuple(Tool(name, text, properties, tuple(must)) for name, text, properties, must in fields["tools"])
    turns = tuple(
        Turn(role, text, Call(*call) if call else None, learned) for role, text, call, learned in fields["turns"]
    )
    return Trajectory(fields["id"], tools, turns, fields["system"], fields["row"])


def _hash_file(source: str) -> str:
    try:
        with open(source, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"file {source}: cannot be read ({error.strerror}); check its permissions") from None
