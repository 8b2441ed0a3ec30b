"""Causal self-attention within the segments of packed rows: one function, chosen by platform.

Every implementation runs under `jax.shard_map`, on the rows and heads of one device, and sees plain arrays. Where rows
are split over "sequence" (sequence.py), a device keeps its queries and gathers the keys and values of the whole row: of
one layer at a time 4 K H bytes a token in bfloat16, for CodeLLaMA-7B 134 MB each of keys and values of 16,384 tokens.
Axis letters as in llama.py: B batch, T query time, S key time, N query heads, K key heads, G query heads per key head,
H head dimension.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

from tljax.core.errors import InputError
from tljax.distributed.mesh import shard_count, spec
from tljax.model import sequence

IMPLEMENTATIONS = ("auto", "reference", "splash", "cudnn")

# The name under which jax.checkpoint policies know what attention leaves for its backward pass.
CHECKPOINT_NAME = "attention"

# The reference holds float32 scores of at most [B, N, QUERY_CHUNK, T] a group, never [B, N, T, T], on longer rows.
QUERY_CHUNK = 256
GROUPS = 4  # of chunks; what they save of the products: 3/8 on rows of four chunks and more

LANES = 128


def _visible(own: jax.Array, segments: jax.Array, start: int | jax.Array) -> jax.Array:
    """Which keys the queries of columns start, start + 1, ... may see: bool [B, T, S], by segments [B, T] and [B, S].

    Padding (segment 0) sees padding, so that no query is without a key: a softmax over nothing is NaN, and NaN
    survives a zero loss weight in the backward pass.
    """
    causal = (start + jnp.arange(own.shape[1]))[:, None] >= jnp.arange(segments.shape[1])[None, :]
    return causal[None] & (own[:, :, None] == segments[:, None, :])


def _pad(array: jax.Array, tokens: int, head: int = 0) -> jax.Array:
    """[B, T] or [B, T, N, H] with zeros behind the last token and head dimension."""
    room = ((0, 0), (0, tokens), (0, 0), (0, head))
    return jnp.pad(array, room[: array.ndim])


def _reference(
    q: jax.Array, k: jax.Array, v: jax.Array, own: jax.Array, segments: jax.Array, start: int | jax.Array
) -> jax.Array:
    B, T, N, H = q.shape
    # Chunks of equal length: 320 tokens are two of 160, where two of 256 would compute for 192 tokens of padding.
    chunks = -(-T // QUERY_CHUNK)
    chunk = -(-T // chunks)
    padding = -T % chunk
    q, own = _pad(q, padding), _pad(own, padding)
    k, v, segments = (_pad(x, padding) for x in (k, v, segments))
    # A key head for every query head: XLA's CPU products with a separate axis for the group take three times as long.
    k, v = (jnp.repeat(x, N // x.shape[2], axis=2) for x in (k, v))

    # Rematerialized, or the backward pass would keep the probabilities of every chunk: [B, N, T, T] after all.
    @jax.checkpoint
    def rows(at: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
        queries, own_segments = (jax.lax.dynamic_slice_in_dim(x, at, chunk, axis=1) for x in (q, own))
        scores = jnp.einsum("BTNH,BSNH->BNTS", queries, k, preferred_element_type=jnp.float32) * H**-0.5
        visible = _visible(own_segments, segments, start + at)[:, None]
        scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
        probs = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        return jnp.einsum("BNTS,BSNH->BTNH", probs, v)

    def group(begin: int, end: int) -> jax.Array:
        # The keys before a group that begins who knows where are those of all columns.
        last = end if isinstance(start, int) else segments.shape[1]
        starts, keys = jnp.arange(begin, end, chunk), (k[:, :last], v[:, :last], segments[:, :last])
        if len(starts) == 1:
            return rows(starts[0], *keys)
        out = jnp.moveaxis(jax.lax.map(lambda at: rows(at, *keys), starts), 0, 1)
        return out.reshape(B, end - begin, N, H)

    # A group computes with the keys up to its own end alone. No more groups than that: they may run side by side, and
    # with every chunk a group a row of 4,096 takes eight times the memory.
    length = T + padding
    size = -(-length // (chunk * GROUPS)) * chunk if isinstance(start, int) else length
    out = [group(begin, min(begin + size, length)) for begin in range(0, length, size)]
    return jnp.concatenate(out, axis=1)[:, :T]


def _cudnn(
    q: jax.Array, k: jax.Array, v: jax.Array, own: jax.Array, segments: jax.Array, start: int | jax.Array
) -> jax.Array:
    """The GPU kernel: its backward pass with a mask needs even numbers of tokens."""
    T, S = q.shape[1], k.shape[1]
    q, own = _pad(q, T % 2), _pad(own, T % 2)
    k, v, segments = (_pad(x, S % 2) for x in (k, v, segments))
    mask = _visible(own, segments, start)[:, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")[:, :T]


def _splash_kernel(tokens: int, places: int, heads: int, interpret: bool) -> Any:
    """The TPU kernel for rows of `tokens`, each split over so many devices, with its masks for all of them.

    It needs whole lanes (multiples of 128), so a device's queries and the keys count as padded to them.
    """
    own = sequence.column_order(tokens, places)
    keys = tokens + -tokens % LANES
    own = np.concatenate([own, np.full((places, -own.shape[1] % LANES), keys - 1, np.int32)], axis=1)
    if places == 1:
        own = np.arange(keys, dtype=np.int32)[None]
    mask = splash_attention_mask.CausalMask((own.size, keys))
    mask.q_sequence = own.reshape(-1)
    # Blocks of queries that are not of one chunk would compute with the keys of the later one.
    chunk = tokens // (2 * places)
    queries = _block(chunk if places > 1 and chunk % LANES == 0 else own.shape[1])
    return splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask] * heads),
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=queries,
            block_kv=_block(keys),
            block_q_dkv=queries,
            block_kv_dkv=_block(keys),
            block_q_dq=queries,
            block_kv_dq=_block(keys),
        ),
        head_shards=1,
        q_seq_shards=places,
        residual_checkpoint_name=CHECKPOINT_NAME,
        interpret=interpret,
    )


def _block(tokens: int) -> int:
    return max(size for size in (128, 256, 512, 1024) if tokens % size == 0)


def _splash(kernel: Any, q: jax.Array, k: jax.Array, v: jax.Array, own: jax.Array, segments: jax.Array) -> jax.Array:
    """The kernel on a device's queries and the keys of their rows, padded to whole lanes."""
    _, T, _, H = q.shape
    S = k.shape[1]
    q = _pad(q * H**-0.5, -T % LANES, -H % LANES)
    k, v = (_pad(x, -S % LANES, -H % LANES) for x in (k, v))
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    # Queries behind the last are of the first key's segment, so that each sees a key: without one they would be NaN.
    own = jnp.concatenate([own, jnp.broadcast_to(segments[:, :1], (len(own), -T % LANES))], axis=1)
    ids = splash_attention_kernel.SegmentIds(q=own, kv=_pad(segments, -S % LANES))
    out: Any = jax.vmap(kernel)(q, k, v, ids)
    return out.transpose(0, 2, 1, 3)[:, :T, :, :H].astype(q.dtype)


def choose_implementation(implementation: str, dtype: jax.typing.DTypeLike, head_dim: int, platform: str) -> str:
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

    q: [B, T, N, H]; k, v: [B, T, K, H] with K dividing N; segments: int32 [B, T], 0 = padding; T may be split over the
    mesh, in the devices' order.
    Returns q's shape and dtype. Raises InputError as `choose` does.
    """
    chosen = choose_implementation(implementation, q.dtype, q.shape[3], mesh_platform())
    return _on_mesh(chosen, q, k, v, segments)


def _on_mesh(
    chosen: str, q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """`attention` by an implementation of IMPLEMENTATIONS; interpret: run splash anywhere, slowly."""
    positions = None if jax.typeof(q).sharding.spec[1] is None else "positions"
    places = 1 if positions is None else shard_count("positions")
    heads, rows = spec("batch", positions, "heads", None), spec("batch", positions)

    def local(kernel, q, k, v, segments):
        own = segments
        if places > 1:
            k, v, segments = (sequence.gather_positions(x, places) for x in (k, v, segments))
        if kernel is not None:
            return _splash(kernel, q, k, v, own, segments)
        attend = _reference if chosen == "reference" else _cudnn
        if places == 1:
            return attend(q, k, v, own, segments, 0)
        # Of a device's two chunks the first is of the row's first half, whose queries see no key of the second.
        chunk, half, place = q.shape[1] // 2, k.shape[1] // 2, jax.lax.axis_index("sequence")
        early = attend(q[:, :chunk], k[:, :half], v[:, :half], own[:, :chunk], segments[:, :half], place * chunk)
        late = attend(q[:, chunk:], k, v, own[:, chunk:], segments, (2 * places - 1 - place) * chunk)
        return jnp.concatenate([early, late], axis=1)

    kernel = layout = None
    if chosen == "splash":
        kernel = _splash_kernel(q.shape[1], places, q.shape[2] // shard_count("heads"), interpret)
        mesh, (along,) = jax.sharding.get_abstract_mesh(), spec(positions)
        layout = kernel.manual_sharding_spec(jax.NamedSharding(mesh, jax.P(None, along)))
        kernel = jax.tree.map(jax.reshard, kernel, layout)
    out = jax.shard_map(local, in_specs=(layout, heads, heads, heads, rows), out_specs=heads, check_vma=False)(
        kernel, q, k, v, segments
    )
    # Splash names what its backward pass needs, its result included: named again, that would be kept twice.
    return out if chosen == "splash" else checkpoint_name(out, CHECKPOINT_NAME)
