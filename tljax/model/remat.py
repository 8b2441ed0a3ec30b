"""Rematerialization: the choice of results that the forward pass keeps for the backward pass."""

from collections.abc import Callable
from typing import Any

import jax

from tljax.core.errors import InputError

# The name by which policies of jax.checkpoint know the results that the backward pass of attention needs.
CHECKPOINT_NAME = "attention"

REMATS = ("none", "dots", "attention", "full")  # ordered from the least to the most recomputation


def remat_policy(name: str) -> Callable[..., Any] | None:
    """Returns the policy of jax.checkpoint for a layer; None is the policy that keeps only the layer's input.

    "full" keeps the layer's input, "attention" also the result of attention, and "dots" also the result of every weight
    matmul. "none" keeps everything and has no policy: `llama.forward` then does not call jax.checkpoint. Raises
    InputError for an unknown name.
    """
    policies = {
        "dots": jax.checkpoint_policies.save_from_both_policies(
            jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
            jax.checkpoint_policies.save_only_these_names(CHECKPOINT_NAME),
        ),
        "attention": jax.checkpoint_policies.save_only_these_names(CHECKPOINT_NAME),
        "full": None,
    }
    if name not in policies:
        raise InputError(f"remat is {name!r}; allowed are {', '.join(REMATS)}")
    return policies[name]
