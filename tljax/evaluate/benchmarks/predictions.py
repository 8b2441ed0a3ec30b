"""Predictions: JSONL rows {"index", "prediction"}, with "set" where there are several sets, matched with the sets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tljax.core.errors import InputError
from tljax.evaluate.benchmarks.sets import UNKNOWN, EvalSet, format_indices

ROW = '{"index": the row in the set, from 0, "prediction": the reply, "set": where there are several}'

# Replies of one set by row; None where the model was not asked, as the prompt was too long for it.
Replies = dict[int, str | None]


def read_predictions(file: Path, sets: Sequence[EvalSet]) -> tuple[dict[str, Replies], list[str]]:
    """The replies of every set that has some, by the set's name, and a line for every set that has none.

    A set of several files takes the replies of its parts where it has none of its own. Raises InputError, naming file,
    line and field, for a line that is none, an index that the set lacks or that is there twice, and missing rows.
    """
    known = {one.name: one for one in sets}
    found: dict[str, Replies] = {}
    lines: dict[tuple[str, int], int] = {}
    for number, row in _rows(file):
        at = f"file {file}, line {number}"
        name = _name(row, known, at)
        index, text = _index(row, known[name], at), row.get("prediction", 0)
        if text is not None and not isinstance(text, str):
            what = "is missing" if "prediction" not in row else f"is {text!r:.40}"
            raise InputError(
                f"{at}, field prediction: {what}; allowed: a string, or null where the model was not asked"
            )
        if (name, index) in lines:
            raise InputError(f"{at}, field index: {index} of set {name} is on line {lines[name, index]} too; keep one")
        lines[name, index] = number
        found.setdefault(name, {})[index] = text
    if not found:
        raise InputError(f"file {file}: is empty; give a row a line: {ROW}")
    together, untold = match_replies(found, sets)
    for name, replies in together.items():
        _check_whole(file, known[name], replies)
    return together, untold


def match_replies(given: Mapping[str, Replies], sets: Sequence[EvalSet]) -> tuple[dict[str, Replies], list[str]]:
    """Replies by set, those of sets of several files included, and a line for every set that has none to score."""
    found = dict(given)
    for one in sets:
        if one.parts and one.name not in found and all(name in found for name, _ in one.parts):
            found[one.name] = join_parts(one, found)
    for one in sets:
        if one.name in found and lacks_golden(one):
            del found[one.name]
    untold = [f"set {one.name}: {_why_none(one)}" for one in sets if one.name not in found]
    return {one.name: found[one.name] for one in sets if one.name in found}, untold


def lacks_golden(one: EvalSet) -> bool:
    """Whether single replies to a set cannot be scored: no row has a golden answer, or says that none is wanted."""
    return all(example.expected_reply == UNKNOWN for example in one.examples)


def join_parts(one: EvalSet, replies: Mapping[str, Replies]) -> Replies:
    """The replies of a set of several files from those of its parts."""
    together: Replies = {}
    start = 0
    for name, rows in one.parts:
        together |= {start + index: text for index, text in replies[name].items()}
        start += rows
    return together


def prediction_rows(replies: Mapping[str, Replies]) -> Iterator[dict[str, Any]]:
    """The rows of a predictions file."""
    for name, of_set in replies.items():
        for index, text in of_set.items():
            yield {"set": name, "index": index, "prediction": text}


def _rows(file: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    """Line numbers, from 1, and rows."""
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise InputError(f"config.predictions {file}: {what}; give a JSONL file with a row a line: {ROW}")
    with open(file, encoding="utf-8-sig") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                if line.lstrip()[0] == "[":
                    raise InputError(f"file {file}, line {number}: begins a JSON array; give a row a line: {ROW}")
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    told = f"file {file}, line {number}: is not JSON ({error})"
                    raise InputError(f"{told}; a line is {ROW}") from None
                if not isinstance(row, dict):
                    raise InputError(f"file {file}, line {number}: is no JSON object; a line is {ROW}")
                yield number, row
        except UnicodeDecodeError as error:
            raise InputError(f"file {file}: is not UTF-8 text (byte {error.start}); a line is {ROW}") from None


def _name(row: dict[str, Any], known: Mapping[str, EvalSet], at: str) -> str:
    """The set that a row belongs to."""
    name = row.get("set")
    if name is None and len(known) == 1:
        return next(iter(known))
    if not isinstance(name, str) or name not in known:
        what = "is missing, but config.data has several sets" if name is None else f"{name!r} is not in config.data"
        raise InputError(f"{at}, field set: {what}; allowed: {', '.join(known)}")
    return name


def _index(row: dict[str, Any], of: EvalSet, at: str) -> int:
    index = row.get("index")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < of.rows:
        what = "is missing" if index is None else f"{index!r} is no row of set {of.name}"
        raise InputError(f"{at}, field index: {what}; allowed: 0 to {of.rows - 1}, the row's number in its file")
    return index


def _check_whole(file: Path, of: EvalSet, replies: Replies) -> None:
    missing = [example.index for example in of.examples if example.index not in replies]
    if missing:
        raise InputError(
            f"file {file}: set {of.name} lacks {len(missing):,} of {of.rows:,} rows: {format_indices(missing)}; "
            "every row needs a prediction, which may be empty text"
        )


def _why_none(one: EvalSet) -> str:
    if lacks_golden(one):
        return "has no golden answers, and so no scores of single turns"
    return "has no predictions, and is left out"
