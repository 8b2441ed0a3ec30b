"""Invented tools and tasks, on which the small base is pretrained. They share no word with the toolbox but `finish`'s.

A base has to read any tool list, so every tool here is a new one: names, parameters and values are drawn from a lexicon
and from invented words. The curriculum is the order of the rows (`pretraining_rows`): first lines
to copy, then lists of one tool with one parameter, and at the end lists of four tools with three parameters.
"""

import json
import random
import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tljax.calls.tool import Call
from tljax.toolbox.lexicon import (
    draw_word,
    lexicon,
    random_integer,
    random_number,
    random_text,
    random_value,
    random_word,
    toolbox_words,
)
from tljax.toolbox.noise import render_raw_call
from tljax.toolbox.tasks import ASK_TO_USER_SHARE, OPENINGS, write_sentence
from tljax.toolbox.tools import ASK_TO_USER, FINISH
from tljax.toolbox.words import content_words

SNAKE_CASE_SHARE = 0.9  # share of names in snake case; the others are in camel case


@dataclass(frozen=True, slots=True)
class Stage:
    """The difficulty of tasks at one stage of the curriculum.

    tools, parameters: minimal and maximal number of listed tools, and of parameters per tool. hard: the share of tools
    whose description shares no content word with the name. calls: the share of tasks with a second call. finish: the
    share of tasks that list `finish` and end with it. copies: the share of rows that copy a line.
    """

    tools: tuple[int, int]
    parameters: tuple[int, int]
    hard: float
    calls: float
    finish: float
    copies: float


COPY_STAGE = Stage((0, 0), (0, 0), 0.0, 0.0, 0.0, 1.0)
# (start, stage): `start` is a fraction of the rows after the initial copied lines.
CURRICULUM = (
    (0.0, Stage((1, 1), (1, 1), 0.0, 0.0, 0.0, 0.2)),
    (0.05, Stage((1, 2), (1, 2), 0.1, 0.0, 0.5, 0.1)),
    (0.15, Stage((2, 3), (1, 2), 0.3, 0.1, 0.8, 0.05)),
    (0.4, Stage((2, 4), (1, 3), 0.3, 0.2, 0.8, 0.05)),
    (0.7, Stage((2, 4), (1, 3), 0.3, 0.3, 0.8, 0.03)),
)


@dataclass(frozen=True, slots=True)
class InventedParameter:
    name: str
    type: str
    description: str
    required: bool
    draw: Callable[[random.Random], Any]


@dataclass(frozen=True, slots=True)
class InventedTool:
    """A tool that cannot be executed. `phrase` is the request of a query that does not use the description."""

    name: str
    description: str
    phrase: str
    parameters: tuple[InventedParameter, ...]

    def schema(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "description": f"{self.description}.",
            "parameters": {
                "type": "object",
                "properties": {p.name: {"type": p.type, "description": p.description} for p in self.parameters},
                "required": [p.name for p in self.parameters if p.required],
            },
        }


def pretraining_rows(*, seed: int, copied: int, n: int) -> Iterator[dict[str, Any]]:
    """Yields `copied` rows that copy a line, then `n` of growing difficulty. Row i depends on (seed, i, copied, n)."""
    for index in range(copied + n):
        yield make_row(seed, index, copied, n)


def make_row(seed: int, index: int, copied: int, n: int) -> dict[str, Any]:
    """Returns row number `index` of `pretraining_rows`, in the raw schema."""
    stage = (
        COPY_STAGE if index < copied else [stage for start, stage in CURRICULUM if start <= (index - copied) / n][-1]
    )
    rng = random.Random(f"invented/{seed}/{index}")
    while True:
        make = copy_task if rng.random() < stage.copies else tool_task
        row = {"id": f"invented-{seed}-{index}", "conversations": make(rng, stage)}
        # Random letters are sometimes a word of the toolbox.
        if not content_words([row]) & toolbox_words():
            return row


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


# The pieces of a line to copy: letters, beginnings and ends of words, digits, marks. From real words a model would
# learn word sequences before it learns to copy.
LINE_PIECES: tuple[Callable[[random.Random], str], ...] = (
    lambda rng: "".join(rng.choices(string.ascii_letters, k=rng.randint(1, 2))),
    lambda rng: rng.choice(lexicon()["all"])[: rng.randint(2, 4)],
    lambda rng: rng.choice(lexicon()["all"])[-rng.randint(2, 4) :],
    lambda rng: rng.choice(string.digits),
    lambda rng: rng.choice(string.digits),
    lambda rng: rng.choice("_ -@./"),
)
COPY_REPEATS = 4  # copies of the line in the reply; with more copies, a model can predict more of the row


def copy_task(rng: random.Random, stage: Stage) -> list[dict[str, str]]:
    """Returns a conversation of a meaningless line and a reply that repeats it."""
    line = "".join(rng.choice(LINE_PIECES)(rng) for _ in range(rng.randint(4, 14)))
    reply = " ".join([line] * COPY_REPEATS)
    return [message("system", "[]"), message("user", line), message("assistant", reply)]


def tool_task(rng: random.Random, stage: Stage) -> list[dict[str, str]]:
    """Returns a conversation: a tool list, a query, one or two calls, and `finish` with the results if it is listed."""
    # The calls, their results and their part of the query.
    tools = invent_tools(rng, stage)
    sentences, turns, results = [], [], []
    for i in range(2 if rng.random() < stage.calls else 1):
        tool = rng.choice(tools)
        arguments = {p.name: p.draw(rng) for p in tool.parameters if p.required or rng.random() < 0.5}
        chained = rng.choice(list(arguments)) if i and arguments and rng.random() < 0.5 else None
        if chained is not None:
            arguments[chained] = results.pop()  # The answer does not repeat a result that a later call uses.
        opening = rng.choice(OPENINGS) if i == 0 else "Then " if chained else rng.choice(("Also ", "And "))
        sentences.append(write_sentence(rng, opening, tool.description, tool.phrase, arguments, chained))
        results.append(random_value(rng))
        turns.append(message("assistant", render_raw_call(Call(tool.name, arguments))))
        turns.append(message("function", format_result(results[-1])))
    # The list of tools, and `finish`.
    schemas = [tool.schema() for tool in tools]
    if rng.random() < stage.finish:
        schemas += [ASK_TO_USER.schema] if rng.random() < ASK_TO_USER_SHARE else []
        schemas.append(FINISH.schema)
        answer = ", ".join(map(format_result, results))
        turns.append(message("assistant", render_raw_call(Call(FINISH.name, {"answer": answer}))))
    system = [{"type": "function", "function": schema} for schema in schemas]
    return [message("system", json.dumps(system)), message("user", " ".join(sentences)), *turns]


def format_result(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def invent_tools(rng: random.Random, stage: Stage) -> list[InventedTool]:
    """Returns tools of different names; half of those after the first share their verb with an earlier one."""
    tools: dict[str, InventedTool] = {}
    size = rng.randint(*stage.tools)
    while len(tools) < size:
        verbs = [re.split("[_A-Z]", name)[0] for name in tools]
        verb = rng.choice(verbs) if verbs and rng.random() < 0.5 else draw_word(rng, "verbs")
        tool = invent_tool(rng, stage, verb)
        tools.setdefault(tool.name, tool)
    return list(tools.values())


# (in the name, in the description): the words after the verb; n and o are nouns, a is an adjective, p a place.
OBJECT_FORMS = (
    ("{n}", "{n}"),
    ("{n}", "{n}"),
    ("{n}s", "{n}s"),
    ("{a}_{n}", "{a} {n}"),
    ("{n}_{o}", "{n} of the {o}"),
)
DESCRIPTION_TAILS = ("", "", "", " of a {n}", " for the {o}", " in {p}")


def invent_tool(rng: random.Random, stage: Stage, verb: str) -> InventedTool:
    """Returns a tool whose name begins with `verb`; the description of a hard one uses other words."""
    named, described = rng.choice(OBJECT_FORMS)
    drawn = draw_fillers(rng)
    name = f"{verb}_{named.format(**drawn)}"
    if rng.random() < stage.hard:
        verb, drawn = draw_word(rng, "verbs"), draw_fillers(rng)
    article = rng.choice(("the", "a", "all", "each", "this"))
    tail = rng.choice(DESCRIPTION_TAILS).format(**draw_fillers(rng))
    count = rng.randint(*stage.parameters)
    parameters: dict[str, InventedParameter] = {}
    while len(parameters) < count:
        parameter = invent_parameter(rng, optional=bool(parameters))
        parameters.setdefault(parameter.name, parameter)
    return InventedTool(
        name=name if rng.random() < SNAKE_CASE_SHARE else to_camel_case(name),
        description=f"{verb.title()} {article} {described.format(**drawn)}{tail}",
        phrase=name.replace("_", " "),
        parameters=tuple(parameters.values()),
    )


def draw_fillers(rng: random.Random) -> dict[str, str]:
    place = draw_word(rng, "places").title()
    return {"n": draw_word(rng, "nouns"), "o": draw_word(rng, "nouns"), "a": draw_word(rng, "adjectives"), "p": place}


def to_camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)


# Of texts, options, integers, numbers, booleans, lists of texts and of integers.
TYPE_WEIGHTS = (3, 1, 2, 1, 1, 1, 1)


def invent_parameter(rng: random.Random, *, optional: bool) -> InventedParameter:
    noun = draw_word(rng, rng.choice(("nouns", "nouns", "nouns", "adjectives")))
    name = noun if rng.random() < 0.8 else f"{draw_word(rng, 'adjectives')}_{noun}"
    description = rng.choice(("The {0}", "The {a} {0}", "The {0} of the {o}")).format(
        name.replace("_", " "), **draw_fillers(rng)
    )
    options = [draw_word(rng, "options") for _ in range(3)]
    kinds: dict[str, tuple[str, Callable[[random.Random], Any]]] = {
        "text": ("string", random_text),
        "option": ("string", lambda rng: rng.choice(options)),
        "integer": ("integer", random_integer),
        "number": ("number", random_number),
        "boolean": ("boolean", lambda rng: rng.random() < 0.5),
        "texts": ("array", lambda rng: [random_word(rng) for _ in range(rng.randint(1, 3))]),
        "integers": ("array", lambda rng: [random_integer(rng) for _ in range(rng.randint(1, 4))]),
    }
    kind = rng.choices(tuple(kinds), TYPE_WEIGHTS)[0]
    if kind == "option":
        description += f", {options[0]}, {options[1]} or {options[2]}"
    type_, values = kinds[kind]
    name = f"{name}s" if type_ == "array" else name
    return InventedParameter(name, type_, f"{description}.", not optional or rng.random() < 0.7, values)
