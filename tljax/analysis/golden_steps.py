"""Trajectories -> a sample of steps with calls: prompt tokens and golden reply tokens with their classes."""

import dataclasses
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
from tljax.data.steps import Step, TokenizeOptions, tokenize_steps
from tljax.data.tokenizer import Tokenizer
from tljax.data.trajectory import Trajectory

# Reasons why a step is left out. TOO_LONG is the reason that `data.steps` gives a step over data.max_tokens or the
# model's context. NO_ROOM: the step fits, but the context has no room for the model's reply as well.
TOO_LONG = "too long"
NO_ROOM = "no room for the model's reply"


@dataclass(frozen=True, slots=True)
class GoldenStep:
    """A step with a call that the MAE rule keeps.

    trajectory: its number in the dataset, from 0; prompt: the tokens up to "Assistant:"; reply: the golden tokens with
    the end token; classes, weights: one for each reply token.
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
    """The candidate steps for a model, by trajectory and step number: 12 bytes each."""

    trajectories: array
    steps: array

    def __len__(self) -> int:
        return len(self.steps)


def candidates() -> StepIndex:
    """Returns an empty index."""
    return StepIndex(array("q"), array("i"))


def add_steps(index: StepIndex, number: int, trajectory: Trajectory, rule: Rule) -> int:
    """Adds the steps of a trajectory that the rule keeps and that have a call; returns how many the rule blocks."""
    turns = [turn for turn in trajectory.turns if turn.role == "assistant"]
    decisions = rule(trajectory)
    for k, (turn, decision) in enumerate(zip(turns, decisions, strict=True)):
        if decision.kept and turn.call is not None:
            index.trajectories.append(number)
            index.steps.append(k)
    return sum(not decision.kept for decision in decisions)


def choose_steps(index: StepIndex, limit: int, seed: int) -> Iterator[tuple[int, list[int]]]:
    """Yields trajectory numbers with their chosen steps, ascending: all (limit 0), or a seeded sample of `limit`."""
    positions = np.arange(len(index))
    if 0 < limit < len(index):
        positions = np.sort(np.random.default_rng(seed).choice(len(index), limit, replace=False))
    number, steps = -1, []
    for position in positions:
        if index.trajectories[position] != number:
            if steps:
                yield number, steps
            number, steps = index.trajectories[position], []
        steps.append(index.steps[position])
    if steps:
        yield number, steps


def golden_steps(
    data: Any,
    dataset: TrajectoryDataset,
    tokenizer: Tokenizer,
    chosen: tuple[int, Sequence[int]],
    max_tokens: int,
    new_tokens: int,
) -> tuple[list[GoldenStep], list[str]]:
    """Returns the chosen steps of one trajectory that fit the model, and why the others do not, as "reason: details".

    data: the `data` block of a config; chosen: a trajectory's number and its step numbers, both from 0; max_tokens: the
    length of the model's context; new_tokens: the room that the model's reply needs.
    """
    number, step_numbers = chosen
    trajectory = dataset[number]
    turns = [turn for turn in trajectory.turns if turn.role == "assistant"]
    # The other steps matter as context alone. A rule that blocks them saves their tokenization.
    rule = _only(set(step_numbers), len(turns))
    options = TokenizeOptions.from_config(data, data.dialect)
    options = dataclasses.replace(options, max_tokens=min(options.max_tokens, max_tokens), new_names=0.0)
    steps = tokenize_steps(trajectory, rule, tokenizer, options)
    tools = as_tool_list(trajectory.tools)
    kept, left_out = [], []
    for k in step_numbers:
        step, call = steps[k], turns[k].call
        assert call is not None
        if step.kept and step.length + new_tokens > max_tokens:
            left_out.append(
                f"{NO_ROOM}: {step.length:,} tokens and {new_tokens:,} more; the model reads {max_tokens:,}"
            )
        elif not step.kept:
            left_out.append(step.reason or "")
        else:
            kept.append(_golden_step(number, step, call, tools, tokenizer, data.dialect))
    return kept, left_out


def _only(chosen: set[int], num_steps: int) -> Rule:
    """Returns a rule that keeps the chosen steps and blocks the others."""
    return lambda _: [Decision(k in chosen, None if k in chosen else "not chosen") for k in range(num_steps)]


def _golden_step(
    number: int, step: Step, call: Call, tools: ToolList, tokenizer: Tokenizer, dialect: str
) -> GoldenStep:
    reply = step.tokenized
    assert reply is not None
    _, spans = tokenizer.encode(step.text)
    begin = len(step.text) - len(step.reply)
    reply_spans = [(start - begin, end - begin) for start, end in spans[reply.reply_start :]]
    classes = token_classes(reply_spans, character_classes(step.reply, call, dialect), reply.key_positions)
    tokens = reply.tokens.tolist()
    return GoldenStep(
        trajectory=number,
        id=step.id,
        step=step.step,
        prompt=tokens[: reply.reply_start],
        reply=tokens[reply.reply_start :],
        classes=classes,
        weights=reply.weights,
        golden=call,
        tools=tools,
    )
