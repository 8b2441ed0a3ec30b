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
ALLOWED_FOR_DIALOGUES = "fn(dialogue: dict) -> float | list of a float for each turn"
LOAD_SECONDS = 300.0  # for the import of the user's module
MAX_FLOAT32 = 3.4e38

Arguments = tuple[Any, ...]  # prediction, golden call, tools as flat JSON; or a dialogue
Answer = tuple[float, str, str]  # value, kind, detail; kind is "" if the function returned a bare number


class RewardWorkers:
    """`count` child processes that have imported the function at `path`; each makes one call at a time.

    timeout: seconds that one call may take. of_dialogues: the function takes a dialogue (`rl.dialogues.rewards`) in
    place of a reply, and an answer is a list with the value of each turn. Raises InputError if the module cannot be
    imported or if the function does not take such arguments.
    """

    def __init__(self, path: str, count: int, timeout: float, *, of_dialogues: bool = False) -> None:
        self._path, self._timeout = path, timeout
        limits = {"load_seconds": LOAD_SECONDS, "answer_seconds": timeout}
        self._children: list[Child] = []
        try:
            for _ in range(count):
                self._children.append(Child("tljax.rl.reward_workers", [path, of_dialogues], **limits, quiet=False))
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

    def call(self, calls: Sequence[Arguments], name_call: Callable[[int], str]) -> list[Any]:
        """Returns the answers in the order of `calls`; name_call(i) names call i in an error.

        Raises InputError, and ends all processes, if a call raises, takes longer than the limit, ends its process or
        returns no reward.
        """
        if not self._children:
            raise RuntimeError("the processes of the reward function have been closed")
        answers: list[Any] = [None] * len(calls)
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
        return answers

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

    def _receive(self, child: Child, deadline: float, name_call: Callable[[], str]) -> Any:
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
        return answer


def _load(settings: tuple[str, bool]) -> tuple[None, Callable[[Any], Any]]:
    path, of_dialogues = settings
    allowed, example = (ALLOWED_FOR_DIALOGUES, ({},)) if of_dialogues else (ALLOWED, ("", "", []))
    # Imports inside the function find modules in the working folder too.
    sys.path.insert(0, os.getcwd())
    function = load_function(path, FIELD, allowed)
    _check_signature(function, path, allowed, example)

    def answer(arguments: Arguments) -> Answer | list[float] | str:
        try:
            result = function(*arguments)
            return read_turn_values(result, len(arguments[0]["turns"])) if of_dialogues else read_answer(result)
        except BaseException as error:  # The user's code may raise anything, SystemExit too.
            return f"raised {describe_exception(error)}"

    return None, answer


def _check_signature(function: Callable[..., Any], path: str, allowed: str, example: Arguments) -> None:
    if inspect.iscoroutinefunction(function):
        raise InputError(f"{FIELD}: {path} is async; allowed: {allowed}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Some functions written in C have none.
        return
    try:
        signature.bind(*example)
    except TypeError as error:
        raise InputError(f"{FIELD}: {path}{signature} does not fit ({error}); allowed: {allowed}") from None


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


def read_turn_values(result: Any, turns: int) -> list[float] | str:
    """Returns the value of each turn of a dialogue, or a text that describes the error of the user's function.

    A number is the value of the last turn, and those before it get 0.
    """
    listed = list(result) if isinstance(result, list | tuple) else [*[0.0] * (turns - 1), result]
    if len(listed) != turns:
        return (
            f"returned {len(listed)} values for a dialogue of {turns} turns; allowed: one for each turn, or one number"
        )
    values = []
    for number, value in enumerate(listed, 1):
        answer = read_answer(value)
        if isinstance(answer, str):
            return f"{answer}, or a list of a number for each turn (turn {number} of {turns})"
        values.append(answer[0])
    return values


def _excerpt(value: Any) -> str:
    return " ".join(repr(value).split())[:60]


if __name__ == "__main__":
    serve(_load)
