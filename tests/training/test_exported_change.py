"""The share of a training's change that the dtype of the export keeps, and the scores of the exported weights."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from tljax.distributed.mesh import make_mesh
from tljax.evaluate import in_training
from tljax.model import llama, lora
from tljax.rl import single_turn
from tljax.sft import run as sft_run
from tljax.training.exported_change import (
    ExportedChange,
    as_exported,
    export_dtype,
    format_change,
    measure_adapter_change,
    measure_change,
)


def test_a_change_below_the_rounding_of_the_export_is_lost():
    start = {"a": jnp.ones((4, 8), jnp.float32), "b": jnp.zeros(3, jnp.float32)}
    end = np.ones((4, 8), np.float32)
    end[0] += 1e-4  # bfloat16 has 2^-7 between 1 and its successor
    end[1] += 0.1
    change = measure_change(start, {"a": jnp.asarray(end), "b": start["b"]}, "bfloat16")
    assert change == ExportedChange("bfloat16", weights=35, moved=16, moved_in_export=8)
    assert change.kept == 0.5
    # float16 has 2^-10 there.
    end[0] = 1 + 1e-3
    assert measure_change(start, {"a": jnp.asarray(end), "b": start["b"]}, "float16").moved_in_export == 16


@pytest.mark.parametrize("mesh", [(1, 1, 1), pytest.param((1, 4, 2), marks=pytest.mark.extended)])
def test_an_adapter_changes_the_weights_that_it_is_folded_into(mesh):
    options = lora.LoraOptions(rank=2, alpha=2.0, targets=("q", "down"))
    c = llama.preset("tiny", vocab_size=96)
    with jax.set_mesh(make_mesh(*mesh, devices=jax.devices()[: int(np.prod(mesh))])):
        trunk = jax.jit(llama.init_params, static_argnums=(1, 2))(jax.random.key(0), c, jnp.float32)
        adapter = jax.jit(lora.init_adapter, static_argnums=(1, 2))(jax.random.key(1), c, options)
        assert measure_adapter_change(trunk, adapter, options, "bfloat16").moved == 0  # B is 0 at first
        moved = adapter | {"q_b": adapter["q_b"] + jnp.float32(1.0)}
        folded = jax.jit(lora.merge_adapter)(trunk, moved, options)
        change = measure_adapter_change(trunk, moved, options, "bfloat16")
        whole = measure_change(trunk, folded, "bfloat16")
        weights = trunk["layers"]["q"].size + trunk["layers"]["down"].size
    assert change.weights == weights and 0 < change.moved_in_export < change.moved <= trunk["layers"]["q"].size
    assert (change.moved, change.moved_in_export) == (whole.moved, whole.moved_in_export)


def test_the_exported_weights_are_rounded_to_the_nearest():
    values = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    params: Any = {"layers": {"q": jnp.asarray(values)}}
    rounded = as_exported(params, "bfloat16")["layers"]["q"]
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(rounded), values.astype(ml_dtypes.bfloat16))
    assert as_exported(params, "float32") is params


def test_the_dtype_of_the_export_is_that_of_the_model_unless_named():
    model: Any = SimpleNamespace(dtype="bfloat16")
    assert (export_dtype(model, "auto"), export_dtype(model, "float16")) == ("bfloat16", "float16")


def test_the_end_of_a_run_tells_what_is_kept_and_what_to_do():
    lost, kept = ExportedChange("bfloat16", 10_000, 9_750, 44), ExportedChange("bfloat16", 100, 90, 80)
    text = "\n".join(format_change(lost, adapter=False, scored=True))
    assert "moved 97.50 % of the weights in float32, 0.44 % in bfloat16" in text and "keeps 0.5 % of the moves" in text
    assert "scores are those of the weights in bfloat16" in text
    assert "--config.export.dtype=float32" in text and "larger optim.lr" in text
    without = "\n".join(format_change(kept, adapter=False, scored=False))
    assert "note:" not in without and "scores" not in without
    assert "adapter itself" in "\n".join(format_change(lost, adapter=True, scored=True))
    assert format_change(None, adapter=False, scored=True) == [
        "kept:  all of the change, since the export is in float32"
    ]
    assert "keeps 100.0 %" in format_change(ExportedChange("bfloat16", 10, 0, 0), adapter=False, scored=True)[0]


@pytest.mark.extended
def test_a_run_ends_with_the_scores_of_its_export(launch, quick, repo, tmp_path, capsys):
    run, answers = tmp_path / "run", tmp_path / "answers.jsonl"
    small = ["optim.max_steps=2", "optim.lr=1e-6", "export.dtype=bfloat16", "eval.sets=toolbox", "eval.best=loss"]
    assert launch("train", *quick, *(f"--config.{field}" for field in small), f"--config.out={run}") == 0
    out = capsys.readouterr().out
    assert "the scores are those of the weights in bfloat16" in out and "rounding undoes most" in out
    given = ["--config.queries=2", "--config.new_tokens=16", "--config.rows=8", f"--config.out={answers}"]
    assert (
        launch("evaluate", f"--config={repo / 'configs' / 'evaluate.py'}", *given, f"--config.model.path={run / 'hf'}")
        == 0
    )
    assert answers.read_text() == (run / "scores" / "2.jsonl").read_text()


@pytest.fixture
def scored(monkeypatch):
    """The weights that sets were scored with."""
    found = []
    monkeypatch.setattr(in_training, "score_eval_sets", lambda *given: found.append(given[3]) or {})
    return found


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_scores_in_training_are_those_of_the_exported_weights(scored, stage):
    params = {"layers": {"q": jnp.full((1, 2), 1 + 1e-4, jnp.float32)}}
    models = SimpleNamespace(adapter=None, actor=lambda frozen, params: params)
    model, fields = SimpleNamespace(config=None), dict.fromkeys(("config", "tokenizer", "folder", "sets"))
    context: Any = SimpleNamespace(**fields, model=model, models=models, adapter=None, export_dtype="bfloat16")
    logger: Any = None
    if stage == "sft":
        sft_run.score_eval_sets(context, params, None, logger, 1)
    else:
        state: Any = SimpleNamespace(actor=SimpleNamespace(params=params))
        single_turn.evaluate(context, {}, state, logger, 1)
    ((weights,),) = [jax.tree.leaves(tree) for tree in scored]
    assert weights.dtype == jnp.bfloat16 and weights.tolist() == [[1.0, 1.0]]
