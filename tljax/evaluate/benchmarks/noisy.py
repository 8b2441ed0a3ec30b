"""RoTBench's name noise on any set: its tools' documentation, golden calls and history renamed alike."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tljax.calls.tool import Tool, tool_from_json
from tljax.core.errors import InputError
from tljax.data.trajectory import Turn
from tljax.evaluate.benchmarks.sets import EvalSet, Example
from tljax.toolbox.noise import LEVELS, TARGETS, noisy_names

NOISE_MARK = "+"  # between the name of a set and its noise


def parse_levels(text: str) -> list[str]:
    """The levels in "slight,heavy". Raises InputError for an unknown one."""
    levels = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [level for level in levels if level not in LEVELS]
    if unknown:
        raise InputError(f"config.noise is {text!r}; allowed: {', '.join(LEVELS)}, or several with commas between")
    return list(dict.fromkeys(levels))


def add_noisy_sets(sets: Sequence[EvalSet], levels: Sequence[str], seed: int) -> list[EvalSet]:
    """The sets, each followed by its noisy versions.

    None is made of a set that is noisy already, of one that is part of another, and of one without golden calls.
    """
    parts = {name for one in sets for name, _ in one.parts}
    together = []
    for one in sets:
        apart = one.name in parts or one.name.rpartition("/")[2] in LEVELS
        noisy = [] if apart or not any(example.golden for example in one.examples) else levels
        together += [one, *(noisy_set(one, level, seed) for level in noisy)]
    return together


def noisy_set(one: EvalSet, level: str, seed: int) -> EvalSet:
    """The set under noise of a level, named "SET+LEVEL"; what noise a row gets depends on seed, level and row alone.

    slight, medium and heavy have twice the rows, as RoTBench has them: in the first half tools are renamed, in the
    second parameters. union renames both, in as many rows as there are.
    """
    halves = ["both"] if level == "union" else list(TARGETS)
    examples, skipped = [], []
    for half, target in enumerate(halves):
        start = half * one.rows
        for example in one.examples:
            rng = random.Random(f"{seed}/{level}/{target}/{example.index}")
            examples.append(replace(_noisy(example, level, target, rng), index=start + example.index))
        skipped += [row._replace(index=start + row.index) for row in one.skipped]
    return EvalSet(f"{one.name}{NOISE_MARK}{level}", one.benchmark, tuple(examples), tuple(skipped), file=one.file)


def _noisy(example: Example, level: str, target: str, rng: random.Random) -> Example:
    if target == "both":
        for target in TARGETS:
            example = _noisy(example, rng.choice(LEVELS[:3]), target, rng)
        return example
    tools = [_as_json(tool) for tool in example.tools]
    history = [turn.call for turn in example.turns if turn.call is not None]
    renaming = noisy_names(tools, [*example.golden, *history], level, target, rng)
    turns, last = [], None
    for turn in example.turns:
        if turn.call is not None:
            last = turn.call
            turn = replace(turn, call=renaming.call(turn.call))
        elif turn.role == "function" and last is not None:
            turn = Turn("function", renaming.feedback(turn.text, last))
        turns.append(turn)
    return replace(
        example,
        tools=tuple(tool_from_json(renaming.tool(tool), f"{example.id}, tool") for tool in tools),
        turns=tuple(turns),
        golden=tuple(renaming.call(call) for call in example.golden),
        finish=None if example.finish is None else renaming.tools.get(example.finish, example.finish),
    )


def _as_json(tool: Tool) -> dict[str, Any]:
    parameters = {"type": "object", "properties": tool.properties, "required": list(tool.required)}
    return {"name": tool.name, "description": tool.description, "parameters": parameters}
