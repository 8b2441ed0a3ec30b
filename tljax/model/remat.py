"""What a training forward keeps of each layer for its backward pass."""

from collections.abc import Callable
from typing import Any

import jax

from tljax.core.errors import InputError
from tljax.model.attention import CHECKPOINT_NAME


def remat_policy(name: str) -> Callable[..., Any] | None:
    """What jax.checkpoint keeps of a layer for the backward pass; None keeps its input alone.

    "full": the layer's input; "attention": also what attention gave, so that it is not computed again; "dots": also
    every weight matmul's result. ("none", which keeps everything, has no policy: see `forward`.)
    """
    policies = {
        "full": None,
        "dots": jax.checkpoint_policies.save_from_both_policies(
            jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
            jax.checkpoint_policies.save_only_these_names(CHECKPOINT_NAME),
        ),
        "attention": jax.checkpoint_policies.save_only_these_names(CHECKPOINT_NAME),
    }
    if name not in policies:
        raise InputError(f"remat is {name!r}; allowed are none, {', '.join(policies)}")
    return policies[name]
