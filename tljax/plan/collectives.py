"""Finds the collectives of a compiled program: the bytes that devices send each other."""

import dataclasses
import math
import re
from collections.abc import Iterable

from tljax.plan.hlo import Execution, Instruction, Module, array_shapes, called_computation, shape_bytes

# The TPU compiler writes a gather over three axes of a torus as a sum of arrays that each device fills in one part.
GATHER_AS_SUM = "all-gather as all-reduce"
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True, slots=True)
class Transfer:
    """One collective of a program.

    size: bytes on one device, of the operands or of the results, whichever are larger. group_size: the number of
    devices that take part together; between slices, the number of slices. num_runs: in one run of the program.
    in_layers: True within the loop over the layers. between_slices: True if it uses the network between slices.
    """

    kind: str
    size: float
    group_size: int
    num_runs: int
    in_layers: bool
    between_slices: bool = False

    @property
    def received(self) -> float:
        """The minimum of bytes that one device receives in one run. An all-reduce sends each part twice."""
        if self.kind == "collective-permute":
            return self.size
        rounds = 2 if self.kind in ("all-reduce", GATHER_AS_SUM) else 1
        return self.size * (self.group_size - 1) / self.group_size * rounds


def received_bytes(transfers: Iterable[Transfer], between_slices: bool = False) -> float:
    """Returns the bytes that one device receives in one run of a program, from its own slice or from other slices."""
    return sum(t.received * t.num_runs for t in transfers if t.between_slices == between_slices)


def find_transfers(module: Module, num_layers: int) -> list[Transfer]:
    """Returns the collectives of more than one device.

    num_layers: the number of trips by which the loop over the layers is recognized. The TPU compiler spreads a
    collective over several kernels, to compute in the meantime; these share a channel and count as one.
    """
    transfers: dict[tuple[str, str, bool], Transfer] = {}
    for execution in module.executions(num_layers):
        computation = module.computations.get(execution.computation, {})
        for i in computation.values():
            instruction = f"{execution.computation}/{i.name}"
            between_slices = _transfer_between_slices(i, execution)
            if between_slices is not None:
                transfers[instruction, "recv", execution.in_layers] = between_slices
            group_size = _group_size(i, module.num_partitions) if _base_opcode(i) in COLLECTIVES else 1
            if group_size == 1:
                continue
            kind = _kind(module, i, execution)
            size = _size(i, computation)
            channel = re.search(r"channel_id=(\d+)", i.attributes)
            key = (channel.group(1) if channel else instruction, kind, execution.in_layers)
            if key not in transfers or size > transfers[key].size:
                transfers[key] = Transfer(kind, size, group_size, execution.num_runs, execution.in_layers)
    return list(transfers.values())


def _base_opcode(i: Instruction) -> str:
    return i.opcode.removesuffix("-start")


def _transfer_between_slices(i: Instruction, execution: Execution) -> Transfer | None:
    """Returns the collective between slices whose result an instruction receives from its host, or None."""
    slices = re.search(r'_xla_megascale_target="\{([^}]*)\}', i.attributes)
    if i.opcode != "recv" or not slices:
        return None
    ranges = re.findall(r"(\d+)(?::(\d+))?", slices.group(1))
    num_slices = sum(int(last or first) - int(first) + 1 for first, last in ranges)
    transfer_type = re.search(r'_xla_megascale_transfer_type="(\w+)"', i.attributes)
    kind = transfer_type.group(1).lower().replace("_", "-") if transfer_type else "all-reduce"
    size = shape_bytes(array_shapes(i.shape)[0])
    return Transfer(kind, size, num_slices, execution.num_runs, execution.in_layers, between_slices=True)


def _size(i: Instruction, computation: dict[str, Instruction]) -> float:
    """Returns the bytes of the operands or of the results of a collective, whichever are larger."""
    operands = sum(shape_bytes(computation[name].shape) for name in i.operands if name in computation)
    results = shape_bytes(i.shape)
    # The start of an asynchronous collective returns its operands too.
    if i.shape.startswith("((") or i.opcode == "all-gather-start":
        results -= operands
    return max(operands, results)


def _kind(module: Module, i: Instruction, execution: Execution) -> str:
    """Returns the kind of a collective, by what devices really receive."""
    computation = module.computations[execution.computation]
    kind = _base_opcode(i)
    if kind == "all-reduce" and execution.in_kernel and _is_reduce_scatter(i, computation):
        return "reduce-scatter"
    if kind == "all-reduce" and _is_gather(module, i, computation):
        return GATHER_AS_SUM
    return kind


def _is_reduce_scatter(i: Instruction, computation: dict[str, Instruction]) -> bool:
    """Returns True if each device uses only its own slice of an all-reduce.

    The TPU compiler writes a reduce-scatter in this way, as one kernel "all-reduce-scatter". Outside of one kernel
    every device really receives the whole sum.
    """
    parts = (x.name for x in computation.values() if x.opcode == "get-tuple-element" and i.name in x.operands)
    names = {i.name, *parts}
    users = [x for x in computation.values() if x.name not in names and names & set(x.operands)]
    return bool(users) and all(x.opcode == "dynamic-slice" for x in users)


def _is_gather(module: Module, i: Instruction, computation: dict[str, Instruction]) -> bool:
    """Returns True if an all-reduce sums arrays of zeros into which each device has written its own part."""

    def is_filled_in_part(name: str) -> bool:
        operand = computation.get(name)
        if operand is None or operand.opcode != "fusion":
            return operand is not None and operand.opcode == "dynamic-update-slice"
        fused = list(module.computations.get(called_computation(operand, "calls"), {}).values())
        return bool(fused) and fused[-1].opcode == "dynamic-update-slice"

    return bool(i.operands) and all(is_filled_in_part(name) for name in i.operands)


def _group_size(i: Instruction, num_partitions: int) -> int:
    """Returns the number of devices in a group of a collective, from any of the ways in which XLA writes groups."""
    # mesh['axis_0'=4,'axis_1'=2] {'axis_0'}; a part of an axis is written 'axis':(devices before it)size.
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", i.attributes)
    if mesh:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh.group(1)))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh.group(2))
        return math.prod(int(part or sizes.get(name, 1)) for name, part in axes)
    # [number of groups,size]<=[devices]
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]", i.attributes)
    if iota:
        return int(iota.group(1))
    # {{0,1,2,3},{4,5,6,7}}
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", i.attributes)
    if listed:
        return listed.group(1).count(",") + 1
    return num_partitions
