"""The token-weighted cross entropy of PKT, as sums and counts; the caller divides them once, over the global batch."""

import jax
import jax.numpy as jnp


def weighted_nll(logprobs: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the sum of weighted negative log-likelihoods and the sum of weights, two float32 scalars.

    With weights w / sum(w) per step, the first is the sum of the step losses sum(w * nll) / sum(w) and the second the
    number of steps, so their ratio over the global batch is the mean of step losses (released code: GCELoss.forward at
    batch size 1, averaged over samples).

    logprobs, weights: float32 [..., M]; a position with weight 0 does not count, whatever its logprob is.
    """
    return -jnp.where(weights > 0, weights * logprobs, 0.0).sum(), weights.sum()


def masked_nll(logprobs: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the sum of unweighted negative log-likelihoods over a mask, and the number of its positions.

    logprobs: float32 [..., M]; mask: bool [..., M], True at positions that count. Both results are float32 scalars.
    """
    return -jnp.where(mask, logprobs, 0.0).sum(), mask.sum().astype(jnp.float32)
