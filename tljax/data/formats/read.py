"""A record of a training file -> Trajectory, whatever the record's format."""

from __future__ import annotations

from typing import Any

from tljax.core.errors import InputError
from tljax.core.json_fields import join_names, json_type_name, parse_json
from tljax.data.formats import (
    anthropic,
    api_log,
    glaive,
    openai,
    preferences,
    responses,
    seal_tools,
    sharegpt,
    tl_training,
    toolbench,
    xlam,
)
from tljax.data.formats.nearest import has_known_messages, nearest_format
from tljax.data.trajectory import Trajectory

# Name -> format. The first format that matches a record reads it.
FORMATS = {
    "xlam": xlam,
    "seal_tools": seal_tools,
    "glaive": glaive,
    "responses": responses,
    "toolbench": toolbench,
    "sharegpt": sharegpt,
    "anthropic": anthropic,
    "openai": openai,
    "tl_training": tl_training,
}
AUTO = "auto"  # the value of data.format that lets the shape of each record decide
FORMAT_NAMES = (AUTO, *reversed(FORMATS))
# Nearest to a record of no format is, of equally near ones, the most common format.
_SHAPES = {name: FORMATS[name].SHAPE for name in ("openai", "sharegpt", *FORMATS)}
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
    record = _conversation_record(record, location)
    by_shape = _format_of(record)
    name = by_shape if data_format == AUTO else data_format
    if name is None:
        raise InputError(_unknown_shape(record, location))
    try:
        return name, _read(record, name, location, number)
    except InputError as error:
        if by_shape in (name, None):
            raise
        raise InputError(f"{error} (data.format={data_format}, but the row has the shape of {by_shape})") from None


def has_known_shape(record: Any) -> bool:
    """Returns True for an object that has the shape of a format."""
    try:
        return isinstance(record, dict) and _format_of(_conversation_record(record, "")) is not None
    except InputError:
        return True  # a malformed entry of a log


def _conversation_record(record: dict[str, Any], location: str) -> dict[str, Any]:
    """Returns the record of the conversation that an entry of a log or a row of preferences holds.

    Where the record has the JSON text of its messages, the result has the messages.
    """
    for field in openai.MESSAGES_FIELDS:
        if isinstance(record.get(field), str) and record[field].lstrip().startswith("["):
            record = {**record, field: parse_json(record[field], f"{location}, field {field}")}
    return preferences.with_chosen_reply(api_log.unwrap(record, location), location)


def _format_of(record: dict[str, Any]) -> str | None:
    """Returns the name of the format whose shape a record has; None if it has that of none."""
    name = next((name for name, form in FORMATS.items() if form.matches(record)), None)
    if name in ("openai", "tl_training"):
        messages = next((record[field] for field in openai.MESSAGES_FIELDS if record.get(field) is not None), None)
        return name if has_known_messages(messages) else None
    return name


def _unknown_shape(record: dict[str, Any], location: str) -> str:
    """Returns the error of a record of no known format."""
    fields = f"(fields here: {join_names(record)})"
    nearest = nearest_format(record, _SHAPES)
    if nearest is None:
        return f"{location}, field {tl_training.MESSAGES}: is missing {fields}; a row is {_SCHEMAS}"
    name, difference = nearest
    return (
        f"{location}: has the shape of no known format {fields}; nearest is {name}, {FORMATS[name].SCHEMA}, but "
        f"{difference}; rename the fields or take the row out"
    )


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
