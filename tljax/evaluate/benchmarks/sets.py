"""One shape for the rows of all benchmarks: what is asked, with which tools, and which calls answer it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tljax.calls.tool import Call, Tool
from tljax.core.errors import InputError
from tljax.data.prompt import render_prompt
from tljax.data.trajectory import Turn

# What a row wants: one of its golden calls, no call at all, any call of a tool; UNKNOWN has no golden answer.
GOLDEN, NO_CALL, ANY_CALL, UNKNOWN = EXPECTED_REPLIES = ("golden", "no call", "any call", "unknown")


@dataclass(frozen=True, slots=True)
class Example:
    """One row. `index` is its number in the set, from 0, by which predictions refer to it.

    turns: the dialogue up to the asked reply; system: text before the tool list. golden: alternatives, steps or
    parallel calls, whichever the benchmark means; it may hold `AnyValue` and `Choices`. ignored: arguments neither
    asked for nor compared. finish: the listed tool that "finish" calls as well.
    """

    index: int
    id: str
    tools: tuple[Tool, ...]
    turns: tuple[Turn, ...]
    golden: tuple[Call, ...] = ()
    ignored: frozenset[str] = frozenset()
    finish: str | None = None
    system: str = ""
    wants: str = GOLDEN


class Skipped(NamedTuple):
    """A row that is left out of the scores, because its golden answer is broken.

    example: the row without one, which dialogues do with; None where that cannot be had.
    """

    index: int
    id: str
    why: str
    example: Example | None = None


@dataclass(frozen=True)
class EvalSet:
    """The rows of one file in its order, those with a broken golden answer aside.

    remarks: rows that are scored as released although something is odd about them. parts: the sets that a set of
    several files is made of, in order, each with its number of rows.
    """

    name: str
    benchmark: str
    examples: tuple[Example, ...]
    skipped: tuple[Skipped, ...] = ()
    remarks: tuple[str, ...] = ()
    parts: tuple[tuple[str, int], ...] = ()
    file: str = ""

    @property
    def rows(self) -> int:
        """Rows of the file, those left out included; indices lie below it."""
        return len(self.examples) + len(self.skipped)


@dataclass(frozen=True, slots=True)
class Query:
    """An example as a model reads it: `prompt` reaches up to and with "Assistant:".

    Where it did not come from a benchmark, the prompt alone has the dialogue, and the example no turns.
    """

    prompt: str
    example: Example

    @property
    def golden(self) -> Call:
        """The first golden call; of an example that has one."""
        return self.example.golden[0]

    @property
    def tools(self) -> tuple[Tool, ...]:
        return self.example.tools


def example_prompt(example: Example, dialect: str) -> str:
    """What a model reads: tools and dialogue as in training, up to and with the "Assistant:" of the asked reply."""
    return render_prompt(example.tools, example.turns, dialect, example.system)


def read_json_rows(file: Path) -> Any:
    """The rows of a JSON array, or of a file with a JSON value a line, whatever it is called.

    A JSON object over several lines, which holds no rows, is returned as it is. Raises InputError, naming file and
    line, where the file cannot be read, is empty, or is none of these.
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
                told = f"file {file}, line {number}: is not JSON ({error}); it was edited or cut off"
                raise InputError(f"{told}; a file is a JSON array, or a JSON object a line") from None
    return rows


def load_json_text(text: str) -> Any:
    """The value of JSON text within a row. Raises ValueError where it is none, or `check_characters` refuses it."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deep") from None
    check_characters(value)
    return value


def check_characters(value: Any) -> None:
    """Raises ValueError for text in a JSON value that holds a lone surrogate, which no tokenizer and no file takes."""
    try:
        json.dumps(value, ensure_ascii=False, default=repr, skipkeys=True).encode()
    except RecursionError:
        raise ValueError("is nested too deep") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"holds \\u{ord(error.object[error.start]):04x}, half of a character pair") from None


def require_field(row: Any, name: str, kind: type, at: str) -> Any:
    """row[name], a string, list or object. Raises InputError, which begins with `at`, for anything else."""
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind):
        what = "is missing" if value is None else f"is {value!r:.40}"
        raise InputError(f"{at}, field {name}: {what}; allowed: {_KINDS[kind]}; give the benchmark's own file")
    return value


_KINDS: dict[type, str] = {str: "a string", list: "a list", dict: "an object"}


def golden_call_remarks(index: int, golden: tuple[Call, ...], tools: tuple[Tool, ...]) -> list[str]:
    """What makes a row's golden calls hard to reach for a model that follows the documentation."""
    names = [tool.name for tool in tools]
    remarks = []
    for call in golden:
        documented = {name for tool in tools if tool.name == call.name for name in tool.properties}
        odd = [name for name in call.arguments if name not in documented]
        if call.name not in names:
            remarks.append(f"row {index}: golden call of {call.name!r}, which is not listed")
        elif odd:
            remarks.append(f"row {index}: golden {call.name} takes {', '.join(odd)}, which is not documented")
    return list(dict.fromkeys(remarks))


def format_indices(indices: Sequence[int], most: int = 5) -> str:
    """The first indices of many, for a message."""
    more = f" and {len(indices) - most:,} more" if len(indices) > most else ""
    return ", ".join(map(str, indices[:most])) + more
