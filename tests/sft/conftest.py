"""A small model and a batch of every kind of row, shared by the tests of the step."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.distributed.mesh import global_batch, make_mesh
from tljax.model import llama
from tljax.sft.step import StepOptions

WORDS, ROWS, TOKENS = 96, 8, 48


@pytest.fixture(scope="session")
def config() -> llama.LlamaConfig:
    small = llama.preset("tiny", vocab_size=WORDS)
    return dataclasses.replace(small, num_layers=2, d_model=32, num_kv_heads=2, head_dim=8, d_ff=64)


@pytest.fixture(scope="session")
def options(host_batch) -> StepOptions:
    room = int((host_batch["loss_weights"] > 0).sum(1).max())
    return StepOptions(max_targets=room, loss_chunk=8, forward=llama.ForwardOptions("float32", "full", "reference"))


@pytest.fixture(scope="session")
def host_batch() -> dict[str, np.ndarray]:
    """Rows of one, two or three segments with padding; row 5 is empty. Weights sum to 1 per segment, unevenly."""
    rng = np.random.default_rng(0)
    shape = (ROWS, TOKENS)
    batch = {name: np.zeros(shape, np.int32) for name in ("tokens", "targets", "positions", "segments")}
    batch |= {"loss_weights": np.zeros(shape, np.float32), "token_classes": np.zeros(shape, np.int8)}
    for row in range(ROWS):
        start = 0
        for segment, length in enumerate([] if row == 5 else rng.integers(6, 22, row % 3 + 1), start=1):
            span = slice(start, min(start + length, TOKENS))
            n = span.stop - start
            batch["tokens"][row, span] = rng.integers(3, WORDS, n)
            batch["targets"][row, span] = rng.integers(3, WORDS, n)
            batch["positions"][row, span] = np.arange(n)
            batch["segments"][row, span] = segment
            reply = slice(span.stop - max(n // 3, 1), span.stop)
            weights = np.where(rng.random(reply.stop - reply.start) < 0.3, 9.0, 1.0)
            batch["loss_weights"][row, reply] = weights / weights.sum()
            batch["token_classes"][row, reply] = np.where(weights > 1, 2, 1)
            batch["token_classes"][row, reply.start] = 3
            start = span.stop
    return batch


@pytest.fixture(scope="session")
def place(host_batch):
    """host batch -> arrays [A, ROWS / A, TOKENS] on the current mesh."""

    def put(accumulate=1, batch=host_batch):
        parts = {k: v.reshape(accumulate, len(v) // accumulate, *v.shape[1:]) for k, v in batch.items()}
        return global_batch(parts, accumulate=True)

    return put


@pytest.fixture(scope="session")
def mesh_of():
    def make(*shape, slices=1):
        return make_mesh(*shape, slices=slices, devices=jax.devices()[: math.prod(shape) * slices])

    return make


@pytest.fixture(scope="session")
def host_params(config, mesh_of):
    """Weights as host arrays, the same for every mesh."""
    with jax.set_mesh(mesh_of(1, 1, 1)):
        return jax.device_get(jax.jit(llama.init_params, static_argnums=2)(jax.random.key(1), config, jnp.float32))


@pytest.fixture(scope="session")
def load(config, host_params):
    """Host weights onto the current mesh."""

    def put():
        abstract = llama.abstract_params(config, jnp.float32)
        return jax.tree.map(lambda host, leaf: jax.device_put(host, leaf.sharding), host_params, abstract)

    return put
