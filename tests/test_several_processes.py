"""Runs of several processes give the numbers of one: through a stop, a kill, and on another number of processes."""

import json
import os
import signal
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from tljax.evaluate.toolbox_queries import held_out_queries
from tljax.rl.rollout import GAP_PERCENTILES
from tljax.storage.resumable import ResumableWriter
from tljax.training.metrics import TIMING_FIELDS

# What a run of several need not do to be compared: it is slow on a few cores.
LESS = ("--config.eval.sets=", "--config.eval.best=loss", "--config.eval.every=0", "--config.checkpoint.keep_best=0")

# A reward that differs from process to process, as any function of a user's may: one process alone may be asked.
REWARD = """
import os

def fn(prediction, golden, tools):
    with open(os.path.join(os.path.dirname(__file__), "askers"), "a") as askers:
        askers.write(f"{os.getppid()}\\n")
    return len(os.path.commonprefix([prediction, golden])) - len(prediction) / 7
"""


def lines_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    left = (*TIMING_FIELDS, "seconds_rollout", "seconds_reward", "seconds_update")
    return [{k: v for k, v in line.items() if k.removeprefix("eval_") not in left} for line in lines]


# Sums over a reply, and the largest, of differences of two log-probabilities, which lose what these have in common.
MORE_ROOM = {"kl_reply": 10} | dict.fromkeys(("sampler_gap", *(f"sampler_gap_p{n}" for n in GAP_PERCENTILES)), 100)


def assert_equal(found, wanted):
    """Line by line, float32 numbers to 1e-6 of their size an update: several processes add in another order.

    Every update begins with the weights that the one before has rounded.
    """
    assert [line.keys() for line in found] == [line.keys() for line in wanted]
    for line, want in zip(found, wanted, strict=True):
        for name, value in want.items():
            room = 1e-6 * max(1, want["step"]) * MORE_ROOM.get(name, 1)
            assert line[name] == pytest.approx(value, rel=room, abs=room), (want["step"], name)


def updates_of(folder):
    return [line for line in lines_of(folder) if "loss" in line]


def assert_same_files(folder, wanted):
    """Everything that a run keeps for people, to the byte where no float is in it, and its weights."""
    assert {path.name for path in folder.iterdir()} == {path.name for path in wanted.iterdir()}
    for kind in ("checkpoints", "hf", "model"):
        assert {path.name for path in (folder / kind).iterdir()} == {path.name for path in (wanted / kind).iterdir()}
    for scores in (wanted / "scores").iterdir():
        assert (folder / "scores" / scores.name).read_bytes() == scores.read_bytes()
    for kind in ("hf", "adapter"):
        for path in (wanted / kind).glob("*.safetensors"):
            assert_close(load_file(folder / kind / path.name), load_file(path))


def assert_close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        np.testing.assert_allclose(found[name], weight, rtol=0, atol=1e-4, err_msg=name)


def until(holds, seconds=300):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited for {seconds} s"
        time.sleep(0.05)


def finish(started, code=0, seconds=900):
    end = time.monotonic() + seconds
    for process, log in started:
        assert process.wait(timeout=max(1.0, end - time.monotonic())) == code, log.read_text()[-3000:]


@pytest.fixture
def train(start_several, repo):
    """train(count, devices, flags...) -> the processes of one run of launch/train.py, with their logs."""

    def start(count, devices, *flags, script="launch/train.py"):
        return start_several(count, devices, str(repo / script), *flags)

    return start


# --- SFT -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(train, quick, tmp_path):
    """The folder of a run of two processes that SIGTERM to the second one stopped, and both outputs."""
    folder = tmp_path / "run"
    started = train(2, 4, *quick, *LESS, f"--config.out={folder}")
    until(lambda: "step 1/6" in started[0][1].read_text())
    started[1][0].send_signal(signal.SIGTERM)
    finish(started)
    return folder, [log.read_text() for _, log in started]


@pytest.mark.whole_run
def test_sigterm_to_one_of_two_processes_and_a_resume_as_one(stopped, trained, launch, quick):
    """Two processes of four devices, then one of eight: as one of eight from the first update to the last."""
    folder, (out, other) = stopped
    begun = updates_of(folder)
    assert 1 <= len(begun) < 6
    told = f"stopped by SIGTERM after update {len(begun)} of 6, saved; continue with --config.out={folder}"
    assert out.splitlines()[-1].startswith(told) and "stopped by" not in other
    assert launch("train", *quick, *LESS, f"--config.out={folder}", "--config.resume=auto") == 0
    assert_equal(updates_of(folder), updates_of(trained))
    assert updates_of(folder)[: len(begun)] == begun


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_four_processes(stopped, trained, train, quick):
    folder, _ = stopped
    finish(train(4, 2, *quick, *LESS, f"--config.out={folder}", "--config.resume=auto"))
    assert_equal(updates_of(folder), updates_of(trained))


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_as_two(trained, launch, train, quick, tmp_path, monkeypatch):
    """And a scheduler, which signals all of them, is told that they were interrupted."""
    folder = tmp_path / "run"
    flags = [*quick, *LESS, f"--config.out={folder}"]
    (alone,) = train(1, 8, *flags, script="launch/train.py")
    until((folder / "metrics.jsonl").exists)
    alone[0].send_signal(signal.SIGTERM)
    finish([alone])
    monkeypatch.setenv("TLJAX_INTERRUPTED", "75")
    both = train(2, 4, *flags, "--config.resume=auto")
    until(lambda: "resumed at update" in both[0][1].read_text())
    for process, _ in both:
        process.send_signal(signal.SIGTERM)
    finish(both, 75)
    assert launch("train", *flags, "--config.resume=auto") == 0
    assert_equal(updates_of(folder), updates_of(trained))


@pytest.mark.slow
@pytest.mark.parametrize(
    "adapter", [[], ["--config.lora.rank=2", "--config.optim.lr=1e-3"]], ids=["weights", "adapter"]
)
def test_two_processes_leave_what_one_leaves(trained, launch, train, quick, tmp_path, adapter):
    """With scores, samples, the best checkpoint and exports, also those of launch/export_hf.py; of an adapter too."""
    one, two = trained, tmp_path / "two"
    flags = quick
    if adapter:
        one, flags = tmp_path / "one", [*quick, *adapter, f"--config.model.path={trained}"]
        assert launch("train", *flags, f"--config.out={one}") == 0
    finish(train(2, 4, *flags, f"--config.out={two}"))
    assert_equal(lines_of(two), lines_of(one))
    assert_same_files(two, one)
    again = tmp_path / "again"
    export = ["--config=configs/export.py", f"--config.run={two}", f"--config.out={again}", "--config.dtype=float32"]
    finish(train(2, 4, *export, script="launch/export_hf.py"))
    assert (again / "model.safetensors").read_bytes() == (two / "hf" / "model.safetensors").read_bytes()


# --- PPO -------------------------------------------------------------------------------------------------------------


@pytest.mark.whole_run
def test_ppo_of_two_processes_gives_the_metrics_of_one(learned, train, quick_ppo, tmp_path):
    """With a critic, held-out evaluation, samples, checkpoints and the export."""
    folder = tmp_path / "run"
    finish(train(2, 4, *quick_ppo, f"--config.out={folder}"))
    assert_equal(lines_of(folder), lines_of(learned))
    assert_same_files(folder, learned)
    assert (folder / "samples.jsonl").read_bytes() == (learned / "samples.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("dead", [0, 1])
def test_a_killed_process_ends_ppo_and_others_go_on_from_its_rollout(learned, train, quick_ppo, tmp_path, dead):
    """kill -9 when the third rollout is there; four processes then read it, instead of sampling it again."""
    folder = tmp_path / "run"
    flags = [*quick_ppo, f"--config.out={folder}"]
    started = train(2, 4, *flags)
    until((folder / "rollouts" / "2.jsonl").exists, 600)
    started[dead][0].kill()
    process, log = started[1 - dead]
    assert process.wait(60) == 75
    assert log.read_text().splitlines()[-1].startswith(f"error: process {dead} (")
    finish(train(4, 2, *flags, "--config.resume=auto"))
    assert_equal(lines_of(folder), lines_of(learned))
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["seconds_rollout"] for line in read if line["step"] == 3 and "loss" in line] == [0.0]


@pytest.mark.slow
def test_rloo_of_adapters_with_a_users_reward(launch, train, quick_ppo, tmp_path, monkeypatch):
    (tmp_path / "my_reward.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    own = ["algorithm=rloo", "rollout.group=4", "rollout.prompts=2", "lora.rank=2", "ppo.updates=2", "ppo.accumulate=1"]
    own += ["optim.lr=1e-3", "reward.rule=my_reward:fn", "reward.workers=2", "eval.sets=held_out"]
    flags = [*quick_ppo, *(f"--config.{option}" for option in own)]
    one, two = tmp_path / "one", tmp_path / "two"
    assert launch("train", *flags, f"--config.out={one}") == 0
    asked = (tmp_path / "askers").read_text().splitlines()
    assert set(asked) == {str(os.getpid())}
    (tmp_path / "askers").unlink()
    started = train(2, 4, *flags, f"--config.out={two}")
    finish(started)
    assert_equal(lines_of(two), lines_of(one))
    assert_same_files(two, one)
    assert (tmp_path / "askers").read_text().splitlines() == [str(started[0][0].pid)] * len(asked)


# --- replies and scores ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_go_on_with_the_replies_of_one(trained, launch, train, repo, tmp_path, monkeypatch):
    prompts = tmp_path / "prompts.jsonl"
    texts = [query.prompt for query in held_out_queries("domain", 10, "mae")]
    prompts.write_text("".join(json.dumps({"id": i, "prompt": text}) + "\n" for i, text in enumerate(texts)))
    flags = [f"--config={repo / 'configs' / 'generate.py'}", f"--config.prompts={prompts}", "--config.samples=2"]
    flags += [f"--config.model.path={trained}", "--config.rows=8", "--config.sample.max_new_tokens=8"]
    flags += ["--config.sample.temperature=1.0"]
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    assert launch("generate", *flags, f"--config.out={one}") == 0
    append = ResumableWriter.append
    with monkeypatch.context() as patch:
        patch.setattr(ResumableWriter, "append", lambda *all: (append(*all), signal.raise_signal(signal.SIGTERM)))
        assert launch("generate", *flags, f"--config.out={two}") == 0
    assert not two.exists()
    _, *begun = (tmp_path / "two.jsonl.partial").read_text().splitlines()
    assert 0 < len(begun) < 20
    started = train(2, 4, *flags, f"--config.out={two}", script="launch/generate.py")
    finish(started)
    assert f"resumed: {len(begun)} of 20 replies" in started[0][1].read_text()
    found, wanted = ([json.loads(line) for line in path.read_text().splitlines()] for path in (two, one))
    assert [row.pop("logprob") for row in found] == pytest.approx([row.pop("logprob") for row in wanted], abs=1e-5)
    assert found == wanted


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", [False, True], ids=["toolbox", "benchmark"])
def test_scores_of_two_processes_are_those_of_one(launch, train, repo, tmp_path, trained, shared, benchmark, capsys):
    flags = [f"--config={repo / 'configs' / 'evaluate.py'}", f"--config.model.path={trained}", "--config.rows=8"]
    flags += ["--config.new_tokens=8", "--config.queries=4"]
    if benchmark:
        rows = json.loads((shared / "data" / "eval" / "RoTBench" / "First_Turn" / "clean.json").read_text())
        file = tmp_path / "clean.json"
        file.write_text(json.dumps(rows[:12]))
        flags.append(f"--config.data={file}")
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    assert launch("evaluate", *flags, f"--config.out={one}") == 0
    table = capsys.readouterr().out.splitlines()
    finish(started := train(2, 4, *flags, f"--config.out={two}", script="launch/evaluate.py"))
    assert two.read_bytes() == one.read_bytes()
    (out, other) = (log.read_text() for _, log in started)
    line = next(line for line in table if "TS" in line)
    assert line in out.splitlines() and line not in other.splitlines()
