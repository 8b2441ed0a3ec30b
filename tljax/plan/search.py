"""Searches for the fastest config that fits, over meshes, remat and rows; compiles only the likeliest."""

import dataclasses
import math
from typing import Any

import jax

from tljax.core.config import get_field
from tljax.core.errors import InputError
from tljax.core.units import format_bytes, format_seconds
from tljax.distributed.log import log
from tljax.distributed.mesh import batch_shard_count, check_row_length, make_mesh
from tljax.model import llama
from tljax.model.remat import REMATS
from tljax.plan.estimate import sft_row_length
from tljax.plan.measure import Plan, estimate_training, measure
from tljax.plan.report import format_table
from tljax.plan.rows import rows_per_device, with_rows_per_device
from tljax.plan.topology import Topology

MAX_ROWS_PER_DEVICE = 64
MAX_COMPILATIONS = 6  # of the program that trains; a 7B step takes two to five minutes on two cores
# The memory that the compiler takes as a multiple of the estimate: before anything is compiled, and at least.
FIRST_SCALE, MIN_SCALE = 1.07, 0.75

MeshAxes = dict[str, int]  # the fields of config.mesh that a search sets


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A config that a search may try, with estimates of the program that trains.

    rows: rows that every device trains on at a time. mesh_index: the position of its mesh in the result of
    `list_meshes`. memory: bytes on one device. flops_per_second: the highest possible FLOP/s of the model.
    """

    config: Any
    rows: int
    mesh_index: int
    memory: float
    flops_per_second: float

    @property
    def remat_index(self) -> int:
        return REMATS.index(self.config.model.remat)

    @property
    def sort_key(self) -> tuple[int, int, int, int]:
        """Sorts the best first: by mesh, then by speed, and within 2 % by more rows and less recomputation.

        The mesh comes first because a roofline hides all transfers behind computing, and those that other meshes make
        within a layer cannot hide.
        """
        return (self.mesh_index, -_speed_level(self.flops_per_second), -self.rows, self.remat_index)

    def is_no_larger_than(self, other: "Candidate") -> bool:
        """Returns True if it certainly needs no more memory than `other`."""
        return self.mesh_index == other.mesh_index and self.rows <= other.rows and self.remat_index >= other.remat_index


@dataclasses.dataclass(frozen=True)
class Trial:
    """A candidate that was measured. Its plan has the program that trains alone."""

    candidate: Candidate
    plan: Plan

    @property
    def flops_per_second(self) -> float:
        """The highest possible FLOP/s of the model; 0 if the candidate does not fit."""
        program = self.plan.programs[0]
        seconds = program.roofline.seconds
        return program.program.flops / seconds if self.plan.fits and seconds else 0.0

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Sorts the worst first: by fit, then by speed, and within 2 % by rows."""
        return self.plan.fits, _speed_level(self.flops_per_second), self.candidate.rows


def search(config: Any, c: llama.LlamaConfig, topology: Topology) -> list[Trial]:
    """Returns the candidates that were measured, at most MAX_COMPILATIONS of them, the best first.

    Every candidate has an estimate of its speed and of its memory; the latter is scaled by what the compiler said of
    the last trial. The fastest candidate that should fit is compiled next, until no candidate that should fit is faster
    than a trial that does. If none should fit, the smallest is compiled. Only the program that trains is compiled.
    """
    candidates = list_candidates(config, c, topology, list_meshes(config, c, topology))
    effort = f"at most {MAX_COMPILATIONS} are compiled, minutes each" if topology.compiles else "none can be compiled"
    log(f"search: {len(candidates)} configs, the fastest by arithmetic first; {effort}")
    memory, scale, trials = topology.chip.memory, FIRST_SCALE if topology.compiles else 1.0, list[Trial]()
    while candidates and len(trials) < MAX_COMPILATIONS:
        # The next candidate.
        best = max((x for x in trials if x.plan.fits), key=lambda x: x.rank, default=None)
        fitting = [x for x in candidates if scale * x.memory <= memory]
        better = [x for x in fitting if best is None or x.sort_key < best.candidate.sort_key]
        if best is not None and not better:
            break
        # If none should fit, the smallest shows whether any does.
        candidate = better[0] if better else min(candidates, key=lambda x: (x.mesh_index, x.memory))
        candidates.remove(candidate)
        # Its trial.
        with jax.set_mesh(make_mesh(**candidate.config.mesh, devices=topology.devices)):
            trial = Trial(candidate, measure(candidate.config, c, topology, num_programs=1))
        trials.append(trial)
        log(f"tried {len(trials)}: {_format_trial(trial)}")
        # The trial corrects the estimates of the other candidates.
        scale = trial.plan.programs[0].total_bytes / candidate.memory
        if not trial.plan.fits:
            # The message of a compiler that refuses a program may name less memory than the program takes.
            scale = max(scale, 1.01 * memory / candidate.memory)
            candidates = [x for x in candidates if not candidate.is_no_larger_than(x)]
    return sorted(trials, key=lambda x: x.rank, reverse=True)


def list_meshes(config: Any, c: llama.LlamaConfig, topology: Topology) -> list[MeshAxes]:
    """Returns the meshes to try: the config's own first, then with split rows, then with split layers.

    There are others only if mesh.fsdp is -1 and takes the devices that remain.
    """
    configured = {axis: int(config.mesh[axis]) for axis in ("sequence", "tensor")}
    meshes = []
    if config.mesh.fsdp == -1:
        axes = ("sequence", "tensor") if config.run == "sft" else ("tensor",)
        meshes = [configured | {axis: size} for axis in axes for size in (2, 4, 8) if size > configured[axis]]

    def divides(axes: MeshAxes) -> bool:
        mesh = config.mesh.copy_and_resolve_references()
        mesh.update(axes)
        try:
            with jax.set_mesh(make_mesh(**mesh, devices=topology.devices)):
                llama.check_mesh(c)
                if config.run == "sft":
                    check_row_length(sft_row_length(config))
        except InputError:
            return False
        return True

    return [configured, *filter(divides, meshes)]


def list_candidates(config: Any, c: llama.LlamaConfig, topology: Topology, meshes: list[MeshAxes]) -> list[Candidate]:
    """Returns every remat and number of rows on these meshes whose estimated memory may fit, the best first."""
    candidates = []
    for mesh_index, axes in enumerate(meshes):
        meshed = config.copy_and_resolve_references()
        meshed.mesh.update(axes)
        with jax.set_mesh(make_mesh(**meshed.mesh, devices=topology.devices)):
            for remat in REMATS:
                meshed.model.remat = remat
                previous_rows = 0
                for max_rows in (2**power for power in range(MAX_ROWS_PER_DEVICE.bit_length())):
                    candidate = with_rows_per_device(meshed, max_rows)
                    rows = rows_per_device(candidate)
                    if rows == previous_rows:
                        continue  # an update has no more replies
                    previous_rows = rows
                    estimate = estimate_training(candidate, c, topology)
                    if MIN_SCALE * estimate.total_bytes > topology.chip.memory:
                        break
                    candidates.append(Candidate(candidate, rows, mesh_index, *estimate))
    return sorted(candidates, key=lambda x: x.sort_key)


def measure_all_programs(best: Trial, c: llama.LlamaConfig, topology: Topology) -> Plan:
    """Returns the plan of a trial with all programs of its run.

    If the rollout of PPO does not fit, its rows are halved until it does or until they no longer divide.
    """
    plan = best.plan
    measured = plan.programs
    while True:
        with jax.set_mesh(make_mesh(**plan.config.mesh, devices=topology.devices)):
            plan = measure(plan.config, c, topology, measured=measured)
            if plan.fits or plan.largest.program.name != "rollout":
                return plan
            if plan.config.rollout.rows % (2 * batch_shard_count()):
                return plan
        measured, rows = plan.programs[:-1], plan.config.rollout.rows // 2
        size = format_bytes(plan.largest.total_bytes)
        log(f"the rollout does not fit, {size}; once more with --config.rollout.rows={rows}")
        config = plan.config.copy_and_resolve_references()
        config.rollout.rows = rows
        plan = dataclasses.replace(plan, config=config)


def suggest_change(plan: Plan, c: llama.LlamaConfig) -> str:
    """Returns advice: the fastest config on the current mesh that should fit, by estimates scaled to the plan."""
    config, topology = plan.config, plan.topology
    training, largest = plan.programs[0], plan.largest
    if not plan.fits and largest is not training:
        remedy = "lower rollout.rows" if largest.program.name == "rollout" else "raise ppo.accumulate"
        return f"{largest.program.name} takes the most: {remedy}, or use more devices"
    scale = 1.0
    if training.compiled is not None:
        scale = training.total_bytes / estimate_training(config, c, topology).total_bytes
        scale = max(scale, 1.01) if training.out_of_memory else scale
    for candidate in list_candidates(config, c, topology, [{}]):
        if scale * candidate.memory <= topology.chip.memory:
            note = " (--search compiles it)" if topology.compiles else ""
            return f"by arithmetic the fastest that fits on this mesh: {format_flags(candidate.config)}{note}"
    meshes = "--search tries some" if config.mesh.fsdp == -1 else "--search tries some with mesh.fsdp=-1"
    return f"by arithmetic nothing fits on this mesh; use more devices, another mesh ({meshes}), or lora"


def format_trials(trials: list[Trial]) -> str:
    """Returns a table of the trials."""
    rows = [["mesh", "remat", "rows side by side", "memory", "TFLOP/s a device at best", "held up by"]]
    for trial in trials:
        program, bound = trial.plan.programs[0], trial.plan.programs[0].roofline
        cells = [trial.plan.mesh, trial.candidate.config.model.remat, str(trial.candidate.rows)]
        cells.append(format_bytes(program.total_bytes))
        if trial.flops_per_second:
            cells.append(f"{trial.flops_per_second / len(trial.plan.topology.devices) / 1e12:.0f}")
            cells.append(f"{bound.bottleneck}, {format_seconds(bound.seconds)}")
        else:
            cells += ["does not fit", ""]
        rows.append(cells)
    return "\n".join(format_table(rows))


def format_flags(config: Any) -> str:
    """Returns the fields that a search sets as flags of launch/train.py."""
    fields = ["mesh.sequence"] if config.mesh.sequence > 1 else []
    fields += ["mesh.tensor", "model.remat"]
    fields += ["batch.rows"] if config.run == "sft" else ["rollout.prompts", "rollout.rows", "ppo.accumulate"]
    fields += ["eval.rows"] if config.eval.sets else []
    return " ".join(f"--config.{field}={get_field(config, field)}" for field in fields)


def _speed_level(flops_per_second: float) -> int:
    """Returns the same number for speeds within about 2 % of each other."""
    return round(50 * math.log(flops_per_second)) if flops_per_second else 0


def _format_trial(trial: Trial) -> str:
    program, flags = trial.plan.programs[0], format_flags(trial.candidate.config)
    size = format_bytes(program.total_bytes)
    if not trial.plan.fits:
        return f"{flags}: does not fit, {size}"
    return f"{flags}: {size}, at best {format_seconds(program.roofline.seconds)}"
