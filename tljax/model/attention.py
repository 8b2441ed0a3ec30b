"""Causal self-attention within the segments of packed rows: one function, chosen by platform.

Every implementation runs under `jax.shard_map`, on the rows and heads of one device: no communication, and a kernel
sees plain arrays. Axis letters as in llama.py: B batch, T query time, S key time, N query heads, K key heads,
G query heads per key head, H head dimension.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

from tljax.core.errors import InputError
from tljax.core.mesh import spec

IMPLEMENTATIONS = ("auto", "reference", "splash", "cudnn")

# The name under which jax.checkpoint policies know what attention leaves for its backward pass.
CHECKPOINT_NAME = "attention"

# The reference holds float32 scores of at most [B, N, QUERY_CHUNK, T] a group, never [B, N, T, T], on longer rows.
QUERY_CHUNK = 256
GROUPS = 4  # of chunks; what they save of the products: 3/8 on rows of four chunks and more

LANES = 128


def _visible(segments: jax.Array, start: int | jax.Array, rows: int) -> jax.Array:
    """Which keys the queries start .. start + rows may see: bool [B, rows, S].

    Padding (segment 0) sees padding, so that no query is without a key: a softmax over nothing is NaN, and NaN
    survives a zero loss weight in the backward pass.
    """
    length = segments.shape[1]
    own = jax.lax.dynamic_slice_in_dim(segments, start, rows, axis=1)
    causal = (start + jnp.arange(rows))[:, None] >= jnp.arange(length)[None, :]
    return causal[None] & (own[:, :, None] == segments[:, None, :])


def _pad(
    arrays: tuple[jax.Array, jax.Array, jax.Array], segments: jax.Array, tokens: int, head: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """q, k, v and segments with zeros behind the last token and head dimension."""
    q, k, v = (jnp.pad(x, ((0, 0), (0, tokens), (0, 0), (0, head))) for x in arrays)
    return q, k, v, jnp.pad(segments, ((0, 0), (0, tokens)))


def _reference(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
    B, T, N, H = q.shape
    # Chunks of equal length: 320 tokens are two of 160, where two of 256 would compute for 192 tokens of padding.
    chunks = -(-T // QUERY_CHUNK)
    chunk = -(-T // chunks)
    padding = -T % chunk
    q, k, v, segments = _pad((q, k, v), segments, padding, 0)
    # A key head for every query head: XLA's CPU products with a separate axis for the group take three times as long.
    k, v = (jnp.repeat(x, N // x.shape[2], axis=2) for x in (k, v))

    # Rematerialized, or the backward pass would keep the probabilities of every chunk: [B, N, T, T] after all.
    @jax.checkpoint
    def rows(start: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
        own = jax.lax.dynamic_slice_in_dim(q, start, chunk, axis=1)
        scores = jnp.einsum("BTNH,BSNH->BNTS", own, k, preferred_element_type=jnp.float32) * H**-0.5
        scores = jnp.where(_visible(segments, start, chunk)[:, None], scores, jnp.finfo(jnp.float32).min)
        probs = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        return jnp.einsum("BNTS,BSNH->BTNH", probs, v)

    def group(begin: int, end: int) -> jax.Array:
        starts, keys = jnp.arange(begin, end, chunk), (k[:, :end], v[:, :end], segments[:, :end])
        if len(starts) == 1:
            return rows(starts[0], *keys)
        out = jnp.moveaxis(jax.lax.map(lambda start: rows(start, *keys), starts), 0, 1)
        return out.reshape(B, end - begin, N, H)

    # A group computes with the keys up to its own end alone. No more groups than that: they may run side by side, and
    # with every chunk a group a row of 4,096 takes eight times the memory.
    length = T + padding
    size = -(-length // (chunk * GROUPS)) * chunk
    out = [group(begin, min(begin + size, length)) for begin in range(0, length, size)]
    return jnp.concatenate(out, axis=1)[:, :T]


def _splash(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, *, interpret: bool = False) -> jax.Array:
    """The TPU kernel: needs a row and a head of whole lanes (multiples of 128), so both are padded with zeros."""
    _, T, N, H = q.shape
    q, k, v, segments = _pad((q * H**-0.5, k, v), segments, -T % LANES, -H % LANES)
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    length = segments.shape[1]
    block = max(size for size in (128, 256, 512, 1024) if length % size == 0)
    kernel = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([splash_attention_mask.CausalMask((length, length))] * N),
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=CHECKPOINT_NAME,
        interpret=interpret,
    )
    ids = splash_attention_kernel.SegmentIds(q=segments, kv=segments)
    out: Any = jax.vmap(kernel)(q, k, v, ids)
    return out.transpose(0, 2, 1, 3)[:, :T, :, :H].astype(q.dtype)


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
    """The GPU kernel: its backward pass with a mask needs an even number of tokens."""
    T = q.shape[1]
    q, k, v, segments = _pad((q, k, v), segments, T % 2, 0)
    mask = _visible(segments, 0, segments.shape[1])[:, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")[:, :T]


def choose(implementation: str, dtype: jax.typing.DTypeLike, head_dim: int, platform: str) -> str:
    """The implementation that "auto" stands for; raises InputError for one that cannot run.

    cuDNN has no float32 attention, and on every GPU heads of at most 128 in steps of 8; splash exists on TPU alone.
    """
    if implementation not in IMPLEMENTATIONS:
        raise InputError(f"attention is {implementation!r}; allowed are {', '.join(IMPLEMENTATIONS)}")
    fits = jnp.dtype(dtype).itemsize == 2 and head_dim % 8 == 0 and head_dim <= 128
    if implementation == "auto":
        return {"tpu": "splash", "gpu": "cudnn" if fits else "reference"}.get(platform, "reference")
    if implementation == "splash" and platform != "tpu":
        raise InputError(f"attention is 'splash', a TPU kernel, but the devices are {platform}; use 'auto'")
    if implementation == "cudnn" and (platform != "gpu" or not fits):
        raise InputError(
            "attention is 'cudnn', which needs a GPU, bfloat16 or float16, and a head_dim of 8, 16, ... or 128, "
            f"but the devices are {platform}, the dtype {jnp.dtype(dtype).name}, head_dim {head_dim}; use 'auto'"
        )
    return implementation


def mesh_platform() -> str:
    """The platform of the current mesh's devices ("cpu", "gpu", "tpu"): a compilation for TPU may run on a CPU."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform = jax.default_backend() if device is None else device.platform
    return "gpu" if platform in ("cuda", "rocm") else platform


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, *, implementation: str = "auto"
) -> jax.Array:
    """softmax(q k^T / sqrt(H)) v over the earlier keys of the same segment, softmax in float32.

    q: [B, T, N, H]; k, v: [B, T, K, H] with K dividing N; segments: int32 [B, T], 0 = padding.
    Returns q's shape and dtype. Raises InputError as `choose` does.
    """
    local: dict[str, Callable[..., jax.Array]] = {"reference": _reference, "splash": _splash, "cudnn": _cudnn}
    chosen = local[choose(implementation, q.dtype, q.shape[3], mesh_platform())]
    heads, rows = spec("batch", None, "heads", None), spec("batch", None)
    out = jax.shard_map(chosen, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False)(
        q, k, v, segments
    )
    # Splash names what its backward pass needs, its result included: named again, that would be kept twice.
    return out if chosen is _splash else checkpoint_name(out, CHECKPOINT_NAME)
