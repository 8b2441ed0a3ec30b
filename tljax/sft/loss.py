"""The token-weighted cross entropy of PKT, as sums and counts; whoever has the global batch divides."""

import jax
import jax.numpy as jnp


def weighted_nll(logprobs: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum of weighted negative log-likelihoods, and the sum of weights.

    With weights w / sum(w) per step, the first is the sum of the step losses sum(w * nll) / sum(w) and the second the
    number of steps, so their ratio over the global batch is the mean of step losses (released code: GCELoss.forward at
    batch size 1, averaged over samples).

    logprobs, weights: float32 [..., M]; a position with weight 0 counts nothing. Returns two float32 scalars.
    """
    return -jnp.where(weights > 0, weights * logprobs, 0.0).sum(), weights.sum()


def mean_nll_at(logprobs: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Unweighted negative log-likelihood over some positions: its sum and their number.

    logprobs: float32 [..., M], where: bool [..., M]. Returns two float32 scalars.
    """
    return -jnp.where(where, logprobs, 0.0).sum(), where.sum().astype(jnp.float32)
