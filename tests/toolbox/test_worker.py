import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tljax.core.errors import InputError
from tljax.toolbox.execute import MAX_RESULT, Result
from tljax.toolbox.worker import Worker

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
    assert child is not None and child.poll() is not None


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
    started = int(Path("pid.txt").read_text())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and is_running(started):
        time.sleep(0.05)
    assert not is_running(started)


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_worker_ends_with_the_process_that_started_it(user_file, repo):
    code = "\n".join(
        [
            "import os, sys, threading, time",
            "from tljax.toolbox.worker import Worker",
            "worker = Worker(sys.argv[1], 60)",
            "worker.start()",
            "threading.Thread(target=worker.execute, args=('spin', {}), daemon=True).start()",
            "time.sleep(0.5)",
            "print(worker.child.pid, flush=True)",
            "os.kill(os.getpid(), 9)",
        ]
    )
    environment = os.environ | {"PYTHONPATH": str(repo)}
    done = subprocess.run([sys.executable, "-c", code, user_file], env=environment, capture_output=True, check=False)
    child, deadline = int(done.stdout), time.monotonic() + 20
    while time.monotonic() < deadline and is_running(child):
        time.sleep(0.05)
    assert not is_running(child)


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
