"""A path -> the sets of the files at it: RoTBench, ToolAlpaca, BFCL, ToolEyes, and training rows where allowed.

A benchmark is recognized by the content of its file. Files and folders have the layout of their repositories. A file of
no benchmark is read as training rows if some of its first rows are such rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tljax.core.errors import InputError
from tljax.data.records import read_records
from tljax.data.source_files import DATA_SUFFIX, is_arrow_folder
from tljax.evaluate.benchmarks import bfcl, rotbench, toolalpaca
from tljax.evaluate.benchmarks.sets import EvalSet, check_characters, read_json_rows
from tljax.evaluate.benchmarks.training_rows import TrainingRowOptions, read_training_rows, why_no_training_rows

READERS = (
    (rotbench.is_rotbench, rotbench.read_rotbench),
    (rotbench.is_tooleyes, rotbench.read_tooleyes),
    (toolalpaca.is_toolalpaca, toolalpaca.read_toolalpaca),
    (bfcl.is_bfcl, bfcl.read_bfcl),
)
ALLOWED = "a file of RoTBench, ToolAlpaca, BFCL or ToolEyes as its repository has it, or a folder of them"
ALLOWED_ROWS = "a file of training rows, " + ALLOWED
EXEC_SET = "bfcl_exec"
_BENCHMARK_SUFFIX = re.compile(r"\.jsonl?$")

# Returns the options for reading training rows; called for files that hold such rows.
TrainingRows = Callable[[], TrainingRowOptions]


class DiscoveredSets(NamedTuple):
    """The sets at a path, and for each file of a folder that is not a set a line with the reason."""

    sets: list[EvalSet]
    unread: list[str]


def read_sets(path: str | Path, field: str = "config.data") -> list[EvalSet]:
    """Returns the sets of a benchmark file, or of all files in a folder, as `discover_sets` does."""
    return discover_sets(path, field).sets


def discover_sets(
    path: str | Path, field: str = "config.data", training_rows: TrainingRows | None = None
) -> DiscoveredSets:
    """Reads the file at a path, or all files below a folder, in the order of their paths.

    A set is named after its file, with the folder in front if two files have the same name. The four executable files
    of BFCL also form the set "bfcl_exec", with all their rows in the order of `bfcl.EXEC_CATEGORIES`. field: the
    config field that names the path. training_rows: None if only benchmarks are allowed. Raises InputError, which names
    file, row and field, for a file that cannot be read, and if there is no set.
    """
    path = Path(path).expanduser()
    allowed = ALLOWED if training_rows is None else ALLOWED_ROWS
    if not path.exists():
        raise InputError(f"{field} {path}: there is no such file or folder; allowed: {allowed}, or 'toolbox'")
    if path.is_file() or (training_rows is not None and is_arrow_folder(str(path))):
        outcome = _read(_stem(path), path, training_rows)
        if isinstance(outcome, str):
            raise InputError(f"file {path}: {outcome}; allowed: {allowed}")
        return DiscoveredSets([outcome], [])
    files = _files_below(path, training_rows is not None)
    count = Counter(map(_stem, files))
    sets, unread = [], []
    for file in files:
        stem = _stem(file)
        name = stem if count[stem] == 1 else (file.relative_to(path).parent / stem).as_posix()
        outcome = _read(name, file, training_rows)
        if isinstance(outcome, str):
            unread.append(f"file {file}: {outcome}")
        else:
            sets.append(outcome)
    if not sets:
        raise InputError(f"{field} {path}: {unread[0] if unread else 'holds no .json file'}; allowed: {allowed}")
    return DiscoveredSets(sets + _executable(sets), unread)


def find_reader(row: Any) -> tuple[Callable[[Any], bool], Callable[[str, Path, list[Any]], EvalSet]] | None:
    """Returns the pair of READERS for a file with this first row; None if no benchmark has such rows."""
    return next((pair for pair in READERS if isinstance(row, dict) and pair[0](row)), None)


def is_benchmark(path: str | Path) -> bool:
    """Returns True if a path is a folder, or a file whose first row is that of a benchmark, even an unsupported one."""
    path = Path(path).expanduser()
    if not path.is_file() or not path.stat().st_size:
        return path.is_dir()
    _, first = next(iter(read_records(str(path))))
    return find_reader(first) is not None or rotbench.is_tooleyes_raw(first)


def _files_below(folder: Path, with_training_rows: bool) -> list[Path]:
    """Returns the files below a folder that may be sets, without answers and hidden folders, in order.

    Training rows may be in files of other endings, and in a folder of `datasets`, whose own files are left out then.
    """
    suffix = DATA_SUFFIX if with_training_rows else _BENCHMARK_SUFFIX
    visible = []
    for file in folder.rglob("*"):
        parts = file.relative_to(folder).parts
        if "possible_answer" not in parts and not any(part.startswith(".") for part in parts):
            visible.append(file)
    stored = {file for file in visible if with_training_rows and is_arrow_folder(str(file))}
    files = [file for file in visible if file.is_file() and suffix.search(file.name) and not stored & {*file.parents}]
    return sorted([*files, *stored])


def _stem(path: Path) -> str:
    """Returns the name of a file or folder without its endings."""
    return path.name if path.is_dir() else Path(path.name.removesuffix(".gz")).stem


def _holds_training_rows(file: Path, training_rows: TrainingRows) -> bool:
    """Returns True if the first row of a file is not that of a benchmark, and one of the first is a training row."""
    try:
        first = next((row for _, row in read_records(str(file)) if isinstance(row, dict)), None)
    except InputError:
        return False
    if find_reader(first) is not None or rotbench.is_tooleyes_raw(first):
        return False
    return why_no_training_rows(file, training_rows()) is None


def _read(name: str, file: Path, training_rows: TrainingRows | None) -> EvalSet | str:
    """Returns the set in a file, or the reason why the file is not a set."""
    if training_rows is not None:
        if _holds_training_rows(file, training_rows):
            return read_training_rows(name, file, training_rows())
        if not _BENCHMARK_SUFFIX.search(file.name):
            return f"holds no training rows ({why_no_training_rows(file, training_rows())})"
    rows = read_json_rows(file)
    first = rows[0] if isinstance(rows, list) and rows else None
    reader = find_reader(first)
    if isinstance(first, dict) and reader is not None:
        recognizes, read = reader
        reason = bfcl.why_unsupported(first) if recognizes is bfcl.is_bfcl else None
        if reason is not None:
            return reason
        _check_characters(file, rows)
        return read(name, file, rows)
    if rotbench.is_tooleyes_raw(first):
        return "ToolEyes' raw file has no tool lists; give scenario_data_zero_processed.json"
    if isinstance(first, dict):
        reason = f"is not a known benchmark (fields of its first row: {', '.join(first)[:100] or 'none'})"
        if training_rows is None:
            return reason
        return f"{reason}, and holds no training rows ({why_no_training_rows(file, training_rows())})"
    return "holds no list of rows"


def _check_characters(file: Path, rows: Sequence[Any]) -> None:
    for number, row in enumerate(rows):
        for name, value in row.items() if isinstance(row, dict) else ():
            try:
                check_characters([name, value])
            except ValueError as error:
                at = f"file {file}, row {number}, field {ascii(name)[1:-1]}"
                raise InputError(f"{at}: {error}; correct it or remove the row") from None


def _executable(sets: Sequence[EvalSet]) -> list[EvalSet]:
    """The 240 executable rows as one joined set, if each of the four files occurs exactly once."""
    by_category: dict[str, list[EvalSet]] = {category: [] for category in bfcl.EXEC_CATEGORIES}
    for eval_set in sets:
        if (category := bfcl.exec_category(eval_set.name)) is not None:
            by_category[category].append(eval_set)
    if any(len(matches) != 1 for matches in by_category.values()):
        return []
    examples, skipped, remarks, start = [], [], [], 0
    for (part,) in by_category.values():
        examples += [replace(example, index=start + example.index) for example in part.examples]
        skipped += [row._replace(index=start + row.index) for row in part.skipped]
        remarks += [f"{part.name}, {remark}" for remark in part.remarks]
        start += part.rows
    parts = tuple((part.name, part.rows) for (part,) in by_category.values())
    return [EvalSet(EXEC_SET, "bfcl", tuple(examples), tuple(skipped), tuple(remarks), parts)]
