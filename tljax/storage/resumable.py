"""A file of answers that several runs may have to write: OUT.partial grows, OUT appears when nothing is missing.

Where a run has several processes, process 0 alone has the files, and all make the same calls.
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
def claim_output(out: Path, what: str = "config.out") -> Iterator[None]:
    """Holds `out`, which messages call `what`, and its partial file for this run.

    Raises InputError where `out` is there already, its folder is not or cannot be written, or another run is at it.
    """
    with contextlib.ExitStack() as held:
        processes.run_on_primary(lambda: held.enter_context(_claim(out, what)))
        yield


@contextlib.contextmanager
def _claim(out: Path, what: str) -> Iterator[None]:
    place = out.with_name(f".{out.name}.lock")
    lock = filelock.FileLock(place, timeout=0)
    try:
        check_new_output(out, what)
        place.touch()  # as filelock takes some folders that cannot be written for a lock that another holds
        lock.acquire()
    except filelock.Timeout:
        raise InputError(
            f"{what} {out}: another process is writing it; wait for it, or name another config.out"
        ) from None
    except OSError as error:
        raise InputError(f"{what} {out} cannot be written ({error.strerror}); name another config.out") from None
    try:
        check_new_output(out, what)  # the process that held it may have finished it
        yield
    finally:
        place.unlink(missing_ok=True)
        lock.release()


def check_new_output(out: Path, what: str = "config.out") -> None:
    """Raises InputError, calling `out` by `what`, where it is there already, or its folder is not."""
    if out.exists():
        raise InputError(f"{what} {out} is there already; name another config.out, or move that file away")
    if not out.parent.is_dir():
        raise InputError(f"{what} {out}: there is no folder {out.parent}; make it, or name another config.out")


def _as_it_is(index: int, answer: dict[str, Any]) -> dict[str, Any]:
    return answer


class ResumableWriter:
    """Answers so far, in batches: all of a batch or none.

    The file's first line says what they were made with; every other is an answer with its `index`, the number of its
    place in `out`, and how many lines of its batch are `left` after it.
    """

    def __init__(self, out: Path, fields: dict[str, Any], content: dict[str, str]):
        """Goes on with OUT.partial, a batch that was not finished cut off; where there is none, `append` makes it.

        fields: config fields by their dotted names, content: hashes by the names of what they stand for; both must be
        those that the file was begun with. Raises InputError naming the first that is not, or that differs between
        processes.
        """
        processes.check_equal_on_all(content)
        self.path = out.with_name(f"{out.name}.partial")
        self._out = out
        self._places: dict[int, int] = {}  # index -> where its line begins
        self._header = {"made_with": fields, "content": content}
        self._file: FileIO | None = None
        found = processes.run_on_primary(self._begin)
        if not processes.is_primary():
            bits = np.unpackbits(np.frombuffer(base64.b64decode(found), np.uint8))
            self._places = dict.fromkeys(np.flatnonzero(bits).tolist(), 0)

    def __enter__(self) -> "ResumableWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, index: int) -> bool:
        return index in self._places

    def append(self, answers: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """Adds a batch of (index, answer), safe from then on. Raises InputError where the disk refuses."""
        if not processes.is_primary():
            self._places |= dict.fromkeys((index for index, _ in answers), 0)
            return
        try:
            file = self._file = self._file or self._open()
            for left, (index, answer) in zip(reversed(range(len(answers))), answers, strict=True):
                place = file.tell()
                line = _line({"index": index, "left": left} | answer)
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._places[index] = place
            os.fsync(file.fileno())
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); make room, then the same command continues"
            ) from error

    def answers(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """All answers so far with their indices, in the order of these; for process 0."""
        if not self._places:
            return
        with open(self.path, "rb") as partial:
            for index in sorted(self._places):
                partial.seek(self._places[index])
                answer = json.loads(partial.readline())
                del answer["index"], answer["left"]
                yield index, answer

    def finish(self, row: Callable[[int, dict[str, Any]], dict[str, Any]] = _as_it_is) -> tuple[int, int]:
        """Writes `out`, ordered by index, and removes the partial file; returns its numbers of tokens and of ends.

        row: makes the line of `out` from an index and its answer. A reply's end token counts among its tokens. Raises
        InputError where the disk refuses.
        """
        tokens, ended = processes.run_on_primary(lambda: self._finish(row))
        return tokens, ended

    def _finish(self, row: Callable[[int, dict[str, Any]], dict[str, Any]]) -> tuple[int, int]:
        self._close()
        tokens = ended = 0
        remedy = "make room, then the same command writes it"
        with explain_disk_errors(self._out, remedy), atomic_file(self._out, "wb") as file:
            for index, answer in self.answers():
                file.write(_line(row(index, answer)))
                tokens += len(answer["tokens"]) + answer["ended"]
                ended += answer["ended"]
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

    def _begin(self) -> str:
        """Goes on with the file where there is one; which indices it has, a bit each from 0, in base64."""
        if self.path.exists():
            self._resume()
        bits = np.zeros(max(self._places, default=-1) + 1, bool)
        bits[list(self._places)] = True
        return base64.b64encode(np.packbits(bits).tobytes()).decode()

    def _resume(self) -> None:
        with open(self.path, "rb") as file:
            self._compare(file.readline())
            kept = place = file.tell()
            waiting: dict[int, int] = {}
            for line in file:
                answer = _answer(line)
                if answer is None:
                    break
                waiting[answer["index"]] = place
                place += len(line)
                if answer["left"] == 0:
                    self._places |= waiting
                    kept, waiting = place, {}
        os.truncate(self.path, kept)

    def _compare(self, line: bytes) -> None:
        remedy = f"bring it back to go on, or remove {self.path} to begin anew, or name another config.out"
        try:
            begun = json.loads(line)
            fields, content = begun["made_with"], begun["content"]
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


def _answer(line: bytes) -> dict[str, Any] | None:
    """A whole line's answer; None for what a kill has cut short or a disk has spoilt, which is made again."""
    try:
        answer = json.loads(line)
        whole = line.endswith(b"\n") and isinstance(answer["index"], int) and isinstance(answer["left"], int)
    except (ValueError, TypeError, KeyError):
        return None
    return answer if whole else None
