"""The held-out splits share no words with training, in the text that is generated."""

import random

import pytest

from tljax.toolbox.tasks import draw
from tljax.toolbox.tools import SPLITS, TOOLS
from tljax.toolbox.trajectories import generate_trajectories
from tljax.toolbox.words import FUNCTION_WORDS, content_words, words


@pytest.fixture(scope="module")
def rows():
    sizes = {"train": 6000, "composition": 2000, "domain": 2000}
    return {s: list(generate_trajectories(seed=11, n=sizes[s], error_share=0.4, split=s)) for s in SPLITS}


@pytest.fixture(scope="module")
def split_words(rows):
    return {split: content_words(rows[split]) for split in SPLITS}


def stems(all_words):
    """Crude on purpose: planet and planets have one stem, and so have some words that only look alike."""
    endings = ("ings", "ing", "ers", "ies", "ed", "es", "er", "ly", "s", "e", "y")
    cut = {w: next((w[: -len(e)] for e in endings if w.endswith(e) and len(w) - len(e) > 2), w) for w in all_words}
    return set(cut.values())


@pytest.mark.extended
def test_no_word_of_the_held_out_domains_occurs_elsewhere(split_words):
    assert len(split_words["domain"]) > 100
    assert not split_words["domain"] & (split_words["train"] | split_words["composition"])
    assert not stems(split_words["domain"]) & stems(split_words["train"] | split_words["composition"])


def test_names_and_values_of_the_held_out_domains_are_not_even_function_words(rows):
    """JSON schema's own keys are part of what training sees, so they count here too."""
    texts = {message["content"] for row in rows["train"] for message in row["conversations"]}
    everywhere = set().union(*map(words, texts), words(str(rows["train"][0]))) | FUNCTION_WORDS
    rng = random.Random(0)
    for tool in TOOLS.values():
        if tool.split == "domain":
            values = [
                *(draw(rng, sampler) for sampler in tool.samples.values() for _ in range(50)),
                *tool.invalid.values(),
            ]
            own = words(" ".join([tool.name, *tool.types, *map(str, values)]))
            assert own and not own & everywhere, tool.name


def test_composition_tools_are_new_names_of_known_words(rows, split_words):
    assert split_words["composition"] <= split_words["train"]
    held_out = {tool.name for tool in TOOLS.values() if tool.split != "train"}
    text = "\n".join(message["content"] for row in rows["train"] for message in row["conversations"])
    assert [name for name in sorted(held_out) if name in text] == []
    seen = "\n".join(row["conversations"][0]["content"] for row in rows["composition"])
    assert all(f'"{tool.name}"' in seen for tool in TOOLS.values() if tool.split == "composition")


def test_names_in_any_case_are_split_into_words():
    assert words("getHTTPCode of_two-parts x 12 Csharp") == {"get", "http", "code", "of", "two", "parts", "csharp"}
