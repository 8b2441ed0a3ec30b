"""Run one tool call: its value as text, or Python's own error text as feedback.

`execute` runs in this process, tens of thousands of calls a second, and is for the tools of the toolbox: they are fixed
functions that are chosen by name, bounded by construction (no loop or power of theirs depends on an unchecked
argument), and their arguments are plain JSON data that is checked for type and size before the call and never
evaluated. Functions that nobody has checked, such as those of a user's file, are called through `worker`.
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
    """What a call gives back: `value` is the feedback text, bounded by MAX_RESULT characters."""

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
    """Run the tool of this name on a JSON object of arguments. Never raises an Exception.

    `tools` are the ones that may be called; any other name is not defined. `state` is the episode's, changed in place.
    None for a parameter that is not required stands for its default, which documentation writes as None too.
    `bounded` refuses large arguments and results, and values that are no JSON. A worker goes without, since its time
    limit bounds the call: there a long result is cut, and other values are written by `str`.
    """
    if not isinstance(name, str):
        return error_result(f"TypeError: the name of a tool must be str, not {type(name).__name__}")
    if name not in tools:
        return error_result(undefined_name_error(name))
    tool = tools[name]
    problem = binding_error(name, arguments, tool.types, tool.required)
    if problem is not None:
        return error_result(problem)
    arguments = {key: value for key, value in arguments.items() if value is not None or key in tool.required}
    try:
        for parameter, value in arguments.items():
            check_type(value, tool.types[parameter], f"{name}() argument '{parameter}'", bounded)
        value = tool.function(*([{} if state is None else state] if tool.takes_state else []), **arguments)
        text = json_text(value) if bounded else json_or_str(value)
    except Exception as error:
        return error_result(f"{type(error).__name__}: {exception_message(error)}")
    if len(text) > MAX_RESULT and not bounded:
        text = f"{text[:MAX_RESULT]}... ({len(text) - MAX_RESULT:,} more characters)"
    elif len(text) > MAX_RESULT:
        return error_result(f"ValueError: {name}() result has more than {MAX_RESULT} characters")
    return Result(escape_surrogates(text), False)


def json_text(value: Any) -> str:
    """A string as it is, other JSON data as JSON. Raises ValueError or TypeError for what is none, NaN too."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)


def json_or_str(value: Any) -> str:
    """As `json_text`, and what `str` makes of a value that is no JSON."""
    try:
        return json_text(value)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def exception_message(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # an exception's own __str__ may be broken
        return "its message cannot be read"


def error_result(text: str) -> Result:
    return Result(escape_surrogates(text[:MAX_RESULT]), True)


def escape_surrogates(text: str) -> str:
    """The text with lone surrogates, which JSON can spell and no file can hold, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def undefined_name_error(name: str) -> str:
    """CPython's text for a name that nothing bears."""
    return f"name '{name[:MAX_NAME]}' is not defined"


def binding_error(name: str, arguments: Any, known: Container[str], required: Iterable[str]) -> str | None:
    """CPython's text for arguments that do not fit the signature: the first unexpected one, else all missing ones.

    known: the function's parameters; required: those without a default, in order.
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


def check_type(value: Any, annotation: Any, where: str, bounded: bool) -> None:
    """Raises TypeError where JSON data is not of the annotated type, ValueError where it is too large.

    An int passes for a float, a bool passes for nothing but a bool; NaN and infinity pass for nothing.
    """
    inner = strip_optional(annotation)
    if inner is not annotation:
        if value is not None:
            check_type(value, inner, where, bounded)
        return
    if annotation is Any:
        return
    base, members = get_origin(annotation) or annotation, get_args(annotation)
    if base is Literal:
        if not any(value == member and type(value) is type(member) for member in members):
            raise ValueError(f"{where} must be one of {', '.join(map(repr, members))}")
        return
    fits = isinstance(value, int | float if base is float else base)
    if not fits or (isinstance(value, bool) and base is not bool):
        raise TypeError(f"{where} must be {base.__name__}, not {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} must be finite")
    if bounded and isinstance(value, int | float) and abs(value) > MAX_NUMBER:
        raise ValueError(f"{where} must be between -{MAX_NUMBER:.0f} and {MAX_NUMBER:.0f}")
    if bounded and isinstance(value, str) and len(value) > MAX_STRING:
        raise ValueError(f"{where} has more than {MAX_STRING} characters")
    if bounded and isinstance(value, list | dict) and len(value) > MAX_ITEMS:
        raise ValueError(f"{where} has more than {MAX_ITEMS} items")
    if isinstance(value, dict):
        for key in value:
            check_type(key, str, f"{where} key", bounded)
        value = list(value.values())
    if isinstance(value, list) and members:
        for item in value:
            check_type(item, members[-1], f"{where} item", bounded)
