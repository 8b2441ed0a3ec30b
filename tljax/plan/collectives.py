"""Finds the collectives of a compiled program: the bytes that devices send each other."""

import dataclasses
import math
import re

from tljax.plan.hlo import Executed, Instruction, Module, arrays_in, bytes_of, called

# The TPU compiler writes a gather over three sides of a torus as a sum of arrays, each filled by one device in part.
AS_SUM = "all-gather as all-reduce"
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True, slots=True)
class Transfer:
    """One collective of a program.

    size: bytes on one device, of the operands or of the results, whichever are larger. group: the number of devices, or
    between slices of slices, that take part together. times: the number of runs. in_layers: True within the loop over
    the layers. network: True if it uses the network between slices.
    """

    kind: str
    size: float
    group: int
    times: int
    in_layers: bool
    network: bool = False

    @property
    def received(self) -> float:
        """The smallest number of bytes that one device receives in one run; an all-reduce sends each part twice."""
        if self.kind == "collective-permute":
            return self.size
        return self.size * (self.group - 1) / self.group * (2 if self.kind in ("all-reduce", AS_SUM) else 1)


def transfers(module: Module, layers: int) -> list[Transfer]:
    """Returns the collectives of more than one device.

    layers: the number of trips by which the loop over the layers is recognized. The TPU compiler spreads a collective
    over several kernels, to compute in the meantime; these share a channel and count as one.
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
            if kind == "all-reduce" and place.fused and _scatters(i, computation):
                kind = "reduce-scatter"
            elif kind == "all-reduce" and _gathers(module, i, computation):
                kind = AS_SUM
            into = sum(bytes_of(computation[name].shape) for name in i.operands if name in computation)
            # The start of an asynchronous collective also returns its operands.
            out = bytes_of(i.shape) - (into if i.shape.startswith("((") or i.opcode == "all-gather-start" else 0)
            channel = re.search(r"channel_id=(\d+)", i.rest)
            key = (channel.group(1) if channel else f"{place.name}/{i.name}", kind, place.in_layers)
            if key not in found or max(into, out) > found[key].size:
                found[key] = Transfer(kind, max(into, out), group, place.times, place.in_layers)
    return list(found.values())


def _between_slices(i: Instruction, place: Executed) -> Transfer | None:
    """Returns the collective between slices whose result an instruction receives from its host, or None."""
    slices = re.search(r'_xla_megascale_target="\{([^}]*)\}', i.rest)
    if i.opcode != "recv" or not slices:
        return None
    group = sum(int(last or first) - int(first) + 1 for first, last in re.findall(r"(\d+)(?::(\d+))?", slices.group(1)))
    kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', i.rest)
    name = kind.group(1).lower().replace("_", "-") if kind else "all-reduce"
    size = bytes_of(arrays_in(i.shape)[0])
    return Transfer(name, size, group, place.times, place.in_layers, network=True)


def _scatters(i: Instruction, computation: dict[str, Instruction]) -> bool:
    """Returns True if each device uses only its own slice of an all-reduce.

    The TPU compiler writes a reduce-scatter in this way, as one kernel "all-reduce-scatter". Outside of one kernel
    every device really receives the whole sum.
    """
    parts = (x.name for x in computation.values() if x.opcode == "get-tuple-element" and i.name in x.operands)
    names = {i.name, *parts}
    users = [x for x in computation.values() if x.name not in names and names & set(x.operands)]
    return bool(users) and all(x.opcode == "dynamic-slice" for x in users)


def _gathers(module: Module, i: Instruction, computation: dict[str, Instruction]) -> bool:
    """Returns True if an all-reduce sums arrays of zeros into which each device has written its own part."""

    def filled(name: str) -> bool:
        operand = computation.get(name)
        if operand is None or operand.opcode != "fusion":
            return operand is not None and operand.opcode == "dynamic-update-slice"
        inner = list(module.computations.get(called(operand, "calls"), {}).values())
        return bool(inner) and inner[-1].opcode == "dynamic-update-slice"

    return bool(i.operands) and all(filled(name) for name in i.operands)


def _group(i: Instruction, partitions: int) -> int:
    """Returns the number of devices in a group of a collective, from any of the ways in which XLA writes groups."""
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
