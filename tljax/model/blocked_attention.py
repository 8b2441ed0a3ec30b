"""Attention for processors: one block of queries and keys at a time, with a gradient written by hand.

Scores exist for one block at a time (Rabe & Staats 2021, arXiv 2112.05682; Dao et al. 2022, arXiv 2205.14135), so
they stay in the cache of the processor. Blocks of keys after the queries, and blocks of other segments, are not
computed. The backward pass keeps the result and the logarithm of each softmax's denominator.

In the functions below the axes of rows and key heads are merged into A = B K, and the query heads of a key head are
merged with time: queries [A, G C, H] of a block of C queries meet keys [A, C, H]. All products contract the last axis
of one operand with the last axis of the other, or with its first: where XLA's CPU compiler must transpose the larger
operand, a product takes twice the time in float32 and seven times in bfloat16.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tljax.model.blocks import SHARED, block_length, pad, visible
from tljax.model.remat import CHECKPOINT_NAME

BLOCK = 256  # the maximum number of queries, and of keys, of a block
_LOWEST = float(jnp.finfo(jnp.float32).min)  # a score of exp 0; with -inf a row without keys would become NaN


class _Blocks(NamedTuple):
    """The arrays of one call, cut into blocks along time: axis 0 counts the blocks."""

    queries: jax.Array  # [I, A, G C, H]
    keys: jax.Array  # [J, A, S, H]
    values: jax.Array  # [J, A, S, H]
    q_segments: jax.Array  # int32 [I, B, C]
    segments: jax.Array  # int32 [J, B, S]


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, q_segments: jax.Array, segments: jax.Array, start: int | jax.Array
) -> jax.Array:
    """Returns softmax(q k^T / sqrt(H)) v over the keys of each query's segment up to its column: [B, T, N, H].

    q: [B, T, N, H]; k, v: [B, S, K, H]; q_segments: int32 [B, T]; segments: int32 [B, S]. start: the column of the
    first query. The softmax is float32. The results that the backward pass needs are named CHECKPOINT_NAME.
    """
    return _attend(q, k, v, q_segments, segments, jnp.asarray(start, jnp.int32))


@jax.custom_vjp
def _attend(q: jax.Array, k: jax.Array, v: jax.Array, *places: jax.Array) -> jax.Array:
    """places: q_segments, segments and start."""
    return _keep_for_backward(q, k, v, *places)[0]


def _keep_for_backward(q: jax.Array, k: jax.Array, v: jax.Array, *places: jax.Array):
    *ids, start = places
    out, log_sums = _forward(_cut(q, k, v, *ids), start)
    out = checkpoint_name(_join(out, q.shape), CHECKPOINT_NAME)
    return out, (q, k, v, places, out, checkpoint_name(log_sums, CHECKPOINT_NAME))


def _gradients(kept: Any, d_out: jax.Array):
    q, k, v, (*ids, start), out, log_sums = kept
    blocks = _cut(q, k, v, *ids)
    heads, length = k.shape[2], blocks.q_segments.shape[2]
    cut_out, cut_d_out = (_cut_time(x, heads, q.shape[2] // heads, length) for x in (out, d_out))
    dq, dk, dv = _backward(blocks, start, log_sums, cut_out, cut_d_out)
    return _join(dq, q.shape), _join(dk, k.shape), _join(dv, v.shape), *(None for _ in (*ids, start))


_attend.defvjp(_keep_for_backward, _gradients)


def _cut_time(x: jax.Array, heads: int, groups: int, length: int) -> jax.Array:
    """Cuts [B, T, K G, H], padded with zeros, into blocks [T / length, B K, G length, H]."""
    B, T, _, H = x.shape
    x = pad(x, -T % length)
    x = x.reshape(B, -1, length, heads, groups, H).transpose(1, 0, 3, 4, 2, 5)
    return x.reshape(-1, B * heads, groups * length, H)


def _join(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Turns blocks [I, B K, G C, H] back into an array of `shape`, [B, T, K G, H], without the padding."""
    B, T, N, H = shape
    heads = x.shape[1] // B
    x = x.reshape(x.shape[0], B, heads, N // heads, -1, H).transpose(1, 0, 4, 2, 3, 5)
    return x.reshape(B, -1, N, H)[:, :T]


def _cut(q: jax.Array, k: jax.Array, v: jax.Array, q_segments: jax.Array, segments: jax.Array) -> _Blocks:
    (B, T), (heads, S) = q_segments.shape, (k.shape[2], k.shape[1])
    length, keys = block_length(T, BLOCK), block_length(S, BLOCK)

    def cut_segments(ids: jax.Array, size: int) -> jax.Array:
        return pad(ids, -ids.shape[1] % size).reshape(B, -1, size).transpose(1, 0, 2)

    return _Blocks(
        _cut_time(q, heads, q.shape[2] // heads, length),
        _cut_time(k, heads, 1, keys),
        _cut_time(v, heads, 1, keys),
        cut_segments(q_segments, length),
        cut_segments(segments, keys),
    )


def _key_blocks(blocks: _Blocks, start: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the first block of keys that each block of queries needs, and the one after its last: int32 [I] each.

    A block is needed if a row has a segment in its range of segments, or shared keys. Padding counts as the last
    segment of a row.
    """
    last = jnp.iinfo(jnp.int32).max
    queries, keys = (jnp.where(ids == 0, last, ids) for ids in (blocks.q_segments, blocks.segments))
    reaches = keys.max(2)[None] >= queries.min(2)[:, None]
    overlaps = (reaches & (keys.min(2)[None] <= queries.max(2)[:, None])).any(2) | (keys == SHARED).any((1, 2))[None]
    length, size = queries.shape[2], keys.shape[2]
    ends = (start + (jnp.arange(len(queries), dtype=jnp.int32) + 1) * length - 1) // size + 1
    ends = jnp.clip(ends, 1, len(keys))
    return jnp.minimum(jnp.argmax(overlaps, axis=1).astype(jnp.int32), ends - 1), ends


def _visible(blocks: _Blocks, i: jax.Array, j: jax.Array, start: jax.Array) -> jax.Array:
    """Returns the mask bool [B, C, S] of the keys of block j that each query of block i attends to."""
    queries, keys = blocks.q_segments[i], blocks.segments[j]
    return visible(queries, keys, start + i * queries.shape[1] - j * keys.shape[1])


def _forward(blocks: _Blocks, start: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the result [I, A, G C, H] in the values' dtype and the log of the softmax sums, float32 [I, A, G C]."""
    firsts, ends = _key_blocks(blocks, start)
    (_, A, rows, H), (_, B, C), S = blocks.queries.shape, blocks.q_segments.shape, blocks.segments.shape[2]
    scale, dtype = jnp.float32(1 / math.sqrt(H)), blocks.values.dtype
    unfolded = (B, A // B, rows // C, C, S)

    def query_block(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        queries = blocks.queries[i]

        def key_block(j: jax.Array, state: tuple[jax.Array, jax.Array, jax.Array]):
            highest, total, out = state
            scores = jnp.einsum("ATH,ASH->ATS", queries, blocks.keys[j], preferred_element_type=jnp.float32) * scale
            mask = _visible(blocks, i, j, start)[:, None, None]
            scores = jnp.where(mask, scores.reshape(unfolded), jnp.float32(_LOWEST)).reshape(A, rows, S)
            higher = jnp.maximum(highest, scores.max(-1))
            probs, shrink = jnp.exp(scores - higher[..., None]), jnp.exp(highest - higher)
            added = jnp.einsum(
                "ATS,ASH->ATH", probs.astype(dtype), blocks.values[j], preferred_element_type=jnp.float32
            )
            return higher, total * shrink + probs.sum(-1), out * shrink[..., None] + added

        empty = jnp.full((A, rows), _LOWEST, jnp.float32), jnp.zeros((A, rows), jnp.float32)
        state = (*empty, jnp.zeros((A, rows, H), jnp.float32))
        highest, total, out = jax.lax.fori_loop(firsts[i], ends[i], key_block, state)
        return (out / total[..., None]).astype(dtype), highest + jnp.log(total)

    return jax.lax.map(query_block, jnp.arange(len(blocks.queries), dtype=jnp.int32))


def _backward(
    blocks: _Blocks, start: jax.Array, log_sums: jax.Array, out: jax.Array, d_out: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the gradients of the queries, keys and values, in blocks and in the dtype of each.

    With P = exp(scores - log_sum) and D = sum(d_out * out), the gradient of the scores is P (d_out v^T - D). All are
    computed as [A, S, T], so that keys and values get theirs from products without a transposed operand.
    """
    firsts, ends = _key_blocks(blocks, start)
    (_, A, rows, H), (_, B, C), S = blocks.queries.shape, blocks.q_segments.shape, blocks.segments.shape[2]
    scale, dtype = jnp.float32(1 / math.sqrt(H)), blocks.values.dtype
    wide, unfolded = {"preferred_element_type": jnp.float32}, (B, A // B, S, rows // C, C)

    def query_block(i: jax.Array, sums: tuple[jax.Array, jax.Array, jax.Array]):
        queries, given, log_sum = blocks.queries[i], d_out[i], log_sums[i].reshape(B, A // B, 1, rows // C, C)
        mean = (given.astype(jnp.float32) * out[i].astype(jnp.float32)).sum(-1).reshape(log_sum.shape)

        def key_block(j: jax.Array, state: tuple[jax.Array, jax.Array, jax.Array]):
            dq, dk, dv = state
            scores = jnp.einsum("ASH,ATH->AST", blocks.keys[j], queries, **wide).reshape(unfolded)
            mask = _visible(blocks, i, j, start).transpose(0, 2, 1)[:, None, :, None]
            probs = jnp.exp(jnp.where(mask, scores * scale - log_sum, jnp.float32(_LOWEST)))
            d_probs = jnp.einsum("ASH,ATH->AST", blocks.values[j], given, **wide).reshape(unfolded)
            d_scores = (probs * (d_probs - mean) * scale).astype(dtype).reshape(A, S, rows)
            probs = probs.astype(dtype).reshape(A, S, rows)
            dv = dv.at[j].add(jnp.einsum("AST,ATH->ASH", probs, given, **wide))
            dk = dk.at[j].add(jnp.einsum("AST,ATH->ASH", d_scores, queries, **wide))
            turned = blocks.keys[j].transpose(0, 2, 1)
            return dq + jnp.einsum("AHS,AST->AHT", turned, d_scores, **wide), dk, dv

        dq, dk, dv = jax.lax.fori_loop(firsts[i], ends[i], key_block, (jnp.zeros((A, H, rows), jnp.float32), *sums[1:]))
        return sums[0].at[i].set(dq.transpose(0, 2, 1).astype(dtype)), dk, dv

    none = jnp.zeros(blocks.queries.shape, dtype), *(jnp.zeros(blocks.keys.shape, jnp.float32) for _ in range(2))
    dq, dk, dv = jax.lax.fori_loop(0, len(blocks.queries), query_block, none)
    return dq, dk.astype(dtype), dv.astype(dtype)
