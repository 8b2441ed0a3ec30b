"""Slots: rows that are decoded together, each with a prompt, its cache of keys and values, and the reply so far.

Cache: column s < P holds the key and value of prompt position s, where P is the padded length of the slot's prompt,
and column P + t those of token t of its reply. The columns from the prompt's length to P are masked. So what a slot
computes depends on no other slot, nor on the time at which its prompt was put in. The prefill leaves out the last token
of a prompt: the first step feeds it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from tljax.distributed.mesh import LOGICAL_AXIS_RULES, spec
from tljax.generate.sampling import SampleOptions
from tljax.model import llama

# One layer's keys [B, K, H, S] and values [B, K, S, H] in the compute dtype. In these orders the products of a step
# read them as they lie in memory: on a CPU, scores of keys in the order of values take 3.3 ms a layer in place of 0.9.
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

    @property
    def done(self) -> jax.Array:
        """bool [B], True where the reply has ended or has all its tokens."""
        return self.ended | (self.lengths >= self.tokens.shape[1])


@struct.dataclass
class Slots:
    """B rows that are decoded together."""

    token: jax.Array  # int32 [B], the input of the next step
    width: jax.Array  # int32 [B], the padded length of the prompt: its reply begins in this column of the cache
    lengths: jax.Array  # int32 [B], the tokens of the prompt; 0 for a slot without one
    row_ids: jax.Array  # int32 [B], on which the samples depend
    cache: list[Cache]  # one per layer: a stacked array would be copied at every write
    generated: ReplyBatch  # done where there is no prompt


@struct.dataclass
class PrefilledPrompts:
    """The keys, values and other numbers of n prompts, as their slots need them."""

    cache: Cache  # keys and values of all layers, [L, n, K, H, P] and [L, n, K, P, H]
    token: jax.Array  # int32 [n], the last token of each prompt
    lengths: jax.Array  # int32 [n]
    row_ids: jax.Array  # int32 [n, G]


ROWS: Any = spec("batch")
TABLE: Any = spec("batch", None)
KEPT: Any = spec(*CACHE_SPEC)
_KEPT_OF_LAYERS: Any = spec(None, *CACHE_SPEC)
_SLOTS_SPEC = Slots(
    token=ROWS,
    width=ROWS,
    lengths=ROWS,
    row_ids=ROWS,
    cache=KEPT,
    generated=ReplyBatch(tokens=TABLE, logprobs=TABLE, lengths=ROWS, ended=ROWS),
)
_PROMPTS_SPEC = PrefilledPrompts(cache=_KEPT_OF_LAYERS, token=ROWS, lengths=ROWS, row_ids=TABLE)


@functools.partial(jax.jit, static_argnames=("rows", "columns"))
def empty_slots(c: llama.LlamaConfig, rows: int, columns: int, options: SampleOptions) -> Slots:
    """Returns `rows` slots of `columns` columns, without prompts."""
    B, K, H, M = rows, c.num_kv_heads, c.head_dim, options.max_new_tokens

    def zeros(*shape: int, dtype: str = "int32", sharding: jax.P = ROWS) -> jax.Array:
        return jnp.zeros(shape, dtype, out_sharding=sharding)

    kept = {"dtype": options.compute_dtype, "sharding": KEPT}

    return Slots(
        token=zeros(rows),
        width=zeros(rows),
        lengths=zeros(rows),
        row_ids=zeros(rows),
        cache=[(zeros(B, K, H, columns, **kept), zeros(B, K, columns, H, **kept)) for _ in range(c.num_layers)],
        generated=ReplyBatch(
            tokens=jnp.full((rows, M), options.pad_id, jnp.int32, out_sharding=TABLE),
            logprobs=zeros(rows, M, dtype="float32", sharding=TABLE),
            lengths=zeros(rows),
            ended=jnp.ones((rows,), jnp.bool_, out_sharding=ROWS),
        ),
    )


@functools.partial(jax.jit, donate_argnames="slots")
def fill(slots: Slots, prompts: PrefilledPrompts, places: jax.Array, options: SampleOptions) -> Slots:
    """Puts n prompts, each with G replies, into slots. `slots` is donated.

    places: int32 [n], where each prompt goes: number i stands for the slots i G to i G + G - 1 of the device that holds
    the prompt; a number beyond the last slot leaves the prompt out. Replies of these slots are forgotten.
    """

    def local(slots: Slots, prompts: PrefilledPrompts, places: jax.Array) -> Slots:
        copies, P, S = prompts.row_ids.shape[1], prompts.cache[0].shape[4], slots.cache[0][0].shape[3]
        rows = (places[:, None] * copies + jnp.arange(copies, dtype=jnp.int32)[None]).reshape(-1)

        def put(old: jax.Array, new: jax.Array | int | bool) -> jax.Array:
            return old.at[rows].set(jnp.asarray(new, old.dtype), mode="drop")

        def put_columns(old: jax.Array, new: jax.Array, axis: int) -> jax.Array:
            wide = jnp.pad(new, [(0, S - P) if i == axis else (0, 0) for i in range(4)])
            return put(old, jnp.repeat(wide, copies, axis=0))

        lengths = jnp.repeat(prompts.lengths, copies)
        return Slots(
            token=put(slots.token, jnp.repeat(prompts.token, copies)),
            width=put(slots.width, P),
            lengths=put(slots.lengths, lengths),
            row_ids=put(slots.row_ids, prompts.row_ids.reshape(-1)),
            cache=[
                (put_columns(kept[0], prompts.cache[0][i], axis=3), put_columns(kept[1], prompts.cache[1][i], axis=2))
                for i, kept in enumerate(slots.cache)
            ],
            generated=ReplyBatch(
                tokens=put(slots.generated.tokens, options.pad_id),
                logprobs=put(slots.generated.logprobs, 0),
                lengths=put(slots.generated.lengths, 0),
                ended=put(slots.generated.ended, lengths == 0),
            ),
        )

    in_specs = (_SLOTS_SPEC, _PROMPTS_SPEC, ROWS)
    filled = jax.shard_map(local, in_specs=in_specs, out_specs=_SLOTS_SPEC, check_vma=False)
    return filled(slots, prompts, jax.reshard(places, ROWS))


def free_places(done: jax.Array, copies: int) -> jax.Array:
    """Returns the number of places whose slots are all done, on the device that has fewest: an int32 scalar."""

    def local(done: jax.Array) -> jax.Array:
        free = done.reshape(-1, copies).all(axis=1).sum(dtype=jnp.int32)
        return jax.lax.pmin(free, LOGICAL_AXIS_RULES["batch"])

    return jax.shard_map(local, in_specs=ROWS, out_specs=jax.P(), check_vma=False)(done)
