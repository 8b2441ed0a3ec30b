"""Which config fits best: over meshes, what is kept for the backward pass, and rows; each candidate compiled."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from tljax.core.errors import InputError
from tljax.core.mesh import make_mesh
from tljax.core.metrics import say
from tljax.model import llama
from tljax.plan.fitting import rows_of, with_rows
from tljax.plan.measure import Measured, guess, measure
from tljax.plan.report import seconds, size, table
from tljax.plan.topology import Topology

REMATS = ("none", "dots", "attention", "full")  # from the least that is computed again
MOST = 64  # rows of one device
SURE, HOPELESS = 0.8, 1.5  # of the memory, by arithmetic, which may be a third wrong


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A config that was tried, with as many rows on a device side by side."""

    config: Any
    rows: int
    plan: Measured

    @property
    def rate(self) -> float:
        """Operations a second of the model at best where it learns; 0 where it does not fit."""
        part = self.plan.parts[0]
        return part.program.flops / part.bound.seconds if self.plan.fits and part.bound.seconds else 0.0


def search(config: Any, c: llama.LlamaConfig, topology: Topology) -> list[Candidate]:
    """All that was tried, the best first: what fits by its rate, then by rows.

    The mesh is the config's; where nothing fits on it and its fsdp is -1, tensor grows until something does. The
    program that learns is compiled for each candidate, unless it is far too large by arithmetic; of the best one, all
    programs are.
    """
    found: list[Candidate] = []
    for tensor in _tensors(config, c, topology):
        meshed = config.copy_and_resolve_references()
        meshed.mesh.tensor = tensor
        with jax.set_mesh(make_mesh(**meshed.mesh, devices=topology.devices)):
            for remat in REMATS:
                meshed.model.remat = remat
                found += _largest(meshed, c, topology)
            found.sort(key=lambda x: (x.plan.fits, x.rate, x.rows), reverse=True)
            if found and found[0].plan.fits:
                return found
    return found


def _largest(config: Any, c: llama.LlamaConfig, topology: Topology) -> Iterator[Candidate]:
    """Candidates of one mesh and remat: rows from what should fit by arithmetic, doubled or halved up to the edge."""
    room = topology.chip.memory
    if guess(with_rows(config, 1), c) > HOPELESS * room:
        return
    rows = 1
    while rows < MOST and guess(with_rows(config, 2 * rows), c) < SURE * room:
        rows *= 2
    tried: set[int] = set()
    while 1 <= rows <= MOST and rows not in tried:
        chosen = with_rows(config, rows)
        if rows_of(chosen) != rows:
            return  # an update has no more replies
        tried.add(rows)
        plan = measure(chosen, c, topology, only=1)
        say(f"tried: {flags(chosen)}: {size(plan.parts[0].total)}, {'fits' if plan.fits else 'does not fit'}")
        yield Candidate(chosen, rows, plan)
        rows = rows * 2 if plan.fits else rows // 2


def _tensors(config: Any, c: llama.LlamaConfig, topology: Topology) -> list[int]:
    """Sizes of the tensor axis to try, the config's first."""
    own = int(config.mesh.tensor)
    if config.mesh.fsdp != -1 or own == -1:
        return [own]
    whole = (c.num_heads, c.num_kv_heads, c.d_ff, c.vocab_size, len(topology.devices))
    return [own, *(size for size in (2, 4, 8) if size > own and all(number % size == 0 for number in whole))]


def told(found: list[Candidate]) -> str:
    """All candidates, and the flags of the best. Raises InputError where none fits."""
    if not found or not found[0].plan.fits:
        raise InputError("nothing fits on this topology, however few rows; use more devices, lora, or shorter rows")
    rows = [["tensor", "remat", "rows a device", "memory", "TFLOP/s a device at best", "held up by"]]
    for x in found:
        part, shape = x.plan.parts[0], x.plan.shape
        rate = f"{x.rate / len(x.plan.topology.devices) / 1e12:.0f}" if x.rate else "does not fit"
        by = f"{part.bound.by}, {seconds(part.bound.seconds)}" if x.rate else ""
        rows.append([str(shape["tensor"]), x.config.model.remat, str(x.rows), size(part.total), rate, by])
    return "\n".join([*table(rows), f"best: {flags(found[0].config)}"])


def flags(config: Any) -> str:
    """What a search chooses, as flags of launch/train.py."""
    fields = ["mesh.tensor", "model.remat"]
    fields += ["batch.rows"] if config.run == "sft" else ["rollout.prompts", "rollout.rows", "ppo.accumulate"]
    values = ((field, *field.split(".")) for field in fields)
    return " ".join(f"--config.{field}={config[block][name]}" for field, block, name in values)


def hint(plan: Measured, c: llama.LlamaConfig) -> str:
    """The least remat with the most rows that should fit on the current mesh: by arithmetic, scaled to the plan."""
    config, room = plan.config, plan.topology.chip.memory
    learns, worst = plan.parts[0], plan.worst
    if not plan.fits and worst is not learns:
        return f"{worst.program.name} takes the most: lower rollout.rows, or use more devices"
    known = learns.compiled is not None and not learns.compiled.refused
    factor = learns.total / guess(config, c) if known else 1.1
    for remat in REMATS:
        chosen = config.copy_and_resolve_references()
        chosen.model.remat = remat
        sizes = (2**power for power in range(MOST.bit_length()))
        fitting = [rows for rows in sizes if factor * guess(with_rows(chosen, rows), c) < room]
        if fitting:
            least = with_rows(chosen, fitting[-1])
            return f"by arithmetic the least remat and most rows that fit: {flags(least)} (--search compiles them)"
    return "by arithmetic nothing fits on this mesh; use more devices, mesh.tensor=2 (--search tries it), or lora"
