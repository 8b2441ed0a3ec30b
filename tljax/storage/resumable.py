"""An output file that several runs may have to finish: OUT.partial grows entry by entry, and becomes OUT at the end.

If a run has several processes, all make the same calls, and only process 0 reads and writes the files.
"""

import base64
import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from tljax.core.errors import InputError, explain_disk_errors
from tljax.distributed import processes
from tljax.storage.atomic import atomic_file


@contextlib.contextmanager
def claim_output(out: Path, field: str = "config.out") -> Iterator[None]:
    """Locks `out` and its partial file for this run, as long as the body runs.

    field: the name of `out` in messages. Raises InputError if `out` exists already, if its folder is missing or cannot
    be written, or if another process holds the lock.
    """
    with contextlib.ExitStack() as stack:
        processes.run_on_primary(lambda: stack.enter_context(_claim(out, field)))
        yield


@contextlib.contextmanager
def _claim(out: Path, field: str) -> Iterator[None]:
    path = out.with_name(f".{out.name}.lock")
    lock = filelock.FileLock(path, timeout=0)
    try:
        check_new_output(out, field)
        # In some folders without write permission, filelock reports a lock of another process; touch names the cause.
        path.touch()
        lock.acquire()
    except filelock.Timeout:
        raise InputError(
            f"{field} {out}: another process is writing it; wait for it, or name another config.out"
        ) from None
    except OSError as error:
        raise InputError(f"{field} {out} cannot be written ({error.strerror}); name another config.out") from None
    try:
        check_new_output(out, field)  # the process that held the lock may have finished the file
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def check_new_output(out: Path, field: str = "config.out") -> None:
    """Raises InputError if `out` exists already or its folder does not; field: the name of `out` in messages."""
    if out.exists():
        raise InputError(f"{field} {out} is there already; name another config.out, or move that file away")
    if not out.parent.is_dir():
        raise InputError(f"{field} {out}: there is no folder {out.parent}; make it, or name another config.out")


def _unchanged(index: int, entry: dict[str, Any]) -> dict[str, Any]:
    return entry


class ResumableWriter:
    """Writes the entries of `out` in batches to OUT.partial, and then all of them, ordered by index, to `out`.

    The first line of OUT.partial has the settings that the entries depend on. Every other line is an entry with two
    more fields: "index", its position in `out`, and "left", the number of lines of its batch that follow. A batch
    counts only when its last line has been written.
    """

    def __init__(self, out: Path, fields: dict[str, Any], content: dict[str, str]):
        """Continues OUT.partial, without a batch that was cut short; if there is no such file, `append` makes it.

        fields: {config field: value} and content: {description: hash of what it describes} must equal those that the
        file was started with. Raises InputError that names the first one that does not, or a hash that differs
        between processes.
        """
        processes.check_equal_on_all(content)
        self.path = out.with_name(f"{out.name}.partial")
        self._out = out
        self._offsets: dict[int, int] = {}  # index -> byte at which its line begins
        self._header = {"made_with": fields, "content": content}
        self._file: FileIO | None = None
        packed = processes.run_on_primary(self._read_indices)
        if not processes.is_primary():
            bits = np.unpackbits(np.frombuffer(base64.b64decode(packed), np.uint8))
            self._offsets = dict.fromkeys(np.flatnonzero(bits).tolist(), 0)

    def __enter__(self) -> "ResumableWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __len__(self) -> int:
        return len(self._offsets)

    def __contains__(self, index: int) -> bool:
        return index in self._offsets

    def append(self, batch: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """Writes a batch of (index, entry) and flushes it to the disk. Raises InputError if the disk refuses."""
        if not processes.is_primary():
            self._offsets |= dict.fromkeys((index for index, _ in batch), 0)
            return
        try:
            file = self._file = self._file or self._open()
            for left, (index, entry) in zip(reversed(range(len(batch))), batch, strict=True):
                offset = file.tell()
                line = _line({"index": index, "left": left} | entry)
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._offsets[index] = offset
            os.fsync(file.fileno())
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); make room, then the same command continues"
            ) from error

    def entries(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (index, entry) for all entries so far, ordered by index; only on process 0."""
        if not self._offsets:
            return
        with open(self.path, "rb") as partial:
            for index in sorted(self._offsets):
                partial.seek(self._offsets[index])
                entry = json.loads(partial.readline())
                del entry["index"], entry["left"]
                yield index, entry

    def finish(self, row: Callable[[int, dict[str, Any]], dict[str, Any]] = _unchanged) -> tuple[int, int]:
        """Writes `out` and removes OUT.partial. Returns the number of tokens and the number of ended replies.

        row: (index, entry) -> the object of a line of `out`. The end token of a reply counts as one of its tokens.
        Raises InputError if the disk refuses.
        """
        tokens, ended = processes.run_on_primary(lambda: self._finish(row))
        return tokens, ended

    def _finish(self, row: Callable[[int, dict[str, Any]], dict[str, Any]]) -> tuple[int, int]:
        self._close()
        tokens = ended = 0
        remedy = "make room, then the same command writes it"
        with explain_disk_errors(self._out, remedy), atomic_file(self._out, "wb") as file:
            for index, entry in self.entries():
                file.write(_line(row(index, entry)))
                tokens += len(entry["tokens"]) + entry["ended"]
                ended += entry["ended"]
        self.path.unlink()
        return tokens, ended

    def _open(self) -> FileIO:
        if not self.path.exists():
            with atomic_file(self.path, "wb") as file:
                file.write(_line(self._header))
        return open(self.path, "ab", buffering=0)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read_indices(self) -> str:
        """Reads OUT.partial if it exists. Returns the indices of its entries as a bit mask in base64."""
        if self.path.exists():
            self._resume()
        bits = np.zeros(max(self._offsets, default=-1) + 1, bool)
        bits[list(self._offsets)] = True
        return base64.b64encode(np.packbits(bits).tobytes()).decode()

    def _resume(self) -> None:
        """Reads the offsets of all entries, and truncates the file after its last complete batch."""
        with open(self.path, "rb") as file:
            self._check_header(file.readline())
            end_of_batch = offset = file.tell()
            batch: dict[int, int] = {}
            for line in file:
                entry = _read_entry(line)
                if entry is None:
                    break
                batch[entry["index"]] = offset
                offset += len(line)
                if entry["left"] == 0:
                    self._offsets |= batch
                    end_of_batch, batch = offset, {}
        os.truncate(self.path, end_of_batch)

    def _check_header(self, line: bytes) -> None:
        """Raises InputError if the file was started with other settings than those of this run."""
        remedy = f"bring it back to go on, or remove {self.path} to begin anew, or name another config.out"
        try:
            header = json.loads(line)
            fields, content = header["made_with"], header["content"]
        except (ValueError, TypeError, KeyError):
            raise InputError(f"{self.path}: is no partial file of this command; move it away") from None
        for name, value in content.items():
            if self._header["content"].get(name) != value:
                raise InputError(f"{self.path} was begun with another {name}; {remedy}")
        for name, value in self._header["made_with"].items():
            if fields.get(name) != value:
                raise InputError(
                    f"config.{name} is {value!r}, but {self.path} was begun with {fields.get(name)!r}; {remedy}"
                )


def _line(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()


def _read_entry(line: bytes) -> dict[str, Any] | None:
    """Returns the entry of a line, or None if a kill has cut the line short or the disk has damaged it."""
    try:
        entry = json.loads(line)
        complete = line.endswith(b"\n") and isinstance(entry["index"], int) and isinstance(entry["left"], int)
    except (ValueError, TypeError, KeyError):
        return None
    return entry if complete else None
