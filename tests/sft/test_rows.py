"""One forward pass per trajectory against one per step: the same loss and the same gradients, on real trajectories."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax.core.config import data_block
from tljax.data.batch import Batches
from tljax.data.examples import load_examples
from tljax.data.tokenizer import load_tokenizer
from tljax.distributed.mesh import global_batch, make_mesh
from tljax.model import llama
from tljax.sft.step import StepOptions, make_sft_step
from tljax.toolbox import trajectories
from tljax.training.state import init_state


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "raw.json"
    trajectories.write_trajectories(path, seed=5, n=6, error_share=0.3, split="train")
    return str(path)


def one_step(mode, file, cache, accumulate):
    """Loss and gradients of one batch that holds every step of the file."""
    data = data_block()
    data.rows, data.cache, data.eval_fraction = mode, str(cache), 0.0
    examples = load_examples(data, file, load_tokenizer(trajectories.BASE_FOLDER), seed=0)
    rows = {"trajectory": 4, "step": 24}[mode]
    batches = Batches(examples.train, rows=rows, tokens=1024, epochs=1, seed=0, packed=mode == "trajectory")
    assert batches.steps == 1
    host = {k: v.reshape(accumulate, rows // accumulate, -1) for k, v in batches.build(0).items()}
    small = dataclasses.replace(
        llama.preset("tiny"), num_layers=2, d_model=32, num_heads=2, num_kv_heads=2, head_dim=16, d_ff=64
    )
    forward = llama.ForwardOptions("float32", remat="full", attention="reference")
    options = StepOptions(max_targets=batches.max_targets, loss_chunk=64, forward=forward)
    with jax.set_mesh(make_mesh(1, 1, 1, devices=jax.devices()[:1])):
        params = jax.jit(llama.init_params, static_argnums=2)(jax.random.key(0), small, jnp.float32)
        before = jax.device_get(params)
        step = make_sft_step(small, optax.sgd(1.0), lambda n: jnp.float32(1), options)
        state, metrics = step(init_state(params, optax.sgd(1.0)), global_batch(host, accumulate=True))
        grads = jax.tree.map(lambda old, new: old - np.asarray(new), before, jax.device_get(state.params))
    return {k: float(v) for k, v in metrics.items()}, grads


@pytest.mark.extended
def test_trajectory_rows_give_the_loss_and_gradients_of_step_rows(file, tmp_path):
    by_step, by_trajectory = one_step("step", file, tmp_path, 4), one_step("trajectory", file, tmp_path, 1)
    for name in ("loss", "loss_key", "loss_other", "name_accuracy", "steps", "reply_tokens", "grad_norm"):
        assert by_trajectory[0][name] == pytest.approx(by_step[0][name], rel=1e-5), name
    assert by_trajectory[0]["tokens"] < 0.7 * by_step[0]["tokens"]  # the history is read once
    for (path, got), want in zip(jax.tree.leaves_with_path(by_trajectory[1]), jax.tree.leaves(by_step[1]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=jax.tree_util.keystr(path))
