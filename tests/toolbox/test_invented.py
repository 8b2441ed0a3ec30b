"""Invented tasks: solvable as written, growing, and without a word of the toolbox."""

import json
import random
import re
import runpy

import pytest

from tljax.data.formats.read import trajectory_from_record
from tljax.toolbox.invented import CURRICULUM, make_row, pretraining_rows
from tljax.toolbox.tools import ASK_TO_USER, FINISH
from tljax.toolbox.trajectories import generate_trajectories
from tljax.toolbox.words import FUNCTION_WORDS, content_words, tool_words, words

COPIED, N = 40, 400


@pytest.fixture(scope="module")
def rows():
    return list(pretraining_rows(seed=3, copied=COPIED, n=N))


@pytest.fixture(scope="module")
def tasks(rows):
    made = [trajectory_from_record(row, "invented", i) for i, row in enumerate(rows, start=1)]
    return [task for task in made[COPIED:] if task.tools]


def calls_of(task):
    """The calls of invented tools, and that of `finish` or None."""
    calls = [turn.call for turn in task.turns if turn.role == "assistant"]
    return (calls[:-1], calls[-1]) if calls[-1].name == "finish" else (calls, None)


def invented_of(task):
    return [tool for tool in task.tools if tool.name not in ("finish", "ask_to_user")]


def own_words(rows):
    """Words of three letters and more in tools, queries and calls; two letters may be a code such as QX 812."""
    found = set()
    for row in rows:
        system, *messages = row["conversations"]
        for tool in json.loads(system["content"]):
            found |= tool_words(tool["function"])
        for message in messages:
            if message["role"] != "function":
                found |= words(message["content"])
    return {word for word in found if len(word) > 2} - FUNCTION_WORDS


@pytest.fixture(scope="module")
def held_out():
    """What nobody here wrote down: the words of tasks as they are generated, the held-out splits' and training's."""
    made = [
        row
        for s in ("composition", "domain", "train")
        for row in generate_trajectories(seed=5, n=1500, error_share=0, split=s)
    ]
    return own_words(made) - tool_words(FINISH.schema) - tool_words(ASK_TO_USER.schema)


@pytest.mark.whole_run
def test_no_word_of_the_toolbox_is_in_what_the_base_is_trained_on(repo, held_out):
    """Of the very rows of configs/base.py, a sample over all its levels, both seeds of the model card."""
    config = runpy.run_path(str(repo / "configs" / "base.py"))["get_config"]()
    copied, n = config.toolbox.copied, config.toolbox.trajectories
    indices = random.Random(0).sample(range(copied + n), 1200)
    for seed in (config.toolbox.seed, config.toolbox.seed + 1):
        found = own_words(make_row(seed, index, copied, n) for index in indices)
        assert len(found) > 3000
        assert not found & held_out
    assert len(held_out) > 350


def test_a_row_depends_on_its_number_alone(rows):
    again = list(pretraining_rows(seed=3, copied=COPIED, n=N))
    assert again == rows
    assert make_row(3, 200, COPIED, N) == rows[200]
    assert make_row(4, 200, COPIED, N) != rows[200]
    assert len({json.dumps(row["conversations"]) for row in rows}) == len(rows)


def test_lines_are_said_again(rows):
    for row in rows[:COPIED]:
        system, user, assistant = row["conversations"]
        assert system["content"] == "[]"
        assert assistant["content"] == " ".join([user["content"]] * 4)


def test_every_call_does_what_the_query_says(tasks):
    for task in tasks:
        listed = {tool.name: tool for tool in task.tools}
        query = next(turn.text for turn in task.turns if turn.role == "user")
        results = [turn.text for turn in task.turns if turn.role == "function"]
        calls, last = calls_of(task)
        assert len(results) == len(calls) and (last is None) == ("finish" not in listed)
        for i, call in enumerate(calls):
            tool = listed[call.name]
            assert set(tool.required) <= set(call.arguments) <= set(tool.properties)
            for name, value in call.arguments.items():
                assert re.search(rf"\b{name}\b", query)
                written = value if isinstance(value, str) else json.dumps(value)
                assert written in query or json.dumps(value) in query or (i and written == results[i - 1]), (
                    call,
                    query,
                )


def test_finish_gives_what_no_later_call_took_over(tasks):
    ended = 0
    for task in tasks:
        calls, last = calls_of(task)
        if last is not None:
            results = [turn.text for turn in task.turns if turn.role == "function"]
            taken = len(calls) == 2 and "the result" in next(t.text for t in task.turns if t.role == "user")
            assert last.arguments == {"answer": ", ".join(results[taken:])}
            ended += 1
    assert 0.6 < ended / len(tasks) < 0.85


def test_tasks_grow_as_their_levels_say(rows):
    tools = [json.loads(row["conversations"][0]["content"]) for row in rows[COPIED:]]
    sizes = [sum(tool["function"]["name"] not in ("finish", "ask_to_user") for tool in listed) for listed in tools]
    starts = [int(start * N) for start, _ in CURRICULUM] + [N]
    for (_, level), begin, end in zip(CURRICULUM, starts, starts[1:], strict=False):
        met = {size for size in sizes[begin:end] if size}
        assert min(met) >= level.tools[0] and max(met) == level.tools[1]
    assert sizes[: starts[1]].count(0) > 0


def test_lists_are_told_apart_by_more_than_their_verb(tasks):
    shared = 0
    for task in tasks:
        names = [tool.name for tool in invented_of(task)]
        assert len(set(names)) == len(names)
        verbs = [re.split("[_A-Z]", name)[0] for name in names]
        shared += len(set(verbs)) < len(verbs)
    assert 0.3 < shared / len(tasks) < 0.8


def test_some_descriptions_share_no_word_with_the_name(tasks):
    tools = [tool for task in tasks[-200:] for tool in invented_of(task)]
    apart = sum(not words(tool.name) & words(tool.description) for tool in tools)
    assert 0.2 < apart / len(tools) < 0.4


def test_content_words_do_not_pass_unseen():
    """The test above would pass if `own_words` found nothing in a row that does hold such a word."""
    row = next(iter(generate_trajectories(seed=0, n=1, error_share=0, split="domain")))
    assert own_words([row]) & content_words([row])
