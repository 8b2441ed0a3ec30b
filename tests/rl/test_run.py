"""A PPO run: from an SFT run to an exported model, after a kill, and with bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.distributed.mesh import make_mesh
from tljax.evaluate.toolbox_queries import held_out_sets
from tljax.model.hf import load as hf_load
from tljax.rl.irm import PARAMETER_REWARDS, REWARDS
from tljax.rl.irm import reward as irm_reward
from tljax.storage.atomic import read_jsonl
from tljax.training import model_source

TIMES = ("time", "mfu", "tokens_per_second")
TABLE = {*REWARDS.values(), *PARAMETER_REWARDS.values()}


@pytest.fixture(scope="module")
def flags(quick_ppo) -> list[str]:
    return quick_ppo


def lines_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES and not k.startswith("seconds")} for line in lines]


@pytest.mark.extended
def test_a_run_leaves_all_its_files_and_metrics(learned):
    there = {path.name for path in learned.iterdir()}
    assert {"config.json", "metrics.jsonl", "events", "checkpoints", "samples.jsonl", "scores", "model", "hf"} <= there
    lines = lines_of(learned)
    updates = [line for line in lines if "reward" in line]
    assert [line["step"] for line in updates] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "eval_reward" in line] == [0, 2, 4]
    for line in updates:
        assert line["ratio_first"] == pytest.approx(1, abs=1e-3) and line["clipped_first"] == 0
        assert line["sampler_gap"] < 1e-3
        assert sum(value for name, value in line.items() if name.startswith("share_")) == pytest.approx(1)
        assert line["kl_k3"] >= -1e-6
    # Before the first update the actor is the reference.
    assert updates[0]["kl"] == pytest.approx(0, abs=1e-5)


@pytest.mark.extended
def test_rewards_of_samples_are_values_of_the_table(learned):
    samples = [json.loads(line) for line in (learned / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [2] * 4 + [4] * 4
    for sample in samples:
        assert sample["query"].endswith("Assistant:") and sample["reward"] in TABLE
        if sample["kind"] == "correct":
            assert sample["prediction"].startswith(sample["golden"].partition("(")[0])


@pytest.mark.extended
def test_the_printed_table_has_the_mean_reward_of_the_scored_replies(learned, capsys, launch, flags):
    """A restart of the finished run prints the table without another update."""
    before = (learned / "metrics.jsonl").read_bytes()
    assert launch("train", *flags, f"--config.out={learned}", "--config.resume=auto") == 0
    assert (learned / "metrics.jsonl").read_bytes() == before
    out = capsys.readouterr().out
    assert "resumed at update 4 of 4" in out
    sets = held_out_sets(3, "mae")
    answers = read_jsonl(learned / "scores" / "4.jsonl")
    values = [
        irm_reward(row["prediction"], row["golden"], sets["domain"][row["index"]].tools).value
        for row in answers
        if row["set"] == "domain"
    ]
    line = next(line for line in out.splitlines() if line.strip().startswith("domain ") and "->" in line)
    assert len(values) == 3 and f"-> {np.mean(values):+.3f}" in line


@pytest.mark.extended
def test_other_queries_on_a_restart_are_refused(learned, launch, flags, capsys):
    """Otherwise scores of different queries would select the best checkpoint."""
    again = [f"--config.out={learned}", "--config.resume=auto", "--config.eval.queries=2"]
    assert launch("train", *flags, *again) == 2
    assert "config.eval.queries is 2, but the run" in capsys.readouterr().err


@pytest.mark.extended
def test_another_model_is_refused_before_and_after_the_first_checkpoint(learned, launch, flags, repo, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(learned, folder)
    begun = json.loads((folder / "begun.json").read_text())
    (folder / "begun.json").write_text(json.dumps(begun | {"model": "another"}))
    for gone in ("", "checkpoints"):
        if gone:
            shutil.rmtree(folder / gone)
        assert launch("train", *flags, f"--config.out={folder}", "--config.resume=auto") == 2
        assert "the run began with other weights" in capsys.readouterr().err


@pytest.mark.slow
def test_rows_split_over_devices_give_the_same_metrics(learned, launch, flags, tmp_path):
    """Replies are sampled equally on every mesh, and scored equally up to the rounding of sums."""
    out = tmp_path / "run"
    assert launch("train", *flags, "--config.mesh.sequence=2", f"--config.out={out}") == 0
    for ours, theirs in zip(lines_of(out), lines_of(learned), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=1e-3, abs=1e-4), (theirs["step"], name)


@pytest.mark.extended
def test_the_export_is_the_actor(learned, trained):
    with jax.set_mesh(make_mesh(1, 8, 1)):
        model = model_source.open_model(str(learned), "")
        ours = model_source.load_params(model, jnp.float32, 0)
        again = hf_load.load_params(learned / "hf", model.config, jnp.float32)
        start = model_source.load_params(model_source.open_model(str(trained), ""), jnp.float32, 0)
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), ours, again)))
        assert not all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), ours, start)))


@pytest.mark.whole_run
def test_a_killed_run_gives_the_metrics_of_one_run(learned, launch, repo, flags, tmp_path):
    """After a kill -9 between the third rollout and its update, a restart reads the rollout instead of sampling it."""
    folder = tmp_path / "run"
    command = [sys.executable, str(repo / "launch" / "train.py"), *flags, f"--config.out={folder}"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    with open(tmp_path / "out.txt", "w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    rollout = folder / "rollouts" / "2.jsonl"
    while process.poll() is None and not rollout.exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, (tmp_path / "out.txt").read_text()
    assert launch("train", *flags, f"--config.out={folder}", "--config.resume=auto") == 0
    assert lines_of(folder) == lines_of(learned)
    third = next(json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines() if '"step": 3' in x)
    assert third["seconds_rollout"] == 0.0
    for name in ("model.safetensors", "config.json"):
        assert (folder / "hf" / name).read_bytes() == (learned / "hf" / name).read_bytes()


@pytest.mark.slow
def test_grpo_with_lora_trains_only_an_adapter(launch, flags, first_trained, tmp_path):
    """The trunk equals the SFT model bit for bit, the adapter has changed, and the export folds it."""
    folder = tmp_path / "run"
    options = ["algorithm=grpo", "rollout.group=4", "rollout.prompts=2", "lora.rank=2", "ppo.updates=2"]
    # The entropy bonus has a gradient even if all replies of a group have the same reward.
    options += [
        "kl.place=loss",
        "optim.lr=1e-2",
        "eval.sets=held_out",
        "ppo.entropy_coef=0.1",
        "optim.warmup_fraction=0.0",
    ]
    options = [f"--config.{option}" for option in options]
    assert launch("train", *flags, *options, f"--config.out={folder}") == 0
    assert [line["step"] for line in lines_of(folder) if "reward" in line] == [1, 2]
    assert not any("value_loss" in line for line in lines_of(folder))
    with jax.set_mesh(make_mesh(1, 8, 1)):
        model = model_source.open_model(str(folder), "")
        assert model.base is not None and model.base.checkpoint == (first_trained, 6)
        start = model_source.load_params(model.base, jnp.float32, 0)
        folded = hf_load.load_params(folder / "hf", model.config, jnp.float32)
    assert jnp.array_equal(start["embed"], folded["embed"])
    assert not jnp.array_equal(start["layers"]["q"], folded["layers"]["q"])
    assert (folder / "adapter" / "adapter_config.json").is_file()


@pytest.mark.parametrize(
    "changes, message",
    [
        (["model.path="], "PPO starts from an SFT model"),
        (["algorithm=grpo"], "rollout.group to 2 or more"),
        (["ppo.minibatches=3"], "use a multiple of 3"),
        (["critic.minibatches=3"], "do not divide into critic.minibatches x ppo.accumulate = 3 parts"),
        (["critic.lam=-0.5"], "config.critic.lam is -0.5; allowed: 0.0 to 1.0"),
        (["ppo.loss_mean=sum"], "allowed: 'token', 'reply', 'constant'"),
        (["rollout.max_prompt_tokens=100000"], "max_position_embeddings"),
        (["rollout.rows=3"], "rollout.rows is 3, which does not divide"),
        (["reward.rule=nothing"], "reward"),
        (["ppo.gamma=1.5"], "config.ppo.gamma is 1.5; allowed: 0.0 to 1.0"),
        (["rollout.top_p=0.0"], "top_p"),
        (["rollout.max_prompt_tokens=3"], "no prompt is left to train on"),
        (["algorithm=grpo", "rollout.group=2", "rollout.temperature=0.0"], "learns nothing"),
        (["kl.target=6.0", "kl.horizon=4.0"], "kl.coef would jump"),
        (["critic.warmup=4"], "the actor would never move"),
        (["optim.lr=-1.0"], "config.optim.lr"),
        (["data.prompt_weight=1.0", "data.mae=none"], "prompt_weight has no meaning"),
        (["data.new_names=0.5"], "new_names has no meaning"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_folder(launch, ppo_of_base, tmp_path, capsys, changes, message):
    overrides = [f"--config.{change}" for change in changes]
    assert launch("train", *ppo_of_base, *overrides, f"--config.out={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "run").exists()


@pytest.mark.extended
def test_a_reward_that_is_no_number_stops_the_run(launch, flags, tmp_path, capsys):
    (tmp_path / "my_reward.py").write_text("def bad(prediction, golden, tools):\n    return float('nan')\n")
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        code = launch("train", *flags, "--config.reward.rule=my_reward:bad", f"--config.out={tmp_path / 'run'}")
    finally:
        os.chdir(here)
    assert code == 2
    assert "my_reward:bad" in capsys.readouterr().err
