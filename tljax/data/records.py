"""A JSON, JSONL or Parquet file, or the name of a dataset -> numbered records."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import ijson
import pyarrow
import pyarrow.parquet

from tljax.core.errors import InputError
from tljax.data.arrow import without_progress_bars

_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")
_FILE_SUFFIX = re.compile(r"\.(json|jsonl|ndjson|txt|gz|zip|xz|bz2|zst|csv|parquet)$", re.IGNORECASE)
_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_COMPRESSED = (b"PK\x03\x04", b"\xfd7zXZ", b"BZh", b"\x28\xb5\x2f\xfd")
_BOM = b"\xef\xbb\xbf"
_ALLOWED = "allowed: a JSON array of rows, or JSONL in UTF-8, or Parquet"


def source_hash(source: str) -> str:
    """Returns a hash of the content of a file or a dataset."""
    return _hash_file(source) if os.path.isfile(source) else _load_dataset(source)._fingerprint


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
    """Yields the numbered records of a JSON array, a JSONL or a Parquet file; the first bytes decide which it is."""
    location, name = f"file {source}", Path(source)
    try:
        with open(source, "rb") as file:
            head = file.read(8)
        if head.startswith(_PARQUET):
            yield from _read_parquet(source, location)
            return
        zipped = head.startswith(_GZIP)
        with gzip.open(source, "rb") if zipped else open(source, "rb") as file:
            head = file.read(8)
            if head.startswith((_GZIP, *_COMPRESSED)):
                raise InputError(f"{location}: is compressed; unpack it first ({_ALLOWED}, plain or gzipped)")
            if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
                raise InputError(f"{location}: is not text in UTF-8; save it as UTF-8 ({_ALLOWED})")
            skip = len(_BOM) if head.startswith(_BOM) else 0
            file.seek(skip)
            first = _first_character(file)
            file.seek(skip)
            if first == b"[":
                yield from _read_array(file, skip, location)
            elif first == b"{":
                suffix = Path(name.stem).suffix if zipped and name.suffix.lower() == ".gz" else name.suffix
                yield from _read_lines(file, location, suffix.lower() == ".json")
            elif first:
                raise InputError(f"{location}: begins with {first.decode('latin-1')!r}; {_ALLOWED}")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{location}: is a damaged gzip file ({error}); get it again") from None
    except OSError as error:
        raise InputError(f"{location}: cannot be read ({error.strerror}); check the path and its permissions") from None


def _read_parquet(source: str, location: str) -> Iterator[tuple[int, Any]]:
    """Yields the numbered rows of a Parquet file."""
    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            batches = file.iter_batches(batch_size=256)
            rows = (row for batch in batches for row in batch.to_pylist())
            yield from enumerate(map(_without_nulls, rows), start=1)
    except pyarrow.ArrowException as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{location}: is a damaged Parquet file ({reason}); get it again") from None


def _first_character(file: BinaryIO | gzip.GzipFile) -> bytes:
    while chunk := file.read(4096):
        if chunk.strip():
            return chunk.strip()[:1]
    return b""


def _read_array(file: BinaryIO | gzip.GzipFile, skip: int, location: str) -> Iterator[tuple[int, Any]]:
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


def _read_lines(file: BinaryIO | gzip.GzipFile, location: str, json_suffix: bool) -> Iterator[tuple[int, Any]]:
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


def _hash_file(source: str) -> str:
    try:
        with open(source, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"file {source}: cannot be read ({error.strerror}); check its permissions") from None
