"""A child process for a user's code, with a time limit for every answer.

Only another process can keep such a limit: neither a thread nor Python's own timers interrupt a loop in C. The parent
ends the child, and everything that the child has started, once the limit has passed. The sandbox limits time, not
access: the code may do what the user may.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tljax.core.errors import InputError

GRACE_SECONDS = 5.0  # The parent ends a child at the limit; a child whose parent is gone ends itself so much later.
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Child:
    """A process that runs `python -m MODULE`; the module calls `serve`. Messages in both directions are JSON.

    settings: what `serve` passes to the module's `load`. load_seconds, answer_seconds: the time limits for `load` and
    for one answer. quiet: drops what the user's code prints; otherwise it appears among the parent's own output.
    `close` ends the process and everything that it has started; it also runs when the Child is no longer used.
    """

    def __init__(self, module: str, settings: Any, *, load_seconds: float, answer_seconds: float, quiet: bool) -> None:
        self.connection, childs_end = multiprocessing.Pipe()
        package_root = str(Path(__file__).parents[2])
        python_path = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
        output = subprocess.DEVNULL if quiet else None
        # A child inherits the mask, and lifts it once it handles these signals: before that, a scheduler's SIGTERM
        # would end it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        try:
            self._process = subprocess.Popen(
                # -P: the working folder must not hide modules of ours or of Python.
                [sys.executable, "-P", "-m", module, str(childs_end.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(python_path)},
                pass_fds=(childs_end.fileno(),),
                # A terminal's Ctrl-C does not reach another session, and its process group can be ended as a whole.
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            childs_end.close()
        self.pid = self._process.pid
        self.close = weakref.finalize(self, _end_child, self._process, self.connection)
        self._load_seconds = load_seconds
        limits = {"load_seconds": load_seconds, "answer_seconds": answer_seconds}
        self.send({"sys_path": sys.path, "settings": settings, **limits})

    def receive_greeting(self) -> Any:
        """Returns the greeting of `load`. Closes and raises InputError if `load` does, or the errors of `receive`."""
        try:
            message = self.receive(self._load_seconds)
            if "error" in message:
                raise InputError(message["error"])
        except BaseException:
            self.close()
            raise
        return message["greeting"]

    def send(self, message: Any) -> None:
        """Sends a message. If the child has ended, `receive` reports it."""
        _send(self.connection, message)

    def receive(self, seconds: float) -> Any:
        """Returns the next message. Raises TimeoutError, or EOFError that says how the child ended."""
        deadline = time.monotonic() + seconds
        try:
            if self.connection.poll(max(0.0, seconds)):
                return json.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            # The child has ended, or the user's code has closed the connection and runs on.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(max(0.1, deadline - time.monotonic()))
        code = self._process.poll()
        if code is None:
            raise TimeoutError
        raise EOFError(f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}")


def _end_child(process: subprocess.Popen[bytes], connection: Connection) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    connection.close()


def serve(load: Callable[[Any], tuple[Any, Callable[[Any], Any]]]) -> None:
    """Runs the child: `load(settings)` returns a greeting and the function that answers each request.

    If `load` raises InputError, the parent gets its message. The process ends with its parent.
    """
    connection, parent = Connection(int(sys.argv[1])), int(sys.argv[2])
    os.set_inheritable(connection.fileno(), False)
    # The run still needs answers after Ctrl-C or a scheduler's SIGTERM. A handler, unlike SIG_IGN, is not passed on to
    # the programs that the user's code starts.
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    try:
        start = json.loads(connection.recv_bytes())
        sys.path[:] = start["sys_path"]
        with _alarm(start["load_seconds"]):
            try:
                greeting, answer = load(start["settings"])
            except InputError as error:
                _send(connection, {"error": str(error)})
                return
            _send(connection, {"greeting": greeting})
        while True:
            request = json.loads(connection.recv_bytes())
            with _alarm(start["answer_seconds"]):
                _send(connection, answer(request))
    except EOFError:
        _end_group()
    finally:
        # After SystemExit of the user's code the parent reads the exit code and ends the group.
        if os.getppid() != parent:
            _end_group()


def _send(connection: Connection, message: Any) -> None:
    # The next receive reports that the other end is gone.
    with contextlib.suppress(OSError):
        connection.send_bytes(json.dumps(message).encode())


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Lets the kernel end this process after `seconds`: C code that holds the interpreter stops all threads here."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _end_with_parent(parent: int) -> None:
    """Ends this process, and what it has started, if its parent was killed before it could do so."""
    while os.getppid() == parent:
        time.sleep(1)
    _end_group()


def _end_group() -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
