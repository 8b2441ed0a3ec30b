"""What a run compiles and keeps on the devices: shapes alone, no weight is read."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from tljax.distributed.mesh import make_mesh, spec
from tljax.model import cost, llama
from tljax.training.state import TrainState, abstract_state

UPDATES = 1000  # of the run whose schedule is compiled; its number changes nothing else


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program of a run.

    flops: of the model, over all devices; again: of them, what rematerialisation computes a second time. trained:
    shapes that it takes gradients of, one after the other. inputs: its arguments that do not stay on the devices.
    """

    name: str
    lower: Callable[[], Any]
    flops: float
    again: float
    trained: tuple[Any, ...]
    inputs: Any


@dataclasses.dataclass(frozen=True)
class Work:
    """A run's programs, and the arrays that stay on the devices from the first update to the last, by name."""

    programs: tuple[Program, ...]
    kept: dict[str, Any]
    says: str


def bytes_on_device(tree: Any) -> int:
    """Bytes that one device holds of ShapeDtypeStructs with shardings."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def array(shape: tuple[int, ...], dtype: Any, *axes: str | None) -> Any:
    """The ShapeDtypeStruct of an array on the current mesh; without axes, the whole of it on every device."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.NamedSharding(jax.sharding.get_mesh(), spec(*axes)))


def state_of(params: Any, tx: Any) -> TrainState:
    """The state of an optimizer; on a device of this machine, as optax makes counts, which a topology's cannot hold."""
    with jax.set_mesh(make_mesh(1, 1, 1, devices=jax.devices("cpu")[:1])):
        return abstract_state(params, tx)


def recomputed(c: llama.LlamaConfig, context: float, remat: str) -> float:
    """Operations a token that the backward pass does over again, by what `remat` keeps of a layer; the head's also."""
    head = 2.0 * c.d_model * c.vocab_size
    attention = 2.0 * c.num_layers * c.num_heads * c.head_dim * context
    layers = cost.flops_per_token(c, context) / 3 - head
    return head + {"none": 0.0, "dots": 0.0, "attention": layers - attention, "full": layers}[remat]
