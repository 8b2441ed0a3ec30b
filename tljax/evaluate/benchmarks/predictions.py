"""A file of predictions, JSONL rows {"index", "prediction", "set"}, -> replies by set and row.

The field "set" is needed only if there are several sets.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tljax.core.errors import InputError
from tljax.evaluate.benchmarks.sets import UNKNOWN, EvalSet, format_indices

ROW = '{"index": the row in the set, from 0, "prediction": the reply, "set": where there are several}'

# The replies to one set by row; None where the prompt was too long for the model.
Replies = dict[int, str | None]


def read_predictions(file: Path, sets: Sequence[EvalSet]) -> tuple[dict[str, Replies], list[str]]:
    """Returns the replies by set, and a note for every set without replies.

    A set that joins several files takes the replies of its parts if it has no others. Raises InputError, which names
    file, line and field, for a malformed line, an index that the set lacks or that occurs twice, and missing rows.
    """
    known = {eval_set.name: eval_set for eval_set in sets}
    replies: dict[str, Replies] = {}
    lines: dict[tuple[str, int], int] = {}
    for number, row in _rows(file):
        at = f"file {file}, line {number}"
        name = _name(row, known, at)
        index, text = _index(row, known[name], at), row.get("prediction", 0)
        if text is not None and not isinstance(text, str):
            problem = "is missing" if "prediction" not in row else f"is {text!r:.40}"
            raise InputError(
                f"{at}, field prediction: {problem}; allowed: a string, or null where the model was not asked"
            )
        if (name, index) in lines:
            raise InputError(f"{at}, field index: {index} of set {name} is on line {lines[name, index]} too; keep one")
        lines[name, index] = number
        replies.setdefault(name, {})[index] = text
    if not replies:
        raise InputError(f"file {file}: is empty; give one row on each line: {ROW}")
    matched, notes = match_replies(replies, sets)
    for name, of_set in matched.items():
        _check_complete(file, known[name], of_set)
    return matched, notes


def match_replies(replies: Mapping[str, Replies], sets: Sequence[EvalSet]) -> tuple[dict[str, Replies], list[str]]:
    """Returns the replies by set, also for joined sets, and a note for every set that has no replies to score."""
    found = dict(replies)
    for eval_set in sets:
        if eval_set.parts and eval_set.name not in found and all(name in found for name, _ in eval_set.parts):
            found[eval_set.name] = join_parts(eval_set, found)
    for eval_set in sets:
        if eval_set.name in found and lacks_golden(eval_set):
            del found[eval_set.name]
    notes = [f"set {eval_set.name}: {_why_none(eval_set)}" for eval_set in sets if eval_set.name not in found]
    return {eval_set.name: found[eval_set.name] for eval_set in sets if eval_set.name in found}, notes


def lacks_golden(eval_set: EvalSet) -> bool:
    """Returns True if single replies to a set cannot be scored, as the right reply to every row is unknown."""
    return all(example.expected_reply == UNKNOWN for example in eval_set.examples)


def join_parts(eval_set: EvalSet, replies: Mapping[str, Replies]) -> Replies:
    """Returns the replies to a joined set from those to its parts."""
    joined: Replies = {}
    start = 0
    for name, rows in eval_set.parts:
        joined |= {start + index: text for index, text in replies[name].items()}
        start += rows
    return joined


def prediction_rows(replies: Mapping[str, Replies]) -> Iterator[dict[str, Any]]:
    """Yields the rows of a predictions file."""
    for name, of_set in replies.items():
        for index, text in of_set.items():
            yield {"set": name, "index": index, "prediction": text}


def _rows(file: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    """Yields line numbers, from 1, and rows."""
    if not file.is_file():
        problem = "is a folder" if file.is_dir() else "does not exist"
        raise InputError(f"config.predictions {file}: {problem}; give a JSONL file with one row on each line: {ROW}")
    with open(file, encoding="utf-8-sig") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                if line.lstrip()[0] == "[":
                    raise InputError(
                        f"file {file}, line {number}: begins a JSON array; give one row on each line: {ROW}"
                    )
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InputError(f"file {file}, line {number}: is not JSON ({error}); a line is {ROW}") from None
                if not isinstance(row, dict):
                    raise InputError(f"file {file}, line {number}: is not a JSON object; a line is {ROW}")
                yield number, row
        except UnicodeDecodeError as error:
            raise InputError(f"file {file}: is not UTF-8 text (byte {error.start}); a line is {ROW}") from None


def _name(row: dict[str, Any], known: Mapping[str, EvalSet], at: str) -> str:
    """The name of the set to which a row belongs."""
    name = row.get("set")
    if name is None and len(known) == 1:
        return next(iter(known))
    if not isinstance(name, str) or name not in known:
        problem = "is missing, but config.data has several sets" if name is None else f"{name!r} is not in config.data"
        raise InputError(f"{at}, field set: {problem}; allowed: {', '.join(known)}")
    return name


def _index(row: dict[str, Any], eval_set: EvalSet, at: str) -> int:
    index = row.get("index")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < eval_set.rows:
        problem = "is missing" if index is None else f"{index!r} is no row of set {eval_set.name}"
        raise InputError(
            f"{at}, field index: {problem}; allowed: 0 to {eval_set.rows - 1}, the row's number in its file"
        )
    return index


def _check_complete(file: Path, eval_set: EvalSet, replies: Replies) -> None:
    missing = [example.index for example in eval_set.examples if example.index not in replies]
    if missing:
        raise InputError(
            f"file {file}: set {eval_set.name} lacks {len(missing):,} of {eval_set.rows:,} rows: "
            f"{format_indices(missing)}; every row needs a prediction, which may be empty text"
        )


def _why_none(eval_set: EvalSet) -> str:
    if lacks_golden(eval_set):
        return "has no golden answers, and so no scores of single turns"
    return "has no predictions, and is left out"
