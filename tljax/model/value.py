"""The critic: a trunk without language head, and one linear map from a hidden state to a value."""

from typing import Any

import jax
import jax.numpy as jnp

from tljax.distributed.mesh import spec
from tljax.model import llama


def init_value_head(c: llama.LlamaConfig) -> jax.Array:
    """float32 [D] of zeros: a first value is 0 whatever the trunk says, and no first error is large."""
    return jnp.zeros((c.d_model,), jnp.float32, out_sharding=spec(None))


def abstract_value_head(c: llama.LlamaConfig) -> jax.ShapeDtypeStruct:
    """What `init_value_head` gives, for whoever restores it on the current mesh."""
    sharding = jax.NamedSharding(jax.sharding.get_mesh(), spec(None))
    return jax.ShapeDtypeStruct((c.d_model,), jnp.float32, sharding=sharding)


def drop_lm_head(params: llama.Params) -> dict[str, Any]:
    """The trunk alone: what a critic keeps of a language model. Tied embeddings are part of the trunk."""
    return {name: weight for name, weight in params.items() if name != "lm_head"}


def predict_values(head: jax.Array, hidden: jax.Array) -> jax.Array:
    """Values float32 [B, M] of hidden states [B, M, D], with head float32 [D]; summed in float32."""
    own = jax.typeof(hidden).sharding.spec
    return jnp.einsum("BMD,D->BM", hidden.astype(jnp.float32), head, out_sharding=jax.P(*own[:2]))
