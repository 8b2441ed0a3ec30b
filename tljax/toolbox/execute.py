"""Execution of one tool call: the feedback is the result as text, or Python's error text.

`execute` runs in this process, tens of thousands of calls a second. That is safe for the tools of the toolbox: they
are fixed functions, chosen by name; none of their loops or powers depends on an unchecked argument; and their arguments
are JSON data, whose types and sizes are checked before the call and which are never evaluated. Functions of a user's
file are called in another process, by `tljax.agent.worker`.
"""

import json
import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from tljax.toolbox.schema import LocalTool, strip_optional

MAX_STRING = 1000
MAX_ITEMS = 100
MAX_NUMBER = 1e9
MAX_RESULT = 4000
MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a call: `value` is the feedback, and `error` is True if the call failed."""

    value: str
    error: bool


def execute(
    name: str,
    arguments: Any,
    tools: Mapping[str, LocalTool],
    state: dict[str, Any] | None = None,
    *,
    bounded: bool = True,
) -> Result:
    """Calls a tool with a JSON object of arguments, and returns its result. Never raises an Exception.

    tools: the tools that may be called, by name. state: the state of the episode, which the tool may change in place.
    bounded: True refuses large arguments, results of more than MAX_RESULT characters, and results that are not JSON.
    False, for a worker, whose time limit bounds the call, cuts long results and formats other values by `str`.

    None for a parameter that is not required means its default, since prompts show every default as None.
    """
    # The tool, and the names of the arguments.
    if not isinstance(name, str):
        return error_result(f"TypeError: the name of a tool must be str, not {type(name).__name__}")
    if name not in tools:
        return error_result(undefined_name_error(name))
    tool = tools[name]
    message = binding_error(name, arguments, tool.types, tool.required)
    if message is not None:
        return error_result(message)
    # The types of the arguments, and the call.
    arguments = {key: value for key, value in arguments.items() if value is not None or key in tool.required}
    try:
        for parameter, value in arguments.items():
            check_type(value, tool.types[parameter], f"{name}() argument '{parameter}'", bounded)
        value = tool.function(*([{} if state is None else state] if tool.takes_state else []), **arguments)
        text = json_text(value) if bounded else json_or_str(value)
    except Exception as error:
        return error_result(f"{type(error).__name__}: {exception_message(error)}")
    # The length of the result.
    if len(text) > MAX_RESULT and not bounded:
        text = f"{text[:MAX_RESULT]}... ({len(text) - MAX_RESULT:,} more characters)"
    elif len(text) > MAX_RESULT:
        return error_result(f"ValueError: {name}() result has more than {MAX_RESULT} characters")
    return Result(escape_surrogates(text), False)


def json_text(value: Any) -> str:
    """Returns a string as it is, other JSON data as JSON. Raises ValueError or TypeError for NaN and other values."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)


def json_or_str(value: Any) -> str:
    """Returns the value by `json_text`, and a value that is not JSON by `str`."""
    try:
        return json_text(value)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def exception_message(error: Exception) -> str:
    """Returns the message of an exception, whose own __str__ may fail."""
    try:
        return str(error)
    except Exception:
        return "its message cannot be read"


def error_result(text: str) -> Result:
    """Returns the result of a failed call, with at most MAX_RESULT characters of the text."""
    return Result(escape_surrogates(text[:MAX_RESULT]), True)


def escape_surrogates(text: str) -> str:
    """Returns the text with escapes for lone surrogates, which JSON can spell but UTF-8 cannot encode."""
    return text.encode("utf-8", "backslashreplace").decode()


def undefined_name_error(name: str) -> str:
    """Returns CPython's message for an undefined name."""
    return f"name '{name[:MAX_NAME]}' is not defined"


def binding_error(name: str, arguments: Any, known: Container[str], required: Iterable[str]) -> str | None:
    """Returns CPython's message for arguments that do not fit a signature, and None if they fit.

    The message names the first unexpected argument, or otherwise all missing ones. known: the function's parameters.
    required: the parameters without a default, in order.
    """
    if not isinstance(arguments, dict):
        return f"TypeError: {name}() argument after ** must be a mapping, not {type(arguments).__name__}"
    for argument in arguments:
        if argument not in known:
            return f"{name}() got an unexpected keyword argument '{str(argument)[:MAX_NAME]}'"
    missing = [f"'{parameter}'" for parameter in required if parameter not in arguments]
    if not missing:
        return None
    if len(missing) == 1:
        return f"{name}() missing 1 required positional argument: {missing[0]}"
    listed = " and ".join(missing) if len(missing) == 2 else f"{', '.join(missing[:-1])}, and {missing[-1]}"
    return f"{name}() missing {len(missing)} required positional arguments: {listed}"


def check_type(value: Any, annotation: Any, argument: str, bounded: bool) -> None:
    """Raises TypeError if JSON data is not of the annotated type, and ValueError if `bounded` and it is too large.

    An int counts as a float, and a bool only as a bool. NaN and infinity raise ValueError.

    argument: text that names the argument in messages.
    """
    # Optional values, any value, and one of fixed values.
    inner = strip_optional(annotation)
    if inner is not annotation:
        if value is not None:
            check_type(value, inner, argument, bounded)
        return
    if annotation is Any:
        return
    base, members = get_origin(annotation) or annotation, get_args(annotation)
    if base is Literal:
        if not any(value == member and type(value) is type(member) for member in members):
            raise ValueError(f"{argument} must be one of {', '.join(map(repr, members))}")
        return
    # The type, then the size.
    fits = isinstance(value, int | float if base is float else base)
    if not fits or (isinstance(value, bool) and base is not bool):
        raise TypeError(f"{argument} must be {base.__name__}, not {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{argument} must be finite")
    if bounded and isinstance(value, int | float) and abs(value) > MAX_NUMBER:
        raise ValueError(f"{argument} must be between -{MAX_NUMBER:.0f} and {MAX_NUMBER:.0f}")
    if bounded and isinstance(value, str) and len(value) > MAX_STRING:
        raise ValueError(f"{argument} has more than {MAX_STRING} characters")
    if bounded and isinstance(value, list | dict) and len(value) > MAX_ITEMS:
        raise ValueError(f"{argument} has more than {MAX_ITEMS} items")
    # The keys and items.
    if isinstance(value, dict):
        for key in value:
            check_type(key, str, f"{argument} key", bounded)
        value = list(value.values())
    if isinstance(value, list) and members:
        for item in value:
            check_type(item, members[-1], f"{argument} item", bounded)
