"""Long rows: their positions are sharded over the mesh axis "sequence" of `num_shards` devices.

A late position attends to more keys than an early one, so pieces in the row's order would be unequal: of two, the
second has three times the work of the first. So a row is cut into 2 num_shards chunks, and device i holds chunk i and
the i-th last chunk (Llama 3, arXiv 2407.21783, section 3.3.2). `shard_positions` and all activations [B, T, ...] have
the *devices' order*: the two chunks of the first device, then those of the second, and so on. Only attention depends on
the order; all other functions work on single positions.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tljax.distributed.mesh import check_row_length, shard_count, spec


def column_order(tokens: int, num_shards: int) -> np.ndarray:
    """Returns the columns of a row of `tokens` that each device holds: int32 [num_shards, tokens / num_shards]."""
    row = np.arange(tokens, dtype=np.int32)
    if num_shards == 1:
        return row[None]
    chunks = row.reshape(2 * num_shards, -1)
    return np.concatenate([chunks[:num_shards], chunks[: num_shards - 1 : -1]], axis=1)


def shard_positions(array: jax.Array) -> jax.Array:
    """Shards array [B, T] over "sequence" and puts it into the devices' order.

    The argument is in the row's order, with all of T on every device of "sequence". Raises InputError for a T that
    2 num_shards does not divide.
    """
    num_shards = shard_count("positions")
    array = jax.reshard(array, spec("batch", None))
    if num_shards == 1:
        return array
    check_row_length(array.shape[1], "a row's length")

    def local(row: jax.Array) -> jax.Array:
        own = jax.lax.axis_index("sequence")
        chunks = row.reshape(row.shape[0], 2 * num_shards, -1)
        parts = [jax.lax.dynamic_index_in_dim(chunks, i, 1, keepdims=False) for i in (own, 2 * num_shards - 1 - own)]
        return jnp.concatenate(parts, axis=1)

    return jax.shard_map(local, in_specs=spec("batch", None), out_specs=spec("batch", "positions"))(array)


def gather_positions(array: jax.Array, num_shards: int) -> jax.Array:
    """Returns the whole row in its order, [B, T, ...], from a device's positions. Call it under shard_map."""
    rows, own, *rest = array.shape
    halves = jax.lax.all_gather(array.reshape(rows, 2, own // 2, *rest), "sequence")
    chunks = jnp.concatenate([halves[:, :, 0], halves[::-1, :, 1]])
    return jnp.moveaxis(chunks, 0, 1).reshape(rows, num_shards * own, *rest)


def take_positions(array: jax.Array, order: jax.Array) -> jax.Array:
    """Returns array[b, order[b, m]], [B, M, ...], of array [B, T, ...] and columns `order`, int32 [B, M].

    Where T is sharded, `array` is in the devices' order and `order` counts in the row's order. A device then takes the
    columns that it holds, and a sum over "sequence" completes the result.
    """
    tail = (None,) * (array.ndim - 2)
    split = jax.typeof(array).sharding.spec[1] is not None
    num_shards = shard_count("positions")

    def local(array: jax.Array, order: jax.Array) -> jax.Array:
        if not split:
            return take_positions_local(array, order)
        own, chunk = jax.lax.axis_index("sequence"), array.shape[1] // 2
        early, late = order // chunk == own, order // chunk == 2 * num_shards - 1 - own
        taken = take_positions_local(array, order % chunk + jnp.where(late, chunk, 0))
        is_local = (early | late).reshape(*order.shape, *(1,) * len(tail))
        return jax.lax.psum(jnp.where(is_local, taken, jnp.zeros_like(taken)), "sequence")

    out, index = spec("batch", None, *tail), spec("batch", None)
    return jax.shard_map(local, in_specs=(_layout(array), index), out_specs=out)(array, order)


def take_positions_local(array: jax.Array, order: jax.Array) -> jax.Array:
    """Returns array[b, order[b, m]] of array [B, T, ...] and order int32 [B, M], on one device or under shard_map."""
    return jax.vmap(lambda row, columns: row[columns])(array, order)


def weighted_positions_first(room: int, weights: jax.Array, *others: jax.Array) -> tuple[jax.Array, ...]:
    """Takes `room` of each device's positions: first those with a weight above 0, in order, then others.

    weights: float32 [B, T]; others: [B, T, ...]; all have the same sharding. Returns them with T = room on each device;
    where a device has fewer positions than that, the added ones have the weight 0.
    """

    def local(weights: jax.Array, *others: jax.Array) -> tuple[jax.Array, ...]:
        own = weights.shape[1]
        order = jnp.argsort(weights <= 0, axis=1, stable=True)
        order = jnp.pad(order, ((0, 0), (0, max(room - own, 0))))[:, :room]
        inside = jnp.arange(room)[None, :] < own
        picked = jnp.where(inside, take_positions_local(weights, order), 0.0)
        return picked, *(take_positions_local(other, order) for other in others)

    layouts = tuple(_layout(x) for x in (weights, *others))
    return jax.shard_map(local, in_specs=layouts, out_specs=layouts)(weights, *others)


def _layout(array: jax.Array) -> jax.P:
    """Returns the sharding of an array [B, T, ...], of which only the first two axes are sharded."""
    return jax.P(*jax.typeof(array).sharding.spec[:2], *(None,) * (array.ndim - 2))
