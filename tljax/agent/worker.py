"""The tools of a user's Python file, in a child process with a time limit for every call.

The tools are the file's functions, or the methods of one of its classes: FILE.py:CLASS. An object of such a class is an
environment, as TRL's `environment_factory` takes it: `reset(**row)` begins a dialogue and may return a text that the
model reads first, and the dialogue's reward is what `get_reward()` returns, or else the number in `reward`.
"""

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tljax.core.errors import InputError
from tljax.core.sandbox import Child, serve
from tljax.toolbox.execute import MAX_NAME, Result, error_result, exception_message, execute, json_or_str
from tljax.toolbox.schema import load_environment, load_tools

LOAD_SECONDS = 60.0


class Ending(NamedTuple):
    """An environment after a dialogue.

    reward: None if it has none. attributes: its public attributes that are texts, numbers or truth values. error: what
    went wrong when the reward was asked for.
    """

    reward: float | None
    attributes: dict[str, Any]
    error: str


def split_tools(tools: str) -> tuple[str, str]:
    """Returns the file and the class of FILE.py:CLASS; the class of FILE.py is ""."""
    file, colon, name = tools.rpartition(".py:")
    return (f"{file}.py", name) if colon else (tools, "")


class Worker:
    """Runs calls of the tools in a child process. Use it as a context manager, or `close` it.

    path: FILE.py or FILE.py:CLASS. A call that takes longer than `time_limit` seconds ends the child and everything
    that it has started; the next call starts a new child, with a new state. What the tools print is dropped. Raises
    InputError if the file cannot be run.
    """

    def __init__(self, path: str, time_limit: float):
        self.path, self.time_limit = path, time_limit
        self.schemas: list[dict[str, Any]] = []  # The tools as flat OpenAI JSON, known once the child runs.
        self.child: Child | None = None

    def __enter__(self) -> "Worker":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Starts the child and reads the schemas of its tools."""
        child = Child(
            "tljax.agent.worker", self.path, load_seconds=LOAD_SECONDS, answer_seconds=self.time_limit, quiet=True
        )
        try:
            self.schemas = child.receive_greeting()
        except (TimeoutError, EOFError) as error:
            problem = "ends its process while it loads"
            if isinstance(error, TimeoutError):
                problem = f"does not load within {LOAD_SECONDS:.0f} s"
            raise InputError(f"{self.path}: {problem}; a file of tools only defines functions, mend it first") from None
        self.child = child

    def close(self) -> None:
        """Ends the child, if there is one, whatever it does."""
        if self.child is not None:
            self.child.close()
            self.child = None

    def execute(self, name: str, arguments: Any) -> Result:
        """Runs a call as `execute` does; a call that takes too long gets an error Result that names the limit."""
        answer = self._ask([name, arguments], str(name)[:MAX_NAME])
        return answer if isinstance(answer, Result) else Result(*answer)

    def reset(self, row: Mapping[str, Any]) -> Result:
        """Calls `reset(**row)` of an environment; the value is the text that it returns, "" if it returns none."""
        answer = self._ask({"reset": dict(row)}, "reset")
        return answer if isinstance(answer, Result) else Result(*answer)

    def end(self) -> Ending:
        """Returns the ending of an environment."""
        answer = self._ask({"end": True}, "get_reward")
        return Ending(None, {}, answer.value) if isinstance(answer, Result) else Ending(*answer)

    def _ask(self, request: Any, name: str) -> Any:
        """Returns the child's answer, or an error Result that says how the function `name` failed to give one."""
        if self.child is None:
            self.start()
        child = self.child
        assert child is not None
        try:
            child.send(request)
        except (TypeError, ValueError, RecursionError) as error:
            return error_result(f"{type(error).__name__}: the arguments cannot be passed on ({error})")
        try:
            return child.receive(self.time_limit)
        except TimeoutError:
            self.close()
            return error_result(f"TimeoutError: {name}() took longer than {self.time_limit:g} s")
        except EOFError:
            self.close()
            return error_result(f"RuntimeError: {name}() ended its process")


def _load(path: str) -> tuple[list[dict[str, Any]], Callable[[Any], Any]]:
    # The file imports what lies beside it, as a script does.
    file, own = split_tools(path)
    sys.path.insert(0, str(Path(file).resolve().parent))
    instance, tools = load_environment(file, own) if own else (None, load_tools(file))
    state: dict[str, Any] = {}

    def answer(request: Any) -> tuple[Any, ...]:
        if isinstance(request, dict):
            return _reset(instance, request["reset"]) if "reset" in request else _ending(instance)
        name, arguments = request
        result = execute(name, arguments, tools, state, bounded=False)
        return result.value, result.error

    return [tool.schema for tool in tools.values()], answer


def _reset(instance: Any, row: dict[str, Any]) -> tuple[str, bool]:
    if not hasattr(instance, "reset"):
        return "", False
    try:
        shown = instance.reset(**row)
        return ("" if shown is None else json_or_str(shown)), False
    except Exception as error:
        return f"{type(error).__name__}: {exception_message(error)}", True


def _ending(instance: Any) -> Ending:
    found = {name: value for name, value in vars(instance).items() if not name.startswith("_")}
    attributes = {name: value for name, value in found.items() if isinstance(value, str | int | float | bool)}
    if not hasattr(instance, "get_reward"):
        value = attributes.get("reward")
        return Ending(None if isinstance(value, str) else value, attributes, "")
    try:
        reward = float(instance.get_reward())
    except Exception as error:
        return Ending(None, attributes, f"get_reward() raised {type(error).__name__}: {exception_message(error)}")
    if not math.isfinite(reward):
        return Ending(None, attributes, f"get_reward() returned {reward}, which is not finite")
    return Ending(reward, attributes, "")


if __name__ == "__main__":
    serve(_load)
