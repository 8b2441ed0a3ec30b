"""A run of several processes gives the numbers of one, through a stop and on another number of processes."""

import json
import runpy
import signal
import time

import jax
import numpy as np
import pytest

from tljax.core import processes
from tljax.core.errors import InputError
from tljax.core.metrics import TIMING_FIELDS
from tljax.rl.check import check

# What a run of several need not do to be compared: it is slow on a few cores.
LESS = ("--config.eval.sets=", "--config.eval.best=loss", "--config.eval.every=0", "--config.checkpoint.keep_best=0")


def lines_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k.removeprefix("eval_") not in TIMING_FIELDS} for line in lines]


def assert_equal(found, wanted):
    """Line by line, float32 numbers to 1e-6 of their size."""
    assert [line.keys() for line in found] == [line.keys() for line in wanted]
    for line, want in zip(found, wanted, strict=True):
        for name, value in want.items():
            assert line[name] == pytest.approx(value, rel=2e-6, abs=1e-6), (want["step"], name)


def updates_of(folder):
    return [line for line in lines_of(folder) if "loss" in line]


def finish(started, seconds=600):
    until = time.monotonic() + seconds
    for process, log in started:
        assert process.wait(timeout=max(1.0, until - time.monotonic())) == 0, log.read_text()[-3000:]


@pytest.fixture
def stopped(start_several, quick, repo, tmp_path):
    """The folder of a run of two processes that SIGTERM to the second one stopped, and the first one's output."""
    folder = tmp_path / "run"
    script = str(repo / "launch" / "train.py")
    started = start_several(2, 4, script, *quick, *LESS, f"--config.out={folder}")
    log = started[0][1]
    until = time.monotonic() + 300
    while "step 1/6" not in log.read_text() and time.monotonic() < until:
        time.sleep(0.1)
    started[1][0].send_signal(signal.SIGTERM)
    finish(started)
    return folder, log.read_text()


def test_sigterm_to_one_of_two_processes_and_a_resume_as_one(stopped, trained, launch, quick):
    """Two processes of four devices, then one of eight: as one of eight from the first update to the last."""
    folder, out = stopped
    begun = updates_of(folder)
    assert 1 <= len(begun) < 6
    told = f"stopped by SIGTERM after update {len(begun)} of 6, saved; continue with --config.out={folder}"
    assert out.splitlines()[-1].startswith(told)
    assert launch("train", *quick, *LESS, f"--config.out={folder}", "--config.resume=auto") == 0
    assert_equal(updates_of(folder), updates_of(trained))
    assert updates_of(folder)[: len(begun)] == begun


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_four_processes(stopped, trained, start_several, quick, repo):
    folder, _ = stopped
    again = (f"--config.out={folder}", "--config.resume=auto")
    finish(start_several(4, 2, str(repo / "launch" / "train.py"), *quick, *LESS, *again))
    assert_equal(updates_of(folder), updates_of(trained))


@pytest.mark.slow
def test_two_processes_leave_what_one_leaves(trained, start_several, quick, repo, tmp_path):
    """With its scores, its samples, the best checkpoint and the export."""
    folder = tmp_path / "run"
    finish(start_several(2, 4, str(repo / "launch" / "train.py"), *quick, f"--config.out={folder}"))
    assert_equal(lines_of(folder), lines_of(trained))
    assert {path.name for path in folder.iterdir()} == {path.name for path in trained.iterdir()}
    for scores in (trained / "scores").iterdir():
        assert (folder / "scores" / scores.name).read_bytes() == scores.read_bytes()
    for kind in ("checkpoints", "hf", "model"):
        assert {path.name for path in (folder / kind).iterdir()} == {path.name for path in (trained / kind).iterdir()}
    ours, theirs = (weights_of(path / "hf") for path in (folder, trained))
    for name, weight in theirs.items():
        np.testing.assert_allclose(ours[name], weight, rtol=0, atol=1e-4, err_msg=name)


def test_ppo_of_several_processes_is_refused(monkeypatch, repo):
    config = runpy.run_path(str(repo / "configs" / "ppo.py"))["get_config"]()
    check(config)
    monkeypatch.setattr(processes, "several", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match="has several processes, and runs of this kind are of one process so far"):
        check(config)


def weights_of(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")
