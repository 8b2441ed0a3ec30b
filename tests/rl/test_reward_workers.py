"""The worker processes of a user's reward function start, stop and end with the script that scores."""

import os
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import signal, sys
from tljax.data.prompt_table import Prompt
from tljax.rl.reward import RewardFunction
from tljax.calls.compare import as_tool_list

def main():
    if sys.argv[2:]:
        signal.signal(int(sys.argv[2]), lambda *_: print("asked to stop", flush=True))
    global function  # alive until the interpreter ends
    function = RewardFunction(rule=sys.argv[1], clip=5.0, timeout=120.0, workers=2)
    print("ready", flush=True)
    prompts = [Prompt(i, 1, [], "", "f()", as_tool_list([{"name": "f"}])) for i in range(4)]
    print([r.value for r in function.score(list("abcd"), prompts)], flush=True)

if __name__ == "__main__":
    main()
"""
USERS = """
import os, time
open(f"pid-{os.getpid()}", "w").close()
def half(prediction, golden, tools):
    from beside import HALF
    from by_script import ONE
    return HALF * ONE
def hangs(prediction, golden, tools, seconds=600):
    open(f"called-{os.getpid()}", "w").close()
    time.sleep(seconds)
    return 0.5
def is_slow(prediction, golden, tools):
    return hangs(prediction, golden, tools, 2)
"""


@pytest.fixture
def script(tmp_path, repo):
    """Starts launch/go.py from the folder above it, where the user's modules lie, in a process group of its own."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "go.py").write_text(SCRIPT)
    (tmp_path / "users.py").write_text(USERS)
    (tmp_path / "beside.py").write_text("HALF = 0.5")
    (tmp_path / "launch" / "by_script.py").write_text("ONE = 1.0")
    started = []

    def run(*arguments):
        command = [sys.executable, "launch/go.py", *arguments]
        env = os.environ | {"PYTHONPATH": str(repo)}
        options = {"cwd": tmp_path, "env": env, "text": True, "start_new_session": True}
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.extended
def test_a_launch_script_finds_modules_in_the_working_folder_and_beside_itself(script, tmp_path):
    process = script("users:half")
    out, error = process.communicate(timeout=120)
    assert (process.returncode, out, error) == (0, "ready\n[0.5, 0.5, 0.5, 0.5]\n", "")
    assert not any(alive(int(p.name[4:])) for p in tmp_path.glob("pid-*"))


@pytest.mark.extended
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks processes up in /proc")
@pytest.mark.parametrize(("number", "everyone"), [(signal.SIGINT, True), (signal.SIGKILL, False)])
def test_no_process_outlives_the_run(script, tmp_path, number, everyone):
    process = script("users:hangs")
    wait_for(lambda: len(list(tmp_path.glob("called-*"))) == 2)
    pids = [int(p.name[4:]) for p in tmp_path.glob("pid-*")]
    assert len(pids) == 2 and all(map(alive, pids))
    # A terminal's Ctrl-C goes to the whole group.
    (os.killpg if everyone else os.kill)(process.pid, number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == -number
    assert error.count("Traceback") == (number == signal.SIGINT)  # the script's own alone
    wait_for(lambda: not any(map(alive, pids)))


@pytest.mark.extended
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_stop_still_gets_its_rewards(script, tmp_path, number):
    process = script("users:is_slow", str(int(number)))
    wait_for(lambda: len(list(tmp_path.glob("called-*"))) == 2)
    os.killpg(process.pid, number)
    # A scheduler's SIGTERM goes to every process of the run.
    for path in tmp_path.glob("pid-*"):
        os.kill(int(path.name[4:]), number)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "") and out == "ready\nasked to stop\n[0.5, 0.5, 0.5, 0.5]\n"


@pytest.mark.extended
def test_a_script_needs_no_main_guard(script, tmp_path):
    path = tmp_path / "launch" / "go.py"
    path.write_text(SCRIPT.replace('if __name__ == "__main__":\n    main()', "main()"))
    process = script("users:half")
    out, error = process.communicate(timeout=120)
    assert (process.returncode, out, error) == (0, "ready\n[0.5, 0.5, 0.5, 0.5]\n", "")
