"""Who is who: actor, critic and reference, from what is trained and what is frozen, in two memory plans.

`full`: actor and critic have all their weights to themselves, the reference is a frozen copy of the first actor.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tljax.model import llama, source
from tljax.model.value import abstract_value_head, init_value_head, without_head


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which weights a role is made of; has_critic False leaves the critic out."""

    config: llama.LlamaConfig
    has_critic: bool

    @property
    def remedy(self) -> str:
        return "use more devices (config.mesh.fsdp, mesh.tensor) or a smaller model"

    def count(self) -> int:
        return llama.count_weights(self.config)

    def sizes(self) -> list[tuple[str, int, int]]:
        """Each role's name, numbers that are trained, numbers that are frozen."""
        count = self.count()
        head = 0 if self.config.tie_embeddings else self.config.vocab_size * self.config.d_model
        critic = [("critic", count - head + self.config.d_model, 0)] if self.has_critic else []
        return [("actor", count, 0), *critic, ("reference", 0, count)]

    def load(self, model: source.Model, dtype: str) -> tuple[llama.Params, Any, Any]:
        """Frozen weights in `dtype`, and first weights of actor and critic in float32."""
        params = source.load_params(model, jnp.float32, seed=0)
        frozen = jax.jit(lambda p: jax.tree.map(lambda x: x.astype(dtype), p))(params)
        return frozen, params, self._critic(params)

    def _critic(self, params: llama.Params) -> Any:
        if not self.has_critic:
            return {}
        # Copies: actor and critic are donated apart.
        trunk = jax.jit(lambda p: jax.tree.map(jnp.copy, p))(without_head(params))
        return {"trunk": trunk, "head": jax.jit(init_value_head, static_argnums=0)(self.config)}

    def abstract(self) -> tuple[Any, Any]:
        """Shapes, dtypes and shardings of what actor and critic train, on the current mesh."""
        params = llama.abstract_params(self.config, jnp.float32)
        if not self.has_critic:
            return params, {}
        return params, {"trunk": without_head(params), "head": abstract_value_head(self.config)}

    def actor(self, frozen: llama.Params, params: Any) -> llama.Params:
        return params

    def reference(self, frozen: llama.Params) -> llama.Params:
        return frozen

    def critic(self, frozen: llama.Params, critic: Any) -> tuple[llama.Params, jax.Array]:
        """The critic's trunk and value head."""
        return critic["trunk"], critic["head"]
