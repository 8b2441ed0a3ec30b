"""Words and values for invented tools: from a lexicon or invented, and never a word of the toolbox."""

import itertools
import json
import random
import string
from functools import cache
from pathlib import Path
from typing import Any

from tljax.toolbox.tasks import draw
from tljax.toolbox.tools import ASK_TO_USER, FINISH, SPLITS, TOOLS
from tljax.toolbox.trajectories import generate_trajectories
from tljax.toolbox.words import FUNCTION_WORDS, content_words, tool_words, words

LEXICON = Path(__file__).with_name("lexicon.txt")
DRAWS_PER_SAMPLER = 200  # values per sampler of the toolbox, in which its words are collected
TASKS_PER_SPLIT = 2000  # tasks per split, for the same purpose
INVENTED_SHARE = 0.25  # share of words that are invented


def random_value(rng: random.Random) -> Any:
    """Returns a result of a tool."""
    return rng.choice((random_text, random_integer, random_number, random_word))(rng)


def random_text(rng: random.Random) -> str:
    """Returns a word, a name, two words, a code, a date or an e-mail address."""
    form = rng.choice(("word", "word", "name", "words", "code", "date", "address", "made"))
    if form == "word":
        return random_word(rng)
    if form == "name":
        return draw_word(rng, rng.choice(("people", "places"))).title()
    if form == "words":
        return f"{draw_word(rng, 'adjectives')} {draw_word(rng, 'nouns')}"
    if form == "code":
        return "".join(rng.choices(string.ascii_uppercase, k=2)) + rng.choice(("", " ", "-")) + str(rng.randint(1, 999))
    if form == "date":
        return f"{rng.randint(1900, 2099)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    if form == "address":
        return f"{draw_word(rng, 'people')}@{draw_word(rng, 'nouns')}.com"
    return invent_word(rng)


def random_word(rng: random.Random) -> str:
    return draw_word(rng, rng.choice(("nouns", "adjectives", "places", "people", "options")))


def random_integer(rng: random.Random) -> int:
    return rng.randint(-20, 10 ** rng.randint(1, 4))


def random_number(rng: random.Random) -> float:
    return round(rng.uniform(-10, 10 ** rng.randint(1, 3)), rng.randint(1, 2))


def draw_word(rng: random.Random, section: str) -> str:
    """Returns a word of a section of the lexicon, or with probability INVENTED_SHARE an invented one."""
    return invent_word(rng) if rng.random() < INVENTED_SHARE else rng.choice(lexicon()[section])


def invent_word(rng: random.Random) -> str:
    """Returns a word that consists of pieces of words."""
    all_words = lexicon()["all"]
    while True:
        pieces = []
        for _ in range(rng.randint(1, 3)):
            source_word = rng.choice(all_words)
            start = rng.randrange(len(source_word))
            pieces.append(source_word[start : start + rng.randint(2, 4)])
        word = "".join(pieces)
        if len(word) > 3:
            return word


@cache
def lexicon() -> dict[str, tuple[str, ...]]:
    """Returns the words by section, without those of the toolbox; the section "all" has all words."""
    sections: dict[str, tuple[str, ...]] = {}
    section = ""
    for line in LEXICON.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            section = line.lstrip("# ")
            sections[section] = ()
        else:
            sections[section] += tuple(
                w for w in line.split() if not {w, f"{w}s", w.removesuffix("s")} & toolbox_words()
            )
    return sections | {"all": tuple(itertools.chain.from_iterable(sections.values()))}


@cache
def toolbox_words() -> frozenset[str]:
    """Returns the content words of all tools, of their arguments, and of tasks of every split.

    The tasks are needed since a result may become an argument; the samples since tasks draw some values rarely.
    """
    result = tool_words(FINISH.schema) | tool_words(ASK_TO_USER.schema)
    for tool in TOOLS.values():
        rng = random.Random(0)
        values = [draw(rng, sampler) for sampler in tool.samples.values() for _ in range(DRAWS_PER_SAMPLER)]
        result |= words(json.dumps([*values, *tool.invalid.values()], default=list))
    for split in SPLITS:
        result |= content_words(generate_trajectories(seed=0, n=TASKS_PER_SPLIT, error_share=0.0, split=split))
    return frozenset(result - FUNCTION_WORDS)
