"""A record of a training file -> Trajectory, whatever the record's format."""

from __future__ import annotations

from typing import Any

from tljax.core.errors import InputError
from tljax.core.json_fields import join_names, json_type_name
from tljax.data.formats import anthropic, openai, sharegpt, tl_training, xlam
from tljax.data.trajectory import Trajectory

# Name -> format. The first format that matches a record reads it.
FORMATS = {
    "xlam": xlam,
    "sharegpt": sharegpt,
    "anthropic": anthropic,
    "openai": openai,
    "tl_training": tl_training,
}
AUTO = "auto"  # the value of data.format that lets the shape of each record decide
FORMAT_NAMES = (AUTO, *reversed(FORMATS))
_SCHEMAS = " or ".join(form.SCHEMA for form in reversed(FORMATS.values()))


def trajectory_from_record(record: Any, file: str, number: int, data_format: str = AUTO) -> Trajectory:
    """Returns the trajectory of a record; `number` counts the rows of `file` from 1.

    data_format: the name of the format, AUTO for the one whose shape the record has. Raises InputError in one line:
    file, row, field, what is wrong, what is allowed.
    """
    return read_record(record, f"file {file}, row {number}", number, data_format)[1]


def read_record(record: Any, location: str, number: int, data_format: str = AUTO) -> tuple[str, Trajectory]:
    """Returns the name of the format that a record was read in, and its trajectory.

    location: the file and row of the record; number: the id of a record without one; data_format: as above. Raises
    InputError for a malformed record.
    """
    if not isinstance(record, dict):
        schemas = _SCHEMAS if data_format == AUTO else FORMATS[data_format].SCHEMA
        raise InputError(f"{location}: is {json_type_name(record)}, not an object; a row is {schemas}")
    by_shape = next((name for name, form in FORMATS.items() if form.matches(record)), None)
    name = by_shape if data_format == AUTO else data_format
    if name is None:
        raise InputError(
            f"{location}, field {tl_training.MESSAGES}: is missing (fields here: {join_names(record)}); "
            f"a row is {_SCHEMAS}"
        )
    try:
        return name, _read(record, name, location, number)
    except InputError as error:
        if by_shape in (name, None):
            raise
        raise InputError(f"{error} (data.format={data_format}, but the row has the shape of {by_shape})") from None


def _read(record: dict[str, Any], name: str, location: str, number: int) -> Trajectory:
    """Returns the trajectory of a record in the format of this name."""
    form = FORMATS[name]
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
