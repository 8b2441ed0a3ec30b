"""The model's head over chosen positions of a row, so that logits never exist for a whole one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tljax.model import llama


def chunked_head(
    params: llama.Params,
    c: llama.LlamaConfig,
    hidden: jax.Array,
    targets: jax.Array,
    chunk: int,
    score: Callable[[jax.Array, jax.Array], Any],
) -> Any:
    """score(logits, targets) of `chunk` positions a row at a time; the backward pass recomputes logits.

    hidden [B, M, D], targets int32 [B, M], M a multiple of `chunk` on every device that it is split over. `score` gets
    float32 [B, chunk, V] and int32 [B, chunk] and gives arrays [B, chunk]; here they are [B, M].
    """

    @jax.checkpoint
    def one(params, hidden, targets):
        return score(llama.logits(params, c, hidden), targets)

    def body(carry, piece):
        return carry, one(params, *piece)

    _, found = jax.lax.scan(body, None, (_split(hidden, chunk), _split(targets, chunk)))
    return jax.tree.map(_join, found)


def _split(array: jax.Array, chunk: int) -> jax.Array:
    """[B, M, ...] -> [M / chunk, B, chunk, ...], where M is split over devices as many positions of each at a time."""
    own = jax.typeof(array).sharding.spec[:2]
    tail = (None,) * (array.ndim - 2)

    def local(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(x.shape[0], x.shape[1] // chunk, chunk, *x.shape[2:]), 1, 0)

    return jax.shard_map(local, in_specs=jax.P(*own, *tail), out_specs=jax.P(None, *own, *tail))(array)


def _join(array: jax.Array) -> jax.Array:
    """[n, B, chunk] -> [B, n * chunk], undoing `_split`."""
    own = jax.typeof(array).sharding.spec[1:3]

    def local(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1)

    return jax.shard_map(local, in_specs=jax.P(None, *own), out_specs=jax.P(*own))(array)
