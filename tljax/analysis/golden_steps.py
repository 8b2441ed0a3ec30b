"""The steps that a model is asked: a prompt as it reads it, and the golden reply token by token."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tljax.analysis.token_classes import character_classes, token_classes
from tljax.calls.compare import ToolList, as_tool_list
from tljax.calls.tool import Call
from tljax.data.mae import Decision, Rule
from tljax.data.reader import TrajectoryDataset
from tljax.data.steps import Step, tokenize_steps
from tljax.data.tokenizer import Tokenizer
from tljax.data.trajectory import Trajectory

# Reasons for leaving a step out: over data.max_tokens or what the model can read, as `data.steps` says it; or within
# them, but without room for a reply of the model's own after the golden one.
TOO_LONG = "too long"
NO_ROOM = "no room for the model's reply"


@dataclass(frozen=True, slots=True)
class GoldenStep:
    """A kept step with a call. `trajectory` is its number in the source, from 0.

    prompt: tokens up to "Assistant:"; reply: the golden tokens, end token included; classes, weights: one each.
    """

    trajectory: int
    id: str | int
    step: int
    prompt: list[int]
    reply: list[int]
    classes: list[str]
    weights: np.ndarray
    golden: Call
    tools: ToolList


@dataclass
class StepIndex:
    """Steps that may be asked, as numbers: 12 bytes each."""

    trajectories: array
    steps: array

    def __len__(self) -> int:
        return len(self.steps)


def candidates() -> StepIndex:
    """An empty list of candidates."""
    return StepIndex(array("q"), array("i"))


def add_steps(found: StepIndex, number: int, trajectory: Trajectory, rule: Rule) -> int:
    """Adds the steps of a trajectory that the rule keeps and that make a call; returns how many the rule blocks."""
    turns = [turn for turn in trajectory.turns if turn.role == "assistant"]
    decisions = rule(trajectory)
    for k, (turn, decision) in enumerate(zip(turns, decisions, strict=True)):
        if decision.kept and turn.call is not None:
            found.trajectories.append(number)
            found.steps.append(k)
    return sum(not decision.kept for decision in decisions)


def choose_steps(found: StepIndex, limit: int, seed: int) -> Iterator[tuple[int, list[int]]]:
    """Trajectories with their chosen steps, in source order: all of them (limit 0), or a seeded sample of `limit`."""
    places = np.arange(len(found))
    if 0 < limit < len(found):
        places = np.sort(np.random.default_rng(seed).choice(len(found), limit, replace=False))
    number, steps = -1, []
    for place in places:
        if found.trajectories[place] != number:
            if steps:
                yield number, steps
            number, steps = found.trajectories[place], []
        steps.append(found.steps[place])
    if steps:
        yield number, steps


def golden_steps(
    data: Any,
    source: TrajectoryDataset,
    tokenizer: Tokenizer,
    wanted: tuple[int, Sequence[int]],
    most: int,
    new_tokens: int,
) -> tuple[list[GoldenStep], list[str]]:
    """The wanted steps of one trajectory, and why others of them cannot be asked, as "reason: details".

    data: the `data` block of a config; wanted: a trajectory's number and steps from 0; most: tokens that prompt and
    reply may have together, as the model has them; new_tokens: room for a reply after each prompt.
    """
    number, picks = wanted
    trajectory = source[number]
    turns = [turn for turn in trajectory.turns if turn.role == "assistant"]
    # Of all the others only the context is needed, so they are not tokenized: a rule that blocks them.
    rule = _only(set(picks), len(turns))
    steps = tokenize_steps(
        trajectory,
        rule=rule,
        dialect=data.dialect,
        tokenizer=tokenizer,
        pkt=data.pkt,
        w_max=data.w_max,
        max_tokens=min(data.max_tokens, most),
    )
    tools = as_tool_list(trajectory.tools)
    found, left_out = [], []
    for k in picks:
        step, call = steps[k], turns[k].call
        assert call is not None
        if step.kept and len(step.tokens) + new_tokens > most:
            left_out.append(f"{NO_ROOM}: {len(step.tokens):,} tokens and {new_tokens:,} more, the model's are {most:,}")
        elif not step.kept:
            left_out.append(step.reason or "")
        else:
            found.append(_golden_step(number, step, call, tools, tokenizer, data.dialect))
    return found, left_out


def _only(picks: set[int], turns: int) -> Rule:
    return lambda _: [Decision(k in picks, None if k in picks else "not asked") for k in range(turns)]


def _golden_step(
    number: int, step: Step, call: Call, tools: ToolList, tokenizer: Tokenizer, dialect: str
) -> GoldenStep:
    _, spans = tokenizer.encode(step.text)
    begin = len(step.text) - len(step.reply)
    own = [(start - begin, end - begin) for start, end in spans[step.reply_start :]]
    classes = token_classes(own, character_classes(step.reply, call, dialect), step.key, step.name_token)
    tokens = step.tokens.tolist()
    return GoldenStep(
        number,
        step.id,
        step.step,
        tokens[: step.reply_start],
        tokens[step.reply_start :],
        classes,
        step.weights,
        call,
        tools,
    )
