"""Runs whose rows are split over mesh.sequence, or that resume on another mesh, have the metrics of one plain run."""

import json
import shutil

import jax
import numpy as np
import pytest

from tljax.distributed.mesh import make_mesh, spec
from tljax.model import sequence
from tljax.sft.step import token_scores
from tljax.training.metrics import TIMING_FIELDS

LESS = [f"--config.{name}" for name in ("eval.sets=", "eval.best=loss", "eval.every=0", "checkpoint.keep_best=0")]


def lines_of(folder, name="metrics"):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def assert_same_updates(found, wanted):
    ours, theirs = ([line for line in lines_of(run) if "loss" in line] for run in (found, wanted))
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=1e-4)
    assert [line["grad_norm"] for line in ours] == pytest.approx([line["grad_norm"] for line in theirs], rel=1e-3)


def assert_same_run(found, wanted):
    """Equal but for the rounding of sums in another order, which six updates of AdamW let grow."""
    for ours, theirs in zip(lines_of(found), lines_of(wanted), strict=True):
        assert ours.keys() == theirs.keys()
        for field in ours.keys() - {name for name in ours if name.removeprefix("eval_") in TIMING_FIELDS}:
            assert ours[field] == pytest.approx(theirs[field], rel=1e-4, abs=1e-5), field
    for ours, theirs in zip(lines_of(found, "samples"), lines_of(wanted, "samples"), strict=True):
        assert ours["reply"] == theirs["reply"]
        for (piece, weight, nll, mark), same in zip(ours["tokens"], theirs["tokens"], strict=True):
            assert [piece, weight, mark] == [same[0], same[1], same[3]] and nll == pytest.approx(same[2], abs=1e-3)


@pytest.mark.extended
def test_a_run_with_split_rows_has_the_same_updates(launch, quick, trained, tmp_path):
    """The run neither generates replies nor exports, which would cost more than the updates."""
    flags = [*LESS, "--config.export.at_end=false", "--config.mesh.sequence=2", "--config.mesh.data=2"]
    assert launch("train", *quick, *flags, f"--config.out={tmp_path / 'run'}") == 0
    assert_same_updates(tmp_path / "run", trained)
    runs = lines_of(tmp_path / "run"), lines_of(trained)
    ours, theirs = ([line["eval_loss"] for line in lines if "eval_loss" in line][-1] for lines in runs)
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
def test_a_run_resumes_with_rows_split_over_devices(launch, quick, trained, tmp_path):
    """The run resumes after update 4, whose checkpoint was saved with each row on one device."""
    again = tmp_path / "run"
    shutil.copytree(trained, again)
    for result in ("hf", "checkpoints/6"):
        shutil.rmtree(again / result)
    (again / "scores" / "6.jsonl").unlink()
    flags = [f"--config.out={again}", "--config.resume=auto", "--config.mesh.sequence=2", "--config.mesh.data=2"]
    assert launch("train", *quick, *flags) == 0
    assert_same_run(again, trained)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["sequence=4"], ["slices=2"], ["sequence=2", "tensor=2"]], ids=" ".join)
def test_a_run_on_any_mesh_has_the_same_metrics(flags, launch, quick, trained, tmp_path, capsys):
    mesh = [f"--config.mesh.{flag}" for flag in flags]
    assert launch("train", *quick, *mesh, f"--config.out={tmp_path / 'run'}") == 0
    assert_same_run(tmp_path / "run", trained)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["sequence=8", "slices=2"])
def test_processes_share_rows_or_are_slices(flag, start_several, quick, trained, repo, tmp_path):
    """Two processes have four devices each: they share every row, or each has all weights and half of the rows."""
    folder, script = tmp_path / "run", str(repo / "launch" / "train.py")
    flags = [*quick, *LESS, f"--config.mesh.{flag}", f"--config.out={folder}"]
    for process, log in start_several(2, 4, script, *flags):
        assert process.wait(timeout=600) == 0, log.read_text()[-3000:]
    assert_same_updates(folder, trained)


@pytest.mark.slow
def test_a_run_with_split_rows_resumes_with_whole_rows(launch, quick, trained, tmp_path):
    out = tmp_path / "run"
    flags = [f"--config.out={out}", "--config.resume=auto"]
    assert launch("train", *quick, *flags, "--config.mesh.sequence=2") == 0
    shutil.rmtree(out / "hf")
    for step in (4, 6):
        shutil.rmtree(out / "checkpoints" / str(step), ignore_errors=True)
    for step in (4, 6):
        (out / "scores" / f"{step}.jsonl").unlink()
    assert launch("train", *quick, *flags) == 0
    assert_same_run(out, trained)


def test_weights_are_split_over_the_devices_of_a_row(load, mesh_of):
    with jax.set_mesh(mesh_of(1, 2, 1, 4)):
        gate = load()["layers"]["gate"]
    assert 8 * gate.addressable_shards[0].data.size == gate.size


def test_each_score_names_its_column(config, options, host_batch, load, place, mesh_of):
    """The order in which positions are computed plays no part. A row has more positions than there is room."""
    with jax.set_mesh(mesh_of(1, 1, 1, 4)):
        batch = jax.tree.map(lambda x: x[0], place())
        found = jax.device_get(jax.jit(token_scores, static_argnums=(1, 3))(load(), config, batch, options))
    for row, weights in enumerate(host_batch["loss_weights"]):
        weighted = found["loss_weights"][row] > 0
        columns = found["columns"][row][weighted]
        np.testing.assert_array_equal(np.sort(columns), np.flatnonzero(weights > 0))
        np.testing.assert_array_equal(found["loss_weights"][row][weighted], weights[columns])
        np.testing.assert_array_equal(found["token_classes"][row][weighted], host_batch["token_classes"][row][columns])


@pytest.mark.parametrize("places", [2, 3])
def test_every_column_lies_in_a_chunk_of_one_device(places):
    """Each device has an early and a late chunk. `take` finds every column there, and its gradient returns to it."""
    tokens = 4 * places
    order = sequence.column_order(tokens, places)
    assert sorted(order.ravel()) == list(range(tokens)) and order[0].tolist() == [0, 1, tokens - 2, tokens - 1]
    rng = np.random.default_rng(0)
    whole = rng.standard_normal((1, tokens, 5)).astype(np.float32)
    picks = rng.integers(0, tokens, (1, 7)).astype(np.int32)
    with jax.set_mesh(make_mesh(1, 1, 1, places, devices=jax.devices()[:places])):
        mesh = jax.sharding.get_mesh()
        split = jax.device_put(whole[:, order.ravel()], jax.NamedSharding(mesh, spec("batch", "positions", None)))
        index = jax.device_put(picks, jax.NamedSharding(mesh, spec("batch", None)))
        taken, back = jax.vjp(lambda x: sequence.take_positions(x, index), split)
        (gradient,) = back(taken)
    np.testing.assert_array_equal(np.asarray(taken)[0], whole[0, picks[0]])
    wanted = np.zeros_like(whole)
    np.add.at(wanted[0], picks[0], whole[0, picks[0]])
    np.testing.assert_allclose(np.asarray(gradient), wanted[:, order.ravel()], rtol=1e-6)
