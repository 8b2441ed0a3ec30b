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


def shard_positions(array: jax.Array, shared_columns: int = 0) -> jax.Array:
    """Shards array [B, T] over "sequence" and puts it into the devices' order.

    The argument is in the row's order, with all of T on every device of "sequence". With shared columns each device
    holds its chunks of them, then its chunks of the other columns. Raises InputError for a number of columns that
    2 num_shards does not divide.
    """
    num_shards = shard_count("positions")
    array = jax.reshard(array, spec("batch", None))
    if num_shards == 1:
        return array
    if shared_columns:
        areas = shard_positions(array[:, :shared_columns]), shard_positions(array[:, shared_columns:])
        own = spec("batch", "positions")
        return jax.shard_map(lambda *areas: jnp.concatenate(areas, axis=1), in_specs=(own, own), out_specs=own)(*areas)
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


def take_positions(array: jax.Array, order: jax.Array, shared_columns: int = 0) -> jax.Array:
    """Returns array[b, order[b, m]], [B, M, ...], of array [B, T, ...] and columns `order`, int32 [B, M].

    Where T is sharded, `array` is in the devices' order and `order` counts in the row's order. A device then takes the
    columns that it holds, and a sum over "sequence" completes the result. shared_columns: as in `shard_positions`.
    """
    tail = (None,) * (array.ndim - 2)
    split = jax.typeof(array).sharding.spec[1] is not None
    num_shards = shard_count("positions")

    def local(array: jax.Array, order: jax.Array) -> jax.Array:
        if not split:
            return take_positions_local(array, order)
        own, first = jax.lax.axis_index("sequence"), shared_columns // num_shards

        def locate(order: jax.Array, columns: int) -> tuple[jax.Array, jax.Array]:
            """Returns the positions among the device's `columns` of an area, and which of them it holds."""
            chunk = max(columns // 2, 1)
            early, late = order // chunk == own, order // chunk == 2 * num_shards - 1 - own
            return order % chunk + jnp.where(late, chunk, 0), early | late

        shared, is_shared = locate(order, first)
        rest, is_rest = locate(order - shared_columns, array.shape[1] - first)
        in_shared = order < shared_columns
        taken = take_positions_local(array, jnp.where(in_shared, shared, first + rest))
        is_local = jnp.where(in_shared, is_shared, is_rest).reshape(*order.shape, *(1,) * len(tail))
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
