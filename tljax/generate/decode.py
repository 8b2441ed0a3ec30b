"""Generates replies and their log-probabilities from padded prompts, with a cache of keys and values.

A number of slots, one for each row of a batch, are decoded together. A slot whose reply has ended is free for another
prompt, which `prefill` computes and `fill` puts in, so that rows do not wait for the longest reply of a batch.

Sharding: decoding moves activations over the mesh, never weights. The rows of a step are sharded over "data" alone, and
their D over "fsdp" and "sequence", as that of the weights is. So a device reads only its part of the weights at every
step; gathering them would move 13.5 GB per token for 7B in bfloat16, and hold as much. Only attention shards its rows
over "fsdp" too, as the cache is. Memory: one copy of the weights in the compute dtype, sharded like them, and a cache
of 2 L K H numbers per token (0.5 MB for 7B). All devices of "sequence" hold the same prompts and cache and compute the
same: that axis does not speed up a rollout, but rollout and update can share a mesh.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from tljax.distributed.mesh import batch_shard_count, spec
from tljax.generate.sampling import SampleOptions, check_sample_options, sample_tokens, sampled_token_logprobs
from tljax.generate.slots import (
    KEPT,
    ROWS,
    TABLE,
    Cache,
    PrefilledPrompts,
    PromptBatch,
    ReplyBatch,
    Slots,
    empty_slots,
    fill,
    free_places,
)
from tljax.model import attention as attention_lib
from tljax.model import llama
from tljax.model.rope import rope_angles


@functools.partial(jax.jit, static_argnames="dtype")
def cast_weights(params: llama.Params, c: llama.LlamaConfig, dtype: str) -> llama.Params:
    """Returns the weights in the compute dtype with unchanged shardings, and with the layers as a list."""
    cast = jax.tree.map(lambda x: x.astype(dtype), params)
    layers = [{name: stacked[i] for name, stacked in cast["layers"].items()} for i in range(c.num_layers)]
    return cast | {"layers": layers}


@jax.jit
def prefill(params: llama.Params, c: llama.LlamaConfig, batch: PromptBatch, options: SampleOptions) -> PrefilledPrompts:
    """Computes the keys and values of prompts, each once for its G replies. Compiled once for each [n, P].

    A scan over the layers: with unrolled ones, 32 prompts of SmolLM2 wait 41 s for a CPU to compile, and not 27 s.
    """
    prompts, row_ids = (jax.reshard(x, TABLE) for x in (batch.tokens, batch.row_ids))
    lengths = jax.reshard(batch.lengths, ROWS)
    n, P = prompts.shape
    columns = jnp.broadcast_to(jnp.arange(P, dtype=jnp.int32)[None], (n, P), out_sharding=TABLE)
    prompts = jnp.where(columns < lengths[:, None], prompts, 0)
    segments = (columns < lengths[:, None]).astype(jnp.int32)
    angles = rope_angles(columns, c.head_dim, c.rope_theta, c.rope_scaling)
    x = llama.embed(params, prompts, jnp.dtype(options.compute_dtype))

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, Cache]:
        kept = (k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3))
        kept = tuple(jax.reshard(array, KEPT) for array in kept)
        return attention_lib.attention(q, k, v, segments, implementation=options.attention), kept

    def layer(x: jax.Array, w: llama.Params) -> tuple[jax.Array, Cache]:
        w = jax.tree.map(lambda weight: weight.astype(options.compute_dtype), w)
        return llama.block(x, llama.gather_layer_weights(w, c), c, angles, attend)

    _, cache = jax.lax.scan(layer, x, params["layers"])
    token = jnp.max(jnp.where(columns == lengths[:, None] - 1, prompts, 0), axis=1)
    return PrefilledPrompts(cache=cache, token=token, lengths=lengths, row_ids=row_ids)


@functools.partial(jax.jit, donate_argnames="slots", static_argnames="copies")
def decode(
    weights: llama.Params,
    c: llama.LlamaConfig,
    slots: Slots,
    key: jax.Array,
    options: SampleOptions,
    enough: jax.Array,
    copies: int,
) -> Slots:
    """Decodes until every device has `enough` (int32) free places, each of `copies` slots. `slots` is donated.

    Sampling is a function of (key, row id, step), so neither the other rows nor P nor the mesh changes a reply. The
    caller must refuse prompts that exceed `c.max_tokens` together with max_new_tokens. Compiled once for each [B, S].
    """
    S = slots.cache[0][0].shape[3]
    # Gathered over "tensor", so that the lookup of a step needs no communication.
    table = jax.reshard(weights["embed"], spec(None, "embed"))
    columns = jnp.arange(S, dtype=jnp.int32)[None]
    step_spec = jax.P("data", None, *spec("embed"))  # of a step's input [B, 1, D]

    def running(slots: Slots) -> jax.Array:
        return free_places(slots.generated.done, copies) < enough

    def step(slots: Slots) -> Slots:
        t, last = slots.generated.lengths, slots.lengths - 1
        column = slots.width + t
        visible = (columns < last[:, None]) | ((columns >= slots.width[:, None]) & (columns <= column[:, None]))
        x = table.at[jax.reshard(slots.token, jax.P("data"))[:, None]].get(out_sharding=step_spec)
        positions = jax.reshard(jnp.maximum(last, 0) + t, jax.P("data"))[:, None]
        angles = rope_angles(positions, c.head_dim, c.rope_theta, c.rope_scaling)
        cache = []
        for w, kept in zip(weights["layers"], slots.cache, strict=True):
            attend = functools.partial(_attend, cache=kept, visible=visible, column=column)
            x, kept = llama.block(x, w, c, angles, attend)
            cache.append(kept)
        x = llama.rms_norm(x, weights["final_norm"], c.norm_eps)
        logits = jax.reshard(llama.logits(weights, c, x), spec("batch", None, None))[:, 0]
        token, logprobs = _sample(logits, slots.row_ids, key, t, options)
        return dataclasses.replace(
            slots,
            token=token,
            cache=cache,
            generated=_append(slots, token, logprobs, options),
        )

    return jax.lax.while_loop(running, step, slots)


@functools.partial(jax.jit, static_argnames="rows")
def generate(
    params: llama.Params, c: llama.LlamaConfig, batch: PromptBatch, key: jax.Array, options: SampleOptions, rows: int
) -> ReplyBatch:
    """Generates replies to a batch of prompts in `rows` slots of its length, in a single program.

    `Sampler` runs the same parts as programs of their own. Raises InputError for options out of range.
    """
    check_sample_options(options, c.vocab_size)
    (n, P), copies, shards = batch.tokens.shape, batch.row_ids.shape[1], batch_shard_count()
    weights = cast_weights(params, c, options.compute_dtype)
    slots = empty_slots(c, rows, P + options.max_new_tokens, options=options)
    places = jnp.arange(n, dtype=jnp.int32) % (n // shards)
    slots = fill(slots, prefill(params, c, batch, options), places, options)
    enough = jnp.asarray(rows // copies // shards, jnp.int32)
    return decode(weights, c, slots, key, options, enough, copies=copies).generated


def _attend(
    q: jax.Array, k: jax.Array, v: jax.Array, cache: Cache, visible: jax.Array, column: jax.Array
) -> tuple[jax.Array, Cache]:
    """Writes k and v into a column of each row's cache, then attends with q to the visible columns.

    q: [B, 1, N, H]; k, v: [B, 1, K, H]; visible: bool [B, S]; column: int32 [B], from S on nothing is written. Returns
    [B, 1, N, H] and the new cache. Softmax is in float32, as in `attention.attention`. The rows of q, k, v and of the
    result are sharded over "data", those of the cache over "fsdp" too.
    """

    def local(q, k, v, cache, visible, column):
        (B, _, N, H), K = q.shape, k.shape[2]
        rows = jnp.arange(B)
        keys = cache[0].at[rows, :, :, column].set(k.reshape(B, K, H), mode="drop", unique_indices=True)
        values = cache[1].at[rows, :, column].set(v.reshape(B, K, H), mode="drop", unique_indices=True)
        # Query heads are grouped by their key head, so that no key is repeated.
        scores = jnp.einsum("BKGH,BKHS->BKGS", q.reshape(B, K, N // K, H), keys, preferred_element_type=jnp.float32)
        scores = jnp.where(visible[:, None, None], scores * H**-0.5, jnp.finfo(jnp.float32).min)
        probs = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
        return jnp.einsum("BKGS,BKSH->BKGH", probs, values).reshape(B, 1, N, H), (keys, values)

    heads, kept = spec("batch", None, "heads", None), KEPT
    q, k, v = (jax.reshard(x, heads) for x in (q, k, v))
    mixed, cache = jax.shard_map(
        local,
        in_specs=(heads, heads, heads, (kept, kept), spec("batch", None), spec("batch")),
        out_specs=(heads, (kept, kept)),
        check_vma=False,
    )(q, k, v, cache, visible, column)
    return jax.reshard(mixed, jax.P("data", None, *spec("heads", None))), cache


def _sample(
    logits: jax.Array, row_ids: jax.Array, key: jax.Array, steps: jax.Array, options: SampleOptions
) -> tuple[jax.Array, jax.Array]:
    """Returns sampled tokens int32 [B] and their log-probabilities float32 [B]; a device samples its rows of logits.

    steps: int32 [B], the number of the token in its reply, from 0. Where a row has logits that are not finite, its
    log-probability is NaN.
    """

    def local(logits, row_ids, key, steps):
        keys = jax.vmap(lambda row, step: jax.random.fold_in(jax.random.fold_in(key, row), step))(row_ids, steps)
        tokens = sample_tokens(logits, keys, options)
        # A NaN is the maximum and the minimum of its row. On a CPU these two are faster than a look at every number.
        finite = jnp.isfinite(logits.max(axis=-1)) & jnp.isfinite(logits.min(axis=-1))
        return tokens, jnp.where(finite, sampled_token_logprobs(logits, tokens, options), jnp.nan)

    rows = spec("batch")
    return jax.shard_map(
        local, in_specs=(spec("batch", None), rows, jax.P(), rows), out_specs=(rows, rows), check_vma=False
    )(logits, row_ids, key, steps)


def _append(slots: Slots, token: jax.Array, logprobs: jax.Array, options: SampleOptions) -> ReplyBatch:
    """Returns what is generated, with the step's token added to every row that is not done."""
    generated, done = slots.generated, slots.generated.done
    ids = jnp.asarray(options.eos_ids, jnp.int32)
    here = (jnp.arange(options.max_new_tokens)[None] == generated.lengths[:, None]) & ~done[:, None]
    return ReplyBatch(
        tokens=jnp.where(here, token[:, None], generated.tokens),
        logprobs=jnp.where(here, logprobs[:, None], generated.logprobs),
        lengths=generated.lengths + ~done,
        ended=generated.ended | (~done & jnp.any(token[:, None] == ids[None], axis=-1)),
    )
