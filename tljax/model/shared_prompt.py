"""Rows in which several replies share one prompt, so that it is computed once for all of them.

A row has the P columns of the prompt, padded, and then M columns for each reply, padded too. The prompt is segment 1,
the replies are the segments after it, and every reply attends to the prompt and to itself (attention.py). A reply's
positions follow those of the prompt, so each token has the hidden state that it has in a row with its reply alone.

Axis letters: R replies, G of them to each prompt, so R / G rows; R is sharded over "batch", with whole groups of G on
each device.
"""

import jax
import jax.numpy as jnp

from tljax.distributed.mesh import batch_shard_count, spec


def shared_replies(group: int, replies: int) -> int:
    """Returns G, the number of replies that share a row, where `replies` are computed at a time on the current mesh.

    It is the largest divisor of `group`, the number of replies to each prompt, of which every device has whole groups.
    """
    own = replies // batch_shard_count()
    return max(count for count in range(1, group + 1) if group % count == 0 and own % count == 0)


def shared_rows(
    prompts: jax.Array, starts: jax.Array, replies: jax.Array, mask: jax.Array, count: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns tokens, positions and segments, int32 [R / G, P + G M], of the rows of prompts with `count` = G replies.

    prompts: int32 [R, P], equal within a group, with any padding; starts: int32 [R], their lengths; replies: int32
    [R, M]; mask: bool [R, M], True on the tokens of a reply.
    """

    def local(prompts, starts, replies, mask):
        prompts, starts = prompts[::count], starts[::count, None]
        M = replies.shape[1]
        columns = jnp.broadcast_to(jnp.arange(prompts.shape[1], dtype=jnp.int32)[None], prompts.shape)
        own = jnp.arange(count * M, dtype=jnp.int32)[None]
        replies, mask = (x.reshape(-1, count * M) for x in (replies, mask))
        tokens = jnp.concatenate([prompts, replies], axis=1)
        positions = jnp.concatenate([columns, starts + own % M], axis=1)
        segments = jnp.concatenate([(columns < starts).astype(jnp.int32), jnp.where(mask, own // M + 2, 0)], axis=1)
        return tokens, positions, segments

    rows, whole = spec("batch"), spec("batch", None)
    return jax.shard_map(local, in_specs=(whole, rows, whole, whole), out_specs=whole)(prompts, starts, replies, mask)


def predicting_columns(starts: jax.Array, prompt_columns: int, reply_columns: int, count: int) -> jax.Array:
    """Returns the columns of a shared row from which each reply token is predicted: int32 [R / G, G M].

    That is the last column of the prompt for the first token of each reply, and the column before it for the others.
    starts: int32 [R]; prompt_columns: P; reply_columns: M; count: G.
    """

    def local(starts):
        own = jnp.arange(count * reply_columns, dtype=jnp.int32)[None]
        return jnp.where(own % reply_columns == 0, starts[::count, None] - 1, prompt_columns + own - 1)

    return jax.shard_map(local, in_specs=spec("batch"), out_specs=spec("batch", None))(starts)


def separate_replies(array: jax.Array, count: int) -> jax.Array:
    """Turns an array [R / G, G M, D] of rows into one of replies, [R, M, D]; count: G."""
    own = spec("batch", None, None)
    return jax.shard_map(
        lambda x: x.reshape(x.shape[0] * count, -1, x.shape[2]),
        in_specs=own,
        out_specs=own,
    )(array)
