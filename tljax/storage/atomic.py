"""Files and folders that are written completely or not at all: under a temporary name, which is then renamed.

A process that is killed leaves a file under the temporary name, never an incomplete file under the final one. The
temporary name is the same for every process, so that the next process overwrites what a killed one left. `per_process`
adds the process id to it, for targets without a lock, which two processes may write at the same time.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from tljax.core.errors import explain_disk_errors


def _temporary_path(path: Path, per_process: bool) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp" if per_process else f".{path.name}.tmp")


@contextlib.contextmanager
def atomic_path(path: Path, *, per_process: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`; its file replaces `path` when the block ends without an error.

    After an error the temporary file is removed, and `path` is unchanged.
    """
    temporary = _temporary_path(path, per_process)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "w", *, per_process: bool = False) -> Iterator[IO[Any]]:
    """Yields an open file that becomes `path`, flushed to the disk, when the block ends without an error.

    mode: "w" for UTF-8 text with "\\n" at line ends, "wb" for bytes. After an error `path` is unchanged.
    """
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    with (
        atomic_path(path, per_process=per_process) as temporary,
        open(temporary, mode, encoding=encoding, newline=newline) as file,
    ):
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_folder(path: Path, *, per_process: bool = False) -> Iterator[Path]:
    """Yields a new folder that becomes `path`, flushed to the disk, when the block ends without an error.

    `path` may exist as an empty folder. After an error the temporary folder is removed.
    """
    temporary = _temporary_path(path, per_process)
    shutil.rmtree(temporary, ignore_errors=True)  # a killed process may have left it
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for entry in (*temporary.rglob("*"), temporary):
            _flush_to_disk(entry)
        temporary.rename(path)
        _flush_to_disk(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush_to_disk(path: Path) -> None:
    """Makes a file's content, or the list of a folder's entries, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def format_json(value: Any) -> str:
    """Returns the text of an indented JSON file, with a newline at the end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, completely or not at all. Raises InputError if the disk refuses."""
    write_texts(path, [format_json(value)])


def write_jsonl(path: Path, values: Iterable[Any]) -> None:
    """Writes a file of JSON lines, all of them or none. Raises InputError if the disk refuses."""
    write_texts(path, (f"{json.dumps(value, ensure_ascii=False)}\n" for value in values))


def read_jsonl(path: Path) -> list[Any]:
    """Returns the values that `write_jsonl` or `append_jsonl` wrote."""
    # Split only at "\n": str.splitlines() also splits at U+0085, U+2028 and others, which a reply may contain.
    with open(path, encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


def append_jsonl(path: Path, values: Iterable[Any]) -> None:
    """Adds JSON lines at the end of a file. Raises InputError if the disk refuses."""
    with explain_disk_errors(path), open(path, "a", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{json.dumps(value, ensure_ascii=False)}\n" for value in values)


def write_texts(path: Path, texts: Iterable[str]) -> None:
    """Writes the texts one after the other into a file, all of them or none.

    Raises InputError if the disk refuses; `path` is then unchanged.
    """
    with explain_disk_errors(path), atomic_file(path) as file:
        file.writelines(texts)
