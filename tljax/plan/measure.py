"""Makes the plan of a config on a topology: the memory of every program of its run, and the shortest possible time."""

import dataclasses
from typing import Any, NamedTuple

import jax

from tljax.core.units import format_bytes
from tljax.distributed.log import log
from tljax.distributed.mesh import describe_mesh
from tljax.model import llama
from tljax.plan.collectives import received_bytes
from tljax.plan.compiled import CompiledProgram, compile_program
from tljax.plan.estimate import estimate_traffic, estimate_workspace
from tljax.plan.ppo_programs import make_ppo_programs
from tljax.plan.programs import Program, RunPrograms, bytes_on_device
from tljax.plan.roofline import Roofline, Traffic, roofline
from tljax.plan.sft_programs import make_sft_programs
from tljax.plan.topology import Topology


@dataclasses.dataclass(frozen=True)
class ProgramPlan:
    """One program in a plan; sizes are bytes on one device.

    resident_bytes: arrays that stay throughout the run. input_bytes: arguments that do not stay, such as a batch.
    workspace_bytes: everything else, such as activations, gathered weights and the program itself. compiled: None if
    the plan is made by arithmetic.
    """

    program: Program
    resident_bytes: int
    input_bytes: int
    gradient_bytes: int
    workspace_bytes: float
    compiled: CompiledProgram | None
    roofline: Roofline

    @property
    def total_bytes(self) -> float:
        return self.resident_bytes + self.input_bytes + self.gradient_bytes + self.workspace_bytes

    @property
    def out_of_memory(self) -> bool:
        """True if the compiler refused the program because it is too large."""
        return self.compiled is not None and bool(self.compiled.out_of_memory)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The programs of a config on a topology, the one that trains first.

    mesh, description: the mesh and the rows of the programs, for people. resident: bytes on one device of the arrays
    that stay throughout the run, by name.
    """

    config: Any
    topology: Topology
    mesh: str
    description: str
    resident: dict[str, int]
    programs: tuple[ProgramPlan, ...]

    @property
    def largest(self) -> ProgramPlan:
        """The program that takes the most memory. A program that the compiler refused comes before all others."""
        return max(self.programs, key=lambda x: (x.out_of_memory, x.total_bytes))

    @property
    def fits(self) -> bool:
        return not self.largest.out_of_memory and self.largest.total_bytes <= self.topology.chip.memory


def measure(
    config: Any,
    c: llama.LlamaConfig,
    topology: Topology,
    num_programs: int | None = None,
    measured: tuple[ProgramPlan, ...] = (),
) -> Plan:
    """Returns the plan of a config on the current mesh; compiles for TPUs, estimates for GPUs.

    num_programs: the number of programs to measure, from the one that trains on; None measures all. measured: the
    plans of the first programs if they are known already. Raises InputError if model, rows and mesh do not fit each
    other.
    """
    run = make_programs(config, c)
    resident = {name: bytes_on_device(tree) for name, tree in run.resident.items()}
    resident_bytes = sum(resident.values())
    rest = run.programs[len(measured) : num_programs]
    plans = tuple(_measure_program(config, c, topology, program, resident_bytes) for program in rest)
    mesh = describe_mesh(jax.sharding.get_mesh())
    return Plan(config, topology, mesh, run.description, resident, (*measured, *plans))


class TrainingEstimate(NamedTuple):
    """Estimates of the program that trains: bytes on one device, and the highest possible FLOP/s of the model.

    flops_per_second: over all devices, without recomputation; 0 if a peak of the device is unknown.
    """

    total_bytes: float
    flops_per_second: float


def estimate_training(config: Any, c: llama.LlamaConfig, topology: Topology) -> TrainingEstimate:
    """Estimates the program that trains on the current mesh by arithmetic alone."""
    run = make_programs(config, c)
    program = run.programs[0]
    resident_bytes = sum(bytes_on_device(tree) for tree in run.resident.values())
    total_bytes = resident_bytes + _gradient_bytes(program) + bytes_on_device(program.inputs)
    total_bytes += estimate_workspace(config, c, program.name)
    seconds = _estimate_roofline(config, c, topology, program).seconds
    return TrainingEstimate(total_bytes, program.flops / seconds if seconds else 0.0)


def make_programs(config: Any, c: llama.LlamaConfig) -> RunPrograms:
    """Returns the programs of the config's run on the current mesh. Raises InputError as they do."""
    return make_ppo_programs(config, c) if config.run == "ppo" else make_sft_programs(config, c)


def _measure_program(
    config: Any, c: llama.LlamaConfig, topology: Topology, program: Program, resident_bytes: int
) -> ProgramPlan:
    gradient_bytes, input_bytes = _gradient_bytes(program), bytes_on_device(program.inputs)
    if not topology.compiles:
        workspace_bytes = estimate_workspace(config, c, program.name)
        bound = _estimate_roofline(config, c, topology, program)
        return ProgramPlan(program, resident_bytes, input_bytes, gradient_bytes, workspace_bytes, None, bound)

    log(f"compiling the {program.name} for {len(topology.devices)} x {topology.chip.name}")
    compiled = compile_program(program.lower, c.num_layers)
    program_bytes = compiled.temp_bytes + compiled.output_bytes + compiled.code_bytes
    traffic = Traffic(
        # By arithmetic: XLA's cost_analysis() counts one trip of every loop, so the weights of one layer only.
        memory=estimate_traffic(config, c, program.name).memory,
        links=received_bytes(compiled.transfers),
        network=received_bytes(compiled.transfers, between_slices=True),
    )
    plan = ProgramPlan(
        program=program,
        resident_bytes=resident_bytes,
        input_bytes=input_bytes,
        gradient_bytes=gradient_bytes,
        workspace_bytes=max(0.0, program_bytes - gradient_bytes),
        compiled=compiled,
        roofline=roofline(program.flops + program.recomputed_flops, traffic, topology),
    )
    refused = ", which the compiler refused" if plan.out_of_memory else ""
    log(f"compiled in {compiled.compile_seconds:.0f} s, {format_bytes(plan.total_bytes)}{refused}")
    return plan


def _estimate_roofline(config: Any, c: llama.LlamaConfig, topology: Topology, program: Program) -> Roofline:
    traffic = estimate_traffic(config, c, program.name)
    return roofline(program.flops + program.recomputed_flops, traffic, topology)


def _gradient_bytes(program: Program) -> int:
    """Returns the float32 bytes of the gradients of one model.

    For layers that are computed in bfloat16, half of them are really the weights, which are cast once per step: their
    gradients take 2 bytes.
    """
    return max((bytes_on_device(params) for params in program.trained_params), default=0)
