"""The devices that a plan is made for: a TPU slice as libtpu knows it, or GPUs by their number and memory."""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax

from tljax.core import gpu_memory
from tljax.core.errors import InputError

MOST_SLICES = 256
HELP = "such as v5e:4x4, v4:2x2x4, v5p:2x2x2, v6e:2x4, or gpu:8x80GB"


@dataclasses.dataclass(frozen=True, slots=True)
class Chip:
    """One device at its best: what time bounds are made of. Units: bytes, bfloat16 operations and bytes a second."""

    name: str
    memory: float  # what a program may use of it
    flops: float
    memory_rate: float
    link_rate: float  # one way over one link to a neighbour; of GPUs all links together
    ring: int = 0  # devices in a row from which on the last is linked to the first; 0: never
    sides: int = 2  # of a slice
    network_rate: float = 0.0  # one way over its share of its host's network cards; 0: not known


GIB = 1024**3

# Published peaks of one JAX device (of v2, v3 and tpu7x half a chip); `memory` is what the TPU compiler says it allots.
TPUS = {
    "v2": Chip("TPU v2", 7.48 * GIB, 22.5e12, 350e9, 62e9),
    "v3": Chip("TPU v3", 15.48 * GIB, 61.5e12, 450e9, 70e9),
    "v4": Chip("TPU v4", 30.75 * GIB, 275e12, 1228e9, 45e9, ring=4, sides=3),
    "v5e": Chip("TPU v5e", 15.75 * GIB, 197e12, 819e9, 45e9, ring=16, network_rate=3.125e9),
    "v5p": Chip("TPU v5p", 95.74 * GIB, 459e12, 2765e9, 90e9, ring=4, sides=3, network_rate=6.25e9),
    "v6e": Chip("TPU v6e", 31.25 * GIB, 918e12, 1640e9, 90e9, ring=16, network_rate=12.5e9),
    "tpu7x": Chip("TPU7x", 94.75 * GIB, 1153e12, 3690e9, 90e9, ring=4, sides=3),
}
# By memory in GB, as clouds rent them.
GPUS = {
    40: Chip("A100", 40e9, 312e12, 1555e9, 300e9),
    80: Chip("H100", 80e9, 989e12, 3350e9, 450e9),
    141: Chip("H200", 141e9, 989e12, 4800e9, 450e9),
    192: Chip("B200", 192e9, 2250e12, 8000e9, 900e9),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to plan for. `devices` are libtpu's, which compile and never run; of GPUs the CPU's, to count with."""

    name: str
    chip: Chip
    devices: list[Any]
    links: int  # of the device with the fewest, to its neighbours
    compiles: bool


def open_topology(name: str, slices: int = 0) -> Topology:
    """The topology of a name, "v5e:4x4" as libtpu spells it or "gpu:8x80GB"; of a TPU so many of it, if not 0.

    Raises InputError for a name that is none, and for a TPU's where libtpu is not installed.
    """
    # Nothing runs, so no device is asked for; a TPU or GPU of this machine stays with whoever uses it.
    jax.config.update("jax_platforms", "cpu")
    if not name:
        raise InputError(f"no topology given; add --config.topology=NAME, {HELP}")
    gpus = re.fullmatch(r"gpu:(\d+)x(\d+)GB", name, re.IGNORECASE)
    if gpus:
        return _gpus(name, *map(int, gpus.groups()))
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", name)
    if not found or found.group(1) not in TPUS:
        kinds = ", ".join(TPUS)
        raise InputError(f"config.topology is {name!r}; allowed: KIND:AxB or AxBxC with KIND of {kinds}, {HELP}")
    chip, sides = TPUS[found.group(1)], [int(side) for side in found.group(2).split("x")]
    if 0 in sides or math.prod(sides[chip.sides :]) > 1:
        raise InputError(
            f"config.topology is {name!r}; a slice of {chip.name} has {chip.sides} sides of 1 chip or more, {HELP}"
        )
    if not 0 <= slices <= MOST_SLICES:
        raise InputError(f"config.mesh.slices is {slices}; a plan is made for 1 to {MOST_SLICES}, or 0, which is 1")
    return Topology(name, chip, _tpus(name, sides, slices), fewest_links(sides, chip.ring), True)


def fewest_links(sides: list[int], ring: int) -> int:
    """Links of a device in the corner of a slice with these sides, which are closed to rings from `ring` devices on."""
    closed = bool(ring) and all(side % ring == 0 for side in sides if side > 1)
    return max(1, sum(0 if side == 1 else 2 if closed else 1 for side in sides))


def _gpus(name: str, count: int, memory: int) -> Topology:
    if not 1 <= count <= 1024 or not memory:
        raise InputError(f"config.topology is {name!r}; allowed: gpu:COUNTxMEMORYGB with 1 to 1024 GPUs, {HELP}")
    known = GPUS.get(memory) or Chip(f"GPU of {memory} GB", memory * 1e9, 0.0, 0.0, 0.0)
    chip = dataclasses.replace(known, memory=known.memory * gpu_memory.memory_fraction())
    try:
        # Before JAX has looked for devices this gives as many as wanted; afterwards it is refused.
        if count > 1:
            jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        pass
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise InputError(
            f"config.topology is {name!r}, but JAX already runs with {len(devices)} devices in this process"
        )
    return Topology(name, chip, devices[:count], 1, False)


def _tpus(name: str, sides: list[int], slices: int) -> list[Any]:
    """libtpu's devices of so many slices of a topology."""
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            f"config.topology is {name!r}, which needs the TPU compiler libtpu: pip install 'tljax[tpu]' (no TPU is "
            "needed); gpu:8x80GB is counted without one"
        )
    # Without these libtpu looks for the host of a TPU, and prints pages of warnings.
    for variable, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),  # a plan may be made beside a training run, or beside another plan
        ("TPU_STDERR_LOG_LEVEL", "1"),  # warnings, of which involuntary rematerialisation is one; `compiled` reads them
        ("TPU_MIN_LOG_LEVEL", "1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-16"),
    ):
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if any(side % 2 for side in sides[:2]):
        options["chips_per_host_bounds"] = (1, 1, 1)  # hosts of 2 x 2 chips are assumed otherwise
    if name.startswith("v4:"):
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as JAX has them on a real v4
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    # libtpu's own error types differ between versions of JAX.
    except Exception as error:
        told = re.sub(r"\s+", " ", str(error)).strip()
        raise InputError(f"config.topology {name}: libtpu refuses it: {told[:200]}; give another, {HELP}") from None
