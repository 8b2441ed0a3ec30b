"""Rows of positions in equal blocks, with padding, and the mask of the keys that a query attends to.

Axis letters are those of llama.py.
"""

import jax
import jax.numpy as jnp

SHARED = -1  # the segment of keys that every query attends to, such as those of a prompt that several replies share


def block_length(tokens: int, maximum: int) -> int:
    """Returns the length of the fewest equal blocks of at most `maximum` positions.

    With 256, 320 tokens are two blocks of 160, where two of 256 would compute for 192 tokens of padding.
    """
    return -(-tokens // -(-tokens // maximum))


def pad(array: jax.Array, tokens: int, head: int = 0) -> jax.Array:
    """Pads an array [B, T] or [B, T, N, H] with zeros: `tokens` at the end of T, `head` at the end of H."""
    widths = ((0, 0), (0, tokens), (0, 0), (0, head))
    return jnp.pad(array, widths[: array.ndim])


def visible(q_segments: jax.Array, segments: jax.Array, start: int | jax.Array) -> jax.Array:
    """Returns the mask bool [B, T, S] of the keys that each query attends to, from int32 [B, T] and [B, S].

    start: the column of the first query, counted from that of the first key. Keys of the segment SHARED belong to every
    segment. Padding (segment 0) attends to padding, so that every query has a key: a softmax over nothing is NaN, and
    NaN survives a loss weight of zero in the backward pass.
    """
    causal = (start + jnp.arange(q_segments.shape[1]))[:, None] >= jnp.arange(segments.shape[1])[None, :]
    keys = segments[:, None, :]
    return causal[None] & ((q_segments[:, :, None] == keys) | (keys == SHARED))
