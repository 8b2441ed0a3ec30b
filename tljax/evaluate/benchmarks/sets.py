"""The common form of all benchmarks' rows: a dialogue, the tools it lists, and the golden calls that answer it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tljax.calls.tool import Call, Tool
from tljax.core.errors import InputError
from tljax.data.prompt import Dialect, render_prompt
from tljax.data.trajectory import Turn

# The right reply to a row: one of its golden calls, no call at all, or any call of a tool. UNKNOWN: no golden answer.
GOLDEN, NO_CALL, ANY_CALL, UNKNOWN = EXPECTED_REPLIES = ("golden", "no call", "any call", "unknown")


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a benchmark. Predictions refer to it by `index`, its number in the set, from 0.

    turns: the dialogue before the reply; system: the text before the tool list. golden: alternative, successive or
    parallel calls, depending on the benchmark; their arguments may hold `AnyValue` and `Choices`. ignored: arguments
    that are neither required nor compared. finish: the listed tool for which "finish" is a second name.
    expected_reply: one of EXPECTED_REPLIES.
    """

    index: int
    id: str
    tools: tuple[Tool, ...]
    turns: tuple[Turn, ...]
    golden: tuple[Call, ...] = ()
    ignored: frozenset[str] = frozenset()
    finish: str | None = None
    system: str = ""
    expected_reply: str = GOLDEN


class Skipped(NamedTuple):
    """A row that is left out of the scores, for the most part because its golden answer is broken.

    example: the row without its golden answer, which is enough for a dialogue; None if it cannot be read.
    """

    index: int
    id: str
    reason: str
    example: Example | None = None


@dataclass(frozen=True)
class EvalSet:
    """The rows of one file, in its order; `skipped` holds those that are not scored, such as ones with a broken answer.

    remarks: notes on unusual rows that are scored as released. parts: for a set that joins several files, the names
    of their sets and their numbers of rows, in order. notes: lines on how the file was read.
    """

    name: str
    benchmark: str
    examples: tuple[Example, ...]
    skipped: tuple[Skipped, ...] = ()
    remarks: tuple[str, ...] = ()
    parts: tuple[tuple[str, int], ...] = ()
    file: str = ""
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """The number of rows in the file, skipped ones included; every index is below it."""
        return len(self.examples) + len(self.skipped)


@dataclass(frozen=True, slots=True)
class Query:
    """An example with its prompt, which ends with "Assistant:".

    A query that does not come from a benchmark has its dialogue in the prompt only: its example has no turns.
    """

    prompt: str
    example: Example

    @property
    def golden(self) -> Call:
        """The first golden call. The example must have one."""
        return self.example.golden[0]

    @property
    def tools(self) -> tuple[Tool, ...]:
        return self.example.tools


def example_prompt(example: Example, dialect: Dialect) -> str:
    """The prompt of an example: tools and dialogue rendered as in training, up to the last "Assistant:"."""
    return render_prompt(example.tools, example.turns, dialect, example.system)


def read_json_rows(file: Path) -> Any:
    """Returns the rows of a JSON array or of a file with one JSON value on each line, whatever the file's name.

    A JSON object over several lines is no list of rows and is returned unchanged. Raises InputError, which names file
    and line, if the file cannot be read, is empty, or has another form.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"file {file}: is not UTF-8 text (byte {error.start}); give the benchmark's own file"
        ) from None
    except OSError as error:
        raise InputError(f"file {file}: cannot be read ({error.strerror})") from None
    if not text.strip():
        raise InputError(f"file {file}: is empty; give the benchmark's own file")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip()[0] == "[":
            raise InputError(f"file {file}: is not JSON ({error}); it was edited or cut off") from None
    else:
        return [value] if not isinstance(value, list) and "\n" not in text.strip() else value
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise InputError(
                    f"file {file}, line {number}: is not JSON ({error}); it was edited or cut off; a file is a JSON "
                    "array, or has one JSON object on each line"
                ) from None
    return rows


def load_json_text(text: str) -> Any:
    """Parses JSON text inside a row. Raises ValueError if it is not JSON, or if `check_characters` refuses it."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    check_characters(value)
    return value


def check_characters(value: Any) -> None:
    """Raises ValueError if text in a JSON value contains a lone surrogate, which UTF-8 and tokenizers refuse."""
    try:
        json.dumps(value, ensure_ascii=False, default=repr, skipkeys=True).encode()
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"holds \\u{ord(error.object[error.start]):04x}, half of a character pair") from None


def require_field(row: Any, name: str, kind: type, at: str) -> Any:
    """Returns row[name] of type `kind`: str, list or dict. Raises InputError, which begins with `at`, otherwise."""
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind):
        problem = "is missing" if value is None else f"is {value!r:.40}"
        raise InputError(f"{at}, field {name}: {problem}; allowed: {_KINDS[kind]}; give the benchmark's own file")
    return value


_KINDS: dict[type, str] = {str: "a string", list: "a list", dict: "an object"}


def golden_call_remarks(index: int, golden: tuple[Call, ...], tools: tuple[Tool, ...]) -> list[str]:
    """Returns remarks on golden calls that a model cannot reach by following the documentation."""
    names = [tool.name for tool in tools]
    remarks = []
    for call in golden:
        documented = {name for tool in tools if tool.name == call.name for name in tool.properties}
        undocumented = [name for name in call.arguments if name not in documented]
        if call.name not in names:
            remarks.append(f"row {index}: golden call of {call.name!r}, which is not listed")
        elif undocumented:
            remarks.append(f"row {index}: golden {call.name} takes {', '.join(undocumented)}, which is not documented")
    return list(dict.fromkeys(remarks))


def format_notes(sets: Sequence[EvalSet]) -> list[str]:
    """Returns lines for people: the notes on how the files of sets were read."""
    return [f"set {eval_set.name}: {note}" for eval_set in sets for note in eval_set.notes]


def format_indices(indices: Sequence[int], max_listed: int = 5) -> str:
    """Lists the first `max_listed` indices for a message, and says how many more there are."""
    more = f" and {len(indices) - max_listed:,} more" if len(indices) > max_listed else ""
    return ", ".join(map(str, indices[:max_listed])) + more
