"""Long rows: how their positions are split over the mesh's "sequence" axis of S devices.

A late position attends to more keys than an early one, so pieces in the row's order would be unequal: of two, the
second has three times the work of the first. A row is cut into 2 S chunks instead, of which device i holds the i-th and
the i-th last (Llama 3, arXiv 2407.21783, section 3.3.2). What `spread` gives, and the activations [B, T, ...] that come
of it, are in the *devices' order*: the two chunks of the first device, then those of the second, ... Everything but
attention works on single positions and never notices.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tljax.distributed.mesh import check_row_length, shard_count, spec


def column_order(tokens: int, places: int) -> np.ndarray:
    """Which column of a row of `tokens` stands where in the devices' order: int32 [places, tokens / places]."""
    row = np.arange(tokens, dtype=np.int32)
    if places == 1:
        return row[None]
    chunks = row.reshape(2 * places, -1)
    return np.concatenate([chunks[:places], chunks[: places - 1 : -1]], axis=1)


def shard_positions(array: jax.Array) -> jax.Array:
    """[B, T], in the row's order and whole on every device of "sequence", in the devices' order and split over it.

    Raises InputError where T does not divide.
    """
    places = shard_count("positions")
    array = jax.reshard(array, spec("batch", None))
    if places == 1:
        return array
    check_row_length(array.shape[1], "a row's length")

    def local(row: jax.Array) -> jax.Array:
        own = jax.lax.axis_index("sequence")
        chunks = row.reshape(row.shape[0], 2 * places, -1)
        mine = [jax.lax.dynamic_index_in_dim(chunks, i, 1, keepdims=False) for i in (own, 2 * places - 1 - own)]
        return jnp.concatenate(mine, axis=1)

    return jax.shard_map(local, in_specs=spec("batch", None), out_specs=spec("batch", "positions"))(array)


def gather_positions(array: jax.Array, places: int) -> jax.Array:
    """Under shard_map: a device's positions [B, T / S, ...] -> all of the row in its order, [B, T, ...]."""
    rows, own, *rest = array.shape
    halves = jax.lax.all_gather(array.reshape(rows, 2, own // 2, *rest), "sequence")
    chunks = jnp.concatenate([halves[:, :, 0], halves[::-1, :, 1]])
    return jnp.moveaxis(chunks, 0, 1).reshape(rows, places * own, *rest)


def take_positions(array: jax.Array, order: jax.Array) -> jax.Array:
    """array[b, order[b, m]] of array [B, T, ...], which may be in the devices' order, and columns int32 [B, M].

    Each device looks among its own positions; where rows are split, the findings are added up over "sequence".
    """
    tail = (None,) * (array.ndim - 2)
    split = jax.typeof(array).sharding.spec[1] is not None
    places = shard_count("positions")

    def local(array: jax.Array, order: jax.Array) -> jax.Array:
        if not split:
            return take_positions_local(array, order)
        own, chunk = jax.lax.axis_index("sequence"), array.shape[1] // 2
        early, late = order // chunk == own, order // chunk == 2 * places - 1 - own
        found = take_positions_local(array, order % chunk + jnp.where(late, chunk, 0))
        here = (early | late).reshape(*order.shape, *(1,) * len(tail))
        return jax.lax.psum(jnp.where(here, found, jnp.zeros_like(found)), "sequence")

    taken, index = spec("batch", None, *tail), spec("batch", None)
    return jax.shard_map(local, in_specs=(_layout(array), index), out_specs=taken)(array, order)


def take_positions_local(array: jax.Array, order: jax.Array) -> jax.Array:
    """Under shard_map: array[b, order[b, m]] of array [B, T, ...] and order int32 [B, M]."""
    return jax.vmap(lambda row, picks: row[picks])(array, order)


def weighted_positions_first(room: int, weights: jax.Array, *others: jax.Array) -> tuple[jax.Array, ...]:
    """Of every device's own positions `room` ones, those that carry weight first and in order.

    weights: float32 [B, T], others: [B, T, ...], all laid out alike. Returns them with T = room, or S x room where rows
    are split, weights 0 where a device has fewer positions than room.
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
    """The sharding of [B, T, ...], over the first two axes alone."""
    return jax.P(*jax.typeof(array).sharding.spec[:2], *(None,) * (array.ndim - 2))
