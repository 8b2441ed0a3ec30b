"""Causal self-attention within the segments of packed rows, with an implementation for each platform.

Every implementation runs under `jax.shard_map`, on the rows and heads of one device. Where rows are sharded over
"sequence" (sequence.py), a device keeps its queries and gathers the keys and values of the whole row. In bfloat16 these
take 4 K H bytes per token, for one layer at a time: for CodeLLaMA-7B and 16,384 tokens, 134 MB of keys and as much of
values. Axis letters are those of llama.py.

Rows may begin with shared columns, a prompt that all segments behind it attend to (shared_prompt.py). The prompt is
attended to as a row of its own; then the other queries attend to it and to their own segments.

In the functions below `segments` belongs to the keys, `q_segments` to the queries, and `start` is the row's column of
the first query: an int if it is known when the program is compiled.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

from tljax.core.errors import InputError
from tljax.distributed.mesh import mesh_platform, shard_count, spec
from tljax.model import blocked_attention, sequence
from tljax.model.blocks import SHARED, block_length, pad, visible
from tljax.model.remat import CHECKPOINT_NAME

IMPLEMENTATIONS = ("auto", "reference", "blocked", "splash", "cudnn")

# On longer rows the reference holds float32 scores of at most [B, N, QUERY_CHUNK, T] per group, never [B, N, T, T].
QUERY_CHUNK = 256
GROUPS = 4  # groups of chunks; they save 3/8 of the products on rows of four chunks and more

LANES = 128  # of a TPU: the splash kernel takes multiples


def _reference(
    q: jax.Array, k: jax.Array, v: jax.Array, q_segments: jax.Array, segments: jax.Array, start: int | jax.Array
) -> jax.Array:
    B, T, N, H = q.shape
    chunk = block_length(T, QUERY_CHUNK)
    padding = -T % chunk
    q, q_segments = pad(q, padding), pad(q_segments, padding)
    k, v, segments = (pad(x, padding) for x in (k, v, segments))
    # Keys are repeated for every query head: with an axis for groups, XLA's CPU products take three times as long.
    k, v = (jnp.repeat(x, N // x.shape[2], axis=2) for x in (k, v))

    # Rematerialized: otherwise the backward pass keeps the probabilities of every chunk, [B, N, T, T] in all.
    @jax.checkpoint
    def attend_chunk(first: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
        queries, chunk_segments = (jax.lax.dynamic_slice_in_dim(x, first, chunk, axis=1) for x in (q, q_segments))
        scores = jnp.einsum("BTNH,BSNH->BNTS", queries, k, preferred_element_type=jnp.float32) * H**-0.5
        mask = visible(chunk_segments, segments, start + first)[:, None]
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
        probs = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        return jnp.einsum("BNTS,BSNH->BTNH", probs, v)

    def group(begin: int, end: int) -> jax.Array:
        # Where `start` is unknown at compilation, a group may attend to all columns.
        last = start + end if isinstance(start, int) else segments.shape[1]
        starts, keys = jnp.arange(begin, end, chunk), (k[:, :last], v[:, :last], segments[:, :last])
        if len(starts) == 1:
            return attend_chunk(starts[0], *keys)
        out = jnp.moveaxis(jax.lax.map(lambda first: attend_chunk(first, *keys), starts), 0, 1)
        return out.reshape(B, end - begin, N, H)

    # A group of chunks computes only with the keys up to its end. Groups are few because they may run side by side: if
    # every chunk were a group, a row of 4,096 would take eight times the memory.
    length = T + padding
    size = -(-length // (chunk * GROUPS)) * chunk if isinstance(start, int) else length
    out = [group(begin, min(begin + size, length)) for begin in range(0, length, size)]
    return jnp.concatenate(out, axis=1)[:, :T]


def _cudnn(
    q: jax.Array, k: jax.Array, v: jax.Array, q_segments: jax.Array, segments: jax.Array, start: int | jax.Array
) -> jax.Array:
    """Attention by the GPU kernel of cuDNN, whose backward pass with a mask needs even numbers of tokens."""
    T, S = q.shape[1], k.shape[1]
    q, q_segments = pad(q, T % 2), pad(q_segments, T % 2)
    k, v, segments = (pad(x, S % 2) for x in (k, v, segments))
    mask = visible(q_segments, segments, start)[:, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")[:, :T]


def _splash_kernel(tokens: int, num_shards: int, heads: int, interpret: bool) -> Any:
    """Returns the TPU kernel for rows of `tokens` that are sharded over `num_shards` devices, with the masks of all.

    The kernel needs multiples of LANES, so queries of a device and keys are padded to them.
    """
    columns = sequence.column_order(tokens, num_shards)
    keys = tokens + -tokens % LANES
    columns = np.concatenate([columns, np.full((num_shards, -columns.shape[1] % LANES), keys - 1, np.int32)], axis=1)
    if num_shards == 1:
        columns = np.arange(keys, dtype=np.int32)[None]
    mask = splash_attention_mask.CausalMask((columns.size, keys))
    mask.q_sequence = columns.reshape(-1)
    # A block of queries from two chunks would compute with the keys of the later chunk, so blocks divide a chunk.
    chunk = tokens // (2 * num_shards)
    queries = _block(chunk if num_shards > 1 and chunk % LANES == 0 else columns.shape[1])
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
        q_seq_shards=num_shards,
        residual_checkpoint_name=CHECKPOINT_NAME,
        interpret=interpret,
    )


def _block(tokens: int) -> int:
    """Returns the largest block size of the kernel that divides `tokens`, a multiple of LANES."""
    return max(size for size in (128, 256, 512, 1024) if tokens % size == 0)


def _splash(
    kernel: Any, q: jax.Array, k: jax.Array, v: jax.Array, q_segments: jax.Array, segments: jax.Array
) -> jax.Array:
    """Attention by the TPU kernel: pads a device's queries and the keys of their rows to multiples of LANES."""
    _, T, _, H = q.shape
    S = k.shape[1]
    q = pad(q * H**-0.5, -T % LANES, -H % LANES)
    k, v = (pad(x, -S % LANES, -H % LANES) for x in (k, v))
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    # Added queries get the first key's segment, so that each attends to a key: without one they would be NaN.
    q_segments = jnp.concatenate([q_segments, jnp.broadcast_to(segments[:, :1], (len(q_segments), -T % LANES))], axis=1)
    ids = splash_attention_kernel.SegmentIds(q=q_segments, kv=pad(segments, -S % LANES))
    out: Any = jax.vmap(kernel)(q, k, v, ids)
    return out.transpose(0, 2, 1, 3)[:, :T, :, :H].astype(q.dtype)


def choose_implementation(implementation: str, dtype: jax.typing.DTypeLike, head_dim: int, platform: str) -> str:
    """Returns the implementation to use, with "auto" resolved. Raises InputError for one that cannot run.

    cuDNN computes in 2 bytes only, with a head_dim of at most 128 that is a multiple of 8. Splash runs on TPU only.
    """
    if implementation not in IMPLEMENTATIONS:
        raise InputError(f"attention is {implementation!r}; allowed are {', '.join(IMPLEMENTATIONS)}")
    fits = jnp.dtype(dtype).itemsize == 2 and head_dim % 8 == 0 and head_dim <= 128
    if implementation == "auto":
        return {"tpu": "splash", "gpu": "cudnn" if fits else "reference"}.get(platform, "blocked")
    if implementation == "splash" and platform != "tpu":
        raise InputError(f"attention is 'splash', a TPU kernel, but the devices are {platform}; use 'auto'")
    if implementation == "cudnn" and (platform != "gpu" or not fits):
        raise InputError(
            "attention is 'cudnn', which needs a GPU, bfloat16 or float16, and a head_dim of 8, 16, ... or 128, "
            f"but the devices are {platform}, the dtype {jnp.dtype(dtype).name}, head_dim {head_dim}; use 'auto'"
        )
    return implementation


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array,
    *,
    implementation: str = "auto",
    shared_columns: int = 0,
) -> jax.Array:
    """Returns softmax(q k^T / sqrt(H)) v over each query's own and earlier keys of its segment; softmax in float32.

    q: [B, T, N, H]; k, v: [B, T, K, H] with K dividing N; segments: int32 [B, T], 0 for padding. T may be sharded over
    "sequence", in the devices' order. The first `shared_columns` of each row, segment 1, belong to every segment behind
    them. The result has q's shape and dtype. Raises InputError as `choose_implementation`.
    """
    chosen = choose_implementation(implementation, q.dtype, q.shape[3], mesh_platform())
    return run_implementation(chosen, q, k, v, segments, shared_columns=shared_columns)


class _Keys(NamedTuple):
    """The keys and values of whole rows, [B, S, K, H] each, and their segments int32 [B, S]."""

    keys: jax.Array
    values: jax.Array
    segments: jax.Array


def _attend_area(
    chosen: str, q: jax.Array, q_segments: jax.Array, keys: _Keys, num_shards: int, before: int = 0
) -> jax.Array:
    """Attends with a device's queries of an area to the keys of `before` columns and of the area behind them."""
    attend = {"reference": _reference, "blocked": blocked_attention.attend, "cudnn": _cudnn}[chosen]
    if num_shards == 1:
        return attend(q, keys.keys, keys.values, q_segments, keys.segments, before)
    # A device's first chunk lies in the area's first half, so its queries attend to no key of the second half.
    chunk, shard = q.shape[1] // 2, jax.lax.axis_index("sequence")
    k, v, segments = (x[:, : before + num_shards * chunk] for x in keys)
    early = attend(q[:, :chunk], k, v, q_segments[:, :chunk], segments, before + shard * chunk)
    start = before + (2 * num_shards - 1 - shard) * chunk
    late = attend(q[:, chunk:], keys.keys, keys.values, q_segments[:, chunk:], keys.segments, start)
    return jnp.concatenate([early, late], axis=1)


def run_implementation(
    chosen: str,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array,
    *,
    shared_columns: int = 0,
    interpret: bool = False,
) -> jax.Array:
    """Runs `attention` by the `chosen` implementation, unchecked. interpret: runs splash on any platform, slowly."""
    positions = None if jax.typeof(q).sharding.spec[1] is None else "positions"
    num_shards = 1 if positions is None else shard_count("positions")
    heads, rows = spec("batch", positions, "heads", None), spec("batch", positions)

    def local(kernel, q, k, v, segments):
        def area(columns: slice) -> tuple[jax.Array, jax.Array, _Keys]:
            keys = _Keys(*(x[:, columns] for x in (k, v, segments)))
            if num_shards > 1:
                keys = _Keys(*(sequence.gather_positions(x, num_shards) for x in keys))
            return q[:, columns], segments[:, columns], keys

        def attend(queries: jax.Array, q_segments: jax.Array, keys: _Keys) -> jax.Array:
            if kernel is not None:
                return _splash(kernel, queries, keys.keys, keys.values, q_segments, keys.segments)
            return _attend_area(chosen, queries, q_segments, keys, num_shards)

        if not shared_columns:
            return attend(*area(slice(None)))
        own = shared_columns // num_shards
        prompt_queries, prompt_segments, prompt = area(slice(own))
        queries, q_segments, replies = area(slice(own, None))
        first = attend(prompt_queries, prompt_segments, prompt)
        prompt = prompt._replace(segments=jnp.where(prompt.segments == 0, 0, SHARED))
        keys = _Keys(*(jnp.concatenate(pair, axis=1) for pair in zip(prompt, replies, strict=True)))
        # Replies are short, so plain products serve them where splash serves the prompts.
        implementation = "reference" if kernel is not None else chosen
        second = _attend_area(implementation, queries, q_segments, keys, num_shards, before=shared_columns)
        second = second if kernel is None else checkpoint_name(second, CHECKPOINT_NAME)
        return jnp.concatenate([first, second], axis=1)

    kernel = layout = None
    if chosen == "splash":
        kernel = _splash_kernel(shared_columns or q.shape[1], num_shards, q.shape[2] // shard_count("heads"), interpret)
        mesh, (along,) = jax.sharding.get_abstract_mesh(), spec(positions)
        layout = kernel.manual_sharding_spec(jax.NamedSharding(mesh, jax.P(None, along)))
        kernel = jax.tree.map(jax.reshard, kernel, layout)
    out = jax.shard_map(local, in_specs=(layout, heads, heads, heads, rows), out_specs=heads, check_vma=False)(
        kernel, q, k, v, segments
    )
    # These two name what their backward pass needs, their result too: a second name would keep the result twice.
    return out if chosen in ("blocked", "splash") else checkpoint_name(out, CHECKPOINT_NAME)
