"""A file with rows, a folder of such files, or the name of a dataset -> numbered records."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from tljax.core.errors import InputError
from tljax.data.formats.read import has_known_shape
from tljax.data.source_files import list_files
from tljax.data.tables import ARROW, PARQUET, load_dataset, read_arrow, read_dataset, read_parquet

_GZIP = b"\x1f\x8b"
_COMPRESSED = (b"PK\x03\x04", b"\xfd7zXZ", b"BZh", b"\x28\xb5\x2f\xfd")
_POINTER = b"version "  # the first 8 bytes
_BOM = b"\xef\xbb\xbf"
_ALLOWED = "allowed: a JSON array of rows, or JSONL in UTF-8, or Parquet or Arrow"


class OneObjectError(InputError):
    """A .json file holds one object, which is neither a row nor a wrapper around rows."""


def source_hash(source: str) -> str:
    """Returns a hash of the content of the files of a source, or of a dataset."""
    files = list_files(source).files
    if len(files) == 1:
        return _hash(files[0].path)
    return hashlib.sha256("".join(f"{file.name}\n{_hash(file.path)}\n" for file in files).encode()).hexdigest()


def read_records(source: str) -> Iterator[tuple[int, Any | InputError]]:
    """Yields (number from 1, record) one at a time, over all files of a source.

    A file of a folder that holds one object, which is no row, is passed over. Raises InputError as read_file does.
    """
    files = list_files(source).files
    number = 0
    for file in files:
        try:
            for _, row in read_file(file.path):
                number += 1
                yield number, row
        except OneObjectError:
            if len(files) == 1:
                raise


def read_file(path: str) -> Iterator[tuple[int, Any | InputError]]:
    """Yields (number from 1, record) of one file, one at a time.

    The record of a broken line of JSONL is an InputError. Raises InputError if nothing more can be read: the file does
    not exist, has no rows, or is a JSON array that is broken in the middle.
    """
    number = 0
    for number, row in _read_file(path) if os.path.isfile(path) else read_dataset(path):
        yield number, row
    if number == 0:
        raise InputError(f"file {path}: holds no rows; a source needs at least one trajectory")


def _read_file(source: str) -> Iterator[tuple[int, Any]]:
    """Yields the numbered records of a JSON, JSONL, Parquet or Arrow file; the first bytes decide which it is."""
    location, name = f"file {source}", Path(source)
    try:
        with open(source, "rb") as file:
            head = file.read(8)
        if head.startswith(PARQUET):
            yield from read_parquet(source)
            return
        if head.startswith(ARROW):
            yield from read_arrow(source, head)
            return
        if head == _POINTER:
            raise InputError(f"{location}: is a pointer of Git LFS, not the file; get it by `git lfs pull`")
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
                yield from _read_lines(file, skip, location, suffix.lower() == ".json")
            elif first:
                raise InputError(f"{location}: begins with {first.decode('latin-1')!r}; {_ALLOWED}")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{location}: is a damaged gzip file ({error}); get it again") from None
    except OSError as error:
        raise InputError(f"{location}: cannot be read ({error.strerror}); check the path and its permissions") from None


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


def _read_lines(
    file: BinaryIO | gzip.GzipFile, skip: int, location: str, json_suffix: bool
) -> Iterator[tuple[int, Any]]:
    """Yields the numbered lines of a JSONL file that begins after `skip` bytes.

    json_suffix: True if the file's name ends with .json. Such a file with one object, on one line or many, has one row
    if the object has the shape of a row. Else it is most likely a wrapper around the rows.
    """
    number, first_row = 0, None
    for line in file:
        if not line.strip():
            continue
        number += 1
        row = _parse_line(line, f"{location}, row {number}")
        if number == 1:
            first_row = row
            continue
        if number == 2:
            if isinstance(first_row, InputError) and isinstance(row, InputError) and json_suffix:
                file.seek(skip)
                first_row, number = _parse_line(file.read(), f"{location}, row 1"), 1
                break
            yield 1, first_row
        yield number, row
    if number == 1:
        if json_suffix and not has_known_shape(first_row):
            values = first_row.values() if isinstance(first_row, dict) else [[{}]]
            wraps_rows = any(isinstance(value, list) and value and isinstance(value[0], dict) for value in values)
            raise (InputError if wraps_rows else OneObjectError)(_ONE_OBJECT.format(location=location))
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


def _hash(source: str) -> str:
    if not os.path.isfile(source):
        return load_dataset(source)._fingerprint
    try:
        with open(source, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"file {source}: cannot be read ({error.strerror}); check its permissions") from None
