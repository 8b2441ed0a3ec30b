"""The programs that a run compiles and the arrays that stay on the devices, as shapes: no weight is read."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from tljax.distributed.mesh import make_mesh, spec
from tljax.model import cost, llama
from tljax.training.state import TrainState, abstract_state

# The updates of the run whose learning rate schedule is compiled. No figure of a plan depends on it.
NUM_UPDATES = 1000


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program of a run.

    flops: floating-point operations of the model in one run, over all devices. recomputed_flops: those that
    rematerialization adds. trained_params: the shapes of which it computes gradients, one after the other. inputs: the
    shapes of its arguments that do not stay on the devices.
    """

    name: str
    lower: Callable[[], Any]
    flops: float
    recomputed_flops: float
    trained_params: tuple[Any, ...]
    inputs: Any


@dataclasses.dataclass(frozen=True)
class RunPrograms:
    """The programs of a run, the one that trains first.

    resident: the shapes of the arrays that stay on the devices from the first update to the last, by name.
    description: the rows and tokens of the programs, for people.
    """

    programs: tuple[Program, ...]
    resident: dict[str, Any]
    description: str


def bytes_on_device(tree: Any) -> int:
    """Returns the bytes that one device holds of ShapeDtypeStructs with shardings."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def abstract_array(shape: tuple[int, ...], dtype: Any, *axes: str | None) -> Any:
    """Returns the ShapeDtypeStruct of an array on the current mesh.

    axes: the logical axis of each dimension; without any, every device holds the whole array.
    """
    return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.NamedSharding(jax.sharding.get_mesh(), spec(*axes)))


def abstract_train_state(params: Any, tx: Any) -> TrainState:
    """Returns the shapes of the state of an optimizer.

    They are made on a device of this machine: optax makes its counters as arrays, and a topology's devices hold none.
    """
    with jax.set_mesh(make_mesh(1, 1, 1, devices=jax.devices("cpu")[:1])):
        return abstract_state(params, tx)


def recomputed_flops_per_token(c: llama.LlamaConfig, context: float, remat: str) -> float:
    """Returns the floating-point operations per token that the backward pass repeats.

    They are those of the head, and those of a layer whose results `remat` does not save. context: tokens of a segment.
    """
    head = 2.0 * c.d_model * c.vocab_size
    attention = 2.0 * c.num_layers * c.num_heads * c.head_dim * context
    layers = cost.flops_per_token(c, context) / 3 - head
    return head + {"none": 0.0, "dots": 0.0, "attention": layers - attention, "full": layers}[remat]
