"""The critic: a trunk without the language head, and a linear map from a hidden state to a value."""

from typing import Any

import jax
import jax.numpy as jnp

from tljax.distributed.mesh import spec
from tljax.model import llama


def init_value_head(c: llama.LlamaConfig) -> jax.Array:
    """Returns a value head float32 [D] of zeros: all first values are 0, so no first error is large."""
    return jnp.zeros((c.d_model,), jnp.float32, out_sharding=spec(None))


def abstract_value_head(c: llama.LlamaConfig) -> jax.ShapeDtypeStruct:
    """Returns shape, dtype and sharding of the value head on the current mesh, for restoring it."""
    sharding = jax.NamedSharding(jax.sharding.get_mesh(), spec(None))
    return jax.ShapeDtypeStruct((c.d_model,), jnp.float32, sharding=sharding)


def drop_lm_head(params: llama.Params) -> dict[str, Any]:
    """Returns the trunk of a language model, which a critic starts from. Tied embeddings belong to the trunk."""
    return {name: weight for name, weight in params.items() if name != "lm_head"}


def predict_values(head: jax.Array, hidden: jax.Array) -> jax.Array:
    """Returns values float32 [B, M] of hidden states [B, M, D] with head float32 [D]. Sums in float32."""
    own = jax.typeof(hidden).sharding.spec
    return jnp.einsum("BMD,D->BM", hidden.astype(jnp.float32), head, out_sharding=jax.P(*own[:2]))
