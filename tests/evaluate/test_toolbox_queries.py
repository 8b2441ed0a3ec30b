"""Held-out queries: real prompts of real tasks, one each, answered by their golden calls."""

import json

import pytest

from tljax.calls.parse import parse_calls
from tljax.calls.render import DIALECTS, render_call
from tljax.core.errors import InputError
from tljax.evaluate.score import score_reply, summarize
from tljax.evaluate.toolbox_queries import HELD_OUT_SPLITS, held_out_queries, held_out_sets, random_tool_ts_of
from tljax.toolbox.tools import TOOLS

N = 120


@pytest.fixture(scope="module", params=DIALECTS)
def sets(request):
    return request.param, held_out_sets(N, request.param)


def test_the_golden_call_is_worth_everything(sets):
    dialect, queries = sets
    for members in queries.values():
        scores = [score_reply(render_call(q.golden, dialect), [q.golden], q.tools) for q in members]
        summary = summarize(scores)
        assert summary.n == N and summary.scores["CF"].percent == 100 and summary.kinds["correct"].percent == 100


def test_called_tools_are_held_out_and_listed_and_no_finish(sets):
    for split, members in sets[1].items():
        for query in members:
            assert TOOLS[query.golden.name].split == split
            assert query.golden.name in [tool.name for tool in query.tools]


def test_prompts_end_where_the_reply_begins_and_hold_what_came_before(sets):
    later = 0
    for members in sets[1].values():
        for query in members:
            assert query.prompt.endswith("\nAssistant:")
            earlier = query.prompt.split("\nUser: ")[1].split("\nAssistant: ")[1:]
            later += bool(earlier)
            # An earlier turn is a call of a listed tool with its output below.
            for turn in earlier:
                call, _, output = turn.partition("\nOutput: ")
                assert parse_calls(call, query.tools).calls[0].name in TOOLS and output
            assert all(f"def {tool.name}(" in query.prompt for tool in query.tools)
    assert 0.15 < later / (2 * N) < 0.5


def test_values_of_the_golden_call_can_be_read_in_the_prompt(sets):
    for members in sets[1].values():
        for query in members:
            for value in query.golden.arguments.values():
                assert json.dumps(value).strip('"') in query.prompt.replace("True", "true").replace("False", "false")


def test_the_first_queries_are_the_same_however_many_are_asked_for():
    assert held_out_queries("domain", 5, "mae") == held_out_queries("domain", 12, "mae")[:5]
    assert held_out_queries("domain", 5, "mae") != held_out_queries("composition", 5, "mae")


def test_a_random_pick_by_counting_the_list(sets):
    for members in sets[1].values():
        counted = 100 * sum(1 / query.prompt.count("Function:\ndef ") for query in members) / N
        assert random_tool_ts_of(members) == pytest.approx(counted)
        assert 20 < counted < 40


def test_an_unknown_split_is_refused():
    with pytest.raises(InputError, match="toolbox split is 'test'; allowed: train, composition, domain"):
        held_out_queries("test", 1, "mae")
    assert HELD_OUT_SPLITS == ("composition", "domain")
