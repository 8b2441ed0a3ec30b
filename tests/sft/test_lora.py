"""A run that trains an adapter: its step, its folder, how it resumes, and the programs that read its results."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax.distributed.mesh import make_mesh
from tljax.model import llama, lora
from tljax.model.hf import load as hf_load
from tljax.sft.step import make_eval_step, make_sft_step
from tljax.storage.atomic import read_jsonl
from tljax.training import model_source
from tljax.training.metrics import TIMING_FIELDS
from tljax.training.state import abstract_state, init_state

ADAPTER = lora.LoraOptions(rank=2, alpha=4.0, targets=("q", "o", "up"))


@pytest.fixture(scope="module")
def adapter_step(config, options, load, place):
    """Metrics, gradients by a step of rate 1, and the trunk before and after it, on the current mesh."""

    def run(accumulate=1):
        settings = dataclasses.replace(options, lora=ADAPTER)
        step = make_sft_step(config, optax.sgd(1.0), lambda n: jnp.float32(1), settings)
        trunk = load()
        adapter = jax.jit(lora.init_adapter)(jax.random.key(0), config, ADAPTER)
        adapter |= {name: x + 0.1 for name, x in adapter.items() if name.endswith("_b")}
        before = jax.device_get((adapter, trunk))
        state, metrics = step(init_state(adapter, optax.sgd(1.0)), place(accumulate), trunk)
        after = jax.device_get((state.params, trunk))
        sums, _ = make_eval_step(config, settings)(state.params, place(), trunk)
        grads = {name: before[0][name] - after[0][name] for name in before[0]}
        return jax.device_get(metrics) | {"after": float(sums["loss"])}, grads, (before[1], after[1])

    return run


@pytest.mark.slow
def test_only_the_adapter_moves_and_alike_on_every_mesh(adapter_step, mesh_of):
    with jax.set_mesh(mesh_of(1, 1, 1)):
        metrics, grads, (before, after) = adapter_step()
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert grads.keys() == {"q_a", "q_b", "o_a", "o_b", "up_a", "up_b"}
    assert all(np.abs(g).max() > 1e-4 for g in grads.values())
    with jax.set_mesh(mesh_of(1, 2, 2, 2)):
        others = adapter_step(accumulate=2)
    for name, value in metrics.items():
        assert others[0][name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
    for name, value in grads.items():
        np.testing.assert_allclose(others[1][name], value, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.extended
def test_no_gradient_of_the_trunk_is_computed(config, options, place, load, mesh_of):
    """XLA counts 4 of 6 operations per weight; attention and a narrow adapter add few."""
    one = dataclasses.replace(config, num_layers=1, d_ff=1024)
    settings = dataclasses.replace(options, forward=dataclasses.replace(options.forward, remat="none"))

    def flops(lora_options):
        params = llama.abstract_params(one, jnp.float32)
        trained = params if lora_options is None else lora.abstract_adapter(one, lora_options)
        tx = optax.sgd(1.0)
        step = make_sft_step(one, tx, lambda n: jnp.float32(1), dataclasses.replace(settings, lora=lora_options))
        state = abstract_state(trained, tx)
        arguments = (state, place()) if lora_options is None else (state, place(), params)
        return step.lower(*arguments).compile().cost_analysis()["flops"]

    with jax.set_mesh(mesh_of(1, 1, 1)):
        assert flops(ADAPTER) / flops(None) == pytest.approx(2 / 3, abs=0.05)


def lines_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k.removeprefix("eval_") not in TIMING_FIELDS} for line in lines]


@pytest.fixture(scope="module")
def flags(quick):
    return [f"{quick[0]}:tiny,lora", *quick[1:], "--config.lora.rank=4"]


@pytest.fixture(scope="module")
def adapted(launch, flags, tmp_path_factory):
    """The folder of one finished run."""
    folder = tmp_path_factory.mktemp("adapted") / "run"
    assert launch("train", *flags, f"--config.out={folder}") == 0
    return folder


@pytest.mark.extended
def test_a_run_leaves_an_adapter_and_a_model(adapted):
    losses = [line["loss"] for line in lines_of(adapted) if "loss" in line]
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert {"adapter", "hf", "model", "checkpoints"} <= {path.name for path in adapted.iterdir()}
    config = json.loads((adapted / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 16) and len(config["target_modules"]) == 7
    with jax.set_mesh(make_mesh(1, 8, 1)):
        run, exported = (model_source.open_model(str(adapted / name), "") for name in ("", "adapter"))
        (adapter, options), (again, same) = model_source.load_adapter(run), model_source.load_adapter(exported)
        assert options == same and adapter.keys() == again.keys()
        jax.tree.map(np.testing.assert_array_equal, adapter, again)
        # Folded onto the base's own weights, and back from the export.
        assert run.base is not None
        base = model_source.load_params(run.base, jnp.float32, 0)
        folded = jax.tree.leaves(jax.jit(lora.merge_adapter)(base, adapter, options))
        written = jax.tree.leaves(hf_load.load_params(adapted / "hf", run.config, jnp.float32))
        for ours, theirs in zip(folded, written, strict=True):
            np.testing.assert_array_equal(ours, theirs)


# peft asks transformers for what the latter calls by another name.
@pytest.mark.extended
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_peft_and_transformers_load_what_a_run_leaves(adapted):
    torch = pytest.importorskip("torch", reason="torch is the oracle; it is installed on Python 3.11 alone")
    peft = pytest.importorskip("peft", reason="peft is the oracle; it is installed with torch alone")
    from transformers import AutoModelForCausalLM

    tokens = torch.arange(20, 44)[None]
    with torch.no_grad():
        load = peft.AutoPeftModelForCausalLM.from_pretrained
        # In float32: the base that ships is float16.
        beside = load(adapted / "adapter", dtype=torch.float32)(tokens).logits
        folded = AutoModelForCausalLM.from_pretrained(adapted / "hf")(tokens).logits
    np.testing.assert_allclose(beside.float(), folded.float(), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits(launch, flags, adapted, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(adapted, again)
    for result in ("hf", "adapter", "checkpoints/6"):
        shutil.rmtree(again / result)
    (again / "scores" / "6.jsonl").unlink()
    assert launch("train", *flags, f"--config.out={again}", "--config.resume=auto") == 0
    assert lines_of(again) == lines_of(adapted)
    for file in ("adapter/adapter_model.safetensors", "hf/model.safetensors"):
        assert (again / file).read_bytes() == (adapted / file).read_bytes()


@pytest.mark.extended
@pytest.mark.parametrize("name", ["", "adapter"])
def test_a_run_and_its_adapter_answer_as_in_training(name, launch, repo, adapted, tmp_path):
    out = tmp_path / "answers.jsonl"
    flags = ["--config.queries=2", "--config.rows=8", "--config.new_tokens=16", f"--config.out={out}"]
    config = f"--config={repo / 'configs' / 'evaluate.py'}"
    assert launch("evaluate", config, *flags, f"--config.model.path={adapted / name}") == 0
    answers = [row["prediction"] for row in read_jsonl(out)]
    rows = [row for row in read_jsonl(adapted / "scores" / "6.jsonl") if row["set"] != "held_out"]
    assert answers == [row["prediction"] for row in rows]


@pytest.mark.extended
def test_a_checkpoint_is_exported_as_a_model_or_as_an_adapter(launch, repo, adapted, trained, tmp_path, capsys):
    config = f"--config={repo / 'configs' / 'export.py'}"
    for kind, flag in (("hf", []), ("adapter", ["--config.adapter=true"])):
        out = tmp_path / kind
        assert launch("export_hf", config, f"--config.run={adapted}", f"--config.out={out}", *flag) == 0
        assert {path.name for path in out.iterdir()} == {path.name for path in (adapted / kind).iterdir()}
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / name).read_bytes() == (adapted / name).read_bytes()
    # The base that ships is float16, and the quick run's export float32.
    assert hf_load.checkpoint_dtype(tmp_path / "hf") == "float16"
    flags = [f"--config.run={trained}", f"--config.out={tmp_path / 'none'}", "--config.adapter=true"]
    assert launch("export_hf", config, *flags) == 2
    assert "trains all weights" in capsys.readouterr().err and not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_second_run_continues_the_adapter_of_the_first(launch, flags, adapted, tmp_path):
    """It begins where the first ended. Its adapter names the export of the first run, which peft can read."""
    out = tmp_path / "run"
    more = [f"--config.out={out}", f"--config.model.path={adapted}", "--config.optim.max_steps=1"]
    assert launch("train", *flags, *more, "--config.eval.sets=") == 0
    first = next(line["loss"] for line in lines_of(out) if "loss" in line)
    assert first < lines_of(adapted)[1]["loss"]
    named = json.loads((out / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(adapted / "hf")
    with jax.set_mesh(make_mesh(1, 8, 1)):
        model = model_source.open_model(str(out), "")
        layers = model_source.load_with_adapter(model, jnp.float32, 0)["layers"]
        assert layers["q_a"].shape[-1] == 8
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6),
            model_source.load_params(model, jnp.float32, 0),
            hf_load.load_params(out / "hf", model.config, jnp.float32),
        )


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("lora.rank=-1", ["config.lora.rank is -1", "allowed: 0 to"]),
        ("lora.alpha=0", ["config.lora.alpha is 0", "above 0"]),
        ("lora.targets=q,qkv", ["config.lora.targets names 'qkv'", "q, k, v, o, gate, up, down"]),
        ("model.path=scratch", ["config.lora.rank is 4", "'scratch'", "lora.rank = 0"]),
    ],
)
def test_bad_input_is_told_in_one_line(launch, flags, flag, words, tmp_path, capsys):
    assert launch("train", *flags, f"--config.out={tmp_path / 'run'}", f"--config.{flag}") == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in error and not (tmp_path / "run").exists()
    assert all(word in lines[0] for word in words), lines[0]
