"""Which config fits best: over meshes, what is kept for the backward pass, and rows; the likeliest are compiled."""

import dataclasses
import math
from typing import Any

import jax

from tljax.core.errors import InputError
from tljax.core.units import format_bytes, format_seconds
from tljax.distributed.log import log
from tljax.distributed.mesh import batch_shard_count, check_row_length, make_mesh
from tljax.model import llama
from tljax.model.remat import REMATS
from tljax.plan.estimate import sft_tokens
from tljax.plan.fitting import flags, rows_of, with_rows
from tljax.plan.measure import Measured, guess, measure
from tljax.plan.report import table
from tljax.plan.topology import Topology

MOST = 64  # rows of one device
COMPILES = 6  # of the program that learns; a 7B step takes two to five minutes on two cores
# What the compiler takes, of what arithmetic says: at first, and the least that is still tried where nothing fits.
FIRST, LEAST = 1.07, 0.75

Axes = dict[str, int]  # of config.mesh, those that a search sets


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A config that may be tried, with as many rows on a device side by side. By arithmetic alone: bytes on a device
    while it learns, and operations a second of the model at best."""

    config: Any
    rows: int
    mesh: int  # number of its mesh among those of `meshes`
    memory: float
    rate: float

    @property
    def order(self) -> tuple[int, int, int, int]:
        """The best first: the first mesh, then the rate, where within 2 % more rows and less computed again.

        A bound takes all transfers to hide behind computing, which those of other meshes, amid a layer, cannot.
        """
        remat = REMATS.index(self.config.model.remat)
        return (self.mesh, -_level(self.rate), -self.rows, remat)

    def at_most(self, other: "Candidate") -> bool:
        """Whether it needs no more memory than another one for sure."""
        return (
            self.mesh == other.mesh
            and self.rows <= other.rows
            and REMATS.index(self.config.model.remat) >= REMATS.index(other.config.model.remat)
        )


@dataclasses.dataclass(frozen=True)
class Tried:
    """A candidate that was compiled."""

    candidate: Candidate
    plan: Measured

    @property
    def rate(self) -> float:
        """Operations a second of the model at best where it learns; 0 where it does not fit."""
        part = self.plan.parts[0]
        return part.program.flops / part.bound.seconds if self.plan.fits and part.bound.seconds else 0.0


def candidates(config: Any, c: llama.LlamaConfig, topology: Topology, tried: list[Axes]) -> list[Candidate]:
    """All remats and rows on these meshes whose memory by arithmetic is not hopeless, the best first."""
    found = []
    for number, axes in enumerate(tried):
        meshed = config.copy_and_resolve_references()
        meshed.mesh.update(axes)
        with jax.set_mesh(make_mesh(**meshed.mesh, devices=topology.devices)):
            for remat in REMATS:
                meshed.model.remat = remat
                last = 0
                for most in (2**power for power in range(MOST.bit_length())):
                    chosen = with_rows(meshed, most)
                    rows = rows_of(chosen)
                    if rows == last:
                        continue  # an update has no more replies
                    last = rows
                    memory, rate = guess(chosen, c, topology)
                    if LEAST * memory > topology.chip.memory:
                        break
                    found.append(Candidate(chosen, rows, number, memory, rate))
    return sorted(found, key=lambda x: x.order)


def search(config: Any, c: llama.LlamaConfig, topology: Topology) -> list[Tried]:
    """All that was compiled, the best first: what fits by its rate, then by rows. At most COMPILES of them.

    By arithmetic every candidate has a rate and a memory, which is scaled by what the compiler said of the last one.
    The fastest that should fit is compiled next, until the fastest of all that should has been; where none should, the
    smallest. Only the program that learns is compiled.
    """
    left = candidates(config, c, topology, meshes(config, c, topology))
    how = f"at most {COMPILES} are compiled, minutes each" if topology.compiles else "none can be compiled"
    log(f"search: {len(left)} configs, the fastest by arithmetic first; {how}")
    room, scale, tried = topology.chip.memory, FIRST if topology.compiles else 1.0, list[Tried]()
    while left and len(tried) < COMPILES:
        best = max((x for x in tried if x.plan.fits), key=_worth, default=None)
        fitting = [x for x in left if scale * x.memory <= room]
        ahead = [x for x in fitting if best is None or x.order < best.candidate.order]
        if best is not None and not ahead:
            break
        # Where nothing should fit, what takes the least tells whether anything does.
        chosen = ahead[0] if ahead else min(left, key=lambda x: (x.mesh, x.memory))
        left.remove(chosen)
        with jax.set_mesh(make_mesh(**chosen.config.mesh, devices=topology.devices)):
            found = Tried(chosen, measure(chosen.config, c, topology, only=1))
        tried.append(found)
        log(f"tried {len(tried)}: {_line(found)}")
        total = found.plan.parts[0].total
        scale = total / chosen.memory
        if not found.plan.fits:
            # Refused, a program may tell of less than it takes.
            scale = max(scale, 1.01 * room / chosen.memory)
            left = [x for x in left if not chosen.at_most(x)]
    return sorted(tried, key=lambda x: (x.plan.fits, *_worth(x)), reverse=True)


def _worth(tried: Tried) -> tuple[int, int]:
    return _level(tried.rate), tried.candidate.rows


def _level(rate: float) -> int:
    return round(50 * math.log(rate)) if rate else 0


def _line(tried: Tried) -> str:
    part = tried.plan.parts[0]
    if not tried.plan.fits:
        return f"{flags(tried.candidate.config)}: does not fit, {format_bytes(part.total)}"
    return f"{flags(tried.candidate.config)}: {format_bytes(part.total)}, at best {format_seconds(part.bound.seconds)}"


def whole(best: Tried, c: llama.LlamaConfig, topology: Topology) -> Measured:
    """The plan of the best one with all its programs. Of PPO the rows of a rollout are halved until it fits."""
    plan = best.plan
    known = plan.parts
    while True:
        with jax.set_mesh(make_mesh(**plan.config.mesh, devices=topology.devices)):
            plan = measure(plan.config, c, topology, known=known)
            if (
                plan.fits
                or plan.worst.program.name != "rollout"
                or plan.config.rollout.rows % (2 * batch_shard_count())
            ):
                return plan
        known, rows = plan.parts[:-1], plan.config.rollout.rows // 2
        log(f"the rollout does not fit, {format_bytes(plan.worst.total)}; once more with --config.rollout.rows={rows}")
        config = plan.config.copy_and_resolve_references()
        config.rollout.rows = rows
        plan = dataclasses.replace(plan, config=config)


def meshes(config: Any, c: llama.LlamaConfig, topology: Topology) -> list[Axes]:
    """Meshes to try: the config's; where its fsdp takes what remains also such as split rows, then layers' widths."""
    own = {axis: int(config.mesh[axis]) for axis in ("sequence", "tensor")}
    found = [own]
    if config.mesh.fsdp == -1:
        found += [own | {"sequence": size} for size in (2, 4, 8) if size > own["sequence"] and config.run == "sft"]
        found += [own | {"tensor": size} for size in (2, 4, 8) if size > own["tensor"]]

    def possible(axes: Axes) -> bool:
        mesh = config.mesh.copy_and_resolve_references()
        mesh.update(axes)
        try:
            with jax.set_mesh(make_mesh(**mesh, devices=topology.devices)):
                llama.check_mesh(c)
                if config.run == "sft":
                    check_row_length(sft_tokens(config))
        except InputError:
            return False
        return True

    return [axes for axes in found if axes == own or possible(axes)]


def format_tried(found: list[Tried]) -> str:
    """All that was tried, the best first."""
    rows = [["mesh", "remat", "rows side by side", "memory", "TFLOP/s a device at best", "held up by"]]
    for x in found:
        part = x.plan.parts[0]
        rate = f"{x.rate / len(x.plan.topology.devices) / 1e12:.0f}" if x.rate else "does not fit"
        by = f"{part.bound.by}, {format_seconds(part.bound.seconds)}" if x.rate else ""
        cells = [x.plan.mesh, x.candidate.config.model.remat, str(x.candidate.rows)]
        rows.append([*cells, format_bytes(part.total), rate, by])
    return "\n".join(table(rows))


def hint(plan: Measured, c: llama.LlamaConfig) -> str:
    """The fastest on the current mesh that should fit: by arithmetic, scaled to the plan."""
    config, topology = plan.config, plan.topology
    learns, worst = plan.parts[0], plan.worst
    if not plan.fits and worst is not learns:
        lower = "lower rollout.rows" if worst.program.name == "rollout" else "raise ppo.accumulate"
        return f"{worst.program.name} takes the most: {lower}, or use more devices"
    scale = 1.0
    if learns.compiled is not None:
        scale = learns.total / guess(config, c, topology)[0]
        scale = max(scale, 1.01) if learns.compiled.refused else scale
    for x in candidates(config, c, topology, [{}]):
        if scale * x.memory <= topology.chip.memory:
            more = " (--search compiles it)" if topology.compiles else ""
            return f"by arithmetic the fastest that fits on this mesh: {flags(x.config)}{more}"
    other = "--search tries some" if config.mesh.fsdp == -1 else "--search tries some with mesh.fsdp=-1"
    return f"by arithmetic nothing fits on this mesh; use more devices, another mesh ({other}), or lora"
