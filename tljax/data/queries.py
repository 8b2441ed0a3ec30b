"""Rows to be answered: a prompt as it is, or tools and messages as training renders them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tljax.core.errors import InputError
from tljax.data.prompt import render_prompt
from tljax.data.reader import read_rows
from tljax.data.trajectory import ROLES, Trajectory, trajectory_from_row

SCHEMAS = 'either {"id", "prompt"} or {"id", "tools", "messages"} (OpenAI)'
ASKING = ("user", "function")  # whom the assistant answers


@dataclass(frozen=True, slots=True)
class PromptRow:
    """What a model reads. `row` counts from 1 and is the `id` where the row has none."""

    id: str | int
    row: int
    prompt: str


def read_prompt_rows(file: str, dialect: str) -> Iterator[PromptRow]:
    """The rows of a JSONL file or a JSON array, one at a time.

    Raises InputError, naming file, row and field, for the first row that cannot be answered, and for an id that is
    given twice.
    """
    file = check_file(file, SCHEMAS)
    rows: dict[str | int, int] = {}
    for number, row in read_rows(file):
        if isinstance(row, InputError):
            raise row
        query = prompt_row_from_json(row, file, number, dialect)
        check_distinct(query.id, rows, file, number)
        yield query


def check_file(file: str, schemas: str) -> str:
    """The path, "~" expanded. Raises InputError where there is no such file, or nothing in it."""
    file = os.path.expanduser(file)
    if not os.path.isfile(file):
        what = "is a folder" if os.path.isdir(file) else "does not exist"
        raise InputError(f"file {file}: {what}; give a JSONL file with a row a line, {schemas}")
    if os.path.getsize(file) == 0:
        raise InputError(f"file {file}: is empty; give a row a line, {schemas}")
    return file


def prompt_row_from_json(row: Any, file: str, number: int, dialect: str) -> PromptRow:
    """A query from one row of either schema. Raises InputError in one line: file, row, field, what is allowed."""
    at = f"file {file}, row {number}"
    if not isinstance(row, dict):
        raise InputError(f"{at}: is no object; a row is {SCHEMAS}")
    field = require_one_of(row, "prompt", "messages", at, SCHEMAS)
    identity = row_id(row, file, number)
    if field == "messages":
        prompt = prompt_of_messages(row, file, number, dialect)
        check_text(prompt, f"{at}, field messages")
        return PromptRow(identity, number, prompt)
    prompt = row["prompt"]
    check_given(prompt, f"{at}, field prompt", "the text that the model is to continue")
    check_text(prompt, f"{at}, field prompt")
    return PromptRow(identity, number, prompt)


def require_one_of(row: dict[str, Any], one: str, other: str, at: str, schemas: str) -> str:
    """Which of two fields is there. Raises InputError where both are, or none."""
    there = [field for field in (one, other) if row.get(field) is not None]
    if len(there) != 1:
        what = f"{one} and {other} are both there" if there else f"neither {one} nor {other} is there"
        raise InputError(f"{at}: {what} (fields here: {', '.join(row) or 'none'}); a row is {schemas}")
    return there[0]


def check_given(text: Any, at: str, wanted: str) -> None:
    """Raises InputError, which asks for `wanted`, for what is no string or an empty one."""
    if not isinstance(text, str) or not text:
        raise InputError(f"{at}: {'is empty' if text == '' else 'is no string'}; give {wanted}")


def check_text(text: str, at: str) -> None:
    """Raises InputError for text that is no valid Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = f"\\u{ord(text[error.start]):04x}"
        raise InputError(f"{at}: holds {code}, half of a character pair; mend it or take the row out") from None


def prompt_of_messages(row: dict[str, Any], file: str, number: int, dialect: str) -> str:
    """The row's tools and messages up to and with the "Assistant:" of the reply that comes next.

    Raises InputError as `asking_trajectory` does.
    """
    asking = trajectory_to_answer(row, file, number)
    return render_prompt(asking.tools, asking.turns, dialect, asking.system)


def trajectory_to_answer(row: dict[str, Any], file: str, number: int) -> Trajectory:
    """The row's tools and messages, which end with what the assistant is to reply to.

    Raises InputError where the last message is the assistant's, and as `trajectory_from_row` does.
    """
    messages = row["messages"]
    if isinstance(messages, list):
        here = f"file {file}, row {number}, field messages"
        if not messages:
            raise InputError(f"{here}: is empty; give the conversation up to the reply that is wanted")
        last = messages[-1]
        if isinstance(last, dict) and last.get("role") == "assistant":
            raise InputError(
                f"{here}[{len(messages) - 1}].role: is 'assistant', but the reply that is wanted follows the last "
                f"message; end with one of the {' or '.join(r for r, kind in ROLES.items() if kind in ASKING)}"
            )
        # The reply to come, as a stand-in: a trajectory has at least one.
        messages = [*messages, {"role": "assistant", "content": "."}]
    row = {"tools": row.get("tools"), "messages": messages}
    trajectory = trajectory_from_row(row, file, number)
    return replace(trajectory, turns=trajectory.turns[:-1])


def row_id(row: dict[str, Any], file: str, number: int) -> str | int:
    """The row's id, its number where it has none. Raises InputError for what is no string or integer."""
    identity = row.get("id")
    if identity is None or identity == "":
        identity = number
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise InputError(f"file {file}, row {number}, field id: is {identity!r:.60}; allowed: a string or an integer")
    check_text(str(identity), f"file {file}, row {number}, field id")
    return identity


def check_distinct(identity: str | int, rows: dict[str | int, int], file: str, number: int) -> None:
    """Notes the row that bears an id. Raises InputError where an earlier one has it."""
    if identity in rows:
        raise InputError(
            f"file {file}, row {number}, field id: {identity!r} is that of row {rows[identity]} too (a row without "
            "one has its number); give each row its own, by which its answer is known"
        )
    rows[identity] = number
