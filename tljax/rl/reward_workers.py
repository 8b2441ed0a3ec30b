"""A user's reward function in child processes, so that a call that hangs or dies cannot stop the run."""

import contextlib
import inspect
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any

from tljax.calls.compare import KINDS
from tljax.core.errors import InputError
from tljax.core.sandbox import Child, serve
from tljax.core.user_function import describe_exception, load_function
from tljax.rl.irm import Reward

FIELD = "config.reward.rule"
ALLOWED = "fn(prediction: str, golden: str, tools: list[dict]) -> float | Reward"
LOAD_SECONDS = 300.0  # for the import of the user's module
MAX_FLOAT32 = 3.4e38

Arguments = tuple[str, str, list[dict[str, Any]]]  # prediction, golden call, tools
Answer = tuple[float, str, str]  # value, kind, detail; kind is "" if the function returned a bare number


class RewardWorkers:
    """`count` child processes that have imported the function at `path`; each makes one call at a time.

    timeout: seconds that one call may take. Raises InputError if the module cannot be imported or if the function does
    not take three arguments.
    """

    def __init__(self, path: str, count: int, timeout: float) -> None:
        self._path, self._timeout = path, timeout
        limits = {"load_seconds": LOAD_SECONDS, "answer_seconds": timeout}
        self._children: list[Child] = []
        try:
            for _ in range(count):
                self._children.append(Child("tljax.rl.reward_workers", path, **limits, quiet=False))
            for child in self._children:
                self._check_loaded(child)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the processes at once, whatever they do."""
        for child in self._children:
            child.close()
        self._children.clear()

    def call(self, calls: Sequence[Arguments], name_call: Callable[[int], str]) -> list[Answer]:
        """Returns the answers in the order of `calls`; name_call(i) names call i in an error.

        Raises InputError, and ends all processes, if a call raises, takes longer than the limit, ends its process or
        returns no reward.
        """
        if not self._children:
            raise RuntimeError("the processes of the reward function have been closed")
        answers: list[Answer | None] = [None] * len(calls)
        running: dict[Child, tuple[int, float]] = {}  # the index of a child's call, and its deadline
        idle, following = list(self._children), 0
        try:
            while running or following < len(calls):
                while idle and following < len(calls):
                    child = idle.pop()
                    child.send(calls[following])
                    running[child] = following, time.monotonic() + self._timeout
                    following += 1
                first_deadline = min(deadline for _, deadline in running.values())
                ready = wait([child.connection for child in running], max(0.0, first_deadline - time.monotonic()))
                for child, (i, deadline) in list(running.items()):
                    if child.connection in ready or time.monotonic() > deadline:
                        answers[i] = self._receive(child, deadline, lambda i=i: name_call(i))
                        del running[child]
                        idle.append(child)
        except BaseException:
            self.close()
            raise
        return [answer for answer in answers if answer is not None]

    def _check_loaded(self, child: Child) -> None:
        try:
            child.receive_greeting()
        except TimeoutError:
            raise InputError(
                f"{FIELD}: {self._path}: importing its module took more than {LOAD_SECONDS:g} seconds; mend it"
            ) from None
        except EOFError as error:
            module = self._path.partition(":")[0]
            raise InputError(
                f"{FIELD}: {self._path}: a process that imports {module} {error}; does "
                f'python -c "import {module}" work?'
            ) from None

    def _receive(self, child: Child, deadline: float, name_call: Callable[[], str]) -> Answer:
        try:
            answer = child.receive(deadline - time.monotonic())
        except TimeoutError:
            raise InputError(
                f"{name_call()}: {FIELD} {self._path} took more than {self._timeout:g} seconds; mend it, or raise "
                "config.reward.timeout"
            ) from None
        except EOFError as error:
            answer = f"ended its process, which {error}"
        if isinstance(answer, str):
            raise InputError(f"{name_call()}: {FIELD} {self._path} {answer}; mend it, or choose another rule")
        value, kind, detail = answer
        return value, kind, detail


def _load(path: str) -> tuple[None, Callable[[Any], Any]]:
    # Imports inside the function find modules in the working folder too.
    sys.path.insert(0, os.getcwd())
    function = load_function(path, FIELD, ALLOWED)
    _check_signature(function, path)

    def answer(arguments: Arguments) -> Answer | str:
        try:
            return read_answer(function(*arguments))
        except BaseException as error:  # The user's code may raise anything, SystemExit too.
            return f"raised {describe_exception(error)}"

    return None, answer


def _check_signature(function: Callable[..., Any], path: str) -> None:
    if inspect.iscoroutinefunction(function):
        raise InputError(f"{FIELD}: {path} is async; allowed: {ALLOWED}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Some functions written in C have none.
        return
    try:
        signature.bind("", "", [])
    except TypeError as error:
        raise InputError(f"{FIELD}: {path}{signature} does not fit ({error}); allowed: {ALLOWED}") from None


def read_answer(result: Any) -> Answer | str:
    """Returns the result of a user's function as an Answer, or a text that describes its error."""
    kind = detail = ""
    value = result
    if isinstance(result, Reward):
        value, kind, detail = result.value, result.kind, result.detail
        if kind and kind not in KINDS:
            return f'returned the kind {kind!r:.60}; allowed: {", ".join(KINDS)}, or "" for the table\'s'
        if not isinstance(detail, str):
            return f"returned a detail of type {type(detail).__name__}; allowed: text"
    number = None
    if not isinstance(value, str | bytes | bytearray):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            number = float(value)
    if number is None:
        return f"returned {_excerpt(value)}, of type {type(value).__name__}; allowed: a finite number, or a Reward"
    if not math.isfinite(number) or abs(number) > MAX_FLOAT32:
        return f"returned {number}; allowed: a finite number, or a Reward"
    return number, kind, " ".join(detail.split())


def _excerpt(value: Any) -> str:
    return " ".join(repr(value).split())[:60]


if __name__ == "__main__":
    serve(_load)
