"""The devices that a plan is made for: TPU slices as libtpu knows them, or GPUs by their number and memory."""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax

from tljax.core import gpu_memory
from tljax.core.errors import InputError
from tljax.training.mfu import GPU_PEAKS, TPU_PEAKS

GIB = 1024**3
MAX_SLICES = 256
MAX_GPUS = 1024
EXAMPLES = "such as v5e:4x4, v4:2x2x4, v5p:2x2x2, v6e:2x4, or gpu:8x80GB"


@dataclasses.dataclass(frozen=True, slots=True)
class Chip:
    """The peaks of one JAX device: bytes, bfloat16 FLOP/s, and bytes per second.

    memory: what a program may use. link_bandwidth: one way over one link to a neighbour; for a GPU, over all its links.
    ring_size: an axis of a slice is closed to a ring if its length is a multiple of this; 0 if never. num_axes: the
    axes of a slice. network_bandwidth: one way over the device's share of the network cards of its host. A peak of 0 is
    unknown.
    """

    name: str
    memory: float
    flops: float
    memory_bandwidth: float
    link_bandwidth: float
    ring_size: int = 0
    num_axes: int = 2
    network_bandwidth: float = 0.0


# Published peaks. A JAX device is half a chip of v2, v3 and tpu7x. The memory is what the TPU compiler says it allots.
TPUS = {
    "v2": Chip("TPU v2", 7.48 * GIB, TPU_PEAKS["v2"], 350e9, 62e9),
    "v3": Chip("TPU v3", 15.48 * GIB, TPU_PEAKS["v3"], 450e9, 70e9),
    "v4": Chip("TPU v4", 30.75 * GIB, TPU_PEAKS["v4"], 1228e9, 45e9, ring_size=4, num_axes=3),
    "v5e": Chip("TPU v5e", 15.75 * GIB, TPU_PEAKS["v5e"], 819e9, 45e9, ring_size=16, network_bandwidth=3.125e9),
    "v5p": Chip(
        "TPU v5p", 95.74 * GIB, TPU_PEAKS["v5p"], 2765e9, 90e9, ring_size=4, num_axes=3, network_bandwidth=6.25e9
    ),
    "v6e": Chip("TPU v6e", 31.25 * GIB, TPU_PEAKS["v6e"], 1640e9, 90e9, ring_size=16, network_bandwidth=12.5e9),
    "tpu7x": Chip("TPU7x", 94.75 * GIB, TPU_PEAKS["tpu7x"], 3690e9, 90e9, ring_size=4, num_axes=3),
}
# The GPUs that clouds rent, by their memory in GB.
GPUS = {
    40: Chip("A100", 40e9, GPU_PEAKS["A100"], 1555e9, 300e9),
    80: Chip("H100", 80e9, GPU_PEAKS["H100"], 3350e9, 450e9),
    141: Chip("H200", 141e9, GPU_PEAKS["H200"], 4800e9, 450e9),
    192: Chip("B200", 192e9, GPU_PEAKS["B200"], 8000e9, 900e9),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to plan for.

    devices: of TPUs those of libtpu, for which programs are compiled but never run; of GPUs as many CPU devices, to
    make the mesh. num_links: the links to its neighbours of the device that has the fewest. compiles: True if programs
    are compiled, False if plans are made by arithmetic.
    """

    name: str
    chip: Chip
    devices: list[Any]
    num_links: int
    compiles: bool


def open_topology(name: str, slices: int = 0) -> Topology:
    """Returns the topology of a name, "v5e:4x4" as libtpu spells it or "gpu:8x80GB".

    slices: the number of TPU slices with this topology; 0 means 1. Raises InputError for an unknown name, and for a TPU
    if libtpu is not installed.
    """
    # Nothing runs, so JAX must take no device: a TPU or GPU of this machine stays free for others.
    jax.config.update("jax_platforms", "cpu")
    # The compiler's warnings are part of a plan, and a stored program has none.
    jax.config.update("jax_enable_compilation_cache", False)
    if not name:
        raise InputError(f"no topology given; add --config.topology=NAME, {EXAMPLES}")
    gpus = re.fullmatch(r"gpu:(\d+)x(\d+)GB", name, re.IGNORECASE)
    if gpus:
        return _open_gpus(name, count=int(gpus.group(1)), memory=int(gpus.group(2)))
    tpus = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", name)
    if not tpus or tpus.group(1) not in TPUS:
        kinds = ", ".join(TPUS)
        raise InputError(f"config.topology is {name!r}; allowed: KIND:AxB or AxBxC with KIND of {kinds}, {EXAMPLES}")
    chip, shape = TPUS[tpus.group(1)], [int(size) for size in tpus.group(2).split("x")]
    if 0 in shape or math.prod(shape[chip.num_axes :]) > 1:
        raise InputError(
            f"config.topology is {name!r}; a slice of {chip.name} has {chip.num_axes} sides of 1 chip or more, "
            f"{EXAMPLES}"
        )
    if not 0 <= slices <= MAX_SLICES:
        raise InputError(f"config.mesh.slices is {slices}; a plan is made for 1 to {MAX_SLICES}, or 0, which is 1")
    devices = _tpu_devices(name, shape, slices)
    return Topology(name, chip, devices, count_corner_links(shape, chip.ring_size), compiles=True)


def count_corner_links(shape: list[int], ring_size: int) -> int:
    """Returns the links of a device in the corner of a slice, which has the fewest, by the length of each axis."""
    has_rings = bool(ring_size) and all(size % ring_size == 0 for size in shape if size > 1)
    links_per_axis = 2 if has_rings else 1
    return max(1, sum(links_per_axis for size in shape if size > 1))


def _open_gpus(name: str, count: int, memory: int) -> Topology:
    """memory: GB of one GPU."""
    if not 1 <= count <= MAX_GPUS or not memory:
        raise InputError(
            f"config.topology is {name!r}; allowed: gpu:COUNTxMEMORYGB with 1 to {MAX_GPUS} GPUs, {EXAMPLES}"
        )
    gpu = GPUS.get(memory) or Chip(f"GPU of {memory} GB", memory * 1e9, 0.0, 0.0, 0.0)
    chip = dataclasses.replace(gpu, memory=gpu.memory * gpu_memory.memory_fraction())
    try:
        # JAX makes so many CPU devices if it has not looked for devices yet, and raises afterwards.
        if count > 1:
            jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        pass
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise InputError(
            f"config.topology is {name!r}, but JAX already runs with {len(devices)} devices in this process"
        )
    return Topology(name, chip, devices[:count], num_links=1, compiles=False)


def _tpu_devices(name: str, shape: list[int], slices: int) -> list[Any]:
    """Returns libtpu's devices of `slices` slices of a topology."""
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            f"config.topology is {name!r}, which needs the TPU compiler libtpu: pip install 'tljax[tpu]' (no TPU is "
            "needed); gpu:8x80GB needs no compiler"
        )
    # Without these libtpu looks for the host of a TPU, and prints pages of warnings.
    for variable, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),  # a plan may be made beside a training run, or beside another plan
        # Level 1 is warnings. `compiled` reads those of involuntary rematerialization.
        ("TPU_STDERR_LOG_LEVEL", "1"),
        ("TPU_MIN_LOG_LEVEL", "1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-16"),
    ):
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if any(size % 2 for size in shape[:2]):
        options["chips_per_host_bounds"] = (1, 1, 1)  # libtpu assumes hosts of 2 x 2 chips otherwise
    if name.startswith("v4:"):
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as JAX has them on a real v4
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    # The error types of libtpu differ between versions of JAX.
    except Exception as error:
        message = re.sub(r"\s+", " ", str(error)).strip()[:200]
        raise InputError(f"config.topology {name}: libtpu refuses it: {message}; give another, {EXAMPLES}") from None
