"""What a compiled program moves: between devices, by collectives, and between a device and its memory."""

import dataclasses
import math
import re

from tljax.plan.hlo import Executed, Instruction, Module, arrays_in, bytes_of, called

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
# What names memory and touches none, or whose work is counted where it is begun.
FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "conditional", "call", "after-all"}
FREE |= {"partition-id", "replica-id", "opt-barrier", "iota", "domain"}
SLICES = ("dynamic-slice", "slice", "gather")


@dataclasses.dataclass(frozen=True, slots=True)
class Transfer:
    """A collective of the program. size: bytes on one device of the larger of what goes in and what comes out.

    group: devices that take part together; times: how often it runs; in_layers: within the loop over the layers;
    network: over the network between slices, where `group` counts these.
    """

    kind: str
    size: float
    group: int
    times: int
    in_layers: bool
    network: bool = False

    @property
    def received(self) -> float:
        """Bytes that one device receives at least, each time: of an all-reduce each part twice."""
        if self.kind == "collective-permute":
            return self.size
        return self.size * (self.group - 1) / self.group * (2 if self.kind == "all-reduce" else 1)


def transfers(module: Module, layers: int) -> list[Transfer]:
    """Every collective of more than one device.

    The TPU compiler spreads one over several kernels, so as to compute meanwhile; they share its channel and count
    once. layers: trips of the loop over the layers.
    """
    found: dict[tuple[str, str, bool], Transfer] = {}
    for place in module.executed(layers):
        computation = module.computations.get(place.name, {})
        for i in computation.values():
            between = _between_slices(i, place)
            if between is not None:
                found[f"{place.name}/{i.name}", "recv", place.in_layers] = between
            kind = i.opcode.removesuffix("-start")
            group = _group(i, module.partitions) if kind in COLLECTIVES else 1
            if group == 1:
                continue
            kind = "reduce-scatter" if place.fused and kind == "all-reduce" and _scatters(i, computation) else kind
            into = sum(bytes_of(computation[name].shape) for name in i.operands if name in computation)
            # Begun apart from its end, it also gives back what went in.
            out = bytes_of(i.shape) - (into if i.shape.startswith("((") or i.opcode == "all-gather-start" else 0)
            channel = re.search(r"channel_id=(\d+)", i.rest)
            key = (channel.group(1) if channel else f"{place.name}/{i.name}", kind, place.in_layers)
            if key not in found or max(into, out) > found[key].size:
                found[key] = Transfer(kind, max(into, out), group, place.times, place.in_layers)
    return list(found.values())


def _between_slices(i: Instruction, place: Executed) -> Transfer | None:
    """The collective between slices whose result an instruction receives: the host of a TPU sends it for the device."""
    slices = re.search(r'_xla_megascale_target="\{([^}]*)\}', i.rest)
    if i.opcode != "recv" or not slices:
        return None
    group = sum(int(last or first) - int(first) + 1 for first, last in re.findall(r"(\d+)(?::(\d+))?", slices.group(1)))
    kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', i.rest)
    name = kind.group(1).lower().replace("_", "-") if kind else "all-reduce"
    size = bytes_of(arrays_in(i.shape)[0])
    return Transfer(name, size, group, place.times, place.in_layers, network=True)


def traffic(module: Module, layers: int) -> float:
    """Bytes that one device reads and writes in its main memory, about: operands and results of every kernel.

    Of a kernel that slices an operand or updates a part of it, that part alone.
    """
    total = 0.0
    for place in module.executed(layers):
        if not place.fused:
            computation = module.computations.get(place.name, {})
            total += place.times * sum(moved(module, i, computation) for i in computation.values())
    return total


def moved(module: Module, i: Instruction, computation: dict[str, Instruction]) -> float:
    """Bytes that one instruction of a computation reads and writes in main memory."""
    if i.opcode in FREE or i.opcode.endswith(("-done", "-update")):
        return 0.0
    operands = [computation[name].shape for name in i.operands if name in computation]
    if i.opcode.endswith("-start"):
        # A copy or a slice, to or from memory on the chip: as much as the smaller of what it names.
        parts = [bytes_of(array) for array in arrays_in(i.shape) if "[]" not in array]
        return sum(bytes_of(array, memory=True) == min(parts) for array in arrays_in(i.shape)) * min(parts, default=0.0)
    if i.opcode == "dynamic-slice":
        return 2 * bytes_of(i.shape, memory=True)
    if i.opcode == "dynamic-update-slice":
        return 2 * bytes_of(operands[1], memory=True)
    if i.opcode != "fusion":
        return sum(bytes_of(shape, memory=True) for shape in operands) + bytes_of(i.shape, memory=True)
    inner = module.computations.get(called(i, "calls"), {})
    reads = sum(min(bytes_of(shape, memory=True), _read(module, inner, n)) for n, shape in enumerate(operands))
    return reads + _written(i, inner)


def _written(i: Instruction, inner: dict[str, Instruction]) -> float:
    """Bytes that a kernel writes. Of an array that it updates, what changes."""
    updates = [x for x in inner.values() if x.opcode == "dynamic-update-slice" and x.operands[1] in inner]
    # The result of a collective that several kernels share is passed from one to the next.
    shared = {_plain(x.shape) for x in inner.values() if x.opcode in COLLECTIVES}
    out = sum(bytes_of(array) for array in arrays_in(i.shape, memory=True) if _plain(array) not in shared)
    if not updates:
        return out
    held = sum(bytes_of(x.shape) for x in updates)
    return sum(bytes_of(inner[x.operands[1]].shape) for x in updates) + max(0.0, out - held)


def _read(module: Module, inner: dict[str, Instruction], number: int) -> float:
    """Bytes that a kernel reads of its operand `number`: math.inf for all of it, else as much as it slices."""
    names = (x.name for x in inner.values() if x.opcode == "parameter" and x.literal == str(number))
    return _used(module, inner, next(names, ""))


def _used(module: Module, inner: dict[str, Instruction], name: str) -> float:
    total = 0.0
    for use in inner.values():
        if name not in use.operands or use.opcode in COLLECTIVES or use.opcode == "tuple":
            continue
        if use.operands[0] == name and use.opcode in SLICES:
            total += bytes_of(use.shape)
        elif use.opcode in ("bitcast", "reshape", "copy"):
            total += _used(module, inner, use.name)
        elif use.opcode == "fusion":
            nested = module.computations.get(called(use, "calls"), {})
            total += _read(module, nested, use.operands.index(name))
        elif not (use.opcode == "dynamic-update-slice" and use.operands[0] == name):
            return math.inf
    return total


def _plain(array: str) -> str:
    """An array without its layout."""
    return array.partition("{")[0]


def _scatters(i: Instruction, computation: dict[str, Instruction]) -> bool:
    """Whether all that is used of an all-reduce is each device's own slice.

    Within one kernel, "all-reduce-scatter", that is how the TPU compiler writes a reduce-scatter; outside one it sums
    everything everywhere all the same.
    """
    parts = (x.name for x in computation.values() if x.opcode == "get-tuple-element" and i.name in x.operands)
    names = {i.name, *parts}
    users = [x for x in computation.values() if x.name not in names and names & set(x.operands)]
    return bool(users) and all(x.opcode == "dynamic-slice" for x in users)


def _group(i: Instruction, partitions: int) -> int:
    """Devices that take part in a collective together, from any of the ways in which their groups are written."""
    meshed = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", i.rest)
    if meshed:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", meshed.group(1)))
        # A part of an axis is written 'axis':(devices before it)size.
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", meshed.group(2))
        return math.prod(int(part or sizes.get(name, 1)) for name, part in axes)
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]", i.rest)
    if counted:
        return int(counted.group(1))
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", i.rest)
    if listed:
        return listed.group(1).count(",") + 1
    return partitions
