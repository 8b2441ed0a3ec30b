"""The distribution that replies are sampled from, defined once for sampling and for scoring of samples."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tljax.core.errors import InputError
from tljax.model.llama import token_logprobs


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Options of generation. A static pytree, so jit takes it as a plain argument."""

    max_new_tokens: int
    temperature: float  # 0: greedy, which ignores top_k and top_p
    top_k: int  # 0: off
    top_p: float  # 1.0: off
    eos_ids: tuple[int, ...]  # a reply ends at the first of these; if empty, at max_new_tokens
    pad_id: int  # stands behind the end; never read, so any token will do
    compute_dtype: str
    attention: str  # for the prompt, one of attention.IMPLEMENTATIONS; single tokens attend to the cache in one way

    @classmethod
    def from_config(cls, model: Any, sampling: Any, eos_id: int | Sequence[int]) -> "SampleOptions":
        """Returns the options of a config.

        model: the block with compute_dtype and attention. sampling: the block with max_new_tokens, temperature, top_k
        and top_p (config.sample or config.rollout). eos_id: the end token, or all end tokens.
        """
        eos_ids = _as_tuple(eos_id)
        return cls(
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            eos_ids=eos_ids,
            pad_id=eos_ids[0],
            compute_dtype=model.compute_dtype,
            attention=model.attention,
        )

    @classmethod
    def greedy(cls, model: Any, max_new_tokens: int, eos_id: int | Sequence[int]) -> "SampleOptions":
        """Returns the options of greedy decoding; `model` and `eos_id` as in from_config."""
        eos_ids = _as_tuple(eos_id)
        return cls(
            max_new_tokens=max_new_tokens,
            temperature=0.0,
            top_k=0,
            top_p=1.0,
            eos_ids=eos_ids,
            pad_id=eos_ids[0],
            compute_dtype=model.compute_dtype,
            attention=model.attention,
        )


def _as_tuple(eos_id: int | Sequence[int]) -> tuple[int, ...]:
    return (eos_id,) if isinstance(eos_id, int) else tuple(eos_id)


def check_sample_options(options: SampleOptions, vocab_size: int) -> None:
    """Raises InputError for the first option outside its range."""

    def in_vocabulary(token: int) -> bool:
        return 0 <= token < vocab_size

    rules = (
        ("max_new_tokens", options.max_new_tokens >= 1, "a whole number from 1"),
        (
            "temperature",
            options.temperature >= 0 and math.isfinite(options.temperature),
            "0 (greedy) or a number above",
        ),
        ("top_k", options.top_k >= 0, "0 (off) or a whole number above"),
        ("top_p", 0 < options.top_p <= 1, "above 0 and at most 1 (off)"),
        ("eos_ids", all(map(in_vocabulary, options.eos_ids)), f"tokens of the vocabulary, 0 to {vocab_size - 1}"),
        ("pad_id", in_vocabulary(options.pad_id), f"a token of the vocabulary, 0 to {vocab_size - 1}"),
    )
    for name, good, allowed in rules:
        if not good:
            raise InputError(f"{name} is {getattr(options, name)}; allowed: {allowed}")


def _filtered(logits: jax.Array, options: SampleOptions) -> bool:
    return options.temperature > 0 and (0 < options.top_k < logits.shape[-1] or options.top_p < 1)


def _scale(logits: jax.Array, options: SampleOptions) -> jax.Array:
    """Returns logits / temperature; where filters must sort the vocabulary, every device gets all of it."""
    *rows, vocab = jax.typeof(logits).sharding.spec
    if vocab is not None and _filtered(logits, options):
        logits = jax.reshard(logits, jax.P(*rows, None))
    return logits if options.temperature in (0, 1) else logits / jnp.float32(options.temperature)


def _min_kept_logit(scaled: jax.Array, options: SampleOptions) -> jax.Array:
    """Returns the lowest logit that top_k, then top_p keep: float32 [..., 1]."""
    ordered = jnp.sort(scaled, axis=-1, descending=True)
    if 0 < options.top_k < scaled.shape[-1]:
        kth = ordered[..., options.top_k - 1 : options.top_k]
        ordered = jnp.where(ordered >= kth, ordered, -jnp.inf)
    # The probability of all likelier tokens together; the first has none before it and always stays.
    mass = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1)
    likelier = jnp.concatenate([jnp.zeros_like(mass[..., :1]), mass[..., :-1]], axis=-1)
    inside = (likelier < options.top_p) & (ordered > -jnp.inf)
    return jnp.min(jnp.where(inside, ordered, jnp.inf), axis=-1, keepdims=True)


def sampling_logprobs(logits: jax.Array, options: SampleOptions) -> jax.Array:
    """Returns the log-probabilities, float32 [..., V], of the distribution that is sampled, from logits of that shape.

    Logits are divided by the temperature. top_k keeps the tokens that have fewer than top_k strictly likelier tokens.
    Of these, renormalized, top_p keeps the tokens whose strictly likelier tokens have a probability below top_p
    together, so the token that crosses top_p stays. The kept ones are renormalized; all others get -inf. Tokens of
    equal probability are kept or dropped together. Temperature 0 (greedy) gives the model's log-probabilities, as
    temperature 1 does without filters.
    """
    scaled = _scale(logits, options)
    if _filtered(scaled, options):
        scaled = jnp.where(scaled >= jax.lax.stop_gradient(_min_kept_logit(scaled, options)), scaled, -jnp.inf)
    return jax.nn.log_softmax(scaled, axis=-1)


def sampled_token_logprobs(logits: jax.Array, tokens: jax.Array, options: SampleOptions) -> jax.Array:
    """Returns `sampling_logprobs` of sampled tokens: float32 [...], from logits float32 [..., V], tokens int32 [...].

    A sampled token always counts as kept by the filters: it was kept when it was sampled, and at the filters' boundary
    another program's rounding would otherwise give it -inf.
    """
    scaled = _scale(logits, options)
    if _filtered(scaled, options):
        vocab = jax.lax.broadcasted_iota(
            tokens.dtype, scaled.shape, scaled.ndim - 1, out_sharding=jax.typeof(scaled).sharding.spec
        )
        kept = (scaled >= jax.lax.stop_gradient(_min_kept_logit(scaled, options))) | (vocab == tokens[..., None])
        # Finite, because -inf times 0 in a sum is NaN; its exponential is 0 too.
        scaled = jnp.where(kept, scaled, jnp.finfo(jnp.float32).min)
    return token_logprobs(scaled, tokens)


def sample_tokens(logits: jax.Array, keys: jax.Array, options: SampleOptions) -> jax.Array:
    """Returns a token for each row of logits, sampled with the row's key, or the likeliest if greedy: int32 [B].

    logits: float32 [B, V]; keys: [B].
    """
    if options.temperature == 0:
        return _first_highest(logits)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:], jnp.float32))(keys)
    return _first_highest(sampling_logprobs(logits, options) + noise)


def _first_highest(scores: jax.Array) -> jax.Array:
    """Returns the argmax of each row, int32 [B], of scores float32 [B, V]; the last index where one of them is NaN.

    XLA's argmax is a loop over single numbers on a CPU, while these two reductions are vectorized.
    """
    V = scores.shape[-1]
    index = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    return jnp.where(scores == scores.max(axis=-1, keepdims=True), index, V - 1).min(axis=-1)
