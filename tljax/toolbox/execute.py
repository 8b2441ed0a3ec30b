"""Run one tool call: its value as text, or Python's own error text as feedback.

Two ways, one result. `execute` runs in this process, tens of thousands of calls a second, and is for the tools of
the toolbox: they are fixed functions that are chosen by name, bounded by construction (no loop or power of theirs
depends on an unchecked argument), and their arguments are plain JSON data that is checked for type and size before the
call and never evaluated. `Worker` is for functions that nobody has checked, such as a user's file: it keeps one child
process and ends it when a call runs past the time limit, which no thread or in-process timer can do to a loop in C.
"""

import json
import math
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from tljax.core.errors import InputError
from tljax.toolbox.schema import LocalTool, tools_from_file

MAX_STRING = 1000
MAX_ITEMS = 100
MAX_NUMBER = 1e9
MAX_RESULT = 4000
MAX_NAME = 200
START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Result:
    """What a call gives back: `value` is the feedback text, bounded by MAX_RESULT characters."""

    value: str
    error: bool


def execute(
    name: str,
    arguments: Any,
    tools: Mapping[str, LocalTool],
    state: dict[str, Any] | None = None,
    *,
    bounded: bool = True,
) -> Result:
    """Run the tool of this name on a JSON object of arguments. Never raises an Exception.

    `tools` are the ones that may be called; any other name is not defined. `state` is the episode's, changed in place.
    `bounded` refuses large arguments; a worker goes without, since its time limit bounds the call.
    """
    if not isinstance(name, str):
        return failure(f"TypeError: the name of a tool must be str, not {type(name).__name__}")
    if name not in tools:
        return failure(f"name '{name[:MAX_NAME]}' is not defined")
    tool = tools[name]
    problem = binding_error(name, arguments, tool)
    if problem is not None:
        return failure(problem)
    try:
        for parameter, value in arguments.items():
            check_type(value, tool.types[parameter], f"{name}() argument '{parameter}'", bounded)
        value = tool.function(*([{} if state is None else state] if tool.takes_state else []), **arguments)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)
    except Exception as error:
        return failure(f"{type(error).__name__}: {error}")
    if len(text) > MAX_RESULT:
        return failure(f"ValueError: {name}() result has more than {MAX_RESULT} characters")
    return Result(valid_unicode(text), False)


def failure(text: str) -> Result:
    return Result(valid_unicode(text[:MAX_RESULT]), True)


def valid_unicode(text: str) -> str:
    """The text with lone surrogates, which JSON can spell and no file can hold, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def binding_error(name: str, arguments: Any, tool: LocalTool) -> str | None:
    """CPython's text for arguments that do not fit the signature: the first unexpected one, else all missing ones."""
    if not isinstance(arguments, dict):
        return f"TypeError: {name}() argument after ** must be a mapping, not {type(arguments).__name__}"
    for argument in arguments:
        if argument not in tool.types:
            return f"{name}() got an unexpected keyword argument '{str(argument)[:MAX_NAME]}'"
    missing = [f"'{parameter}'" for parameter in tool.required if parameter not in arguments]
    if not missing:
        return None
    if len(missing) == 1:
        return f"{name}() missing 1 required positional argument: {missing[0]}"
    listed = " and ".join(missing) if len(missing) == 2 else f"{', '.join(missing[:-1])}, and {missing[-1]}"
    return f"{name}() missing {len(missing)} required positional arguments: {listed}"


def check_type(value: Any, annotation: Any, where: str, bounded: bool) -> None:
    """Raises TypeError where JSON data is not of the annotated type, ValueError where it is too large.

    An int passes for a float, a bool passes for nothing but a bool; NaN and infinity pass for nothing.
    """
    if annotation is Any:
        return
    base, members = get_origin(annotation) or annotation, get_args(annotation)
    if base not in (str, int, float, bool, list, dict):  # a union with None
        if value is None:
            return
        base = next(member for member in members if member is not type(None))
        base, members = get_origin(base) or base, get_args(base)
    fits = isinstance(value, int | float if base is float else base)
    if not fits or (isinstance(value, bool) and base is not bool):
        raise TypeError(f"{where} must be {base.__name__}, not {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} must be finite")
    if bounded and isinstance(value, int | float) and abs(value) > MAX_NUMBER:
        raise ValueError(f"{where} must be between -{MAX_NUMBER:.0f} and {MAX_NUMBER:.0f}")
    if bounded and isinstance(value, str) and len(value) > MAX_STRING:
        raise ValueError(f"{where} has more than {MAX_STRING} characters")
    if bounded and isinstance(value, list | dict) and len(value) > MAX_ITEMS:
        raise ValueError(f"{where} has more than {MAX_ITEMS} items")
    if isinstance(value, dict):
        for key in value:
            check_type(key, str, f"{where} key", bounded)
        value = list(value.values())
    if isinstance(value, list) and members:
        for item in value:
            check_type(item, members[-1], f"{where} item", bounded)


class Worker:
    """The tools of a Python file in a child process, with a hard time limit for every call.

    Use it as a context manager. A call past `time_limit` seconds ends the child; the next call starts a fresh one, with
    a fresh state. What the tools print is dropped. It limits time, not access: a user's file may do what the user may.
    Raises InputError where the file cannot be run.
    """

    def __init__(self, path: str, time_limit: float):
        self.path, self.time_limit = path, time_limit
        self.child: subprocess.Popen[bytes] | None = None
        self.buffer = b""

    def __enter__(self) -> "Worker":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        package_root = str(Path(__file__).parents[2])
        paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self.child = subprocess.Popen(
            [sys.executable, "-m", "tljax.toolbox.execute", self.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        self.buffer = b""
        ready = self.read_line(START_SECONDS)
        if ready is None or "problem" in ready:
            self.close()
            raise InputError(ready["problem"] if ready else f"{self.path}: does not load within {START_SECONDS:.0f} s")

    def close(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
            self.child = None

    def execute(self, name: str, arguments: Any) -> Result:
        """As `execute`, in the child: an error Result, naming the limit, for a call that runs past it."""
        if self.child is None:
            self.start()
        assert self.child is not None and self.child.stdin is not None
        answer = None
        try:
            self.child.stdin.write(json.dumps({"name": name, "arguments": arguments}).encode() + b"\n")
            self.child.stdin.flush()
            answer = self.read_line(self.time_limit)
        except BrokenPipeError:
            pass
        if answer is None:
            ended = self.child.poll() is not None
            self.close()
            if ended:
                return Result(f"RuntimeError: {str(name)[:MAX_NAME]}() ended its process", True)
            return Result(f"TimeoutError: {str(name)[:MAX_NAME]}() took longer than {self.time_limit:g} s", True)
        return Result(answer["value"], answer["error"])

    def read_line(self, seconds: float) -> dict[str, Any] | None:
        """The child's next JSON line; None where it stays silent for that long or ends."""
        assert self.child is not None and self.child.stdout is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.child.stdout, selectors.EVENT_READ)
            while b"\n" not in self.buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                chunk = os.read(self.child.stdout.fileno(), 1 << 16)
                if not chunk:
                    self.child.wait()
                    return None
                self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)


def serve(path: str) -> None:
    """The child's loop: one JSON call a line in, one JSON result a line out."""
    # The tools must not write into the protocol, nor read from it.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    calls = os.fdopen(os.dup(0), "r", encoding="utf-8")
    silence = os.open(os.devnull, os.O_RDWR)
    os.dup2(silence, 0)
    os.dup2(silence, 1)
    try:
        tools: Mapping[str, LocalTool] = tools_from_file(path)
    except InputError as error:
        print(json.dumps({"problem": str(error)}), file=answers, flush=True)
        return
    print(json.dumps({"tools": list(tools)}), file=answers, flush=True)
    state: dict[str, Any] = {}
    for line in calls:
        call = json.loads(line)
        result = execute(call["name"], call["arguments"], tools, state, bounded=False)
        print(json.dumps({"value": result.value, "error": result.error}), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
