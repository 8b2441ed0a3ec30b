"""The tools of a user's Python file, in a child process with a time limit for every call."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tljax.core.errors import InputError
from tljax.core.sandbox import Child, serve
from tljax.toolbox.execute import MAX_NAME, Result, error_result, execute
from tljax.toolbox.schema import load_tools

LOAD_SECONDS = 60.0


class Worker:
    """Runs calls of the file's tools in a child process. Use it as a context manager, or `close` it.

    A call that takes longer than `time_limit` seconds ends the child and everything that it has started; the next call
    starts a new child, with a new state. What the tools print is dropped. Raises InputError if the file cannot be run.
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
        if self.child is None:
            self.start()
        child = self.child
        assert child is not None
        try:
            child.send([name, arguments])
        except (TypeError, ValueError, RecursionError) as error:
            return error_result(f"{type(error).__name__}: the arguments cannot be passed on ({error})")
        try:
            return Result(*child.receive(self.time_limit))
        except TimeoutError:
            self.close()
            return error_result(f"TimeoutError: {str(name)[:MAX_NAME]}() took longer than {self.time_limit:g} s")
        except EOFError:
            self.close()
            return error_result(f"RuntimeError: {str(name)[:MAX_NAME]}() ended its process")


def _load(path: str) -> tuple[list[dict[str, Any]], Callable[[Any], Any]]:
    # The file imports what lies beside it, as a script does.
    sys.path.insert(0, str(Path(path).resolve().parent))
    tools = load_tools(path)
    state: dict[str, Any] = {}

    def answer(call: tuple[str, Any]) -> tuple[str, bool]:
        result = execute(*call, tools, state, bounded=False)
        return result.value, result.error

    return [tool.schema for tool in tools.values()], answer


if __name__ == "__main__":
    serve(_load)
