"""A record of a training file -> Trajectory, whatever the record's format."""

from __future__ import annotations

from typing import Any

from tljax.core.errors import InputError
from tljax.core.json_fields import join_names, json_type_name
from tljax.data.formats import anthropic, openai, sharegpt, tl_training, xlam
from tljax.data.trajectory import Trajectory

# The first format that matches a record reads it; a record of none is expected to be of the last.
FORMATS = (xlam, sharegpt, anthropic, openai, tl_training)
_SCHEMAS = " or ".join(form.SCHEMA for form in reversed(FORMATS))


def trajectory_from_record(record: Any, file: str, number: int) -> Trajectory:
    """Returns the trajectory of a record; `number` counts the rows of `file` from 1.

    Raises InputError in one line: file, row, field, what is wrong, what is allowed.
    """
    location = f"file {file}, row {number}"
    if not isinstance(record, dict):
        raise InputError(f"{location}: is {json_type_name(record)}, not an object; a row is {_SCHEMAS}")
    form = next((form for form in FORMATS if form.matches(record)), None)
    if form is None:
        raise InputError(
            f"{location}, field {FORMATS[-1].MESSAGES}: is missing (fields here: {join_names(record)}); "
            f"a row is {_SCHEMAS}"
        )
    conversation = form.read(record, location)
    if all(turn.role != "assistant" for turn in conversation.turns):
        raise InputError(
            f"{location}, field {form.MESSAGES}: has no assistant message, so there is nothing to learn; "
            "take the row out"
        )
    identity = record.get("id")
    if identity is None or identity == "":
        identity = number
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise InputError(f"{location}, field id: is {json_type_name(identity)}; allowed: a string or an integer")
    return Trajectory(identity, conversation.tools, conversation.turns, conversation.system, number)
