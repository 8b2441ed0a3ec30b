"""The device mesh: axes, what each logical axis of an array is sharded over, host rows to global arrays.

Everything runs under `jax.set_mesh(make_mesh(...))`, on one device too: the axes are explicit, so that a sharding is
part of every array's type and an ambiguous one is an error where it is written.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding

from tljax.core import processes
from tljax.core.errors import InputError

P = jax.P

AXES = ("data", "fsdp", "tensor")

# Logical axis of an array -> the mesh axes it is sharded over.
RULES: dict[str, str | tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
}


def _nearest(wanted: Sequence[int], devices: int) -> tuple[int, int, int]:
    """The mesh of `devices` places whose axis sizes differ from the wanted ones by the smallest factors."""
    divisors = [n for n in range(1, devices + 1) if devices % n == 0]
    shapes = [(a, b, devices // (a * b)) for a in divisors for b in divisors if devices % (a * b) == 0]
    return min(shapes, key=lambda shape: sum(abs(math.log(n / w)) for n, w in zip(shape, wanted, strict=True)))


def make_mesh(data: int = 1, fsdp: int = -1, tensor: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over `devices` (default: all) with explicit axes; one axis may be -1 and takes the devices that remain.

    Raises InputError where the axes do not multiply to the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    sizes = [data, fsdp, tensor]
    asked = ", ".join(f"{name}={size}" for name, size in zip(AXES, sizes, strict=True))
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
        raise InputError(f"mesh {asked}: every axis is a positive number, and at most one is -1 (takes what remains)")
    given = math.prod(size for size in sizes if size != -1)
    shape = [max(1, count // given) if size == -1 else size for size in sizes]
    if math.prod(shape) != count:
        possible = ", ".join(f"{name}={size}" for name, size in zip(AXES, _nearest(shape, count), strict=True))
        raise InputError(
            f"mesh {asked} does not fit {count} device{'s' * (count > 1)}: the axes must multiply to {count}; "
            f"the nearest possible mesh is {possible}"
        )
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Explicit,) * len(AXES), devices=devices)


def spec(*axes: str | None) -> P:
    """Logical axis names, one per dimension (None: not sharded), as a PartitionSpec.

    Raises ValueError for an unknown name, and where two dimensions would be sharded over one mesh axis.
    """
    unknown = [axis for axis in axes if axis is not None and axis not in RULES]
    if unknown:
        raise ValueError(f"unknown logical axes {unknown}; known are {list(RULES)}")
    mesh_axes = [None if axis is None else RULES[axis] for axis in axes]
    flat = jax.tree.leaves(mesh_axes)
    if len(flat) != len(set(flat)):
        raise ValueError(f"logical axes {axes} use a mesh axis twice: {mesh_axes}")
    return P(*mesh_axes)


def batch_shards() -> int:
    """Over how many places of the current mesh the rows of a batch are spread."""
    shape = jax.sharding.get_mesh().shape
    return math.prod(shape[axis] for axis in RULES["batch"])


def check_rows(rows: int, what: str = "batch.rows") -> None:
    """Raises InputError unless `rows`, counted over all processes, divide evenly over the current mesh."""
    shards = batch_shards()
    if rows < 1 or rows % shards:
        above = max(1, math.ceil(rows / shards)) * shards
        nearest = f"{above - shards} or {above}" if above > shards else f"{above}"
        raise InputError(
            f"{what} is {rows}, which does not divide over the data x fsdp = {shards} places of the mesh; "
            f"use a multiple of {shards}, such as {nearest}, or another mesh"
        )


def check_one_process() -> None:
    """Raises InputError where the run has several processes."""
    if jax.process_count() > 1:
        raise InputError(
            "this run has several processes, and runs of this kind are of one process so far; start it on one host"
        )


def check_joined() -> None:
    """Raises InputError where the run has several processes that do not know each other; see core/processes.py."""
    if not processes.several():
        check_one_process()


def process_rows(rows: int) -> np.ndarray:
    """Which rows of a global batch of `rows` this process must build: int64 indices, ascending.

    Processes whose devices differ only along "tensor" own the same rows.
    """
    check_rows(rows)
    sharding = NamedSharding(jax.sharding.get_mesh(), spec("batch"))
    owned = [np.arange(rows)[index] for index in sharding.addressable_devices_indices_map((rows,)).values()]
    return np.unique(np.concatenate(owned))


def global_batch(host_batch: Mapping[str, np.ndarray], *, accumulate: bool = False) -> dict[str, jax.Array]:
    """This process's rows of every array, in the order of `process_rows`, as global arrays on the current mesh.

    Arrays are [B, ...] with rows first, or [A, B, ...] with `accumulate`: micro-batches first, rows second.
    Raises InputError where the arrays differ in rows, or the rows do not divide over this process's devices.
    """
    mesh, axis = jax.sharding.get_mesh(), int(accumulate)
    counts = {name: array.shape[axis] for name, array in host_batch.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"the arrays of a batch have different numbers of rows: {counts}")
    # As many distinct row blocks as this process holds of `shards` ones; each must get the same number of rows.
    blocks = len(process_rows(batch_shards()))
    for name, rows in counts.items():
        if rows < 1 or rows % blocks:
            raise InputError(
                f"a batch has {rows} rows of {name} for the {blocks} data x fsdp places of this process; "
                f"use a multiple of {blocks}"
            )

    def place(array: np.ndarray) -> jax.Array:
        axes = (None,) * axis + ("batch",) + (None,) * (array.ndim - axis - 1)
        return jax.make_array_from_process_local_data(NamedSharding(mesh, spec(*axes)), array)

    return {name: place(array) for name, array in host_batch.items()}


def to_host(tree: Any) -> Any:
    """Arrays on the devices of all processes as whole NumPy arrays on each of them; all of them must call it."""
    return multihost_utils.process_allgather(tree, tiled=True) if jax.process_count() > 1 else jax.device_get(tree)


@jax.jit
def _largest(numbers: jax.Array) -> jax.Array:
    return numbers.max()


def largest_of_processes(number: int) -> jax.Array:
    """The largest of what the processes of the current mesh give, an int32 scalar that all of them can read.

    All must call it. It returns at once; whoever reads the scalar later does not hold up the devices.
    """
    mesh = jax.sharding.get_mesh()
    everywhere = NamedSharding(mesh, P(AXES))
    return _largest(jax.make_array_from_callback((mesh.size,), everywhere, lambda _: np.full(1, number, np.int32)))


def device_bytes(device: Any) -> int | None:
    """Memory of one device, None where it is not known; CPU devices share the machine's."""
    if device.platform == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // jax.local_device_count()
    return (device.memory_stats() or {}).get("bytes_limit")
