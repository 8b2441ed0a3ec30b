"""The one exception for what a user can mend, and what becomes one."""

import contextlib
from collections.abc import Iterator


class InputError(ValueError):
    """Bad input: one line that says what, where (file, row, field), what is allowed and what to do.

    Launch scripts print it and exit with code 2; every other exception is a defect and keeps its traceback.
    """


@contextlib.contextmanager
def memory_told(told: str) -> Iterator[None]:
    """Raises InputError("the device is out of memory " and `told`) where the body needs more than a device has."""
    try:
        yield
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(f"the device is out of memory {told}") from error
