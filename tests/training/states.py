"""Small states of a training run, and checkpoints of them on a disk."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.training.state import TrainState, abstract_state, init_state

P = jax.P
SPECS = {"embed": P("tensor", "fsdp"), "layers": {"attn_norm": P(None, None), "q": P(None, "fsdp", "tensor")}}
TX = optax.adamw(1e-2)


def abstract(mesh_shape, width=8, dtype=jnp.float32, tx=TX, **more) -> TrainState:
    mesh = jax.make_mesh(mesh_shape, ("data", "fsdp", "tensor"), devices=jax.devices()[: int(np.prod(mesh_shape))])
    shapes = {"embed": (16, width), "layers": {"attn_norm": (2, width), "q": (2, width, 8)}}

    def leaf(shape, spec):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.NamedSharding(mesh, spec))

    params = jax.tree.map(leaf, shapes, SPECS, is_leaf=lambda x: isinstance(x, tuple))
    return abstract_state(params | {name: leaf(shape, P()) for name, shape in more.items()}, tx)


def random_state(want: TrainState, seed: int) -> TrainState:
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda a: jax.device_put(rng.normal(size=a.shape).astype(np.float32), a.sharding), want.params
    )
    with jax.set_mesh(want.step.sharding.mesh):
        state = init_state(params, TX)
        updates, opt_state = jax.jit(TX.update)(params, state.opt_state, params)
        params = jax.jit(optax.apply_updates)(params, updates)
        return TrainState(step=state.step + seed, params=params, opt_state=opt_state)


def bits(tree) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def committed(folder) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.isdigit())
