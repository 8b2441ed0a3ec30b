"""RoTBench's name noise on any set: documentation, golden calls and history get the same new names."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tljax.calls.tool import Tool, tool_from_json
from tljax.core.errors import InputError
from tljax.data.trajectory import Turn
from tljax.evaluate.benchmarks.sets import EvalSet, Example
from tljax.toolbox.noise import NOISE_LEVELS, NOISE_TARGETS, draw_renaming

NOISE_MARK = "+"  # stands between the name of a set and its noise level


def parse_levels(text: str) -> list[str]:
    """Returns the noise levels in text such as "slight,heavy". Raises InputError for an unknown level."""
    levels = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [level for level in levels if level not in NOISE_LEVELS]
    if unknown:
        raise InputError(
            f"config.noise is {text!r}; allowed: {', '.join(NOISE_LEVELS)}, or several with commas between"
        )
    return list(dict.fromkeys(levels))


def add_noisy_sets(sets: Sequence[EvalSet], levels: Sequence[str], seed: int) -> list[EvalSet]:
    """Returns the sets, each followed by its noisy versions.

    A set has no noisy versions if it is noisy already, is a part of another set, or has no golden calls.
    """
    parts = {name for eval_set in sets for name, _ in eval_set.parts}
    result = []
    for eval_set in sets:
        excluded = eval_set.name in parts or eval_set.name.rpartition("/")[2] in NOISE_LEVELS
        noisy = [] if excluded or not any(example.golden for example in eval_set.examples) else levels
        result += [eval_set, *(noisy_set(eval_set, level, seed) for level in noisy)]
    return result


def noisy_set(eval_set: EvalSet, level: str, seed: int) -> EvalSet:
    """Returns the set under noise of a level, named "SET+LEVEL". A row's noise depends on seed, level and row only.

    slight, medium and heavy have twice as many rows, as in RoTBench: tools are renamed in the first half, parameters
    in the second. union has as many rows as the set, and both are renamed.
    """
    halves = ["both"] if level == "union" else list(NOISE_TARGETS)
    examples, skipped = [], []
    for half, target in enumerate(halves):
        start = half * eval_set.rows
        for example in eval_set.examples:
            rng = random.Random(f"{seed}/{level}/{target}/{example.index}")
            examples.append(replace(_noisy(example, level, target, rng), index=start + example.index))
        skipped += [row._replace(index=start + row.index) for row in eval_set.skipped]
    return EvalSet(
        f"{eval_set.name}{NOISE_MARK}{level}", eval_set.benchmark, tuple(examples), tuple(skipped), file=eval_set.file
    )


def _noisy(example: Example, level: str, target: str, rng: random.Random) -> Example:
    if target == "both":
        for target in NOISE_TARGETS:
            example = _noisy(example, rng.choice(NOISE_LEVELS[:3]), target, rng)
        return example
    tools = [_as_json(tool) for tool in example.tools]
    history = [turn.call for turn in example.turns if turn.call is not None]
    renaming = draw_renaming(tools, [*example.golden, *history], level, target, rng)
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
