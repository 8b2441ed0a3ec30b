"""Checkpoints on disk: they restore bit for bit on other meshes, and survive kills and full disks."""

import gc
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.training.states import abstract, bits, committed, random_state
from tljax.core.errors import InputError
from tljax.training.checkpoint import Checkpoints
from tljax.training.state import TrainState


def one_line(caught, *words) -> None:
    text = str(caught.value)
    assert "\n" not in text
    assert all(str(word) in text for word in words), text


def test_restore_is_bitwise_on_every_mesh(tmp_path):
    """(8,1,1) -> (2,2,2) -> (1,1,1): a new object restores each checkpoint that the mesh before it has saved."""
    state = random_state(abstract((8, 1, 1)), seed=3)
    saved = bits(state)
    metadata = {"step": 3, "config": {"lr": 1e-6}, "data": {"position": 12, "epoch": 0}, "metrics": {"loss": 0.25}}
    for n, shape in enumerate([(2, 2, 2), (1, 1, 1)], 3):
        with Checkpoints(tmp_path, keep=2) as checkpoints:
            checkpoints.save(n, state, metadata)
        with Checkpoints(tmp_path, read_only=True) as checkpoints:
            want = abstract(shape)
            state = checkpoints.restore(n, want)
            assert checkpoints.metadata(n) == metadata
        assert isinstance(state, TrainState) and bits(state) == saved
        got = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), state)
        assert got == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), want)


def test_the_state_may_be_donated_right_after_save(tmp_path):
    """The next step overwrites the buffers while the save is still writing."""
    state = random_state(abstract((8, 1, 1)), seed=1)
    saved = bits(state)
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        jax.block_until_ready(overwrite(state))
        checkpoints.wait()
        assert bits(checkpoints.restore(1, abstract((1, 1, 1)))) == saved


def test_save_returns_while_the_checkpoint_waits_for_what_must_come_before(tmp_path):
    state, go, begun = random_state(abstract((1, 1, 1)), seed=1), threading.Event(), threading.Event()

    def before_commit() -> None:
        begun.set()
        assert go.wait(60)

    with Checkpoints(tmp_path, before_commit=before_commit) as checkpoints:
        checkpoints.save(1, state, {})
        assert begun.wait(60) and committed(tmp_path) == []
        go.set()
        checkpoints.wait()
        assert committed(tmp_path) == ["1"]


def test_no_checkpoint_is_committed_whose_companions_could_not_be_kept(tmp_path):
    state, told = random_state(abstract((1, 1, 1)), seed=1), []

    def before_commit() -> None:
        if told:
            raise InputError(told.pop())

    with Checkpoints(tmp_path, keep=2, before_commit=before_commit) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.wait()
        told.append("config.out gs://bucket/run: no permission")
        checkpoints.save(2, state, {})
        with pytest.raises(InputError, match="no permission"):
            checkpoints.wait()
        assert committed(tmp_path) == ["1"]
        checkpoints.save(3, state, {})
    assert committed(tmp_path) == ["1", "3"]


def test_a_step_that_is_saved_already_stays_as_it_is(tmp_path):
    first, second = (random_state(abstract((1, 1, 1)), seed=seed) for seed in (1, 2))
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, first, {"of": "first"})
        checkpoints.save(2, second, {"of": "second"})
        assert checkpoints.metadata(2) == {"of": "first"}
        assert bits(checkpoints.restore(2, abstract((1, 1, 1)))) == bits(first)


def test_a_damaged_checkpoint_is_one_line_that_names_an_older_one(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, random_state(abstract((1, 1, 1)), seed=step), {"step": step})
        checkpoints.wait()
        for file in (tmp_path / "2").rglob("*"):
            if file.is_file() and file.stat().st_size:
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(InputError) as caught:
            checkpoints.restore(2, abstract((1, 1, 1)))
        one_line(caught, tmp_path / "2", "cannot be read", "step 1")


# Orbax leaves coroutines behind that read the other files; they are collected here, not in a test that comes later.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
def test_each_damaged_file_of_the_newest_checkpoint_is_one_line(tmp_path):
    """A file that is cut or missing leads to the older step, or is not needed. Wide arrays have files of their own."""
    want = abstract((1, 1, 1), width=512)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, random_state(want, seed=step), {"step": step})
    saved, lines = bits(random_state(want, seed=2)), {}
    for file in sorted(path for path in (tmp_path / "2").rglob("*") if path.is_file()):
        content = file.read_bytes()
        for kept in (content[: len(content) // 2], None):
            if kept is None:
                file.unlink()
            else:
                file.write_bytes(kept)
            try:
                with Checkpoints(tmp_path, read_only=True) as checkpoints:
                    assert checkpoints.metadata(2) == {"step": 2}
                    assert bits(checkpoints.restore(2, want)) == saved
            except InputError as error:
                lines.setdefault(file.relative_to(tmp_path).as_posix(), []).append(str(error))
            file.write_bytes(content)
    gc.collect()
    for name, errors in lines.items():
        for line in errors:
            assert "\n" not in line and line.startswith(str(tmp_path / "2")) and "cannot be read (" in line
            assert ("remove this file" if "metrics" in name else "remove it to go on from step 1") in line
    assert any("/ocdbt.process_0/d/" in name for name in lines)
    assert {"2/metrics/metrics", "2/metadata/metadata", "2/state/_METADATA"} <= lines.keys()


def test_params_are_restored_alone_and_in_another_dtype(tmp_path):
    state = random_state(abstract((8, 1, 1)), seed=1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        want = abstract((2, 2, 2), dtype=jnp.bfloat16).params
        params = checkpoints.restore_params(1, want)
        assert bits(params) == bits(jax.tree.map(lambda p: p.astype(jnp.bfloat16), state.params))
        assert jax.tree.map(lambda p: p.sharding, params) == jax.tree.map(lambda p: p.sharding, want)
        with pytest.raises(InputError) as caught:
            checkpoints.restore_params(1, abstract((1, 1, 1), width=16).params)
        one_line(caught, tmp_path, "params.embed", "(16, 8)", "(16, 16)")


@pytest.mark.parametrize(
    "want,words",
    [
        ({"width": 16}, ["opt_state.0.mu.embed", "(16, 8)", "(16, 16)"]),
        ({"extra": (3,)}, ["opt_state.0.mu.extra", "missing"]),
        ({"tx": optax.sgd(1e-2)}, ["opt_state.0.count", "not in this run"]),
        ({"dtype": jnp.bfloat16}, ["opt_state.0.mu.embed", "float32", "bfloat16"]),
    ],
)
def test_another_model_is_refused_by_its_first_leaf(tmp_path, want, words):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, random_state(abstract((1, 1, 1)), seed=1), {})
        with pytest.raises(InputError) as caught:
            checkpoints.restore(1, abstract((1, 1, 1), **want))
        one_line(caught, tmp_path / "1", *words)


def test_missing_folders_and_steps_and_unusable_folders_are_refused(tmp_path):
    with pytest.raises(InputError) as caught:
        Checkpoints(tmp_path / "none", read_only=True)
    one_line(caught, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as caught:
        Checkpoints(tmp_path / "file" / "checkpoints")
    one_line(caught, tmp_path / "file")
    for keep, keep_best in [(0, 1), (1, -1)]:
        with pytest.raises(InputError) as caught:
            Checkpoints(tmp_path / "new", keep=keep, keep_best=keep_best)
        one_line(caught, keep, keep_best)
    with Checkpoints(tmp_path / "new") as checkpoints:
        for read in (checkpoints.metadata, lambda step: checkpoints.restore(step, abstract((1, 1, 1)))):
            with pytest.raises(InputError) as caught:
                read(4)
            one_line(caught, tmp_path / "new", "step 4", "none")


def test_full_disk_is_one_line_and_the_previous_checkpoint_stays(tmp_path, capfd):
    """Writes beyond a few bytes fail, as on a full disk. Once there is space again, the run continues."""
    state = random_state(abstract((8, 1, 1)), seed=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(tmp_path, keep=1, keep_best=0)
    checkpoints.save(1, state, {})
    checkpoints.wait()
    capfd.readouterr()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        for step, act in [(2, checkpoints.wait), (3, lambda: checkpoints.save(4, state, {})), (5, checkpoints.close)]:
            with pytest.raises(InputError) as caught:
                checkpoints.save(step, state, {})
                act()
            one_line(caught, tmp_path, "File too large", "step 1")
            assert committed(tmp_path) == ["1"] and checkpoints.latest_step() == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capfd.readouterr() == ("", "")
    with Checkpoints(tmp_path, keep=1, keep_best=0) as checkpoints:
        assert bits(checkpoints.restore(1, abstract((2, 2, 2)))) == bits(state)
        checkpoints.save(6, state, {})
    assert os.listdir(tmp_path) == ["6"]


def test_a_defect_is_not_taken_for_a_full_disk(tmp_path):
    state = random_state(abstract((1, 1, 1)), seed=1)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(TypeError):
            checkpoints.save(1, state, {"not JSON": object()})
        with pytest.raises(ValueError) as caught:
            checkpoints.save(1, {"params": object()}, {})
        assert not isinstance(caught.value, InputError)


KILLED = """
import os, signal, sys, threading
import jax, jax.numpy as jnp
from tljax.training.checkpoint import Checkpoints

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

folder, when = sys.argv[1:]
checkpoints = Checkpoints(folder, keep=1, keep_best=0)
checkpoints.save(1, {"params": {"w": jnp.arange(8.0)}}, {"step": 1})
checkpoints.wait()
if when == "before the rename":
    os.rename = os.replace = die
else:
    def watch():
        while not any(name.startswith("2.") for name in os.listdir(folder)):
            pass
        die()
    threading.Thread(target=watch, daemon=True).start()
checkpoints.save(2, {"params": {"w": jnp.ones(8_000_000)}}, {"step": 2})
checkpoints.wait()
"""


@pytest.mark.parametrize("when", ["while writing", "before the rename"])
def test_kill_during_a_save_leaves_the_previous_checkpoint(tmp_path, when):
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), when]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = sorted(os.listdir(tmp_path))
    assert left[0] == "1" and len(left) == 2 and left[1].startswith("2.")

    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    want = {"params": {"w": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=jax.NamedSharding(mesh, jax.P()))}}
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1]
        assert sorted(os.listdir(tmp_path)) == left
    with Checkpoints(tmp_path, keep=1, keep_best=0) as checkpoints:
        assert checkpoints.latest_step() == 1 and checkpoints.metadata(1) == {"step": 1}
        np.testing.assert_array_equal(checkpoints.restore(1, want)["params"]["w"], np.arange(8.0))
        checkpoints.save(3, {"params": {"w": jnp.zeros(8)}}, {"step": 3})
        checkpoints.wait()
        assert os.listdir(tmp_path) == ["3"]


def test_saving_prints_nothing_and_keeps_other_logs(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, random_state(abstract((1, 1, 1)), seed=1), {})
        checkpoints.wait()
        checkpoints.metadata(1)
    logging.getLogger("absl").error("of another library")
    assert [r.message for r in caplog.records if r.name == "absl"] == ["of another library"]


def test_metadata_file_is_plain_json(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, random_state(abstract((1, 1, 1)), seed=1), {"step": 7, "config": {"name": "é"}})
    assert json.loads((tmp_path / "7" / "metadata" / "metadata").read_text()) == {"step": 7, "config": {"name": "é"}}
