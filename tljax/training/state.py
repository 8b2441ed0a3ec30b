"""The state that a training step passes from update to update, and the accumulation of gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct


@struct.dataclass
class TrainState:
    """A model's training state on the devices.

    step: int32 []; the number of updates made so far, so also the index (from 0) of the update that comes next.
    params: nested dict of arrays. opt_state: the optimizer's state; its moments are sharded as params.
    """

    step: Any
    params: Any
    opt_state: optax.OptState


def init_state(params: Any, tx: optax.GradientTransformation) -> TrainState:
    """Returns the state of update 0 on the mesh of the params; no array ever exists unsharded."""
    abstract = abstract_state(params, tx)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, (abstract.step, abstract.opt_state))
    step, opt_state = jax.jit(lambda p: (jnp.zeros((), jnp.int32), tx.init(p)), out_shardings=shardings)(params)
    return TrainState(step=step, params=params, opt_state=opt_state)


def abstract_state(abstract_params: Any, tx: optax.GradientTransformation) -> TrainState:
    """Returns the state's shapes, dtypes and shardings (ShapeDtypeStructs), onto which a checkpoint is restored.

    abstract_params: arrays or ShapeDtypeStructs, each with its NamedSharding. Moments take the sharding of their
    param, all other leaves are replicated over the params' mesh.

    jax.eval_shape alone is not enough: its shardings name an abstract mesh inside jax.set_mesh, and are None outside
    (jax 0.12) and for step counts (always), so that Orbax would restore the saved layout.
    """
    params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=p.sharding), abstract_params)
    mesh = jax.tree.leaves(params)[0].sharding.mesh
    replicated = jax.NamedSharding(mesh, jax.P())
    bare = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    opt_state = optax.tree.map_params(
        tx,
        lambda leaf, param: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=param.sharding),
        jax.eval_shape(tx.init, bare),
        params,
        transform_non_params=lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated),
    )
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated)
    return TrainState(step=step, params=params, opt_state=opt_state)


def accumulate_gradients(
    loss_fn: Callable[[Any, Any], tuple[jax.Array, Any]], params: Any, batch: Any
) -> tuple[Any, Any]:
    """Returns the gradients and the auxiliary output of `loss_fn(params, part)`, summed over the parts of a batch.

    batch: arrays with a leading axis of parts, which are computed one after another. Sums have the params' dtype.
    """
    gradient = jax.grad(loss_fn, has_aux=True)
    first = jax.tree.map(lambda x: x[0], batch)
    if jax.tree.leaves(batch)[0].shape[0] == 1:
        return gradient(params, first)

    def add(total, part):
        return jax.tree.map(jnp.add, total, gradient(params, part)), None

    _, sums = jax.eval_shape(gradient, params, first)
    zeros = jax.tree.map(jnp.zeros_like, params), jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums)
    total, _ = jax.lax.scan(add, zeros, batch)
    return total
