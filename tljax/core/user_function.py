"""A function of the user's own, named in a config as module:function."""

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tljax.core.errors import InputError, excerpt


def is_function_path(spec: str) -> bool:
    """Whether `spec` reads module:function, either with dots inside."""
    return re.fullmatch(r"\w+(?:\.\w+)*:\w+(?:\.\w+)*", spec) is not None


def load_function(path: str, field: str, allowed: str) -> Callable[..., Any]:
    """The function at `path`; its module may also lie in the working folder.

    field: the config's, which begins every InputError; allowed: the signature, for people.
    """
    module, _, name = path.partition(":")
    try:
        with _importable_here():
            found = importlib.import_module(module)
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise InputError(
            f"{field}: {path}: importing {module} failed ({describe_exception(error)}); start where {module} lies, "
            "or put its folder on PYTHONPATH"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise InputError(f"{field}: {path}: module {module} has no {name}; name a function that it defines")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{field}: {path} is of type {type(found).__name__}, not a function; allowed: {allowed}")
    return found


@contextlib.contextmanager
def _importable_here() -> Iterator[None]:
    """The working folder on the import path: `python launch/train.py` has launch/ there instead."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def describe_exception(error: BaseException) -> str:
    """An exception's type and the beginning of its message."""
    return f"{type(error).__name__}: {excerpt(str(error))}"
