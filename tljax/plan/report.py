"""Formats a plan as text."""

import dataclasses
from collections.abc import Iterable

from tljax.core.units import format_bytes, format_seconds
from tljax.plan.collectives import Transfer, received_bytes
from tljax.plan.compiled import CompiledProgram
from tljax.plan.measure import Plan, ProgramPlan


def format_plan(plan: Plan, model_name: str) -> str:
    """Returns the whole plan as text."""
    topology, chip = plan.topology, plan.topology.chip
    devices = f"{len(topology.devices)} x {chip.name}"
    lines = [
        f"plan: {plan.config.run} of {model_name} on {topology.name}, {devices} ({plan.mesh})",
        f"      {plan.description}",
    ]
    if not topology.compiles:
        lines.append("      by arithmetic, within about a third; for TPUs the compiler gives exact figures")
    lines.append(f"memory of each device, {format_bytes(chip.memory)} for a program")
    lines += format_table([[name, format_bytes(count)] for name, count in plan.resident.items() if count])
    for program in plan.programs:
        lines += _format_program(plan, program)
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    total, memory = format_bytes(plan.largest.total_bytes), format_bytes(chip.memory)
    lines.append(f"{verdict}: {plan.largest.program.name} takes {total} of {memory} on each device")
    return "\n".join(lines)


def format_table(rows: Iterable[list[str]]) -> list[str]:
    """Returns a line per row, with the cells of each column under each other."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _format_program(plan: Plan, program: ProgramPlan) -> list[str]:
    compiled = program.compiled
    head = program.program.name
    if compiled is not None:
        head += f", compiled in {compiled.compile_seconds:.0f} s"
        head += f", Pallas kernels in {compiled.num_pallas_calls} places" if compiled.num_pallas_calls else ""
        if compiled.out_of_memory:
            return [head, f"  does not fit: {compiled.out_of_memory}"]
    sizes = {
        "inputs": program.input_bytes,
        "gradients": program.gradient_bytes,
        "activations and work space": program.workspace_bytes,
        "total with what stays": program.total_bytes,
    }
    if not program.gradient_bytes:
        del sizes["gradients"]
    lines = [head, *format_table([name, format_bytes(size)] for name, size in sizes.items())]
    if compiled is not None:
        lines += _format_transfers(compiled)
        lines += [
            f"  WARNING: involuntary full rematerialization of {operation}; every device holds the whole array"
            for operation in compiled.replicated
        ]
    return lines + _format_time(plan, program)


def _format_transfers(compiled: CompiledProgram) -> list[str]:
    """Returns a line for every kind of collective inside and outside the layer loop, and between slices."""
    if not compiled.transfers:
        return ["  no collectives"]
    groups: dict[tuple[bool, bool, str], list[Transfer]] = {}
    for transfer in compiled.transfers:
        groups.setdefault((not transfer.between_slices, transfer.in_layers, transfer.kind), []).append(transfer)
    rows = []
    for (within_slice, in_layers, kind), transfers in sorted(groups.items(), reverse=True):
        location = "inside the layer loop" if in_layers else "outside the layer loop"
        location += "" if within_slice else ", between slices"
        size, num_runs = sum(t.size * t.num_runs for t in transfers), sum(t.num_runs for t in transfers)
        received = received_bytes(transfers, between_slices=not within_slice)
        cells = [f"{num_runs:,} x {kind}", f"of {format_bytes(size)} in all", f"{format_bytes(received)} received"]
        rows.append(["", location, *cells])
    return format_table(rows)


def _format_time(plan: Plan, program: ProgramPlan) -> list[str]:
    flops, recomputed, bound = program.program.flops, program.program.recomputed_flops, program.roofline
    lines = [f"  model {flops / 1e12:,.1f} TFLOP, computed again {recomputed / 1e12:,.1f} TFLOP"]
    if not bound.compute:
        return [*lines, "  no time: the peaks of this device are not known"]
    limits = ", ".join(f"{name} {format_seconds(value)}" for name, value in dataclasses.asdict(bound).items() if value)
    mfu = flops / (plan.topology.chip.flops * len(plan.topology.devices)) / bound.seconds
    time = f"at best {format_seconds(bound.seconds)}, by {bound.bottleneck} ({limits})"
    return [*lines, f"  {time}; MFU at most {100 * mfu:.0f} %"]
