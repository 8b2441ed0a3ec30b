"""Loading of a user's function that a config names as module:function."""

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tljax.core.errors import InputError, excerpt


def is_function_path(spec: str) -> bool:
    """Returns True if `spec` has the form module:function; both parts may hold dots."""
    return re.fullmatch(r"\w+(?:\.\w+)*:\w+(?:\.\w+)*", spec) is not None


def load_function(path: str, field: str, allowed: str) -> Callable[..., Any]:
    """Returns the function `path`, which is module:function. The module may also be a file in the working folder.

    field: the config field that names the function. allowed: the function's signature, as text for the error message.
    Raises InputError, beginning with the field, if the module cannot be imported or has no such function.
    """
    module, _, name = path.partition(":")
    try:
        with _importable_here():
            value = importlib.import_module(module)
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise InputError(
            f"{field}: {path}: importing {module} failed ({describe_exception(error)}); start in the folder of "
            f"{module}, or put that folder on PYTHONPATH"
        ) from error
    for part in name.split("."):
        if not hasattr(value, part):
            raise InputError(f"{field}: {path}: module {module} has no {name}; name a function that it defines")
        value = getattr(value, part)
    if not callable(value):
        raise InputError(f"{field}: {path} is of type {type(value).__name__}, not a function; allowed: {allowed}")
    return value


@contextlib.contextmanager
def _importable_here() -> Iterator[None]:
    """Puts the working folder on the import path; `python launch/train.py` puts launch/ there instead."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def describe_exception(error: BaseException) -> str:
    """Returns an exception's type and the beginning of its message."""
    return f"{type(error).__name__}: {excerpt(str(error))}"
