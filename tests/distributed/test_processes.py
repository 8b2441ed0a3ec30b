"""Several real processes: they meet, agree, and end together with the name of the one that failed."""

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
    """ended(what, count) -> exit code and output of each process."""

    def run(what: str, count: int = 2) -> list[tuple[int, str]]:
        found = start_several(count, 1, SCRIPT, what, str(tmp_path))
        until = time.monotonic() + 60
        codes = [process.wait(timeout=max(1.0, until - time.monotonic())) for process, _ in found]
        return list(zip(codes, [log.read_text() for _, log in found], strict=True))

    return run


def said(out: str) -> list[str]:
    """Its lines, but for one that it prints on a slow machine, where the others are late."""
    return [
        line for line in out.splitlines() if not line.startswith("waits for the run's other processes at 127.0.0.1")
    ]


def test_processes_agree(ended):
    """What process 0 does is known to all; what it does first is done before the others begin."""
    for me, (code, out) in enumerate(ended("agree", 3)):
        assert code == 0, out
        assert f"found [0, 'ä', None] made on {me}\n" in out


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("differ", "config.lr = 2.0, process 0 has 1.0"),
        pytest.param("other-code", "code of tljax = 'version 1', process 0 has 'version 0'", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_differs_is_refused(ended, what, told):
    for code, out in ended(what):
        assert code == 2
        (line,) = said(out)
        assert line.startswith("error: process 1 (") and f") has {told}; start all processes" in line


@pytest.mark.parametrize("dead", [pytest.param(0, marks=pytest.mark.extended), 1])
def test_a_killed_process_ends_the_other_with_its_name(ended, dead):
    """Process 0 takes JAX's coordinator with it, of 1 the signs of life stay away."""
    found = ended(f"kill-{dead}")
    assert found[dead][0] == -9
    code, out = found[1 - dead]
    assert code == 75
    last = out.splitlines()[-1]
    assert last.startswith(f"error: process {dead} (") and "is gone or cannot be reached" in last


@pytest.mark.slow
def test_an_error_of_one_process_ends_the_other_with_its_words(ended):
    (code, out), (own_code, own) = ended("fail")
    assert own_code == 2 and "error: row 7 is bad" in own.splitlines()
    assert code == 2 and out.splitlines()[-1].startswith("process 1 (")
    assert out.rstrip().endswith("ended the run: error: row 7 is bad")


@pytest.mark.extended
def test_a_process_ends_well_whatever_its_threads_do(ended):
    """Taken down around threads that wait for its coordinator, it would end by a signal."""
    for code, out in ended("end"):
        assert code == 0 and not said(out), out[:1000]


def test_a_checkpoint_that_one_process_cannot_write_ends_both(ended):
    """At once: Orbax lets both wait for each other, that one too, until its patience of ten minutes ends."""
    (code, out), (own_code, own) = ended("refuse")
    told = "checkpoints: a checkpoint could not be written (No space left on device); there is no earlier one"
    assert own_code == 2 and told in said(own)[-1], own
    assert code == 2 and said(out)[-1].startswith("process 1 (") and told in out, out


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_process_ends_the_other_with_its_name(start_several, tmp_path, frozen):
    """SIGSTOP: it answers nothing and closes nothing, process 0 as JAX's coordinator neither."""
    process, log = start_several(2, 1, SCRIPT, f"freeze-{frozen}", str(tmp_path))[1 - frozen]
    assert process.wait(60) == 75
    assert log.read_text().splitlines()[-1].startswith(f"error: process {frozen} (")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["wait", "exchange"])
def test_a_stuck_process_ends_the_run_with_its_name(ended, where):
    for code, out in ended(where):
        assert code == 134
        assert "error: process 1 (" in out and "has not gone on for 2 seconds after" in out


@pytest.mark.extended
def test_processes_that_are_all_stuck_end(ended):
    """In one collective, say, which nobody comes out of, and nobody is behind the others."""
    for code, out in ended("hang"):
        assert code == 134
        assert said(out)[-1].startswith("error: no process has gone on for 8 seconds after a comparison of all"), out


@pytest.mark.extended
def test_a_process_whose_others_do_not_come_says_so(ended):
    ((code, out),) = ended("alone", 1)
    assert code == 2
    (line,) = said(out)
    assert line.startswith("error: the processes did not come together at 127.0.0.1:") and "start as many" in line


@pytest.mark.extended
def test_hosts_of_a_cluster_that_do_not_come_are_waited_for_again(ended, monkeypatch):
    """Its scheduler may bring them late, and starts again what no user can mend."""
    task = {"STEP_NODELIST": "127.0.0.1", "NTASKS": "2", "STEP_NUM_TASKS": "2", "PROCID": "1", "LOCALID": "0"}
    for name, value in ({"JOB_ID": "61999"} | task).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    ((code, out),) = ended("late", 1)
    assert code == 134 and said(out)[-1].startswith("error: the processes did not come together"), out


@pytest.mark.parametrize(
    "given, told",
    [
        ({"count": 2}, r"needs coordinator \(HOST:PORT of process 0\), count and id together"),
        ({"coordinator": "a:1", "count": 2, "id": 2}, "count=2, id=2; allowed"),
        ({"coordinator": "a", "count": 2, "id": 0}, "coordinator='a'"),
        ({"coordinator": "a:b", "count": 2, "id": 0}, "coordinator='a:b'"),  # at which JAX would crash
        ({"coordinator": "a:70000", "count": 2, "id": 1}, "coordinator='a:70000'"),
        ({"timeout": 0.0}, "processes.timeout is 0"),
    ],
)
def test_a_place_that_cannot_be_is_refused(given, told):
    block = processes_block()
    block.update(given)
    with pytest.raises(InputError, match=told), processes.initialized(ConfigDict({"processes": block})):
        pass


def test_one_task_a_node_has_all_its_gpus(monkeypatch):
    """JAX gives a SLURM task the GPU of its number on the node, so that one alone would leave seven of eight."""
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "1(x2)")
    assert initialize.gpus_of_task() == {"local_device_ids": [0, 1, 2, 3]}
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4(x2)")
    assert initialize.gpus_of_task() == {}


def test_a_port_in_use_is_said():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        block = processes_block()
        block.update({"coordinator": f"localhost:{port}", "count": 2, "id": 0})
        told = f"process 0 cannot listen at port {port} \\(Address already in use\\)"
        with pytest.raises(InputError, match=told), processes.initialized(ConfigDict({"processes": block})):
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
def test_srun_is_noticed(monkeypatch, environment, several):
    for name in ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert initialize.in_cluster() is several


def test_one_process_does_everything_itself():
    config = ConfigDict({"processes": processes_block()})
    with processes.initialized(config):
        assert processes.is_primary() and not processes.is_multiprocess()
        assert processes.run_on_primary(lambda: {1}) == {1}  # nothing goes through JSON
        assert processes.primary_first(lambda: {2}) == {2}
        processes.check_equal_on_all({"rows": object()})
