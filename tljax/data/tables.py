"""Rows of Parquet and Arrow files, and of data sets that `datasets` loads."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

from tljax.core.errors import InputError, first_line
from tljax.data.arrow import without_progress_bars
from tljax.data.source_files import is_arrow_folder

_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")
_FILE_SUFFIX = re.compile(r"\.(json|jsonl|ndjson|txt|gz|zip|xz|bz2|zst|csv|parquet|arrow)$", re.IGNORECASE)
PARQUET = b"PAR1"
ARROW = (b"ARROW1", b"\xff\xff\xff\xff")  # a file, and a stream, which `datasets` writes


def read_parquet(source: str) -> Iterator[tuple[int, Any]]:
    """Yields the numbered rows of a Parquet file. Raises InputError for a damaged one."""
    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            yield from _rows(file.iter_batches(batch_size=256))
    except pyarrow.ArrowException as error:
        raise InputError(f"file {source}: is a damaged Parquet file ({first_line(error)}); get it again") from None


def read_arrow(source: str, head: bytes) -> Iterator[tuple[int, Any]]:
    """Yields the numbered rows of an Arrow file that begins with `head`. Raises InputError for a damaged one."""
    try:
        with pyarrow.memory_map(source) as file:
            if head.startswith(ARROW[0]):
                reader = pyarrow.ipc.open_file(file)
                yield from _rows(reader.get_batch(i) for i in range(reader.num_record_batches))
            else:
                yield from _rows(pyarrow.ipc.open_stream(file))
    except pyarrow.ArrowException as error:
        raise InputError(f"file {source}: is a damaged Arrow file ({first_line(error)}); get it again") from None


def read_dataset(source: str) -> Iterator[tuple[int, Any]]:
    """Yields the numbered rows of a folder or a hub name that `datasets` loads."""
    return enumerate(map(_without_nulls, load_dataset(source)), start=1)


def _rows(batches: Any) -> Iterator[tuple[int, Any]]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, 256):
            for row in batch.slice(start, 256).to_pylist():
                number += 1
                yield number, _without_nulls(row)


def _without_nulls(value: Any) -> Any:
    """Returns a value of an Arrow table without the fields of objects that are null.

    Every object of a column has the fields of all of them there, so f(a="x") beside g(b="y") is f(a="x", b=null).
    """
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def load_dataset(source: str) -> datasets.Dataset:
    """Returns the dataset in a folder, or of a hub name; `name:split` names another split than "train".

    Raises InputError if it cannot be loaded.
    """
    folder = os.path.isdir(source)
    if not folder and (_NAME.fullmatch(source) is None or _FILE_SUFFIX.search(source)):
        raise InputError(f"file {source}: does not exist; give an existing file, a folder with a dataset or a hub name")
    name, _, split = (source, "", "") if folder else source.partition(":")
    try:
        if folder and is_arrow_folder(source):
            return datasets.Dataset.load_from_disk(source)
        return without_progress_bars(lambda: datasets.load_dataset(name, split=split or "train"))
    # Each failure of the hub and of files has its own exception; each means that the source cannot be read.
    except Exception as error:
        kind = "folder" if folder else "dataset"
        raise InputError(
            f"{kind} {source}: cannot be loaded ({first_line(error)}); give an existing file, a folder with a dataset "
            "or a hub name, with name:split for another split than train"
        ) from None
