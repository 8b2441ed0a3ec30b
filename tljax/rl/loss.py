"""PPO's terms as sums and counts over reply tokens; the caller divides them once, over the global batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

LOSS_MEANS = ("token", "reply", "constant")


class PolicySums(NamedTuple):
    """Float32 scalars, sums over reply tokens; `tokens` counts them."""

    loss: jax.Array  # the only one that token weights change
    ratio: jax.Array
    clipped: jax.Array  # tokens whose clipped term is the larger one, so that they have no gradient
    kl: jax.Array  # k3, from the policy that sampled to the current one
    tokens: jax.Array


class ValueSums(NamedTuple):
    """Float32 scalars, sums over reply tokens; `tokens` counts them."""

    loss: jax.Array
    clipped: jax.Array
    tokens: jax.Array


def token_weights(
    mask: jax.Array, loss_mean: str, max_tokens: int, priorities: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Returns the weight of each token in the policy's loss, float32 [B, T], and what the weighted sum is divided by.

    The divisor, float32 [], may be summed over parts of a minibatch. loss_mean: "token", the mean over all reply tokens
    (DAPO, arXiv 2503.14476, equation 8); "reply", the mean over replies of each one's mean over its tokens (GRPO, arXiv
    2402.03300, equation 3); "constant", the sum over replies and `max_tokens`, their maximum length, whatever theirs is
    (Dr. GRPO, arXiv 2503.20783, section 3.2). mask: bool [B, T]. With priorities, float32 [B, T], both means are
    weighted means.
    """
    weights = mask.astype(jnp.float32) if priorities is None else jnp.where(mask, priorities, 0.0)
    lengths = weights.sum(axis=1)
    if loss_mean == "reply":
        return weights / jnp.maximum(lengths, 1.0)[:, None], (lengths > 0).sum(dtype=jnp.float32)
    if loss_mean == "constant":
        return weights, jnp.float32(max_tokens) * (lengths > 0).sum(dtype=jnp.float32)
    return weights, lengths.sum()


def policy_sums(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    clip: float,
    *,
    clip_high: float = 0.0,
    weights: jax.Array | float = 1.0,
) -> PolicySums:
    """Returns sums of max(-A r, -A clip(r, 1 - clip, 1 + clip)), r = exp(logprob - old_logprob), and its statistics.

    This is equation 7 of PPO (arXiv 1707.06347), negated. With `clip_high` above 0 the upper limit is 1 + clip_high
    (DAPO, arXiv 2503.14476, section 3.1).
    logprobs, old_logprobs, advantages: float32 [B, T]; mask: bool [B, T]. weights: float32 [B, T], of tokens' losses.
    """
    log_ratio = jnp.where(mask, logprobs - old_logprobs, 0.0)
    ratio = jnp.exp(log_ratio)
    unclipped, clipped = -advantages * ratio, -advantages * jnp.clip(ratio, 1 - clip, 1 + (clip_high or clip))
    return PolicySums(
        loss=_sum(jnp.maximum(unclipped, clipped) * weights, mask),
        ratio=_sum(ratio, mask),
        clipped=_sum(clipped > unclipped, mask),
        kl=_sum(ratio - 1 - log_ratio, mask),
        tokens=_sum(mask, mask),
    )


def importance_weights(logprobs: jax.Array, sampled_logprobs: jax.Array, mask: jax.Array, cap: float) -> jax.Array:
    """Returns min(p / q, cap) of each token, float32 [B, T]: truncated importance weights.

    p is the probability of the token as the update scores it before its first step, and q the one with which the
    sampler drew it: they differ by rounding, as a bfloat16 decode and a packed forward pass do. The cap bounds the
    variance (Ionides, Truncated importance sampling, 2008). logprobs, sampled_logprobs: float32 [B, T]; mask: bool
    [B, T].
    """
    return jnp.minimum(jnp.exp(jnp.where(mask, logprobs - sampled_logprobs, 0.0)), cap)


def value_sums(values: jax.Array, old_values: jax.Array, returns: jax.Array, mask: jax.Array, clip: float) -> ValueSums:
    """Returns sums of max((V - R)^2, (V' - R)^2) / 2, where V' is V clipped to within `clip` of the old value.

    values, old_values, returns: float32 [B, T]; mask: bool [B, T].
    """
    clipped_values = old_values + jnp.clip(values - old_values, -clip, clip)
    unclipped, clipped = (values - returns) ** 2, (clipped_values - returns) ** 2
    return ValueSums(
        loss=_sum(0.5 * jnp.maximum(unclipped, clipped), mask),
        clipped=_sum(clipped > unclipped, mask),
        tokens=_sum(mask, mask),
    )


def kl_sums(
    logprobs: jax.Array, ref_logprobs: jax.Array, mask: jax.Array, weights: jax.Array | float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Returns two estimates of KL(policy || reference), summed over the tokens of the policy's samples: k1 and k3.

    k1 = log r and k3 = 1 / r - 1 + log r with r = policy / reference; k3 is never negative and varies less. Neither is
    an estimate of the KL if the samples are greedy. logprobs, ref_logprobs: float32 [B, T]; mask: bool [B, T];
    weights: float32 [B, T], of tokens.
    """
    log_ratio = jnp.where(mask, logprobs - ref_logprobs, 0.0)
    return _sum(log_ratio * weights, mask), _sum((jnp.exp(-log_ratio) - 1 + log_ratio) * weights, mask)


def _sum(array: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the sum over the mask; values off the mask may be anything, even NaN."""
    return jnp.where(mask, array.astype(jnp.float32), 0.0).sum()
