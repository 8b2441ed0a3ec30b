"""The rows of a rollout as minibatches and their parts, spread over the devices."""

from typing import Any

import jax
import jax.numpy as jnp

from tljax.distributed.mesh import spec


def shuffle_rows(
    key: jax.Array, count: int, *, epochs: int, minibatches: int, accumulate: int, shared: int
) -> jax.Array:
    """Returns the rows of every minibatch, int32 [epochs * minibatches, accumulate, rows of a part].

    Every epoch shuffles the `count` rows anew; `shared` replies to a prompt, which lie side by side, stay together.
    """
    order = jax.vmap(lambda key: jax.random.permutation(key, count // shared))(jax.random.split(key, epochs))
    order = order[..., None] * shared + jnp.arange(shared)[None, None]
    return order.reshape(epochs * minibatches, accumulate, -1)


def take_rows(tree: Any, rows: jax.Array) -> Any:
    """Takes rows [A, R] of arrays [B, ...] that every device holds, and spreads them over the mesh: [A, R, ...]."""

    def take(x: jax.Array) -> jax.Array:
        tail = (None,) * (x.ndim - 1)
        return jax.reshard(x.at[rows].get(out_sharding=jax.P()), spec(None, "batch", *tail))

    return jax.tree.map(take, tree)


def join_parts(array: jax.Array) -> jax.Array:
    """Joins parts [A, R, M] that are spread over the mesh into [A * R, M] on every device."""
    return jax.reshard(array, jax.P()).reshape(-1, array.shape[-1])
