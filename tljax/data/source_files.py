"""A source of data -> the files that hold its rows, in the order in which they are read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tljax.core.errors import InputError

DATA_SUFFIX = re.compile(r"\.(?:json|jsonl|ndjson)(?:\.gz)?$|\.(?:parquet|arrow)$", re.IGNORECASE)
# Files of `datasets` and of the hub that describe data.
DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_ARROW_FOLDER = "state.json"  # a file of each folder that Dataset.save_to_disk has written
_WORDS = re.compile(r"[a-z]+")
SHOWN = 5  # the number of files that are named for a reason
TRAIN = frozenset(("train", "training"))
HELD_OUT = frozenset(("test", "testing", "eval", "evaluation", "dev", "val", "valid", "validation"))


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file with rows, or a folder that `datasets` has written.

    path: what errors name; name: what summaries name, relative to the folder of the source
    """

    path: str
    name: str


@dataclass(slots=True)
class SourceFiles:
    """The files of a source with rows, and why others are not read: (name, reason)."""

    files: list[SourceFile] = field(default_factory=list)
    passed_over: list[tuple[str, str]] = field(default_factory=list)


def split_source(source: str) -> tuple[str, str]:
    """Returns the folder and the split of FOLDER:SPLIT, and the source and "" for any other source."""
    folder, _, split = source.rpartition(":")
    return (folder, split) if split and os.path.isdir(folder) and not os.path.exists(source) else (source, "")


def is_arrow_folder(path: str) -> bool:
    """Returns True for a folder that Dataset.save_to_disk has written."""
    return os.path.isfile(os.path.join(path, _ARROW_FOLDER))


def list_files(source: str) -> SourceFiles:
    """Returns the files with rows of a source, in the order of their paths, and those that are passed over.

    A folder is searched through, but for names that begin with a dot. If the name of a file in it says "train", files
    whose names say that they are held out ("test", "validation", ...) are passed over; FOLDER:test reads those whose
    names say "test". Any other source is one file.
    """
    folder, split = split_source(source)
    is_local = os.path.exists(source)
    alone = SourceFile(source, os.path.basename(source.rstrip("/")) if is_local else source)
    if not os.path.isdir(folder) or is_arrow_folder(folder):
        return SourceFiles([alone])
    found = SourceFiles()
    _search(Path(folder), Path(folder), found)
    if not found.files:
        return SourceFiles([alone])  # a folder that `datasets` may know how to read, such as one of CSV files
    words = {file.name: set(_WORDS.findall(file.name.lower())) for file in found.files}
    if split:
        _keep(found, lambda file: split.lower() in words[file.name], f"its name does not say {split}")
        if not found.files:
            raise InputError(f"folder {folder}: the name of no file in it says {split!r}; {_here(found)}")
    elif any(names & TRAIN for names in words.values()):
        _keep(
            found,
            lambda file: bool(words[file.name] & TRAIN) or not words[file.name] & HELD_OUT,
            "its name says that it is held out; FOLDER:SPLIT reads it",
        )
    return found


def _search(folder: Path, root: Path, found: SourceFiles) -> None:
    """Adds the files of a folder and of the folders in it. Raises InputError for a folder that cannot be read."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"folder {folder}: cannot be read ({error.strerror}); check its permissions") from None
    for path in paths:
        name = path.relative_to(root).as_posix()
        if path.name.startswith("."):
            found.passed_over.append((name, "hidden"))
        elif path.is_dir():
            if is_arrow_folder(str(path)):
                found.files.append(SourceFile(str(path), name))
            else:
                _search(path, root, found)
        elif path.name in DESCRIPTIONS:
            found.passed_over.append((name, "describes a data set"))
        elif DATA_SUFFIX.search(path.name):
            found.files.append(SourceFile(str(path), name))
        else:
            found.passed_over.append((name, "no JSON, JSONL, Parquet or Arrow file"))


def _keep(found: SourceFiles, keeps: Callable[[SourceFile], bool], reason: str) -> None:
    """Moves the files that are not kept to those that are passed over."""
    found.passed_over += [(file.name, reason) for file in found.files if not keeps(file)]
    found.files = [file for file in found.files if keeps(file)]


def _here(found: SourceFiles) -> str:
    names = [name for name, _ in found.passed_over]
    return f"files here: {', '.join(names[:10]) or 'none'}" + ", ..." * (len(names) > 10)


def format_passed_over(passed_over: list[tuple[str, str]]) -> list[str]:
    """Returns a line for people for each reason why files are passed over, with the first of the files."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in passed_over:
        by_reason.setdefault(reason, []).append(name)
    return [
        f"  passed over ({reason}): {', '.join(names[:SHOWN])}"
        + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
        for reason, names in by_reason.items()
    ]
