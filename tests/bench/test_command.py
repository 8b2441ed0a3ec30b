"""launch/bench.py: bad flags in one line, a report that overwrites nothing, sides in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tljax.bench import machine


@pytest.fixture
def command(launch, repo, monkeypatch, tmp_path):
    """command(flags...) -> the exit code of launch/bench.py with these flags, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    tiny = ("--config.sft.toolbox.trajectories=8", "--config.repeats=1", "--config.warmup=0")
    return lambda *flags: launch("bench", f"--config={repo / 'configs' / 'bench.py'}", *tiny, *flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.what=speed"], "config.what is 'speed'; allowed: 'sft', 'generate', 'ppo', 'data', 'hf'"),
        (["--config.batches=1,x"], "config.batches is '1,x'; allowed: whole numbers from 1, such as 1,8,32,128"),
        (["--config.batches=0"], "config.batches is '0'; allowed: whole numbers from 1"),
        (["--config.repeats=0"], "config.repeats is 0; allowed: 1 to"),
        (["--config.warmup=-1"], "config.warmup is -1; allowed: 0 to"),
        (["--config.generate.sample.max_new_tokens=1"], "config.generate.sample.max_new_tokens is 1; allowed: 2 to"),
        (
            ["--config.what=ppo", "--config.peer=true"],
            "config.peer is set, but config.what is 'ppo', which no peer does",
        ),
        (["--config.peer=true", "--config.sft.lora.rank=4"], "config.peer is set, and config.sft.lora.rank is 4"),
        (
            ["--config.sft.model.path=base"],
            "config.sft.model.path is 'base'; one model is measured: set",
        ),
        (["--config.out=config.py"], "config.out config.py is there already"),
        (["--config.out=nowhere/a.json"], "config.out nowhere/a.json: there is no folder nowhere"),
        (["--config.sft.batch.rows=0"], "config.sft.batch.rows is 0; allowed: 1 to"),
        pytest.param(
            ["--config.what=hf", "--config.model.path=nowhere"], "config.model.path nowhere", marks=pytest.mark.extended
        ),
    ],
)
def test_a_bad_flag_is_answered_in_one_line(command, capsys, tmp_path, flags, message):
    (tmp_path / "config.py").touch()
    assert command(*flags) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith(f"error: {message}")
    assert not (tmp_path / "benchmarks").exists()


@pytest.mark.extended
def test_each_report_has_a_file_of_its_own(command, capsys, tmp_path):
    assert command("--config.what=hf") == command("--config.what=hf") == 0
    assert sorted(path.name for path in (tmp_path / "benchmarks").iterdir()) == ["hf-base-2.json", "hf-base.json"]
    report = json.loads((tmp_path / "benchmarks" / "hf-base.json").read_text())
    assert report["what"] == "hf" and report["device"] == "1 x cpu" and "launch/bench.py" in report["command"]
    assert "report: benchmarks/hf-base-2.json" in capsys.readouterr().out


def is_alive(child: str) -> bool:
    """False for a process that has ended, also if nobody has asked for its exit code."""
    try:
        return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_sigterm_leaves_no_process_and_no_folder(repo, tmp_path):
    """The children of the command are those that Linux lists; other systems list none, and the test is skipped."""
    script = [sys.executable, str(repo / "launch" / "bench.py"), f"--config={repo / 'configs' / 'bench.py'}"]
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(repo)}
    with subprocess.Popen(script, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL) as process:
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not listed.is_file():
            process.kill()
            pytest.skip("this system does not list the children of a process")
        # The folder is made before the first side starts, and sides end only seconds later.
        children: list[str] = []
        while process.poll() is None and not (children and list(tmp_path.glob("tljax-bench-*/tljax-cold.log"))):
            children = listed.read_text().split()
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    deadline = time.monotonic() + 60.0
    while any(map(is_alive, children)):
        assert time.monotonic() < deadline, f"of {children} some still run"
    assert children
    assert not list(tmp_path.glob("tljax-bench-*"))


def test_other_load_is_what_this_process_did_not_do(monkeypatch):
    busy, own = iter([100.0, 106.0]), iter([1.0, 3.0])
    now = iter([0.0, 4.0])
    monkeypatch.setattr(machine, "_busy_seconds", lambda: next(busy))
    monkeypatch.setattr(machine, "_own_seconds", lambda: next(own))
    monkeypatch.setattr(machine.time, "monotonic", lambda: next(now))
    assert machine.OtherLoad().processors() == 1.0
