"""Tells a store, network or mounted folder that does not answer from one that refuses, and tries again for a while."""

import errno
import re
import time
from collections.abc import Callable
from typing import TypeVar

from tljax.core.errors import InputError, StoreUnreachable

T = TypeVar("T")

# Errors of the system for a network or a mounted store (gcsfuse, NFS) that is away; codes of HTTP; names of the
# libraries' exceptions; codes in the texts of TensorStore's exceptions.
UNREACHABLE_ERRORS = {
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ENETDOWN, errno.ENETUNREACH),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EREMOTEIO, errno.ESHUTDOWN),
}
UNREACHABLE_CODES = {"408", "429", "500", "502", "503", "504"}
UNREACHABLE_NAMES = re.compile(
    r"Connect|Timeout|Transport|Proxy|Payload|ChunkedEncoding|Unavailable|ServerError", re.IGNORECASE
)
TENSORSTORE_UNREACHABLE = re.compile(r"\b(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED)\b")
RETRY_SECONDS = (2.0, 10.0, 30.0)  # after the retries of gcsfs, which end within a minute


def is_unreachable(error: BaseException) -> bool:
    """Returns True for an error of a store, a network or a mounted folder that does not answer, but may do so later."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError):
            return isinstance(cause, StoreUnreachable)
        code = str(getattr(cause, "code", "") or getattr(cause, "status", ""))
        module, name = type(cause).__module__.partition(".")[0], type(cause).__name__
        if isinstance(cause, OSError) and cause.errno in UNREACHABLE_ERRORS:
            return True
        if isinstance(cause, ConnectionError | TimeoutError) or code in UNREACHABLE_CODES:
            return True
        if module in ("aiohttp", "requests", "urllib3", "google") and UNREACHABLE_NAMES.search(name):
            return True
        if isinstance(cause, ValueError) and TENSORSTORE_UNREACHABLE.search(str(cause)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def retry_unreachable(act: Callable[[], T]) -> T:
    """Returns `act()`, tried again after each of RETRY_SECONDS while a store does not answer, as its last try does."""
    for seconds in RETRY_SECONDS:
        try:
            return act()
        except StoreUnreachable:
            time.sleep(seconds)
    return act()
