"""Fields of JSON objects, read with errors that name the field, its value and what is allowed."""

from __future__ import annotations

import json
from typing import Any

from tljax.core.errors import InputError


def get_or_default(obj: dict[str, Any], key: str, default: Any) -> Any:
    value = obj.get(key)
    return default if value is None else value


def check_not_blank(text: str, at: str) -> str:
    if not text.strip():
        raise InputError(f"{at}: is empty; write the reply or take the row out")
    return text


def parse_json(text: str, at: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{at}: is not JSON ({error}): {shorten(text)}; mend it or take the row out") from None


JSON_TYPE_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null or missing"}


def json_type_name(value: Any) -> str:
    return JSON_TYPE_NAMES.get(type(value), "a number")


def expect_type(value: Any, kind: type, at: str) -> Any:
    if not isinstance(value, kind):
        raise InputError(f"{at}: is {json_type_name(value)}, not {JSON_TYPE_NAMES[kind]}; mend it or take the row out")
    return value


def shorten(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def join_names(names: Any) -> str:
    return ", ".join(names) or "none"
