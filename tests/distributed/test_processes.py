"""Several real processes: they join, agree, and end together with the name of the one that failed."""

import socket
import time
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from tljax.core.config import processes_block
from tljax.core.errors import InputError
from tljax.distributed import initialize, processes

SCRIPT = str(Path(__file__).with_name("one_of_several.py"))


@pytest.fixture
def ended(start_several, tmp_path):
    """ended(task, count) -> exit code and output of each process."""

    def run(task: str, count: int = 2) -> list[tuple[int, str]]:
        started = start_several(count, 1, SCRIPT, task, str(tmp_path))
        deadline = time.monotonic() + 60
        codes = [process.wait(timeout=max(1.0, deadline - time.monotonic())) for process, _ in started]
        return list(zip(codes, [log.read_text() for _, log in started], strict=True))

    return run


def lines_of(out: str) -> list[str]:
    """The lines of the output without the one that a slow machine prints, when the others are late."""
    return [
        line for line in out.splitlines() if not line.startswith("waits for the run's other processes at 127.0.0.1")
    ]


def test_all_processes_get_the_results_of_process_0(ended):
    """The other processes wait while process 0 works."""
    for me, (code, out) in enumerate(ended("agree", 3)):
        assert code == 0, out
        assert f"found [0, 'ä', None] made on {me}\n" in out


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("differ", "config.lr = 2.0, process 0 has 1.0"),
        pytest.param("other-code", "code of tljax = 'version 1', process 0 has 'version 0'", marks=pytest.mark.slow),
    ],
)
def test_processes_that_differ_in_config_or_code_are_refused(ended, task, message):
    for code, out in ended(task):
        assert code == 2
        (line,) = lines_of(out)
        assert line.startswith("error: process 1 (") and f") has {message}; start all processes" in line


@pytest.mark.extended
@pytest.mark.parametrize("dead", [0, 1])
def test_a_killed_process_ends_the_other_with_its_name(ended, dead):
    """JAX's coordinator ends with process 0; process 1 sends no more heartbeats."""
    results = ended(f"kill-{dead}")
    assert results[dead][0] == -9
    code, out = results[1 - dead]
    assert code == 75
    last = out.splitlines()[-1]
    assert last.startswith(f"error: process {dead} (") and "is gone or cannot be reached" in last


@pytest.mark.slow
def test_an_error_of_one_process_ends_the_other_with_its_message(ended):
    (code, out), (own_code, own) = ended("fail")
    assert own_code == 2 and "error: row 7 is bad" in own.splitlines()
    assert code == 2 and out.splitlines()[-1].startswith("process 1 (")
    assert out.rstrip().endswith("ended the run: error: row 7 is bad")


@pytest.mark.extended
def test_a_process_whose_threads_wait_for_the_coordinator_ends_with_code_0(ended):
    """An interpreter that is finalized around such threads ends by a signal."""
    for code, out in ended("end"):
        assert code == 0 and not lines_of(out), out[:1000]


def test_a_checkpoint_that_one_process_cannot_write_ends_both(ended):
    """It ends both at once: Orbax would let both wait for each other for ten minutes."""
    (code, out), (own_code, own) = ended("refuse")
    message = "checkpoints: a checkpoint could not be written (No space left on device); there is no earlier one"
    assert own_code == 2 and message in lines_of(own)[-1], own
    assert code == 2 and lines_of(out)[-1].startswith("process 1 (") and message in out, out


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_process_ends_the_other_with_its_name(start_several, tmp_path, frozen):
    """SIGSTOP: its connections stay open, and nobody answers; JAX's coordinator freezes with process 0."""
    process, log = start_several(2, 1, SCRIPT, f"freeze-{frozen}", str(tmp_path))[1 - frozen]
    assert process.wait(60) == 75
    assert log.read_text().splitlines()[-1].startswith(f"error: process {frozen} (")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["wait", "exchange"])
def test_a_stuck_process_ends_the_run_with_its_name(ended, task):
    for code, out in ended(task):
        assert code == 134
        assert "error: process 1 (" in out and "has made no progress for 2 seconds after" in out


@pytest.mark.extended
def test_processes_that_are_all_stuck_end(ended):
    """If all wait in one collective that never ends, no process is behind the others."""
    for code, out in ended("hang"):
        assert code == 134
        message = "error: no process has made progress for 8 seconds after a comparison of all"
        assert lines_of(out)[-1].startswith(message), out


@pytest.mark.extended
def test_a_process_that_the_others_do_not_join_ends_with_a_message(ended):
    ((code, out),) = ended("alone", 1)
    assert code == 2
    (line,) = lines_of(out)
    assert line.startswith("error: the processes did not come together at 127.0.0.1:") and "start as many" in line


@pytest.mark.extended
def test_a_cluster_whose_hosts_are_late_is_started_again_by_its_scheduler(ended, monkeypatch):
    """The exit code is 134, since no user could mend it."""
    task = {"STEP_NODELIST": "127.0.0.1", "NTASKS": "2", "STEP_NUM_TASKS": "2", "PROCID": "1", "LOCALID": "0"}
    for name, value in ({"JOB_ID": "61999"} | task).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    ((code, out),) = ended("late", 1)
    assert code == 134 and lines_of(out)[-1].startswith("error: the processes did not come together"), out


@pytest.mark.parametrize(
    "options, message",
    [
        ({"count": 2}, r"needs coordinator \(HOST:PORT of process 0\), count and id together"),
        ({"coordinator": "a:1", "count": 2, "id": 2}, "count=2, id=2; allowed"),
        ({"coordinator": "a", "count": 2, "id": 0}, "coordinator='a'"),
        ({"coordinator": "a:b", "count": 2, "id": 0}, "coordinator='a:b'"),  # at which JAX would crash
        ({"coordinator": "a:70000", "count": 2, "id": 1}, "coordinator='a:70000'"),
        ({"timeout": 0.0}, "processes.timeout is 0"),
    ],
)
def test_options_that_fit_no_process_are_refused(options, message):
    block = processes_block()
    block.update(options)
    with pytest.raises(InputError, match=message), processes.initialized(ConfigDict({"processes": block})):
        pass


def test_the_only_slurm_task_of_a_node_gets_all_its_gpus(monkeypatch):
    """JAX gives a SLURM task one GPU, by the task's number on the node: seven of eight would be idle."""
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "1(x2)")
    assert initialize.gpus_of_task() == {"local_device_ids": [0, 1, 2, 3]}
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4(x2)")
    assert initialize.gpus_of_task() == {}


def test_a_coordinator_port_in_use_is_refused():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        block = processes_block()
        block.update({"coordinator": f"localhost:{port}", "count": 2, "id": 0})
        message = f"process 0 cannot listen at port {port} \\(Address already in use\\)"
        with pytest.raises(InputError, match=message), processes.initialized(ConfigDict({"processes": block})):
            pass


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}, True),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, False),  # srun --pty bash
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, False),  # a batch script that has not called srun
    ],
)
def test_tasks_of_srun_are_several_processes(monkeypatch, environment, several):
    for name in ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert initialize.in_cluster() is several


def test_the_only_process_does_everything_itself():
    config = ConfigDict({"processes": processes_block()})
    with processes.initialized(config):
        assert processes.is_primary() and not processes.is_multiprocess()
        assert processes.run_on_primary(lambda: {1}) == {1}  # nothing goes through JSON
        assert processes.primary_first(lambda: {2}) == {2}
        processes.check_equal_on_all({"rows": object()})
