"""Tables and plots -> the report's folder: report.md, report.json, CSV files; it appears complete or not at all."""

import contextlib
import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tljax.analysis.call_errors import CALL_ERRORS
from tljax.analysis.tables import Table
from tljax.analysis.token_classes import CLASSES
from tljax.core.errors import InputError
from tljax.storage.atomic import atomic_folder, write_json

# The introduction of report.md.
READING = """\
Intervals are 95 %. Steps of one trajectory, and tokens of one reply, are not independent: the intervals take
trajectories as groups (shares: Wilson's with the effective number of observations; means: of the linearized ratio).
"""
# The plot below each table.
PLOT_OF = {
    "feedback_errors": "feedback_errors",
    "call_errors": "call_errors",
    "token_classes": "token_classes",
    "token_ranks": "token_ranks",
    "corrections": "corrections",
    "error_kinds": "error_kinds",
}
SECTIONS = {
    "feedback_errors": "Which steps failed",
    "token_classes": "How unevenly tokens matter",
    "error_kinds": "What the model's calls get wrong",
}
KIND_MEANINGS = {
    "correct": "tool, parameters and values are the golden ones",
    "format": "no call that can be read",
    "tool_hallucination": "a tool that the prompt does not list",
    "wrong_tool": "another listed tool",
    "parameter": "the tool; parameters are hallucinated (not documented), redundant (not golden) or missing",
    "content": "tool and parameters, with a wrong value",
}


@contextlib.contextmanager
def new_report_folder(out: str, data: str) -> Iterator[tuple[Path, Path]]:
    """Yields the report's path and a temporary folder beside it, which moves to that path if the block succeeds.

    out: "" means analyses/NAME, named after the source `data`, or the first free analyses/NAME-2, ... Raises InputError
    if the path exists or cannot be written; nothing is left behind then.
    """
    target = Path(out).expanduser() if out else _free_path(data)
    if target.exists():
        raise InputError(f"config.out {target} is there already; name a new folder, or move that one away")
    new_parents = [parent for parent in target.parents if not parent.exists()] if not out else []
    if out and not target.parent.is_dir():
        raise InputError(f"config.out {target}: there is no folder {target.parent}; make it, or name another")
    part = None
    try:
        with atomic_folder(target, per_process=True) as part:
            yield target, part
    except OSError as error:
        if part is not None and not str(error.filename).startswith(str(part)):
            raise  # an error in reading the data
        raise InputError(
            f"config.out {target} cannot be written ({error.strerror}), and nothing was left there; name another folder"
        ) from None
    finally:
        for folder in new_parents:
            with contextlib.suppress(OSError):  # not empty: it contains the report
                folder.rmdir()


def _free_path(data: str) -> Path:
    name = re.sub(r"\W+", "-", Path(data).stem).strip("-") or "data"
    number = 1
    while (path := Path("analyses") / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return path


class CsvFile:
    """A CSV file with a header, written row by row."""

    def __init__(self, path: Path, columns: Sequence[str]):
        self._file = open(path, "w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(columns)

    def __enter__(self) -> "CsvFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, row: Sequence[Any]) -> None:
        """Writes one row; None is an empty field."""
        self._writer.writerow(row)

    def write_all(self, rows: Iterable[Sequence[Any]]) -> None:
        """Writes rows in order."""
        self._writer.writerows(rows)


def write_report(
    folder: Path, config: Any, facts: Sequence[str], tables: Sequence[Table], plots: Sequence[str]
) -> None:
    """Writes report.md and report.json; `plots` names the plots in the folder."""
    made_with = {"config": json.loads(config.to_json_best_effort()), "tljax": _version()}
    numbers = {table.name: table.json() for table in tables}
    write_json(folder / "report.json", {"made_with": made_with, "facts": facts, "tables": numbers})
    lines = [f"# Analysis of {config.data.source}", "", *(f"- {fact.strip()}" for fact in facts), "", READING]
    for table in tables:
        if table.name in SECTIONS:
            lines += [f"## {SECTIONS[table.name]}", ""]
        lines += [table.markdown(), ""]
        for name in [PLOT_OF.get(table.name), "token_shares" if table.name == "token_classes" else None]:
            if name in plots:
                lines += [f"![{name}]({name}.png)", ""]
        meanings = {"call_errors": CALL_ERRORS, "token_classes": CLASSES, "error_kinds": KIND_MEANINGS}
        if table.name in meanings:
            lines += [*(f"- {name}: {meaning}" for name, meaning in meanings[table.name].items()), ""]
    (folder / "report.md").write_text("\n".join(lines), encoding="utf-8")


def _version() -> str:
    try:
        return metadata.version("tljax")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "unknown"
