"""Parses the text of a compiled program (XLA's HLO): its instructions, and how often each of them runs."""

import dataclasses
import math
import re
from collections.abc import Iterator

ARRAY = re.compile(r"\b[a-z]\w*\[[\d,]*\](?:\{[^}]*\})?")
NAME = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = ")


@dataclasses.dataclass(frozen=True, slots=True)
class Instruction:
    """One line of HLO text, `%name = shape opcode(arguments), attributes`.

    operands: the names of the instructions among its arguments.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    arguments: str


@dataclasses.dataclass(frozen=True, slots=True)
class Execution:
    """A computation that one instruction calls, `num_runs` times in one run of the program.

    in_layers: True within the loop over the layers. in_kernel: True within one fused kernel.
    """

    computation: str
    num_runs: int
    in_layers: bool
    in_kernel: bool


class Module:
    """The computations of a compiled module, parsed from `compiled.as_text()`."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        partitions = re.search(r"num_partitions=(\d+)", text.partition("\n")[0])
        self.num_partitions = int(partitions.group(1)) if partitions else 1  # devices that run the program
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if line.endswith("{") and not line.startswith((" ", "HloModule")):
                name = re.match(r"(?:ENTRY )?%?([\w.\-]+)", line)
                if name:
                    current = self.computations[name.group(1)] = {}
                    self.entry = name.group(1) if line.startswith("ENTRY") else self.entry
            elif line.startswith(" "):
                instruction = _parse_instruction(line)
                if instruction:
                    current[instruction.name] = instruction

    def trip_count(self, loop: Instruction) -> int:
        """Returns the largest number of trips of a while loop, or 1 if its text does not contain it."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known.group(1))
        # The limit is a constant of the loop's condition, or of a computation that the condition calls.
        names, numbers = [called_computation(loop, "condition")], []
        while names:
            for instruction in self.computations.get(names.pop(), {}).values():
                if instruction.opcode == "constant" and instruction.arguments.isdigit():
                    numbers.append(int(instruction.arguments))
                if instruction.opcode in ("fusion", "call"):
                    names.append(_callee(instruction))
        return max(numbers, default=1) or 1

    def executions(self, num_layers: int) -> Iterator[Execution]:
        """Yields every computation that runs, once for each instruction that calls it.

        The loop over the layers is recognized by its `num_layers` trips, since no name of it is stable between
        compilers. Another loop with as many trips, such as one over the parts of a batch, counts as it too.
        """
        stack = [Execution(self.entry, 1, False, False)]
        while stack:
            caller = stack.pop()
            yield caller
            for i in self.computations.get(caller.computation, {}).values():
                if i.opcode == "while":
                    trips = self.trip_count(i)
                    in_layers = caller.in_layers or trips == num_layers
                    body = called_computation(i, "body")
                    stack.append(Execution(body, caller.num_runs * trips, in_layers, caller.in_kernel))
                elif i.opcode in ("call", "conditional", "fusion") or i.opcode.startswith("async-start"):
                    in_kernel = caller.in_kernel or i.opcode == "fusion"
                    names = [_callee(i), *_branches(i)]
                    stack += [Execution(name, caller.num_runs, caller.in_layers, in_kernel) for name in names if name]


def called_computation(i: Instruction, attribute: str) -> str:
    """Returns the name of the computation in an attribute of an instruction, such as "body", or ""."""
    match = re.search(rf"\b{attribute}=%?([\w.\-]+)", i.attributes)
    return match.group(1) if match else ""


def array_shapes(shape: str) -> list[str]:
    """Returns the arrays of a shape, which may be a tuple of tuples."""
    return [match.group() for match in ARRAY.finditer(shape)]


def shape_bytes(shape: str) -> float:
    """Returns the bytes of all arrays of a shape."""
    total = 0.0
    for array in array_shapes(shape):
        dtype, sizes = array.partition("]")[0].split("[")
        bits = re.search(r"\d+", dtype)
        itemsize = 1.0 if dtype == "pred" else int(bits.group()) / 8 if bits else 0.0
        total += math.prod(int(size) for size in sizes.split(",") if size) * itemsize
    return total


def _parse_instruction(line: str) -> Instruction | None:
    name = NAME.match(line)
    if not name:
        return None
    # The shape is a tuple in brackets, or one word.
    start = name.end()
    end = _closing_bracket(line, start) + 1 if line[start] == "(" else line.find(" ", start)
    opcode = re.match(r"\s*([\w\-]+)\(", line[end:])
    if end <= 0 or not opcode:
        return None
    # The arguments stand between the brackets behind the opcode, and the attributes behind these.
    arguments_start = end + opcode.end()
    arguments_end = _closing_bracket(line, arguments_start - 1)
    arguments = line[arguments_start:arguments_end]
    operands = tuple(re.findall(r"%([\w.\-]+)", arguments))
    return Instruction(name.group(1), line[start:end], opcode.group(1), operands, line[arguments_end + 1 :], arguments)


def _closing_bracket(text: str, start: int) -> int:
    """Returns the index of the bracket that closes the one at `start`, or the length of the text."""
    depth = 0
    for match in re.finditer(r"[()]", text[start:]):
        depth += 1 if match.group() == "(" else -1
        if depth == 0:
            return start + match.start()
    return len(text)


def _callee(i: Instruction) -> str:
    return called_computation(i, "calls") or called_computation(i, "to_apply")


def _branches(i: Instruction) -> list[str]:
    branches = re.search(r"branch_computations=\{([^}]*)\}", i.attributes)
    if branches:
        return re.findall(r"%?([\w.\-]+)", branches.group(1))
    names = (called_computation(i, f"{value}_computation") for value in ("true", "false"))
    return [name for name in names if name]
