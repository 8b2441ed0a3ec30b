"""The language head, applied to a few positions of each row at a time: logits of whole rows never exist."""

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
    """Returns score(logits, targets) of all positions, computed `chunk` positions at a time.

    hidden: [B, M, D]; targets: int32 [B, M]; the part of M on each device is a multiple of `chunk`. `score` takes
    float32 [B, chunk, V] and int32 [B, chunk] and returns arrays [B, chunk]; this function returns them as [B, M]. The
    backward pass recomputes the logits.
    """

    @jax.checkpoint
    def score_chunk(params, hidden, targets):
        return score(llama.logits(params, c, hidden), targets)

    def body(carry, chunk_arrays):
        return carry, score_chunk(params, *chunk_arrays)

    _, scores = jax.lax.scan(body, None, (_split(hidden, chunk), _split(targets, chunk)))
    return jax.tree.map(_join, scores)


def _split(array: jax.Array, chunk: int) -> jax.Array:
    """Turns [B, M, ...] into [M / chunk, B, chunk, ...]; where M is sharded, a chunk has `chunk` per device."""
    own = jax.typeof(array).sharding.spec[:2]
    tail = (None,) * (array.ndim - 2)

    def local(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(x.shape[0], x.shape[1] // chunk, chunk, *x.shape[2:]), 1, 0)

    return jax.shard_map(local, in_specs=jax.P(*own, *tail), out_specs=jax.P(None, *own, *tail))(array)


def _join(array: jax.Array) -> jax.Array:
    """Turns [M / chunk, B, chunk] back into [B, M]."""
    own = jax.typeof(array).sharding.spec[1:3]

    def local(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1)

    return jax.shard_map(local, in_specs=jax.P(None, *own), out_specs=jax.P(*own))(array)
