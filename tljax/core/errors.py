"""The one exception for what a user can mend, and what a script says and returns of any."""

import contextlib
import re
from collections.abc import Iterator

EXCERPT = 80  # characters


class InputError(ValueError):
    """Bad input: one line that says what, where (file, row, field), what is allowed and what to do.

    Launch scripts print it and exit with code 2; every other exception is a defect and keeps its traceback.
    """


@contextlib.contextmanager
def explain_out_of_memory(told: str) -> Iterator[None]:
    """Raises InputError("the device is out of memory " and `told`) where the body needs more than a device has."""
    try:
        yield
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(f"the device is out of memory {told}") from error


@contextlib.contextmanager
def explain_disk_errors(path: object, remedy: str = "make room, then the same command goes on") -> Iterator[None]:
    """Raises InputError, naming `path` and what the system said, where the disk refuses what the body writes there."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or one_line(error)}); {remedy}") from error


def exit_code_and_line(error: Exception) -> tuple[int, str] | None:
    """Exit code and line for what a user can mend, or None."""
    if isinstance(error, InputError):
        return 2, f"error: {one_line(error)}"
    if isinstance(error, FloatingPointError):
        return 1, f"stopped: {one_line(error)}"
    if isinstance(error, OSError):
        place = error.filename or ""
        return 2, f"error: {place}{': ' if place else ''}{error.strerror or one_line(error)}"
    if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        told = re.search(r"RESOURCE_EXHAUSTED:?\s*([^.\n]*)", str(error))
        return 2, (
            f"error: the device is out of memory ({told.group(1).strip() if told else 'no more known'}); lower "
            "what it computes side by side (batch.rows; of PPO rollout.rows, eval.rows, or raise ppo.accumulate), or "
            "spread the model over more devices (mesh.fsdp)"
        )
    return None


def one_line(error: BaseException) -> str:
    """What an exception says, without newlines."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return re.sub(r"\s+", " ", text).strip() or type(error).__name__


def excerpt(text: str, start: int = 0, end: int = 0) -> str:
    """At most EXCERPT characters of text, on one line, that show text[start:end]."""
    begin = 0 if end <= EXCERPT else start
    # White space is folded first, so a few times as many characters are taken as are shown.
    line = " ".join(text[begin : begin + 300].split())
    return line if len(line) <= EXCERPT else line[: EXCERPT - 3] + "..."
