import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tljax.agent.worker import Worker
from tljax.core.errors import InputError
from tljax.toolbox.execute import MAX_RESULT, Result

USER_FILE = """
import os, time
def spin(x: int = 0) -> int:
    while True:
        x += 1
def big(n: int) -> int:
    return len(str(7 ** n))
def leave() -> int:
    os._exit(3)
def noise() -> str:
    print("printed", flush=True)
    os.write(1, b"written\\n")
    return input()
def note(state: dict, /, text: str) -> list:
    state.setdefault("notes", []).append(text)
    return state["notes"]
def echo(text: str) -> str:
    return text
def moment() -> object:
    import datetime
    return datetime.date(2020, 2, 1)
def unprintable() -> object:
    class Odd(Exception):
        def __str__(self):
            raise self
    return Odd()
def odd_error() -> object:
    raise unprintable()
def nan() -> float:
    return float("nan")
def close_all() -> int:
    os.closerange(3, 100)
    time.sleep(60)
def child() -> int:
    import subprocess
    process = subprocess.Popen(["sleep", "60"])
    open("pid.txt", "w").write(str(process.pid))
    time.sleep(60)
def beside() -> str:
    import neighbour
    return neighbour.WORD
def hold() -> int:
    import ctypes
    ctypes.PyDLL(None).sleep(60)
def detach() -> int:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        time.sleep(20)
        os._exit(0)
    open("pid.txt", "w").write(str(pid))
    time.sleep(60)
def leave_child() -> int:
    import subprocess
    return subprocess.Popen(["sleep", "60"]).pid
def exits() -> None:
    raise SystemExit("gone")
"""


@pytest.fixture
def user_file(tmp_path):
    file = tmp_path / "mytools.py"
    file.write_text(USER_FILE)
    return str(file)


def test_a_worker_ends_what_runs_too_long_and_goes_on(user_file):
    with Worker(user_file, time_limit=0.5) as worker:
        assert worker.execute("note", {"text": "a"}).value == '["a"]'
        assert worker.execute("note", {"text": "b"}).value == '["a", "b"]'
        start = time.perf_counter()
        for name, arguments in (("spin", {}), ("big", {"n": 10**9})):
            result = worker.execute(name, arguments)
            assert (result.value, result.error) == (f"TimeoutError: {name}() took longer than 0.5 s", True)
        # Starting the child again is not part of a call's time.
        assert time.perf_counter() - start < 15
        assert worker.execute("note", {"text": "c"}).value == '["c"]'
        child = worker.child
    assert child is not None and not is_running(child.pid)


def test_a_worker_survives_what_its_tools_do(user_file, monkeypatch):
    monkeypatch.chdir(Path(user_file).parent)
    Path("neighbour.py").write_text("WORD = 'found'")
    with Worker(user_file, time_limit=5) as worker:
        assert worker.execute("leave", {}) == Result("RuntimeError: leave() ended its process", True)
        assert worker.execute("exits", {}) == Result("RuntimeError: exits() ended its process", True)
        assert worker.execute("noise", {}).value.startswith("EOFError")
        assert worker.execute("echo", {"text": "é\n\u2028" * 1000}).value == "é\n\u2028" * 1000
        assert worker.execute("echo", {}).value == "echo() missing 1 required positional argument: 'text'"
        assert worker.execute("system", {}).value == "name 'system' is not defined"
        assert worker.execute("beside", {}) == Result("found", False)
        assert worker.execute("echo", {"text": {1, 2}}).error


def test_results_of_a_users_tool_are_cut_and_written_by_str_where_they_are_no_json(user_file):
    with Worker(user_file, time_limit=5) as worker:
        long = worker.execute("echo", {"text": "x" * 10**6})
        assert long == Result("x" * MAX_RESULT + "... (996,000 more characters)", False)
        assert worker.execute("moment", {}) == Result("2020-02-01", False)
        assert worker.execute("nan", {}) == Result("nan", False)
        assert worker.execute("unprintable", {}) == Result("Odd: its message cannot be read", True)
        assert worker.execute("odd_error", {}) == Result("Odd: its message cannot be read", True)


def test_what_a_tool_leaves_behind_is_ended_with_it(user_file, monkeypatch):
    monkeypatch.chdir(Path(user_file).parent)
    with Worker(user_file, time_limit=0.5) as worker:
        assert "took longer" in worker.execute("close_all", {}).value
        assert "took longer" in worker.execute("child", {}).value
    assert ends(int(Path("pid.txt").read_text()))


def test_a_worker_does_not_wait_for_what_a_tool_has_detached(user_file, monkeypatch):
    monkeypatch.chdir(Path(user_file).parent)
    begin = time.perf_counter()
    with Worker(user_file, time_limit=0.5) as worker:
        assert "took longer" in worker.execute("detach", {}).value
    assert time.perf_counter() - begin < 15
    os.kill(int(Path("pid.txt").read_text()), signal.SIGKILL)


def ends(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and is_running(pid):
        time.sleep(0.05)
    return not is_running(pid)


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("tool", ["spin", "leave_child", pytest.param("hold", marks=pytest.mark.extended)])
def test_a_worker_ends_with_the_process_that_started_it(user_file, repo, tool):
    """Whatever a tool does then: a loop of Python, of C with Python's lock held, nothing but a process it has left."""
    code = "\n".join(
        [
            "import os, sys, threading",
            "from tljax.agent.worker import Worker",
            "worker = Worker(sys.argv[1], 3)",
            "worker.start()",
            "print(worker.child.pid)",
            "call = lambda: print(worker.execute(sys.argv[2], {}).value)",
            "thread = threading.Thread(target=call, daemon=True)",
            "thread.start()",
            "thread.join(1.5)",
            "sys.stdout.flush()",
            "os.kill(os.getpid(), 9)",
        ]
    )
    environment = os.environ | {"PYTHONPATH": str(repo)}
    command = [sys.executable, "-c", code, user_file, tool]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    started = [int(pid) for pid in done.stdout.split()]
    assert len(started) == (2 if tool == "leave_child" else 1) and all(map(ends, started))


def test_a_worker_refuses_a_broken_file(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("def f(:")
    with pytest.raises(InputError, match=r"broken.py: the file cannot be run \(SyntaxError"), Worker(str(file), 1):
        pass
    for text, message in (
        ("import os; os._exit(1)", "ends its process while it loads"),
        ("async def f(): pass", r"broken.py: tool f\(\): is async"),
        ("def f(x: set): pass", r"broken.py: tool f\(\), x: type .* has no JSON form"),
        ("def f(x: 'Unknown'): pass", r"broken.py: its annotations cannot be read \(NameError"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=message), Worker(str(file), 1):
            pass
