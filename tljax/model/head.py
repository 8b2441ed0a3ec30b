"""The model's head over chosen positions of a row, so that logits never exist for a whole one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tljax.core.mesh import spec
from tljax.model import llama


def take(array: jax.Array, order: jax.Array) -> jax.Array:
    """array[b, order[b, m]] of array [B, T, ...]; on each device its own rows, so the gather never communicates."""
    tail = (None,) * (array.ndim - 2)
    rows, index = spec("batch", None, *tail), spec("batch", None)

    def local(array, order):
        return jax.vmap(lambda row, picks: row[picks])(array, order)

    return jax.shard_map(local, in_specs=(rows, index), out_specs=rows)(array, order)


def chunked_head(
    params: llama.Params,
    c: llama.LlamaConfig,
    hidden: jax.Array,
    targets: jax.Array,
    chunk: int,
    score: Callable[[jax.Array, jax.Array], Any],
) -> Any:
    """score(logits, targets) of `chunk` positions a row at a time; the backward pass recomputes logits.

    hidden [B, M, D], targets int32 [B, M], M a multiple of `chunk`. `score` gets float32 [B, chunk, V] and int32
    [B, chunk] and gives arrays [B, chunk]; here they are [B, M].
    """

    @jax.checkpoint
    def one(params, hidden, targets):
        return score(llama.logits(params, c, hidden), targets)

    def body(carry, piece):
        return carry, one(params, *piece)

    _, found = jax.lax.scan(body, None, (_split(hidden, chunk), _split(targets, chunk)))
    return jax.tree.map(_join, found)


def _split(array: jax.Array, chunk: int) -> jax.Array:
    """[B, M, ...] -> [M / chunk, B, chunk, ...]."""
    shape = (array.shape[0], array.shape[1] // chunk, chunk, *array.shape[2:])
    return jnp.moveaxis(array.reshape(shape, out_sharding=spec("batch", *[None] * (len(shape) - 1))), 1, 0)


def _join(array: jax.Array) -> jax.Array:
    """[n, B, chunk] -> [B, n * chunk]."""
    array = jnp.moveaxis(array, 0, 1)
    return array.reshape(array.shape[0], -1, out_sharding=spec("batch", None))
