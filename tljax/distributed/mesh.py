"""The device mesh: its axes, the sharding of each logical axis of an array, and host rows as global arrays.

Everything runs under `jax.set_mesh(make_mesh(...))`, on one device too: the axes are explicit, so that a sharding is
part of every array's type, and an ambiguous sharding is an error at the line that makes it.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding

from tljax.core.errors import InputError
from tljax.distributed import processes
from tljax.distributed.mesh_shape import Shape, format_shape, nearest_shape, resolve_axes

P = jax.P

# In the order of rising traffic: the last axis has the devices that are nearest to each other.
AXES = ("data", "fsdp", "sequence", "tensor")

# Logical axis of an array -> the mesh axes it is sharded over. Weights are split over "sequence" as well as "fsdp":
# devices that share a row would hold the same weights otherwise, and their gradients are summed over both axes in any
# case, so that this saves memory and costs no more than a larger "fsdp" would.
LOGICAL_AXIS_RULES: dict[str, str | tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "positions": "sequence",
    "embed": ("fsdp", "sequence"),
    "heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
}


def make_mesh(
    data: int = 1,
    fsdp: int = -1,
    tensor: int = 1,
    sequence: int = 1,
    slices: int = 0,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """Returns a mesh over `devices` (default: all) with explicit axes; one axis may be -1: it takes what remains.

    The four sizes hold within a slice, whose devices are linked to each other. "data" runs over the first slice, then
    over the second, and so on: weights are split within a slice, and every slice holds all of them, so that only a sum
    of gradients crosses the network between slices. slices: 0 takes the number of slices that TPU devices report; GPU
    and CPU devices report none, and are split into `slices` equal parts, in the order of their processes.

    Raises InputError if the axes do not multiply to the number of devices, or if TPUs have another number of slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    _avoid_stored_collectives(devices)
    requested = {"data": data, "fsdp": fsdp, "sequence": sequence, "tensor": tensor}
    parts = _slices(devices)
    are_fixed = devices[0].platform == "tpu"
    if are_fixed and slices not in (0, len(parts)):
        raise InputError(
            f"mesh.slices is {slices}, but the devices are of {len(parts)} slice{'s' * (len(parts) > 1)}; use "
            f"mesh.slices={len(parts)}, or 0, which takes what there is"
        )
    slices, shape = resolve_axes(requested, slices or len(parts), len(devices), are_fixed)
    if not are_fixed:
        parts = np.array_split(np.array(devices, object), slices)
    device_arrays = [
        # Entire sides of a torus are preferred; sides are split if the axes need less.
        mesh_utils.create_device_mesh([shape[axis] for axis in AXES], list(part), allow_split_physical_axes=True)
        for part in parts
    ]
    return Mesh(np.concatenate(device_arrays), AXES, axis_types=(AxisType.Explicit,) * len(AXES))


def _avoid_stored_collectives(devices: Sequence[Any]) -> None:
    """Turns the cache of compiled programs off for several CPU devices, before anything is compiled.

    From jax 0.12 on, programs that XLA's CPU backend loads from a cache may run their collectives in another order on
    each device, which then wait for each other and abort after 40 s. One device has no collectives.
    """
    if devices[0].platform == "cpu" and len(devices) > 1 and jax.__version_info__ >= (0, 11):
        jax.config.update("jax_enable_compilation_cache", False)


def _slices(devices: Sequence[Any]) -> list[list[Any]]:
    """Returns the devices of each slice. Only TPUs have slices: a GPU reports its host as one, which is ignored."""
    indices = [getattr(device, "slice_index", 0) if device.platform == "tpu" else 0 for device in devices]
    return [[d for d, i in zip(devices, indices, strict=True) if i == index] for index in sorted(set(indices))]


def nearest_mesh(fits: Callable[[Shape], bool]) -> str:
    """Returns, as config fields, the nearest mesh over the current one's devices that fits; "" if none fits.

    fits: returns True if a mesh of these sizes of AXES will do. "data" changes only if no change of other axes will do.
    """
    mesh = jax.sharding.get_abstract_mesh()
    # Under jit the devices are not known; only a caller that skipped the checks gets here then.
    try:
        slices = len(_slices(list(jax.sharding.get_mesh().devices.flat)))
    except ValueError:
        slices = 1
    current = dict(mesh.shape)

    def fits_slices(shape: Shape) -> bool:
        return shape["data"] % slices == 0 and fits(shape)

    nearest = nearest_shape(current, mesh.size, lambda shape: shape["data"] == current["data"] and fits_slices(shape))
    nearest = nearest or nearest_shape(current, mesh.size, fits_slices)
    return "" if nearest is None else format_shape(nearest | {"data": nearest["data"] // slices}, current)


def spec(*axes: str | None) -> P:
    """Returns the PartitionSpec of logical axis names, one per dimension (None: not sharded).

    Raises ValueError for an unknown name, and if two dimensions would be sharded over one mesh axis.
    """
    unknown = [axis for axis in axes if axis is not None and axis not in LOGICAL_AXIS_RULES]
    if unknown:
        raise ValueError(f"unknown logical axes {unknown}; known are {list(LOGICAL_AXIS_RULES)}")
    mesh_axes = [None if axis is None else LOGICAL_AXIS_RULES[axis] for axis in axes]
    flat = jax.tree.leaves(mesh_axes)
    if len(flat) != len(set(flat)):
        raise ValueError(f"logical axes {axes} use a mesh axis twice: {mesh_axes}")
    return P(*mesh_axes)


def shard_count(*axes: str) -> int:
    """Returns the number of shards of these logical axes on the current mesh, also under jit."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape[axis] for axis in jax.tree.leaves(tuple(spec(*axes))))


def batch_shard_count() -> int:
    """Returns the number of shards of a batch's rows on the current mesh."""
    return shard_count("batch")


def weight_shard_count() -> int:
    """Returns the number of shards of the large weights on the current mesh."""
    return shard_count("embed", "heads")


def describe_mesh(mesh: Mesh) -> str:
    """Returns a text such as "2 slices x fsdp 8 x sequence 2"; axes of size 1 are left out."""
    slices = len(_slices(list(mesh.devices.flat)))
    sizes = dict(mesh.shape)
    sizes["data"] //= slices
    words = [f"{slices} slices"] * (slices > 1) + [f"{axis} {size}" for axis, size in sizes.items() if size > 1]
    return " x ".join(words or ["one device"])


def check_rows(rows: int, field: str = "batch.rows") -> None:
    """Raises InputError unless `rows`, counted over all processes, divide evenly over the current mesh."""
    shards = batch_shard_count()
    if rows < 1 or rows % shards:
        above = max(1, math.ceil(rows / shards)) * shards
        near = f"{above - shards} or {above}" if above > shards else f"{above}"
        tensor = shard_count("heads")
        # Any model runs with several devices per row, but not with any size of "tensor".
        nearest = nearest_mesh(lambda m: m["tensor"] == tensor and max(1, rows) % (m["data"] * m["fsdp"]) == 0)
        raise InputError(
            f"{field} is {rows}, which does not divide over the data x fsdp = {shards} places of the mesh; "
            f"use a multiple of {shards}, such as {near}, or the mesh {nearest or 'of another number of devices'}"
        )


def sequence_parts() -> int:
    """Returns the number of equal parts that the current mesh cuts a row into; each device of "sequence" has two."""
    shards = shard_count("positions")
    return 1 if shards == 1 else 2 * shards


def row_length_multiple(round_to: int) -> int:
    """Returns the number that a row's length must be a multiple of: of round_to, and of the mesh's parts of a row."""
    return math.lcm(round_to, sequence_parts())


def check_row_length(tokens: int, field: str = "batch.tokens") -> None:
    """Raises InputError unless rows of `tokens` divide over the current mesh's "sequence"."""
    parts = sequence_parts()
    if tokens % parts:
        above = math.ceil(tokens / parts) * parts
        near = f"{above - parts} or {above}" if above > parts else f"{above}"
        raise InputError(
            f"{field} is {tokens}, which does not divide into the 2 x sequence = {parts} parts that the mesh cuts rows "
            f"into; use a multiple of {parts}, such as {near}, or another mesh.sequence"
        )


def check_initialized() -> None:
    """Raises InputError if JAX has several processes that processes.initialized() has not joined."""
    if jax.process_count() > 1 and not processes.is_multiprocess():
        raise InputError(
            "several processes run that were not joined; start one alone, or set config.processes if the command has it"
        )


def process_rows(rows: int) -> np.ndarray:
    """Returns the rows of a global batch of `rows` that this process must build: int64 indices, ascending.

    Processes whose devices differ only along "sequence" or "tensor" own the same rows.
    """
    check_rows(rows)
    sharding = NamedSharding(jax.sharding.get_mesh(), spec("batch"))
    owned = [np.arange(rows)[index] for index in sharding.addressable_devices_indices_map((rows,)).values()]
    return np.unique(np.concatenate(owned))


def global_batch(host_batch: Mapping[str, np.ndarray], *, accumulate: bool = False) -> dict[str, jax.Array]:
    """Returns global arrays on the current mesh, made of every process's rows in the order of `process_rows`.

    Arrays are [B, ...] with rows first, or [A, B, ...] with `accumulate`: micro-batches first, rows second.
    Raises InputError if the arrays differ in rows, or if the rows do not divide over this process's devices.
    """
    mesh, axis = jax.sharding.get_mesh(), int(accumulate)
    counts = {name: array.shape[axis] for name, array in host_batch.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"the arrays of a batch have different numbers of rows: {counts}")
    # This process holds so many distinct shards of rows; each must get the same number of rows.
    blocks = len(process_rows(batch_shard_count()))
    for name, rows in counts.items():
        if rows < 1 or rows % blocks:
            raise InputError(
                f"a batch has {rows} rows of {name} for the {blocks} data x fsdp places of this process; "
                f"use a multiple of {blocks}"
            )

    def to_global(array: np.ndarray) -> jax.Array:
        axes = (None,) * axis + ("batch",) + (None,) * (array.ndim - axis - 1)
        return jax.make_array_from_process_local_data(NamedSharding(mesh, spec(*axes)), array)

    return {name: to_global(array) for name, array in host_batch.items()}


def gather_to_host(tree: Any) -> Any:
    """Returns arrays of all processes' devices as full NumPy arrays on each process; all processes must call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    processes.report_progress("an exchange of results")
    return multihost_utils.process_allgather(tree, tiled=True)


@jax.jit
def _max(numbers: jax.Array) -> jax.Array:
    return numbers.max()


def max_over_processes(number: int) -> jax.Array:
    """Returns the largest `number` of all processes of the current mesh, an int32 scalar that each can read.

    All processes must call it. It returns at once; a caller that reads the scalar later does not hold up the devices.
    """
    mesh = jax.sharding.get_mesh()
    everywhere = NamedSharding(mesh, P(AXES))
    return _max(jax.make_array_from_callback((mesh.size,), everywhere, lambda _: np.full(1, number, np.int32)))


def mesh_platform() -> str:
    """Returns the platform of the current mesh, "cpu", "gpu" or "tpu", which may differ from that of this host."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform = jax.default_backend() if device is None else device.platform
    return "gpu" if platform in ("cuda", "rocm") else platform


def device_bytes(device: Any) -> int | None:
    """Returns the bytes of memory of one device, None if unknown; CPU devices share the machine's memory."""
    if device.platform == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // jax.local_device_count()
    return (device.memory_stats() or {}).get("bytes_limit")
