"""From raw trajectories to an exported model and back, and through a kill in the middle."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.data.tokenizer import load_tokenizer
from tljax.distributed.mesh import make_mesh
from tljax.model import llama
from tljax.model.hf import load as hf_load
from tljax.storage.atomic import read_jsonl
from tljax.toolbox import trajectories
from tljax.training import model_source
from tljax.training.checkpoint import Checkpoints
from tljax.training.metrics import TIMING_FIELDS


def lines_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k.removeprefix("eval_") not in TIMING_FIELDS} for line in lines]


def losses_of(folder):
    return [line["loss"] for line in lines_of(folder) if "loss" in line]


def test_a_run_leaves_what_it_promises(trained):
    there = {path.name for path in trained.iterdir()}
    assert {"config.json", "metrics.jsonl", "events", "checkpoints", "samples.jsonl", "scores", "model", "hf"} <= there
    assert not [name for name in there if name.startswith(".")]
    lines = lines_of(trained)
    losses = losses_of(trained)
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert [line["step"] for line in lines if "eval_loss" in line] == [2, 4, 6]
    first = next(line for line in lines if "loss" in line)
    assert {"loss_key", "loss_other", "name_accuracy", "grad_norm", "lr", "tokens", "epoch"} <= first.keys()


def test_every_evaluation_scores_the_same_queries(trained):
    steps = [0, 2, 4, 6]
    lines = {line["step"]: line for line in lines_of(trained) if "eval_domain_TS" in line}
    assert list(lines) == steps
    goldens = set()
    for step in steps:
        rows = read_jsonl(trained / "scores" / f"{step}.jsonl")
        names = ("held_out", "composition", "domain")
        assert [row["set"] for row in rows] == [name for name in names for _ in range(2)]
        # Held-out rows are chosen from all of them; of the toolbox the first queries are taken.
        assert [row["index"] for row in rows[2:]] == [0, 1] * 2
        assert rows[0]["index"] < rows[1]["index"]
        goldens.add(tuple(row["golden"] for row in rows))
        for name in names:
            hits = [row["level"] >= 1 for row in rows if row["set"] == name]
            assert lines[step][f"eval_{name}_TS"] == pytest.approx(100 * sum(hits) / 2)
    assert len(goldens) == 1
    # The replies in the samples of the held-out loss are the golden calls.
    samples = [json.loads(line) for line in (trained / "samples.jsonl").read_text().splitlines()]
    assert {*goldens.pop()[:2]} <= {sample["reply"].strip() for sample in samples}


def test_the_checkpoint_with_the_best_score_is_kept(trained):
    """eval.best names the score; the last two checkpoints are kept in any case."""
    scores = {line["step"]: line["eval_held_out_TS"] for line in lines_of(trained) if "eval_held_out_TS" in line}
    with Checkpoints(trained / "checkpoints", read_only=True) as checkpoints:
        best = checkpoints.best_step()
        assert best in checkpoints.steps() and scores[best] == max(scores[step] for step in (2, 4, 6))


def test_samples_show_every_token_of_a_reply(trained):
    samples = [json.loads(line) for line in (trained / "samples.jsonl").read_text().splitlines()]
    assert {sample["step"] for sample in samples} == {2, 4, 6}
    for sample in samples:
        tokens = sample["tokens"]
        assert tokens[-1][0] == "</s>" and min(weight for _, weight, _, _ in tokens) == 1
        assert {mark for _, weight, _, mark in tokens if weight > 1} == {"key"}
        spelled = "".join(piece for piece, *_ in tokens[:-1]).replace("▁", " ").strip()
        assert spelled == sample["reply"].strip() or "<0x" in spelled
        assert all(nll >= 0 for _, _, nll, _ in tokens)


def test_the_export_gives_the_checkpoints_weights(trained):
    with jax.set_mesh(make_mesh(1, 8, 1)):
        model = model_source.open_model(str(trained), "")
        ours = model_source.load_params(model, jnp.float32, 0)
        again = hf_load.load_params(trained / "hf", model.config, jnp.float32)
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), ours, again)))


def test_the_export_loads_in_transformers_with_equal_logits(trained):
    torch = pytest.importorskip("torch", reason="torch is the oracle; it is installed on Python 3.11 alone")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained / "hf")
    model = AutoModelForCausalLM.from_pretrained(trained / "hf")
    text = "System: Function:\ndef f(a: string):\nUser: hi\nAssistant:"
    ids = tokenizer(text)["input_ids"]
    assert ids == load_tokenizer(str(trained / "hf")).encode(text)[0]
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0].numpy()
    with jax.set_mesh(make_mesh(1, 1, 1, devices=jax.devices()[:1])):
        opened = model_source.open_model(str(trained / "hf"), "")
        params = model_source.load_params(opened, jnp.float32, 0)
        tokens = jnp.asarray([ids], jnp.int32)
        hidden = llama.forward(
            params,
            opened.config,
            tokens,
            jnp.arange(len(ids), dtype=jnp.int32)[None],
            jnp.ones_like(tokens),
            llama.ForwardOptions("float32", attention="reference"),
        )
        ours = np.asarray(llama.logits(params, opened.config, hidden))[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-5)


@pytest.mark.extended
def test_the_exported_chat_template_gives_the_tokens_of_training(trained, repo, launch, quick, tmp_path):
    """Messages as people send them -> the very ids that prepare_data writes for the same step."""
    pytest.importorskip("torch", reason="transformers' chat templates are read with it; it is on Python 3.11 alone")
    from transformers import AutoTokenizer

    raw = tmp_path / "raw.json"
    trajectories.write_trajectories(raw, seed=3, n=4, error_share=0.0, split="train")
    out = tmp_path / "steps.jsonl"
    flags = [f"--config.data.source={raw}", f"--config.out={out}", f"--config.data.tokenizer={trained / 'hf'}"]
    assert launch("prepare_data", f"--config={repo / 'configs' / 'data.py'}", *flags) == 0
    steps = [json.loads(line) for line in out.read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(trained / "hf")
    for row in json.loads(raw.read_text()):
        system, *messages = row["conversations"]
        chat = []
        for message in messages[:-1]:
            if message["role"] == "assistant":
                name, arguments = message["content"].split("\n", 1)
                call = {"type": "function", "function": {"name": name, "arguments": json.loads(arguments)}}
                chat.append({"role": "assistant", "tool_calls": [call]})
            else:
                chat.append(message | {"role": message["role"].replace("function", "tool")})
        ids = tokenizer.apply_chat_template(
            chat, tools=json.loads(system["content"]), add_generation_prompt=True, return_dict=False
        )
        last = [step for step in steps if step["id"] == row["id"]][-1]
        assert ids == last["tokens"][: last["reply_start"]]


@pytest.mark.whole_run
def test_a_second_stage_begins_where_the_first_ended(launch, quick, trained, tmp_path):
    """model.path as a run's folder and as its export: the same first loss, near the last one of the run."""
    first = []
    for name, path in (("run", trained), ("hf", trained / "hf")):
        out = tmp_path / name
        flags = [f"--config.out={out}", f"--config.model.path={path}", "--config.optim.max_steps=1"]
        assert launch("train", *quick, *flags, "--config.export.at_end=False") == 0
        assert not (out / "hf").exists()
        first.append(losses_of(out)[0])
    assert first[0] == first[1] < losses_of(trained)[0] - 0.1


@pytest.mark.extended
def test_export_of_an_earlier_checkpoint(launch, repo, trained, tmp_path, capsys):
    config = f"--config={repo / 'configs' / 'export.py'}"
    out = tmp_path / "hf"
    assert launch("export_hf", config, f"--config.run={trained}", f"--config.out={out}", "--config.dtype=bfloat16") == 0
    assert "step 6" in capsys.readouterr().out
    assert hf_load.checkpoint_dtype(out) == "bfloat16"


def test_resuming_a_finished_run_changes_nothing(launch, quick, trained, capsys):
    before = (trained / "metrics.jsonl").read_bytes()
    assert launch("train", *quick, f"--config.out={trained}", "--config.resume=auto") == 0
    assert (trained / "metrics.jsonl").read_bytes() == before
    assert "resumed at update 6 of 6" in capsys.readouterr().out


@pytest.mark.slow
def test_default_folders_never_collide(launch, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["--config.optim.max_steps=1", "--config.export.at_end=False", "--config.eval.samples=0"]
    for _ in range(2):
        assert launch("train", *quick, *short) == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["sft-tiny", "sft-tiny-2"]


@pytest.mark.whole_run
def test_killed_and_stopped_runs_give_the_metrics_of_one_run(repo, quick, tmp_path):
    """kill -9, then SIGTERM, then to the end: every line and every weight as in a run that nothing disturbed."""
    command = [sys.executable, str(repo / "launch" / "train.py"), *quick, "--config.optim.max_steps=9"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}

    def start(folder, *flags):
        out = open(tmp_path / "out.txt", "w")
        with out:
            return subprocess.Popen(
                [*command, f"--config.out={folder}", *flags], env=environment, stdout=out, stderr=subprocess.STDOUT
            )

    def printed():
        return (tmp_path / "out.txt").read_text()

    def signal_after(process, step, number):
        """Sends the signal as soon as the line of `step` is there."""
        metrics = broken / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and f'{{"step": {step},' in metrics.read_text()):
            time.sleep(0.01)
        process.send_signal(number)
        return process.wait()

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole).wait() == 0, printed()
    assert signal_after(start(broken), 3, signal.SIGKILL) == -signal.SIGKILL, printed()
    assert not (broken / "hf").exists()
    assert signal_after(start(broken, "--config.resume=auto"), 5, signal.SIGTERM) == 0, printed()
    assert "stopped by SIGTERM after update" in printed() and "--config.resume=auto" in printed()
    assert not (broken / "hf").exists()
    assert start(broken, "--config.resume=auto").wait() == 0, printed()
    assert lines_of(broken) == lines_of(whole)
    for name in ("model.safetensors", "config.json"):
        assert (broken / "hf" / name).read_bytes() == (whole / "hf" / name).read_bytes()
    samples = [json.loads(line)["step"] for line in (broken / "samples.jsonl").read_text().splitlines()]
    assert samples == [json.loads(line)["step"] for line in (whole / "samples.jsonl").read_text().splitlines()]


@pytest.mark.whole_run
def test_a_restart_on_other_rows_is_refused(launch, quick, trained, repo, tmp_path, capsys):
    """The config is the same, the file it names is not: the run would go on with data it never saw."""
    raw, out = tmp_path / "raw.json", tmp_path / "run"
    trajectories.write_trajectories(raw, seed=3, n=24, error_share=0.0, split="train")
    flags = [*quick, f"--config.data.source={raw}", f"--config.out={out}", "--config.export.at_end=False"]
    assert launch("train", *flags, "--config.optim.max_steps=2") == 0
    trajectories.write_trajectories(raw, seed=4, n=24, error_share=0.0, split="train")
    before = (out / "metrics.jsonl").read_bytes()
    assert launch("train", *flags, "--config.optim.max_steps=2", "--config.resume=auto") == 2
    assert "other training rows" in capsys.readouterr().err
    assert (out / "metrics.jsonl").read_bytes() == before
