"""Tools that nobody has checked, such as those of a user's file, in a process of their own.

The process is ended when a call runs past the time limit, which no thread or in-process timer can do to a loop in C.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tljax.core.errors import InputError
from tljax.toolbox.execute import MAX_NAME, Result, error_result, execute
from tljax.toolbox.schema import LocalTool, load_tools

START_SECONDS = 60.0
GRACE_SECONDS = 5.0  # until a child ends itself, which its worker has ended at the limit unless that was killed


class Worker:
    """The tools of a Python file in a child process, with a hard time limit for every call.

    Use it as a context manager, or `close` it. A call past `time_limit` seconds ends the child and what it has started;
    the next call starts a fresh one, with a fresh state. What the tools print is dropped. It limits time, not access: a
    user's file may do what the user may. Raises InputError where the file cannot be run.
    """

    def __init__(self, path: str, time_limit: float):
        self.path, self.time_limit = path, time_limit
        self.schemas: list[dict[str, Any]] = []  # the tools as flat OpenAI JSON, known once the child runs
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
            [sys.executable, "-P", "-m", "tljax.agent.worker", self.path, str(os.getpid()), str(self.time_limit)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            # Ctrl-C is for the run, which may still need the feedback; and what a tool starts is ended with it.
            start_new_session=True,
        )
        self.buffer = b""
        ready = self.read_line(START_SECONDS)
        if ready is None or "problem" in ready:
            ended = self.child.poll() is not None
            self.close()
            if ready is not None:
                raise InputError(ready["problem"])
            what = "ends its process while it loads" if ended else f"does not load within {START_SECONDS:.0f} s"
            raise InputError(f"{self.path}: {what}; a file of tools only defines functions, mend it first")
        self.schemas = ready["tools"]

    def close(self) -> None:
        """Ends the child, if there is one, whatever it does."""
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.kill()
            # Not read to its end, which may never come: what a tool has started in a session of its own holds it too.
            for pipe in (self.child.stdin, self.child.stdout):
                with contextlib.suppress(BrokenPipeError):
                    if pipe is not None:
                        pipe.close()
            self.child.wait()
            self.child = None

    def execute(self, name: str, arguments: Any) -> Result:
        """As `execute`, in the child: an error Result, naming the limit, for a call that runs past it."""
        try:
            call = json.dumps({"name": name, "arguments": arguments}).encode() + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            return error_result(f"{type(error).__name__}: the arguments cannot be passed on ({error})")
        if self.child is None:
            self.start()
        assert self.child is not None and self.child.stdin is not None
        answer = None
        try:
            self.child.stdin.write(call)
            self.child.stdin.flush()
            answer = self.read_line(self.time_limit)
        except BrokenPipeError:
            pass
        if answer is None:
            ended = self.child.poll() is not None
            self.close()
            if ended:
                return error_result(f"RuntimeError: {str(name)[:MAX_NAME]}() ended its process")
            return error_result(f"TimeoutError: {str(name)[:MAX_NAME]}() took longer than {self.time_limit:g} s")
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
                    # A tool may have closed the pipe and run on.
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self.child.wait(max(0.1, deadline - time.monotonic()))
                    return None
                self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)


def serve(path: str, parent: int, time_limit: float) -> None:
    """The child's loop: one JSON call a line in, one JSON result a line out."""
    # The tools must not write into the protocol, nor read from it.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    calls = os.fdopen(os.dup(0), "r", encoding="utf-8")
    silence = os.open(os.devnull, os.O_RDWR)
    os.dup2(silence, 0)
    os.dup2(silence, 1)
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    # The file finds what lies beside it, as a script does.
    sys.path.insert(0, str(Path(path).resolve().parent))
    try:
        with alarm(START_SECONDS):
            tools: Mapping[str, LocalTool] = load_tools(path)
    except InputError as error:
        print(json.dumps({"problem": str(error)}), file=answers, flush=True)
        return
    print(json.dumps({"tools": [tool.schema for tool in tools.values()]}), file=answers, flush=True)
    state: dict[str, Any] = {}
    for line in calls:
        call = json.loads(line)
        with alarm(time_limit):
            result = execute(call["name"], call["arguments"], tools, state, bounded=False)
        print(json.dumps({"value": result.value, "error": result.error}), file=answers, flush=True)


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Ends this process some time after `seconds`: no thread of it can while a tool's C code holds the interpreter."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def end_with(parent: int) -> None:
    """A run that was killed outright must not leave a tool behind that hangs."""
    while os.getppid() == parent:
        time.sleep(1)
    end()


def end() -> None:
    """Ends this process and what its tools have started, which are a group of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    try:
        serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
    finally:
        end()
