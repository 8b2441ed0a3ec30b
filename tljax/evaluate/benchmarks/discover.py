"""Files of the paper's benchmarks -> sets of examples: RoTBench, ToolAlpaca, BFCL and ToolEyes, told by their contents.

They are read as their repositories lay them out, one file or a folder of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tljax.core.errors import InputError
from tljax.data.reader import read_rows
from tljax.evaluate.benchmarks import bfcl, rotbench, toolalpaca
from tljax.evaluate.benchmarks.sets import EvalSet, check_characters, read_json_rows

READERS = (
    (rotbench.is_rotbench, rotbench.read_rotbench),
    (rotbench.is_tooleyes, rotbench.read_tooleyes),
    (toolalpaca.is_toolalpaca, toolalpaca.read_toolalpaca),
    (bfcl.is_bfcl, bfcl.read_bfcl),
)
ALLOWED = "a file of RoTBench, ToolAlpaca, BFCL or ToolEyes as its repository has it, or a folder of them"
EXEC_SET = "bfcl_exec"


class DiscoveredSets(NamedTuple):
    """The sets of a path, and for each file of a folder that is no set why it is none."""

    sets: list[EvalSet]
    unread: list[str]


def read_sets(path: str | Path, field: str = "config.data") -> list[EvalSet]:
    """The sets of a benchmark file, or of all files in a folder; see `find_sets`."""
    return discover_sets(path, field).sets


def discover_sets(path: str | Path, field: str = "config.data") -> DiscoveredSets:
    """Every file is a set named after it, with its folder in front where two have one name; files in order of path.

    The four executable files of BFCL also give "bfcl_exec": all their rows, in the order of `bfcl.EXEC`. field: what
    names the path. Raises InputError, naming file, row and field, for what cannot be read, and where there is no set.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"{field} {path}: there is no such file or folder; allowed: {ALLOWED}, or 'toolbox'")
    if path.is_file():
        found = _read(path.stem, path)
        if isinstance(found, str):
            raise InputError(f"file {path}: {found}; allowed: {ALLOWED}")
        return DiscoveredSets([found], [])
    files = sorted(file for end in ("json", "jsonl") for file in path.rglob(f"*.{end}") if _may_be_set(file, path))
    count = Counter(file.stem for file in files)
    sets, unread = [], []
    for file in files:
        name = file.stem if count[file.stem] == 1 else file.relative_to(path).with_suffix("").as_posix()
        found = _read(name, file)
        if isinstance(found, str):
            unread.append(f"file {file}: {found}")
        else:
            sets.append(found)
    if not sets:
        raise InputError(f"{field} {path}: {unread[0] if unread else 'holds no .json file'}; allowed: {ALLOWED}")
    return DiscoveredSets(sets + _executable(sets), unread)


def find_reader(row: Any) -> tuple[Callable[[Any], bool], Callable[[str, Path, list[Any]], EvalSet]] | None:
    """The pair of READERS that a file's first row asks for; None where it is no benchmark's."""
    return next((pair for pair in READERS if isinstance(row, dict) and pair[0](row)), None)


def is_benchmark(path: str | Path) -> bool:
    """Whether a path is a folder, or a file whose first row is a benchmark's, be it one that is not read."""
    path = Path(path).expanduser()
    if not path.is_file() or not path.stat().st_size:
        return path.is_dir()
    _, first = next(iter(read_rows(str(path))))
    return find_reader(first) is not None or rotbench.is_tooleyes_raw(first)


def _may_be_set(file: Path, folder: Path) -> bool:
    """Whether a file is none of answers, and in no hidden folder."""
    parts = file.relative_to(folder).parts
    return file.is_file() and "possible_answer" not in parts and not any(part.startswith(".") for part in parts)


def _read(name: str, file: Path) -> EvalSet | str:
    """The set, or why the file is none."""
    rows = read_json_rows(file)
    first = rows[0] if isinstance(rows, list) and rows else None
    reader = find_reader(first)
    if isinstance(first, dict) and reader is not None:
        is_one, read = reader
        unread = bfcl.why_unsupported(first) if is_one is bfcl.is_bfcl else None
        if unread is None:
            _check_characters(file, rows)
        return unread or read(name, file, rows)
    if rotbench.is_tooleyes_raw(first):
        return "ToolEyes' raw file has no tool lists; give scenario_data_zero_processed.json"
    if isinstance(first, dict):
        return f"is no benchmark that is known (fields of its first row: {', '.join(first)[:100] or 'none'})"
    return "holds no list of rows"


def _check_characters(file: Path, rows: Sequence[Any]) -> None:
    for number, row in enumerate(rows):
        for name, value in row.items() if isinstance(row, dict) else ():
            try:
                check_characters([name, value])
            except ValueError as error:
                at = f"file {file}, row {number}, field {ascii(name)[1:-1]}"
                raise InputError(f"{at}: {error}; mend it or take the row out") from None


def _executable(sets: Sequence[EvalSet]) -> list[EvalSet]:
    """The 240 executable rows as one set, where each of the four files is there once."""
    found = [[one for one in sets if bfcl.exec_category(one.name) == part] for part in bfcl.EXEC_CATEGORIES]
    if any(len(there) != 1 for there in found):
        return []
    examples, skipped, remarks, start = [], [], [], 0
    for (part,) in found:
        examples += [replace(example, index=start + example.index) for example in part.examples]
        skipped += [row._replace(index=start + row.index) for row in part.skipped]
        remarks += [f"{part.name}, {remark}" for remark in part.remarks]
        start += part.rows
    parts = tuple((part.name, part.rows) for (part,) in found)
    return [EvalSet(EXEC_SET, "bfcl", tuple(examples), tuple(skipped), tuple(remarks), parts)]
