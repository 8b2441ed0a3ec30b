"""The files of a multi-turn run: dialogues are written as they end, then a report and a transcript beside them."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tljax.evaluate.benchmarks.scoring import path_beside_report
from tljax.storage.atomic import write_texts
from tljax.storage.resumable import ResumableWriter, check_new_output, claim_output


def dialogue_paths(out: Path) -> tuple[Path, Path]:
    """The paths of the dialogues as JSON lines and as text, beside the report `out`."""
    return path_beside_report(str(out), "dialogues.jsonl"), path_beside_report(str(out), "dialogues.txt")


def check_new_files(out: Path) -> None:
    """Raises InputError if a file that the run would write exists already, or if their folder does not exist.

    A report beside a partial file of dialogues was left by an interruption at the very end, and is allowed.
    """
    dialogues, transcript = dialogue_paths(out)
    check_new_output(dialogues, "file")
    if not _partial_of(dialogues).exists():
        check_new_output(out)
        check_new_output(transcript, "file")


def _partial_of(dialogues: Path) -> Path:
    return dialogues.with_name(f"{dialogues.name}.partial")


class InMemoryDialogues:
    """The dialogues of a run without config.out, in memory only."""

    status = "lost, as config.out names no file"
    path = None

    def __init__(self) -> None:
        self._rows: dict[int, dict[str, Any]] = {}

    def __enter__(self) -> "InMemoryDialogues":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, number: int) -> bool:
        return number in self._rows

    def append(self, rows: Sequence[tuple[int, dict[str, Any]]]) -> None:
        self._rows |= dict(rows)

    def rows(self) -> list[dict[str, Any]]:
        return [self._rows[number] for number in sorted(self._rows)]

    def finish(self, report: str, transcript: str) -> None:
        pass


class DialogueFiles:
    """The dialogues of a run in a partial file; `finish` writes all files."""

    def __init__(self, out: Path, partial: ResumableWriter):
        self._out, self._partial = out, partial
        self.path = partial.path
        self.status = f"kept in {partial.path}; the same command continues"

    def __len__(self) -> int:
        return len(self._partial)

    def __contains__(self, number: int) -> bool:
        return number in self._partial

    def append(self, rows: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """Writes dialogues by their numbers. Raises InputError if the disk refuses."""
        if rows:
            self._partial.append(rows)

    def rows(self) -> list[dict[str, Any]]:
        """All dialogues so far, in the order of their numbers."""
        return [row for _, row in self._partial.entries()]

    def finish(self, report: str, transcript: str) -> None:
        """Writes report and transcript, then the dialogues. Raises InputError if the disk refuses."""
        _, text = dialogue_paths(self._out)
        for path, content in ((text, transcript), (self._out, report)):
            write_texts(path, [content])
        self._partial.finish()


@contextlib.contextmanager
def open_dialogue_files(out: Path, fields: dict[str, Any], content: dict[str, str]) -> Iterator[DialogueFiles]:
    """Yields the files of the report `out`, locked for this process, with the dialogues of an interrupted run.

    fields, content: the settings and hashes on which the dialogues depend, as in `ResumableWriter`. Raises InputError
    as `claim_output` and `ResumableWriter` do.
    """
    dialogues, _ = dialogue_paths(out)
    with claim_output(dialogues, "file"), ResumableWriter(dialogues, fields, content) as partial:
        yield DialogueFiles(out, partial)
