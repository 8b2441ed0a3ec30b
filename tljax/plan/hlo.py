"""Parses the text of a compiled program (XLA's HLO): its instructions, and how often each of them runs."""

import dataclasses
import math
import re
from collections.abc import Iterator

ARRAY = re.compile(r"\b[a-z]\w*\[[\d,]*\](?:\{[^}]*\})?")
_HEAD = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = ")


@dataclasses.dataclass(frozen=True, slots=True)
class Instruction:
    """One line of HLO text. shape: the text of its result's shape. rest: the text behind its operands."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    literal: str  # between the brackets


@dataclasses.dataclass(frozen=True, slots=True)
class Executed:
    """A computation that runs `times` times. in_layers: True within the loop over the layers."""

    name: str
    times: int
    in_layers: bool
    fused: bool  # within one kernel


class Module:
    """The computations of a compiled module, from `compiled.as_text()`."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        count = re.search(r"num_partitions=(\d+)", text.partition("\n")[0])
        self.partitions = int(count.group(1)) if count else 1  # devices that the program is spread over
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if line.endswith("{") and not line.startswith((" ", "HloModule")):
                name = re.match(r"(?:ENTRY )?%?([\w.\-]+)", line)
                if name:
                    current = self.computations[name.group(1)] = {}
                    self.entry = name.group(1) if line.startswith("ENTRY") else self.entry
            elif line.startswith(" "):
                instruction = _instruction(line)
                if instruction:
                    current[instruction.name] = instruction

    def trips(self, loop: Instruction) -> int:
        """Returns the largest number of trips of a while loop, or 1 if its text does not contain it."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
        if known:
            return int(known.group(1))
        names, numbers = [called(loop, "condition")], []
        while names:
            for instruction in self.computations.get(names.pop() or "", {}).values():
                if instruction.opcode == "constant" and instruction.literal.isdigit():
                    numbers.append(int(instruction.literal))
                if instruction.opcode in ("fusion", "call"):
                    names.append(called(instruction, "calls") or called(instruction, "to_apply"))
        return max(numbers, default=1) or 1

    def executed(self, layers: int) -> Iterator[Executed]:
        """Yields every computation that runs, once for each instruction that calls it.

        The loop over the layers is the one with `layers` trips, as no name of it is stable between compilers. Another
        loop with as many trips, such as the one over the parts of a batch, counts as the loop over the layers too.
        """
        stack = [Executed(self.entry, 1, False, False)]
        while stack:
            here = stack.pop()
            yield here
            for i in self.computations.get(here.name, {}).values():
                if i.opcode == "while":
                    trips, body = self.trips(i), called(i, "body")
                    inside = here.in_layers or trips == layers
                    stack.append(Executed(body, here.times * trips, inside, here.fused))
                elif i.opcode in ("call", "conditional", "fusion") or i.opcode.startswith("async-start"):
                    fused = here.fused or i.opcode == "fusion"
                    names = [called(i, "calls") or called(i, "to_apply"), *_branches(i)]
                    stack += [Executed(name, here.times, here.in_layers, fused) for name in names if name]


def _instruction(line: str) -> Instruction | None:
    head = _HEAD.match(line)
    if not head:
        return None
    at = head.end()
    end = _closing(line, at) + 1 if line[at] == "(" else line.find(" ", at)
    opcode = re.match(r"\s*([\w\-]+)\(", line[end:])
    if end <= 0 or not opcode:
        return None
    begin = end + opcode.end()
    stop = _closing(line, begin - 1)
    inside = line[begin:stop]
    names = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(head.group(1), line[at:end], opcode.group(1), names, line[stop + 1 :], inside)


def _closing(text: str, start: int) -> int:
    """The index of the bracket that closes the one at `start`."""
    depth = 0
    for match in re.finditer(r"[()]", text[start:]):
        depth += 1 if match.group() == "(" else -1
        if depth == 0:
            return start + match.start()
    return len(text)


def called(i: Instruction, attribute: str) -> str:
    """Returns the name of the computation in an attribute of an instruction, such as "body", or ""."""
    match = re.search(rf"\b{attribute}=%?([\w.\-]+)", i.rest)
    return match.group(1) if match else ""


def _branches(i: Instruction) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", i.rest)
    if listed:
        return re.findall(r"%?([\w.\-]+)", listed.group(1))
    return [name for name in (called(i, "true_computation"), called(i, "false_computation")) if name]


def arrays_in(shape: str) -> list[str]:
    """Returns the arrays of a shape, which may be a tuple of tuples."""
    return [match.group() for match in ARRAY.finditer(shape)]


def bytes_of(shape: str) -> float:
    """Returns the bytes of all arrays of a shape."""
    total = 0.0
    for array in arrays_in(shape):
        dtype, sides = array.partition("]")[0].split("[")
        bits = re.search(r"\d+", dtype)
        itemsize = 1.0 if dtype == "pred" else int(bits.group()) / 8 if bits else 0.0
        total += math.prod(int(side) for side in sides.split(",") if side) * itemsize
    return total
