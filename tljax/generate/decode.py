"""Generates replies and their log-probabilities from padded prompts, with a cache of keys and values.

Cache: column s < P holds the key and value of prompt position s, where P is the padded length of the prompts. Step t
writes column P + t for all rows at once, whatever each row's length. The columns from a row's length to P are masked.
The prefill leaves out the last token of a prompt: step 0 feeds it.

Sharding: decoding moves activations over the mesh, never weights. The rows of a step are sharded over "data" alone, and
their D over "fsdp" and "sequence", as that of the weights is. So a device reads only its part of the weights at every
step; gathering them would move 13.5 GB per token for 7B in bfloat16, and hold as much. Only attention shards its rows
over "fsdp" too, as the cache is. Memory: one copy of the weights in the compute dtype, sharded like them, and a cache
of 2 L K H numbers per token (0.5 MB for 7B). All devices of "sequence" hold the same prompts and cache and compute the
same: that axis does not speed up a rollout, but rollout and update can share a mesh.
"""

import jax
import jax.numpy as jnp
from flax import struct

from tljax.distributed.mesh import spec
from tljax.generate.sampling import SampleOptions, check_sample_options, sample_tokens, sampled_token_logprobs
from tljax.model import attention as attention_lib
from tljax.model import llama
from tljax.model.rope import rope_angles

# One layer's keys and values, [B, K, S, H] each in the compute dtype, S = P + max_new_tokens.
Cache = tuple[jax.Array, jax.Array]

CACHE_SPEC = ("batch", "heads", None, None)


@struct.dataclass
class PromptBatch:
    """Right-padded prompts, with G replies to each: B rows of replies for B / G rows of prompts."""

    tokens: jax.Array  # int32 [B / G, P], with any padding
    lengths: jax.Array  # int32 [B / G], 0 for a row that only fills the batch; such a row has ended from the start
    row_ids: jax.Array  # int32 [B / G, G], on which the samples of the G replies depend


@struct.dataclass
class ReplyBatch:
    """B replies, those to the first prompt first, with M = max_new_tokens. The end token counts as part of a reply."""

    tokens: jax.Array  # int32 [B, M], pad_id after the end
    # float32 [B, M], under the sampled distribution; 0 after the end, NaN where the logits are not finite
    logprobs: jax.Array
    lengths: jax.Array  # int32 [B], tokens of the reply
    ended: jax.Array  # bool [B], False where max_new_tokens ran out


@struct.dataclass
class _State:
    step: jax.Array  # int32, from 0
    token: jax.Array  # int32 [B], the input of this step
    cache: list[Cache]  # one per layer: a stacked array would be copied at every write
    generated: ReplyBatch


@jax.jit
def generate(
    params: llama.Params, c: llama.LlamaConfig, batch: PromptBatch, key: jax.Array, options: SampleOptions
) -> ReplyBatch:
    """Generates replies to a batch of prompts, until every row has ended. Compiled once for each [B / G, P] and G.

    A prompt is computed once for its G replies.

    Sampling is a function of (key, row id, step), so neither the other rows nor P nor the mesh changes a reply. Raises
    InputError for options out of range. The caller must refuse prompts that exceed `c.max_tokens` together with
    max_new_tokens.
    """
    check_sample_options(options, c.vocab_size)
    prompts, row_ids = (jax.reshard(x, spec("batch", None)) for x in (batch.tokens, batch.row_ids))
    prompt_lengths = jax.reshard(batch.lengths, spec("batch"))
    dtype, (B, P), M = jnp.dtype(options.compute_dtype), (row_ids.size, prompts.shape[1]), options.max_new_tokens
    prompts = jnp.where(jnp.arange(P)[None] < prompt_lengths[:, None], prompts, 0)
    weights = _cast(params, c, dtype)
    # Gathered over "tensor", so that the lookup of a step needs no communication.
    table = jax.reshard(weights["embed"], spec(None, "embed"))
    columns, copies = jnp.arange(P + M)[None], row_ids.shape[1]
    lengths, row_ids = _repeat(prompt_lengths, copies), _join_copies(row_ids)
    last = lengths - 1
    step_spec = jax.P("data", None, *spec("embed"))  # of a step's input [B, 1, D]

    def running(state: _State) -> jax.Array:
        return (state.step < M) & ~jnp.all(state.generated.ended)

    def step(state: _State) -> _State:
        t = state.step
        visible = (columns < last[:, None]) | ((columns >= P) & (columns <= P + t))
        x = table.at[jax.reshard(state.token, jax.P("data"))[:, None]].get(out_sharding=step_spec)
        positions = jax.reshard(jnp.maximum(last, 0) + t, jax.P("data"))[:, None]
        angles = rope_angles(positions, c.head_dim, c.rope_theta, c.rope_scaling)
        cache = []
        for w, kept in zip(weights["layers"], state.cache, strict=True):
            x, kept = llama.block(x, w, c, angles, lambda q, k, v, kept=kept: _attend(q, k, v, kept, visible, P + t))
            cache.append(kept)
        x = llama.rms_norm(x, weights["final_norm"], c.norm_eps)
        logits = jax.reshard(llama.logits(weights, c, x), spec("batch", None, None))[:, 0]
        token, logprobs = _sample(logits, row_ids, key, t, options)
        return _State(
            step=t + 1, token=token, cache=cache, generated=_append(state.generated, t, token, logprobs, options)
        )

    final = jnp.max(jnp.where(jnp.arange(P)[None] == prompt_lengths[:, None] - 1, prompts, 0), axis=1)
    state = _State(
        step=jnp.zeros((), jnp.int32),
        token=_repeat(final, copies),
        cache=_prefill(weights, c, prompts, prompt_lengths, options, copies),
        generated=ReplyBatch(
            tokens=jnp.full((B, M), options.pad_id, jnp.int32, out_sharding=spec("batch", None)),
            logprobs=jnp.zeros((B, M), jnp.float32, out_sharding=spec("batch", None)),
            lengths=jnp.zeros((B,), jnp.int32, out_sharding=spec("batch")),
            ended=lengths == 0,
        ),
    )
    return jax.lax.while_loop(running, step, state).generated


def _cast(params: llama.Params, c: llama.LlamaConfig, dtype: jnp.dtype) -> llama.Params:
    """Returns the weights in the compute dtype with unchanged shardings, and with the layers as a list."""
    cast = jax.tree.map(lambda x: x.astype(dtype), params)
    layers = [{name: stacked[i] for name, stacked in cast["layers"].items()} for i in range(c.num_layers)]
    return cast | {"layers": layers}


def _repeat(array: jax.Array, copies: int) -> jax.Array:
    """Returns an array [B, ...] with each row `copies` times in a row; B is sharded over "batch" before and after."""
    if copies == 1:
        return array
    own = jax.typeof(array).sharding.spec
    return jax.shard_map(lambda x: jnp.repeat(x, copies, axis=0), in_specs=own, out_specs=own)(array)


def _join_copies(row_ids: jax.Array) -> jax.Array:
    """Turns int32 [B / G, G], sharded over "batch", into [B]."""
    own = spec("batch")
    return jax.shard_map(lambda x: x.reshape(-1), in_specs=spec("batch", None), out_specs=own)(row_ids)


def _prefill(
    weights: llama.Params,
    c: llama.LlamaConfig,
    prompts: jax.Array,
    lengths: jax.Array,
    options: SampleOptions,
    copies: int,
) -> list[Cache]:
    """Returns every layer's cache for `copies` replies to each of the prompts int32 [B, P], with columns for the reply.

    The layers are unrolled: a scan would hold the cache twice, and compute the last layer's unused output.
    """
    B, P = prompts.shape
    columns = jnp.broadcast_to(jnp.arange(P, dtype=jnp.int32)[None], (B, P), out_sharding=spec("batch", None))
    segments = (columns < lengths[:, None]).astype(jnp.int32)
    angles = rope_angles(columns, c.head_dim, c.rope_theta, c.rope_scaling)
    x = llama.embed(weights, prompts, jnp.dtype(options.compute_dtype))

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, Cache]:
        room = ((0, 0), (0, 0), (0, options.max_new_tokens), (0, 0))
        keys, values = (_repeat(jnp.pad(x.transpose(0, 2, 1, 3), room), copies) for x in (k, v))
        return attention_lib.attention(q, k, v, segments, implementation=options.attention), (keys, values)

    cache = []
    for w in weights["layers"]:
        x, kept = llama.block(x, llama.gather_layer_weights(w, c), c, angles, attend)
        cache.append(kept)
    return cache


def _attend(
    q: jax.Array, k: jax.Array, v: jax.Array, cache: Cache, visible: jax.Array, column: jax.Array
) -> tuple[jax.Array, Cache]:
    """Writes k and v into a column of the cache, then attends with q to the visible columns.

    q: [B, 1, N, H]; k, v: [B, 1, K, H]; visible: bool [B, S]. Returns [B, 1, N, H] and the new cache. Softmax is in
    float32, as in `attention.attention`. The rows of q, k, v and of the result are sharded over "data", those of the
    cache over "fsdp" too.
    """

    def local(q, k, v, cache, visible, column):
        (B, _, N, H), K = q.shape, k.shape[2]
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(kept, new.reshape(B, K, 1, H), column, axis=2)
            for kept, new in zip(cache, (k, v), strict=True)
        )
        # Query heads are grouped by their key head, so that no key is repeated.
        scores = jnp.einsum("BKGH,BKSH->BKGS", q.reshape(B, K, N // K, H), keys, preferred_element_type=jnp.float32)
        scores = jnp.where(visible[:, None, None], scores * H**-0.5, jnp.finfo(jnp.float32).min)
        probs = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
        return jnp.einsum("BKGS,BKSH->BKGH", probs, values).reshape(B, 1, N, H), (keys, values)

    heads, kept = spec("batch", None, "heads", None), spec(*CACHE_SPEC)
    q, k, v = (jax.reshard(x, heads) for x in (q, k, v))
    mixed, cache = jax.shard_map(
        local,
        in_specs=(heads, heads, heads, (kept, kept), spec("batch", None), jax.P()),
        out_specs=(heads, (kept, kept)),
        check_vma=False,
    )(q, k, v, cache, visible, column)
    return jax.reshard(mixed, jax.P("data", None, *spec("heads", None))), cache


def _sample(
    logits: jax.Array, row_ids: jax.Array, key: jax.Array, step: jax.Array, options: SampleOptions
) -> tuple[jax.Array, jax.Array]:
    """Returns sampled tokens int32 [B] and their log-probabilities float32 [B]; a device samples its rows of logits.

    Where a row has logits that are not finite, its log-probability is NaN.
    """

    def local(logits, row_ids, key, step):
        keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, row), step))(row_ids)
        tokens = sample_tokens(logits, keys, options)
        finite = jnp.isfinite(logits).all(axis=-1)
        return tokens, jnp.where(finite, sampled_token_logprobs(logits, tokens, options), jnp.nan)

    rows = spec("batch")
    return jax.shard_map(
        local, in_specs=(spec("batch", None), rows, jax.P(), jax.P()), out_specs=(rows, rows), check_vma=False
    )(logits, row_ids, key, step)


def _append(
    generated: ReplyBatch, step: jax.Array, token: jax.Array, logprobs: jax.Array, options: SampleOptions
) -> ReplyBatch:
    """Returns `generated` with the step's token added to every row that has not ended."""
    ended = generated.ended
    ids = jnp.asarray(options.eos_ids, jnp.int32)
    here = (jnp.arange(options.max_new_tokens) == step)[None] & ~ended[:, None]
    return ReplyBatch(
        tokens=jnp.where(here, token[:, None], generated.tokens),
        logprobs=jnp.where(here, logprobs[:, None], generated.logprobs),
        lengths=generated.lengths + ~ended,
        ended=ended | jnp.any(token[:, None] == ids[None], axis=-1),
    )
