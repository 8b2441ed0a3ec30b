"""Explains the errors of Orbax, TensorStore, file systems and object stores that a checkpoint meets."""

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

import jax

from tljax.core.errors import one_line
from tljax.storage.unreachable import is_unreachable

# The packages whose exceptions report that an object store refused a request, and the codes of such refusals.
_STORES = ("gcsfs", "google", "aiohttp", "requests")
STORE_REFUSALS = re.compile(r"\b(PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|NOT_FOUND|DEADLINE_EXCEEDED|ABORTED)\b")
# TensorStore raises ValueError with the system's error number in its text.
_SYSTEM_ERROR = re.compile(r"\[os_error_code='(\d+)'\]|\[OS error (\d+)")


class StoreFailure(NamedTuple):
    """The reason that a file system or store gave for a failure.

    unreachable: True if it did not answer, as a network or a mounted store that is away; the same may succeed later.
    """

    reason: str
    unreachable: bool


def store_failure(error: BaseException) -> StoreFailure | None:
    """Returns the failure of a file system or store behind an error, None if the error has another cause."""
    for cause in _causes(error):
        if isinstance(cause, jax.errors.JaxRuntimeError):
            return None  # an error of a device or of another process, whose text has the codes of a store
        number = _SYSTEM_ERROR.search(str(cause))
        if isinstance(cause, OSError):
            return StoreFailure(cause.strerror or one_line(cause)[:200], is_unreachable(cause))
        if number:
            code = int(number[1] or number[2])
            return StoreFailure(os.strerror(code), is_unreachable(OSError(code, os.strerror(code))))
        if type(cause).__module__.partition(".")[0] in _STORES or STORE_REFUSALS.search(str(cause)):
            return StoreFailure(one_line(cause)[:200], is_unreachable(cause))
    return None


def damage(error: Exception) -> str | None:
    """Returns what is wrong with a checkpoint that cannot be read, None if the error has another cause.

    Orbax, TensorStore and json raise OSError, ValueError and KeyError for damaged files. Other errors, such as too
    little memory or a defect, are no damage. Orbax wraps an error of an array in a bare Exception.
    """
    cause: BaseException = error
    while type(cause) is Exception and cause.__cause__ is not None:
        cause = cause.__cause__
    if not isinstance(cause, OSError | ValueError | KeyError):
        return None
    return one_line(cause)[:160]


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
