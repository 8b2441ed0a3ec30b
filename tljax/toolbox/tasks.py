"""Seeded tasks: a query, the listed tools, and the calls that solve it, `finish` last."""

import copy
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from tljax.calls.tool import Call
from tljax.core.errors import InputError
from tljax.toolbox.execute import execute
from tljax.toolbox.schema import LocalTool, Sampler
from tljax.toolbox.tools import ASK_TO_USER, FINISH, SPLITS, callable_tools, listed_tools

# How often a task takes one, two, three, four calls before `finish`.
CALL_COUNT_WEIGHTS = (60, 25, 10, 5)
LIST_SIZES = (2, 3, 4)
CHAINED_SHARE = 0.7
SHARED_VERB_SHARE = 0.5
ASK_TO_USER_SHARE = 0.1
# A tiny model has to copy the result into `finish`.
MAX_RESULT_LENGTH = 60
MAX_CHAINED_NUMBER = 10**6
MAX_DRAWS = 20
PLAIN_VALUE = re.compile(r"[A-Za-z0-9.@-]+")

OPENINGS = ("", "", "Please ", "Can you ", "I want to ", "I need to ")
ARGUMENT_FORMS = (("with", "{} {}"), ("with", "{} = {}"), ("with", "{}: {}"), ("where", "{} is {}"), ("using", "{} {}"))


@dataclass(frozen=True, slots=True)
class Task:
    """A query and its solution.

    `calls` ends in finish(answer=...); `results` are the feedback texts of the calls before it, `asked` those that the
    answer consists of; `tools` names what the prompt lists, in order, `finish` last; `state` is the episode's state
    after the solution.
    """

    query: str
    calls: tuple[Call, ...]
    results: tuple[str, ...]
    asked: tuple[str, ...]
    answer: str
    tools: tuple[str, ...]
    domain: str
    split: str
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TaskStep:
    tool: LocalTool
    call: Call
    result: str
    chained: str | None  # the parameter that takes the result of the step before


def make_task(seed: int, split: str, index: int) -> Task:
    """Task number `index` of a split: a function of its arguments alone. Raises InputError for an unknown split."""
    if split not in SPLITS:
        raise InputError(f"toolbox split is {split!r}; allowed: {', '.join(SPLITS)}")
    rng = random.Random(f"task/{seed}/{split}/{index}")
    pool = callable_tools(split)
    state: dict[str, Any] = {}
    steps: list[TaskStep] = []
    for _ in range(rng.choices((1, 2, 3, 4), CALL_COUNT_WEIGHTS)[0]):
        chained = chained_step(rng, pool, state, steps[-1]) if steps and rng.random() < CHAINED_SHARE else None
        steps.append(chained or free_step(rng, pool, state))
    # Only what no later step takes over is asked for.
    ends = [s.result for s, after in zip(steps, [*steps[1:], None], strict=True) if after is None or not after.chained]
    answer = ", ".join(ends)
    return Task(
        query=write_query(rng, steps),
        calls=(*(step.call for step in steps), Call(FINISH.name, {"answer": answer})),
        results=tuple(step.result for step in steps),
        asked=tuple(ends),
        answer=answer,
        tools=list_tools(rng, split, [step.tool for step in steps]),
        domain=steps[0].tool.domain,
        split=split,
        state=state,
    )


def free_step(rng: random.Random, pool: Sequence[LocalTool], state: dict[str, Any]) -> TaskStep:
    """A call that works, of any tool of the pool."""
    step = None
    while step is None:
        step = working_step(rng, rng.choice(pool), state)
    return step


def chained_step(
    rng: random.Random, pool: Sequence[LocalTool], state: dict[str, Any], before: TaskStep
) -> TaskStep | None:
    """A call that takes the result before it, if some tool of the pool can."""
    value = parse_result(before.result)
    takers = [(tool, name) for tool in pool for name in tool.types if accepts(tool, name, value)]
    rng.shuffle(takers)
    steps = (working_step(rng, tool, state, name, value) for tool, name in takers[:3])
    return next((step for step in steps if step is not None), None)


def working_step(
    rng: random.Random, tool: LocalTool, state: dict[str, Any], chained: str | None = None, value: Any = None
) -> TaskStep | None:
    """A call with drawn arguments, `chained` set to `value`; None (and the state as it was) where no draw works."""
    for _ in range(MAX_DRAWS):
        arguments = {
            name: value if name == chained else draw(rng, tool.samples[name])
            for name in tool.types
            if name in tool.required or name == chained or rng.random() < 0.5
        }
        trial = copy.deepcopy(state)
        result = execute(tool.name, arguments, {tool.name: tool}, trial)
        if not result.error and 0 < len(result.value) <= MAX_RESULT_LENGTH:
            state.clear()
            state.update(trial)
            return TaskStep(tool, Call(tool.name, arguments), result.value, chained)
    return None


def parse_result(text: str) -> Any:
    """The JSON value of a result, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def accepts(tool: LocalTool, name: str, value: Any) -> bool:
    """Whether a parameter may take this result: any number or list of its type, a text that is among its samples."""
    annotation, source = tool.types[name], tool.samples[name]
    if isinstance(value, bool):
        return False
    if isinstance(value, str):
        return annotation is str and isinstance(source, tuple) and value in source
    if isinstance(value, list):
        members = get_args(annotation)
        return get_origin(annotation) is list and all(isinstance(v, str) == (members[0] is str) for v in value)
    numeric = annotation is float or (annotation is int and isinstance(value, int))
    return numeric and isinstance(source, range) and 0 < value < MAX_CHAINED_NUMBER


def draw(rng: random.Random, source: Sampler) -> Any:
    return source(rng) if callable(source) else rng.choice(source)


def list_tools(rng: random.Random, split: str, called: Sequence[LocalTool]) -> tuple[str, ...]:
    """The called tools among distractors, of which half share the first word of a called tool's name; `finish` last."""
    names = list(dict.fromkeys(tool.name for tool in called))
    size = max(len(names), rng.choice(LIST_SIZES))
    verbs = {name.split("_")[0] for name in names}
    others = [tool.name for tool in listed_tools(split) if tool.name not in names]
    while len(names) < size:
        alike = [name for name in others if name.split("_")[0] in verbs]
        name = rng.choice(alike if alike and rng.random() < SHARED_VERB_SHARE else others)
        others.remove(name)
        names.append(name)
    rng.shuffle(names)
    return (*names, *([ASK_TO_USER.name] if rng.random() < ASK_TO_USER_SHARE else []), FINISH.name)


def write_query(rng: random.Random, steps: Sequence[TaskStep]) -> str:
    """One sentence a step, in which every value stands beside its parameter's name."""
    sentences = []
    for i, step in enumerate(steps):
        opening = rng.choice(OPENINGS) if i == 0 else "Then " if step.chained else rng.choice(("Also ", "And "))
        description, phrase = step.tool.schema["description"].rstrip("."), step.tool.name.replace("_", " ")
        sentences.append(write_sentence(rng, opening, description, phrase, step.call.arguments, step.chained))
    return " ".join(sentences)


def write_sentence(
    rng: random.Random, opening: str, description: str, phrase: str, arguments: Mapping[str, Any], chained: str | None
) -> str:
    """What one call is asked for in: its tool's description or `phrase`, and every value beside its parameter's name.

    chained: the parameter whose value is called "the result".
    """
    asked = description if rng.random() < 0.6 else phrase
    joint, pattern = rng.choice(ARGUMENT_FORMS)
    items = [
        pattern.format(name, "the result" if name == chained else format_value(value))
        for name, value in arguments.items()
    ]
    rng.shuffle(items)
    listed = " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
    sentence = opening + asked[0].lower() + asked[1:] + (f" {joint} {listed}" if items else "")
    return sentence[0].upper() + sentence[1:] + ("?" if opening.startswith("Can") else ".")


def format_value(value: Any) -> str:
    """A value as a person types it: bare words and numbers, JSON for the rest."""
    return value if isinstance(value, str) and PLAIN_VALUE.fullmatch(value) else json.dumps(value)
