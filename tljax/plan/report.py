"""A plan as text for people."""

import dataclasses
from collections.abc import Iterable

from tljax.core.units import format_bytes, format_seconds
from tljax.plan.bound import received
from tljax.plan.collectives import Transfer
from tljax.plan.compiled import Compiled
from tljax.plan.measure import Measured, Part


def report(plan: Measured, name: str) -> str:
    """The whole plan; name: of the model, as it was found."""
    topology, chip = plan.topology, plan.topology.chip
    lines = [
        f"plan: {plan.config.run} of {name} on {topology.name}, {len(topology.devices)} x {chip.name} ({plan.mesh})",
        f"      {plan.says}",
    ]
    if not topology.compiles:
        lines.append("      by arithmetic, within about a third; the compiler of TPUs gives exact figures for theirs")
    lines.append(f"memory of each device, {format_bytes(chip.memory)} for a program")
    lines += table([[what, format_bytes(count)] for what, count in plan.kept.items() if count])
    for part in plan.parts:
        lines += _part(plan, part)
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    total, memory = format_bytes(plan.worst.total), format_bytes(chip.memory)
    lines.append(f"{verdict}: {plan.worst.program.name} takes {total} of {memory} on each device")
    return "\n".join(lines)


def _part(plan: Measured, part: Part) -> list[str]:
    compiled = part.compiled
    told = f", compiled in {compiled.seconds:.0f} s" if compiled is not None else ""
    kernels = f", Pallas kernels in {compiled.kernels} places" if compiled is not None and compiled.kernels else ""
    lines = [f"{part.program.name}{told}{kernels}"]
    if compiled is not None and compiled.refused:
        return [*lines, f"  does not fit: {compiled.refused}"]
    rows = [["inputs", format_bytes(part.inputs)]]
    rows += [["gradients", format_bytes(part.gradients)]] if part.gradients else []
    rows += [["activations and work space", format_bytes(part.work)]]
    rows += [["total with what stays", format_bytes(part.total)]]
    lines += table(rows)
    if compiled is not None:
        lines += _transfers(compiled)
        lines += [
            f"  WARNING: involuntary full rematerialisation of {text}; the array is held whole on every device"
            for text in compiled.warnings
        ]
    return lines + _time(plan, part)


def _transfers(compiled: Compiled) -> list[str]:
    """What devices send each other in one run of the program, a line for every kind and place."""
    if not compiled.transfers:
        return ["  no collectives"]
    groups: dict[tuple[bool, bool, str], list[Transfer]] = {}
    for transfer in compiled.transfers:
        groups.setdefault((not transfer.network, transfer.in_layers, transfer.kind), []).append(transfer)
    lines = []
    for (near, inside, kind), found in sorted(groups.items(), reverse=True):
        moved, runs = sum(t.size * t.times for t in found), sum(t.times for t in found)
        place = "inside the layer loop" if inside else "outside the layer loop"
        told = [
            f"{runs:,} x {kind}",
            f"of {format_bytes(moved)} in all",
            f"{format_bytes(received(found, not near))} received",
        ]
        lines.append(["", place if near else f"{place}, between slices", *told])
    return table(lines)


def _time(plan: Measured, part: Part) -> list[str]:
    flops, again, bound = part.program.flops, part.program.again, part.bound
    lines = [f"  model {flops / 1e12:,.1f} TFLOP, computed again {again / 1e12:,.1f} TFLOP"]
    if not bound.compute:
        return [*lines, "  no time: the peaks of this device are not known"]
    limits = dataclasses.asdict(bound)
    told = ", ".join(f"{name} {format_seconds(value)}" for name, value in limits.items() if value)
    mfu = flops / (plan.topology.chip.flops * len(plan.topology.devices)) / bound.seconds
    lines.append(f"  at best {format_seconds(bound.seconds)}, by {bound.by} ({told}); MFU at most {100 * mfu:.0f} %")
    return lines


def table(rows: Iterable[list[str]]) -> list[str]:
    """Lines of cells under each other."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
