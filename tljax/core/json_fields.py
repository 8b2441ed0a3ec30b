"""Reading of fields of JSON objects, with errors that name the field, its value and the allowed values.

In every function, `location` is the file, row and field; it begins the message of the InputError.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from tljax.core.errors import InputError


def get_or_default(obj: dict[str, Any], key: str, default: Any) -> Any:
    """Returns the value of `key`, and `default` if it is missing or null."""
    value = obj.get(key)
    return default if value is None else value


def check_not_blank(text: str, location: str) -> str:
    """Returns the text. Raises InputError if it has no character other than white space."""
    if not text.strip():
        raise InputError(f"{location}: is empty; write the reply or remove the row")
    return text


def parse_json(text: str, location: str) -> Any:
    """Returns the JSON value of a text. Raises InputError if the text is not JSON or nests too deeply."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{location}: is not JSON ({error}): {shorten(text)}; fix it or remove the row") from None


def the_field(obj: dict[str, Any], names: tuple[str, ...], location: str) -> str | None:
    """Returns the one of several spellings of a field that is present and not null, None for none.

    Raises InputError if two of them have different values.
    """
    present = [name for name in names if obj.get(name) is not None]
    for name in present[1:]:
        if obj[name] != obj[present[0]]:
            raise InputError(f"{location}: has both {present[0]} and {name}, which differ; remove one of them")
    return present[0] if present else None


def refuse_unknown(obj: dict[str, Any], known: Collection[str], location: str, allowed: str) -> None:
    """Raises InputError for a field with content (a text, a list or an object, not empty) whose name is unknown."""
    for name, value in obj.items():
        if name not in known and isinstance(value, str | list | dict) and value:
            raise InputError(
                f"{location}.{name}: is no known field, but has content: {shorten(value)}; {allowed}; rename or "
                "remove it"
            )


JSON_TYPE_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null or missing"}


def json_type_name(value: Any) -> str:
    """Returns the JSON type of a value with its article, such as "a list"."""
    return JSON_TYPE_NAMES.get(type(value), "a number")


def expect_type(value: Any, expected: type, location: str) -> Any:
    """Returns the value. Raises InputError if it is not of the expected type."""
    if not isinstance(value, expected):
        raise InputError(
            f"{location}: is {json_type_name(value)}, not {JSON_TYPE_NAMES[expected]}; fix it or remove the row"
        )
    return value


def shorten(value: Any, limit: int = 60) -> str:
    """Returns the `repr` of a value, cut to `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def join_names(names: Any) -> str:
    """Returns the names with commas between them, or "none"."""
    return ", ".join(names) or "none"
