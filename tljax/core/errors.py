"""InputError, the one exception for errors that a user can fix, and the line and exit code of every such error."""

import contextlib
import re
from collections.abc import Iterator

MAX_EXCERPT = 80  # characters
INTERRUPTED = 75  # the exit code of an Interruption: EX_TEMPFAIL of sysexits.h, as in launch/interruptible.py


class InputError(ValueError):
    """Bad input. The message is one line: the file, row and field, the value, the allowed values, and what to do.

    Launch scripts print the message and exit with code 2.
    """


class StoreUnreachable(InputError):
    """An object store that does not answer; the same command may succeed later."""


class Interruption(InputError):
    """A run that was interrupted by something outside it, and that the same command continues.

    Launch scripts exit with code 75, by which schedulers know that the command is to be started again.
    """


RESTART = "start the same command again with --config.resume=auto, which continues from the last checkpoint"


@contextlib.contextmanager
def interrupt_if_unreachable() -> Iterator[None]:
    """Raises Interruption in place of a StoreUnreachable of the body, which is a part of a run that has begun."""
    try:
        yield
    except StoreUnreachable as error:
        raise Interruption(f"{error}; {RESTART}") from error


@contextlib.contextmanager
def locate_errors(location: str) -> Iterator[None]:
    """Puts `location`, such as a file and a row, in front of the message of an InputError of the body."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{location}: {error}") from None


@contextlib.contextmanager
def explain_out_of_memory(remedy: str) -> Iterator[None]:
    """Raises InputError("the device is out of memory" and `remedy`) if the body needs more memory than a device has."""
    try:
        yield
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(f"the device is out of memory {remedy}") from error


@contextlib.contextmanager
def explain_disk_errors(path: object, remedy: str = "make room, then the same command goes on") -> Iterator[None]:
    """Raises InputError with `path` and the system's reason if the body raises OSError while it writes there."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or one_line(error)}); {remedy}") from error


def exit_code_and_line(error: Exception) -> tuple[int, str] | None:
    """Returns the exit code and the line to print for an error that a user can fix, and None for any other."""
    if isinstance(error, Interruption):
        return INTERRUPTED, f"interrupted: {one_line(error)}"
    if isinstance(error, InputError):
        return 2, f"error: {one_line(error)}"
    if isinstance(error, FloatingPointError):
        return 1, f"stopped: {one_line(error)}"
    if isinstance(error, OSError):
        path = f"{error.filename}: " if error.filename else ""
        return 2, f"error: {path}{error.strerror or one_line(error)}"
    if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        reason = re.search(r"RESOURCE_EXHAUSTED:?\s*([^.\n]*)", str(error))
        return 2, (
            f"error: the device is out of memory ({reason.group(1).strip() if reason else 'no reason given'}); "
            "compute fewer rows at a time (lower batch.rows; for PPO lower rollout.rows or eval.rows, or raise "
            "ppo.accumulate), or spread the model over more devices (mesh.fsdp)"
        )
    return None


def one_line(error: BaseException) -> str:
    """Returns an exception's message on one line, or its type's name if the message is empty."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return re.sub(r"\s+", " ", text).strip() or type(error).__name__


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's message, or its type's name if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def excerpt(text: str, start: int = 0, end: int = 0) -> str:
    """Returns at most MAX_EXCERPT characters of the text, on one line, that show text[start:end]."""
    begin = 0 if end <= MAX_EXCERPT else start
    # Runs of white space shrink to one blank, so more characters are taken than are shown.
    line = " ".join(text[begin : begin + 300].split())
    return line if len(line) <= MAX_EXCERPT else line[: MAX_EXCERPT - 3] + "..."
