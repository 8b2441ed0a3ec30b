"""The device mesh: axes, what each logical axis of an array is sharded over, host rows to global arrays.

Everything runs under `jax.set_mesh(make_mesh(...))`, on one device too: the axes are explicit, so that a sharding is
part of every array's type and an ambiguous one is an error where it is written.
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

# By rising traffic: the last axis has the devices that are nearest to each other.
AXES = ("data", "fsdp", "sequence", "tensor")

# Logical axis of an array -> the mesh axes it is sharded over. Weights are split over "sequence" as well as "fsdp":
# devices that share a row hold the same weights otherwise, and their gradients are summed over both axes in any case,
# so that this saves memory and costs no more than a larger "fsdp" would.
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
    """A mesh over `devices` (default: all) with explicit axes; one axis may be -1 and takes the devices that remain.

    The four sizes are those within a slice, whose devices are linked to each other. The places of "data" are those of
    the first slice, then those of the second, ...: weights are split within a slice and held by each, so that what
    crosses the network between slices is a sum of gradients. slices: 0 takes as many as the devices say, which a TPU's
    do; of others equal parts in the order of their processes stand for slices where more than 1 is asked for.

    Raises InputError where the axes do not multiply to the number of devices, and for other slices than there are.
    """
    devices = list(jax.devices() if devices is None else devices)
    asked = {"data": data, "fsdp": fsdp, "sequence": sequence, "tensor": tensor}
    parts = _slices(devices)
    counted = devices[0].platform == "tpu"
    if counted and slices not in (0, len(parts)):
        raise InputError(
            f"mesh.slices is {slices}, but the devices are of {len(parts)} slice{'s' * (len(parts) > 1)}; use "
            f"mesh.slices={len(parts)}, or 0, which takes what there is"
        )
    slices, shape = resolve_axes(asked, slices or len(parts), len(devices), counted)
    if not counted:
        parts = np.array_split(np.array(devices, object), slices)
    places = [
        # Whole sides of a torus are preferred; where the axes ask for less, sides are split.
        mesh_utils.create_device_mesh([shape[axis] for axis in AXES], list(part), allow_split_physical_axes=True)
        for part in parts
    ]
    return Mesh(np.concatenate(places), AXES, axis_types=(AxisType.Explicit,) * len(AXES))


def _slices(devices: Sequence[Any]) -> list[list[Any]]:
    """Devices by the slice that they say they belong to; those of a GPU's host that call it a slice are not asked."""
    indices = [getattr(device, "slice_index", 0) if device.platform == "tpu" else 0 for device in devices]
    return [[d for d, own in zip(devices, indices, strict=True) if own == index] for index in sorted(set(indices))]


def nearest_mesh(fits: Callable[[Shape], bool]) -> str:
    """The mesh of the current one's devices that fits and is nearest to it, as config fields; "" where none fits.

    fits: whether sizes of AXES will do. "data" stays as it is where anything else can be changed instead.
    """
    mesh = jax.sharding.get_abstract_mesh()
    # Under jit, where only a caller that skipped the checks gets to, the devices are not known.
    try:
        slices = len(_slices(list(jax.sharding.get_mesh().devices.flat)))
    except ValueError:
        slices = 1
    here = dict(mesh.shape)

    def whole(shape: Shape) -> bool:
        return shape["data"] % slices == 0 and fits(shape)

    found = nearest_shape(here, mesh.size, lambda shape: shape["data"] == here["data"] and whole(shape))
    found = found or nearest_shape(here, mesh.size, whole)
    return "" if found is None else format_shape(found | {"data": found["data"] // slices}, here)


def spec(*axes: str | None) -> P:
    """Logical axis names, one per dimension (None: not sharded), as a PartitionSpec.

    Raises ValueError for an unknown name, and where two dimensions would be sharded over one mesh axis.
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
    """Over how many places of the current mesh these logical axes are spread; under jit or not."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape[axis] for axis in jax.tree.leaves(tuple(spec(*axes))))


def batch_shard_count() -> int:
    """Over how many places of the current mesh the rows of a batch are spread."""
    return shard_count("batch")


def weight_shard_count() -> int:
    """In how many parts the current mesh holds the large weights."""
    return shard_count("embed", "heads")


def describe_mesh(mesh: Mesh) -> str:
    """The mesh for people, such as "2 slices x fsdp 8 x sequence 2"; axes of 1 are left out."""
    slices = len(_slices(list(mesh.devices.flat)))
    sizes = dict(mesh.shape)
    sizes["data"] //= slices
    words = [f"{slices} slices"] * (slices > 1) + [f"{axis} {size}" for axis, size in sizes.items() if size > 1]
    return " x ".join(words or ["one device"])


def check_rows(rows: int, what: str = "batch.rows") -> None:
    """Raises InputError unless `rows`, counted over all processes, divide evenly over the current mesh."""
    places = batch_shard_count()
    if rows < 1 or rows % places:
        above = max(1, math.ceil(rows / places)) * places
        near = f"{above - places} or {above}" if above > places else f"{above}"
        tensor = shard_count("heads")
        # Several devices to a row do for any model; more of "tensor" may not.
        other = nearest_mesh(lambda m: m["tensor"] == tensor and max(1, rows) % (m["data"] * m["fsdp"]) == 0)
        raise InputError(
            f"{what} is {rows}, which does not divide over the data x fsdp = {places} places of the mesh; "
            f"use a multiple of {places}, such as {near}, or the mesh {other or 'of another number of devices'}"
        )


def sequence_parts() -> int:
    """Into how many equal parts the current mesh cuts the positions of a row; each device of "sequence" has two."""
    places = shard_count("positions")
    return 1 if places == 1 else 2 * places


def row_length_multiple(round_to: int) -> int:
    """What a row's length must be a multiple of: round_to, and the parts that the current mesh cuts it into."""
    return math.lcm(round_to, sequence_parts())


def check_row_length(tokens: int, what: str = "batch.tokens") -> None:
    """Raises InputError unless rows of `tokens` divide over the current mesh's "sequence"."""
    parts = sequence_parts()
    if tokens % parts:
        above = math.ceil(tokens / parts) * parts
        near = f"{above - parts} or {above}" if above > parts else f"{above}"
        raise InputError(
            f"{what} is {tokens}, which does not divide into the 2 x sequence = {parts} parts that the mesh cuts rows "
            f"into; use a multiple of {parts}, such as {near}, or another mesh.sequence"
        )


def check_initialized() -> None:
    """Raises InputError where the run has several processes that do not know each other (processes.py)."""
    if jax.process_count() > 1 and not processes.is_multiprocess():
        raise InputError(
            "several processes run that were not joined; start one alone, or give config.processes where there is one"
        )


def process_rows(rows: int) -> np.ndarray:
    """Which rows of a global batch of `rows` this process must build: int64 indices, ascending.

    Processes whose devices differ only along "sequence" or "tensor" own the same rows.
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
    blocks = len(process_rows(batch_shard_count()))
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


def gather_to_host(tree: Any) -> Any:
    """Arrays on the devices of all processes as whole NumPy arrays on each of them; all of them must call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    processes.report_progress("an exchange of results")
    return multihost_utils.process_allgather(tree, tiled=True)


@jax.jit
def _largest(numbers: jax.Array) -> jax.Array:
    return numbers.max()


def max_over_processes(number: int) -> jax.Array:
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
