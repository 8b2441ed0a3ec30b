"""Seeded tasks. A task is a query, the listed tools, and the calls that solve it, of which `finish` is the last."""

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

CALL_COUNT_WEIGHTS = (60, 25, 10, 5)  # of tasks with one, two, three, four calls before `finish`
LIST_SIZES = (2, 3, 4)  # numbers of listed tools besides `finish` and `ask_to_user`
CHAINED_SHARE = 0.7  # of later calls that try to use the previous result
SHARED_VERB_SHARE = 0.5  # of distractors that share a called tool's verb
ASK_TO_USER_SHARE = 0.1  # of tasks that list `ask_to_user`
MAX_RESULT_LENGTH = 60  # characters, since a tiny model has to copy the result into `finish`
MAX_CHAINED_NUMBER = 10**6
MAX_DRAWS = 20  # of a call's arguments
PLAIN_VALUE = re.compile(r"[A-Za-z0-9.@-]+")

OPENINGS = ("", "", "Please ", "Can you ", "I want to ", "I need to ")
ARGUMENT_FORMS = (("with", "{} {}"), ("with", "{} = {}"), ("with", "{}: {}"), ("where", "{} is {}"), ("using", "{} {}"))


@dataclass(frozen=True, slots=True)
class Task:
    """A query and its solution.

    calls: the solution; the last call is finish(answer=...). results: the feedback of the calls before `finish`.
    requested: the results that make up the answer. tools: names of the listed tools, in order, with `finish` last.
    domain: that of the first call. state: the state of the episode after the solution.
    """

    query: str
    calls: tuple[Call, ...]
    results: tuple[str, ...]
    requested: tuple[str, ...]
    answer: str
    tools: tuple[str, ...]
    domain: str
    split: str
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TaskStep:
    """One call of a task's solution; `chained` is the parameter that takes the previous result, or None."""

    tool: LocalTool
    call: Call
    result: str
    chained: str | None


def make_task(seed: int, split: str, index: int) -> Task:
    """Returns task number `index` of a split, which depends on the arguments alone.

    Raises InputError for an unknown split.
    """
    if split not in SPLITS:
        raise InputError(f"toolbox split is {split!r}; allowed: {', '.join(SPLITS)}")
    # The calls.
    rng = random.Random(f"task/{seed}/{split}/{index}")
    pool = callable_tools(split)
    state: dict[str, Any] = {}
    steps: list[TaskStep] = []
    for _ in range(rng.choices((1, 2, 3, 4), CALL_COUNT_WEIGHTS)[0]):
        chained = chained_step(rng, pool, state, steps[-1]) if steps and rng.random() < CHAINED_SHARE else None
        steps.append(chained or free_step(rng, pool, state))
    # The answer: the results that no later call uses.
    ends = [s.result for s, after in zip(steps, [*steps[1:], None], strict=True) if after is None or not after.chained]
    answer = ", ".join(ends)
    return Task(
        query=write_query(rng, steps),
        calls=(*(step.call for step in steps), Call(FINISH.name, {"answer": answer})),
        results=tuple(step.result for step in steps),
        requested=tuple(ends),
        answer=answer,
        tools=list_tools(rng, split, [step.tool for step in steps]),
        domain=steps[0].tool.domain,
        split=split,
        state=state,
    )


def free_step(rng: random.Random, pool: Sequence[LocalTool], state: dict[str, Any]) -> TaskStep:
    """Returns a call of any tool of the pool that works."""
    step = None
    while step is None:
        step = working_step(rng, rng.choice(pool), state)
    return step


def chained_step(
    rng: random.Random, pool: Sequence[LocalTool], state: dict[str, Any], previous: TaskStep
) -> TaskStep | None:
    """Returns a call that uses the previous result, or None if no tool of the pool accepts it."""
    value = parse_result(previous.result)
    takers = [(tool, name) for tool in pool for name in tool.types if accepts(tool, name, value)]
    rng.shuffle(takers)
    steps = (working_step(rng, tool, state, name, value) for tool, name in takers[:3])
    return next((step for step in steps if step is not None), None)


def working_step(
    rng: random.Random, tool: LocalTool, state: dict[str, Any], chained: str | None = None, value: Any = None
) -> TaskStep | None:
    """Returns a call with drawn arguments, of which `chained` is `value`, and updates the state.

    Returns None and leaves the state as it is if none of MAX_DRAWS draws works.
    """
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
    """Returns the JSON value of a result, or the text itself if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def accepts(tool: LocalTool, name: str, value: Any) -> bool:
    """Returns True if a parameter may take a result: a number or list of its type, or a text among its samples."""
    annotation, sampler = tool.types[name], tool.samples[name]
    if isinstance(value, bool):
        return False
    if isinstance(value, str):
        return annotation is str and isinstance(sampler, tuple) and value in sampler
    if isinstance(value, list):
        members = get_args(annotation)
        return get_origin(annotation) is list and all(isinstance(v, str) == (members[0] is str) for v in value)
    numeric = annotation is float or (annotation is int and isinstance(value, int))
    return numeric and isinstance(sampler, range) and 0 < value < MAX_CHAINED_NUMBER


def draw(rng: random.Random, sampler: Sampler) -> Any:
    """Returns a random value of a sampler."""
    return sampler(rng) if callable(sampler) else rng.choice(sampler)


def list_tools(rng: random.Random, split: str, called: Sequence[LocalTool]) -> tuple[str, ...]:
    """Returns the names of the listed tools: the called ones among distractors, and `finish` at the end.

    About half of the distractors share their first word with a called tool, if the split has such tools.
    """
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
    """Returns a query with one sentence per call."""
    sentences = []
    for i, step in enumerate(steps):
        opening = rng.choice(OPENINGS) if i == 0 else "Then " if step.chained else rng.choice(("Also ", "And "))
        description, phrase = step.tool.schema["description"].rstrip("."), step.tool.name.replace("_", " ")
        sentences.append(write_sentence(rng, opening, description, phrase, step.call.arguments, step.chained))
    return " ".join(sentences)


def write_sentence(
    rng: random.Random, opening: str, description: str, phrase: str, arguments: Mapping[str, Any], chained: str | None
) -> str:
    """Returns a sentence that asks for one call: the tool's description or `phrase`, then each argument with its name.

    opening: the words before, such as "Please ". chained: the parameter whose value is written as "the result".
    """
    request = description if rng.random() < 0.6 else phrase
    joint, pattern = rng.choice(ARGUMENT_FORMS)
    items = [
        pattern.format(name, "the result" if name == chained else format_value(value))
        for name, value in arguments.items()
    ]
    rng.shuffle(items)
    listed = " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
    sentence = opening + request[0].lower() + request[1:] + (f" {joint} {listed}" if items else "")
    return sentence[0].upper() + sentence[1:] + ("?" if opening.startswith("Can") else ".")


def format_value(value: Any) -> str:
    """Returns a value as a person types it: a plain word as it is, any other value as JSON."""
    return value if isinstance(value, str) and PLAIN_VALUE.fullmatch(value) else json.dumps(value)
