"""One plan: a config on a topology, with what every program of its run takes and how fast it could be."""

import dataclasses
from typing import Any

import jax

from tljax.core.units import format_bytes
from tljax.distributed.log import log
from tljax.distributed.mesh import describe_mesh
from tljax.model import llama
from tljax.plan import estimate
from tljax.plan.bound import Bound, bound, received
from tljax.plan.compiled import Compiled, compile_program
from tljax.plan.ppo_programs import ppo_work
from tljax.plan.programs import Program, Work, bytes_on_device
from tljax.plan.sft_programs import sft_work
from tljax.plan.topology import Topology


@dataclasses.dataclass(frozen=True)
class Part:
    """One program in a plan. Bytes on one device: `held` stays throughout the run, the rest while the program runs."""

    program: Program
    held: int
    inputs: int  # arguments that do not stay: a batch
    gradients: int
    work: float  # all else: activations, gathered weights, the program itself
    compiled: Compiled | None  # None: by arithmetic
    bound: Bound

    @property
    def total(self) -> float:
        return self.held + self.inputs + self.gradients + self.work


@dataclasses.dataclass(frozen=True)
class Measured:
    """A plan."""

    config: Any
    topology: Topology
    mesh: str
    says: str
    kept: dict[str, int]  # bytes on one device, by name
    parts: tuple[Part, ...]

    @property
    def worst(self) -> Part:
        """The program that takes the most memory; one that the compiler refused comes first."""
        return max(self.parts, key=lambda part: (_refused(part), part.total))

    @property
    def fits(self) -> bool:
        return not _refused(self.worst) and self.worst.total <= self.topology.chip.memory


def measure(
    config: Any, c: llama.LlamaConfig, topology: Topology, only: int | None = None, known: tuple[Part, ...] = ()
) -> Measured:
    """Lowers and compiles what the config's run compiles on the current mesh, or of GPUs counts it.

    only: so many of its programs, the one that learns coming first; None: all. known: the first of them, where they
    were measured before. Raises InputError where model, rows and mesh do not fit each other.
    """
    work = work_of(config, c)
    kept = {name: bytes_on_device(tree) for name, tree in work.kept.items()}
    held = sum(kept.values())
    parts = tuple(_part(config, c, topology, program, held) for program in work.programs[len(known) : only])
    return Measured(config, topology, describe_mesh(jax.sharding.get_mesh()), work.says, kept, (*known, *parts))


def guess(config: Any, c: llama.LlamaConfig, topology: Topology) -> tuple[float, float]:
    """By arithmetic alone, of the program that learns on the current mesh: bytes on a device, and operations a second
    of the model at best, 0 where the device's peaks are not known."""
    work = work_of(config, c)
    learns = work.programs[0]
    kept = sum(bytes_on_device(tree) for tree in work.kept.values())
    memory = kept + _gradients(learns) + bytes_on_device(learns.inputs)
    best = _counted(config, c, topology, learns).seconds
    return memory + estimate.work_space(config, c, learns.name), learns.flops / best if best else 0.0


def work_of(config: Any, c: llama.LlamaConfig) -> Work:
    """The programs of the config's run on the current mesh. Raises InputError as they do."""
    return (ppo_work if config.run == "ppo" else sft_work)(config, c)


def _part(config: Any, c: llama.LlamaConfig, topology: Topology, program: Program, held: int) -> Part:
    gradients, inputs = _gradients(program), bytes_on_device(program.inputs)
    devices, flops = len(topology.devices), program.flops + program.again
    if not topology.compiles:
        work = estimate.work_space(config, c, program.name)
        return Part(program, held, inputs, gradients, work, None, _counted(config, c, topology, program))
    log(f"compiling the {program.name} for {devices} x {topology.chip.name}")
    found = compile_program(program.lower, c.num_layers)
    work = max(0.0, found.temporaries + found.results + found.code - gradients)
    near, far = (received(found.transfers, network) for network in (False, True))
    # XLA's cost_analysis() counts one trip of every loop, so the memory that all layers read is arithmetic.
    memory_traffic, _ = estimate.movement(config, c, program.name)
    best = bound(flops, memory_traffic, near, topology.chip, devices, topology.links, far)
    part = Part(program, held, inputs, gradients, work, found, best)
    log(f"compiled in {found.seconds:.0f} s, {format_bytes(part.total)}{' and refused' if found.refused else ''}")
    return part


def _counted(config: Any, c: llama.LlamaConfig, topology: Topology, program: Program) -> Bound:
    read, moved = estimate.movement(config, c, program.name)
    flops, devices = program.flops + program.again, len(topology.devices)
    return bound(flops, read, moved, topology.chip, devices, topology.links)


def _gradients(program: Program) -> int:
    """Of layers computed in 2 bytes, whose gradients take no more, half of this is their weights, cast once a step."""
    return max((bytes_on_device(tree) for tree in program.trained), default=0)


def _refused(part: Part) -> bool:
    return part.compiled is not None and bool(part.compiled.refused)
