"""Words and values for invented tools: of a lexicon, of no language, and none of the toolbox's."""

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
DRAWS_PER_SAMPLER = 200  # of a tool's samples, to learn which words they hold
TASKS_PER_SPLIT = 2000  # of a split, to the same end
INVENTED_SHARE = 0.25  # share of words that no language has


def random_value(rng: random.Random) -> Any:
    """What a tool may give back."""
    return rng.choice((random_text, random_integer, random_number, random_word))(rng)


def random_text(rng: random.Random) -> str:
    """A word, a name, two words, a code, a date, an address."""
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


def draw_word(rng: random.Random, kind: str) -> str:
    """A word of the lexicon's section `kind`, or now and then a made one."""
    return invent_word(rng) if rng.random() < INVENTED_SHARE else rng.choice(lexicon()[kind])


def invent_word(rng: random.Random) -> str:
    """Pieces of words put together: spelt like words, known to nobody."""
    every = lexicon()["all"]
    while True:
        pieces = []
        for _ in range(rng.randint(1, 3)):
            whole = rng.choice(every)
            start = rng.randrange(len(whole))
            pieces.append(whole[start : start + rng.randint(2, 4)])
        made = "".join(pieces)
        if len(made) > 3:
            return made


@cache
def lexicon() -> dict[str, tuple[str, ...]]:
    """Words by section, those of the toolbox left out; "all" holds every one."""
    sections: dict[str, tuple[str, ...]] = {}
    heading = ""
    for line in LEXICON.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
            sections[heading] = ()
        else:
            sections[heading] += tuple(
                w for w in line.split() if not {w, f"{w}s", w.removesuffix("s")} & toolbox_words()
            )
    return sections | {"all": tuple(itertools.chain.from_iterable(sections.values()))}


@cache
def toolbox_words() -> frozenset[str]:
    """Content words of every tool, whatever its split, and of what is asked of them and answered.

    Besides the samples, of which a few are drawn seldom, those of many tasks: a result may become an argument.
    """
    found = tool_words(FINISH.schema) | tool_words(ASK_TO_USER.schema)
    for tool in TOOLS.values():
        rng = random.Random(0)
        values = [draw(rng, source) for source in tool.samples.values() for _ in range(DRAWS_PER_SAMPLER)]
        found |= words(json.dumps([*values, *tool.invalid.values()], default=list))
    for split in SPLITS:
        found |= content_words(generate_trajectories(seed=0, n=TASKS_PER_SPLIT, error_share=0.0, split=split))
    return frozenset(found - FUNCTION_WORDS)
