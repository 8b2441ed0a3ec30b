"""Scores against the golden levels of four benchmark files, their official verdicts, and statistics known elsewhere."""

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tljax.calls.compare import AcceptedValues, AnyValue, as_tool_list
from tljax.calls.normalized_equality import normalized_equal
from tljax.calls.render import render_call
from tljax.calls.tool import Call
from tljax.core.errors import InputError
from tljax.evaluate.score import (
    KINDS,
    Score,
    metric_marks,
    paired_difference,
    random_tool_ts,
    score_any_call,
    score_reply,
    summarize,
)

FILES = ("rotbench_clean", "toolalpaca_real", "bfcl_exec", "bfcl_simple")
A = {"name": "a", "parameters": {"properties": {"x": {}, "y": {}}}}
B = {"name": "b", "parameters": {"properties": {"x": {}}}}


@pytest.mark.parametrize("name", FILES)
def test_golden_levels_and_kinds(name, shared, benchmark):
    golden = json.loads((shared / "golden" / f"scores_{name}.json").read_text())
    one = benchmark(name)
    assert one.rows == golden["rows"] and [row.index for row in one.skipped] == golden["skip"]
    for s in golden["sets"]:
        for row in one.examples:
            i = row.index
            text = s["predictions"][i]
            score = score_reply(text, row.golden, row.tools, list(s["levels"]), ignored=row.ignored, finish=row.finish)
            assert score.levels == {policy: levels[i] for policy, levels in s["levels"].items()}, (i, text)
            assert score.kind == (s["error"][i] or "correct"), (i, text)
            assert bool(score.detail) is (score.kind != "correct")


def written(call):
    """A golden call with one of its choices, and something in place of values that are not judged."""

    def first(value):
        if isinstance(value, AcceptedValues):
            return first(next(choice for choice in value.values if choice != "" or len(value.values) == 1))
        if isinstance(value, dict):
            return {key: first(item) for key, item in value.items()}
        return [first(item) for item in value] if isinstance(value, list) else value

    return Call(call.name, {k: "?" if isinstance(v, AnyValue) else first(v) for k, v in call.arguments.items()})


@pytest.mark.parametrize("dialect", ["mae", "readme"])
@pytest.mark.parametrize("name", FILES)
def test_golden_answers_are_right_and_their_perturbations_are_named(name, dialect, benchmark):
    rng = random.Random(dialect)
    for row in benchmark(name).examples:
        tools = as_tool_list(row.tools)

        def score(*calls, cut=0, row=row, tools=tools):
            text = "\n".join(render_call(call, dialect) for call in calls)
            return score_reply(text[: len(text) - cut], row.golden, tools, ignored=row.ignored, finish=row.finish)

        right = [written(call) for call in row.golden]
        assert score(*right).levels == {"any": 3, "first": 3, "all": 3}
        for call in right:
            assert score(call).levels["any"] == 3
            assert score(Call(call.name + "_v2", call.arguments)).kind == "tool_hallucination"
            assert score(call, cut=1).detail == "a call that never closes"
            extra = score(Call(call.name, {**call.arguments, "bogus_arg": 1}))
            assert (extra.kind, extra.levels["any"], extra.detail) == ("parameter", 1, "hallucinated: bogus_arg")
        names = {call.name for call in right}
        others = [tool.name for tool in row.tools if tool.name not in names]
        if others:
            assert score(Call(rng.choice(others), {})).kind == "wrong_tool"
        judged = [k for k, v in row.golden[0].arguments.items() if not isinstance(v, AnyValue) and k not in row.ignored]
        if judged:
            spoiled = {**right[0].arguments, rng.choice(judged): "no such value"}
            assert score(Call(right[0].name, spoiled)).kind == "content"


def test_the_first_call_is_the_answer_and_all_wants_every_call():
    golden = [Call("a", {"x": 1}), Call("a", {"x": 2}), Call("b", {"x": 3})]

    def levels(text):
        return tuple(score_reply(text, golden, [A, B]).levels.values())

    assert levels("a(x=2)") == (3, 2, 0)
    assert levels("b(x=3)") == (3, 0, 0)
    assert levels("b(x=3)\na(x=2)\na(x=1)") == (3, 0, 3)
    assert levels("a(x=1)\na(x=2)\nb(x=4)") == (3, 3, 2)
    assert levels("a(x=1)\na(x=1)\nb(x=3)") == (3, 3, 2)
    assert levels("a(x=1)\na(y=2)\nb(x=3)") == (3, 3, 1)
    assert levels("a(x=1)\nb(x=2)\nb(x=3)") == (3, 3, 0)
    assert levels("a(x=1)\na(x=2)\nb(x=3)\nb(x=3)") == (3, 3, 0)
    assert levels("a(x=1)\na(x=2)\nb(x=3") == (0, 0, 0)


def test_pairing_goes_back_on_a_greedy_choice():
    golden = [Call("a", {"x": AnyValue()}), Call("a", {"x": 1})]
    assert score_reply("a(x=1)\na(x=2)", golden, [A]).levels["all"] == 3


def test_the_closest_golden_call_names_the_error():
    golden = [Call("b", {"x": 1}), Call("a", {"x": 1, "y": 2}), Call("a", {"x": 1})]
    assert score_reply("a(y=3)", golden, [A, B]).detail == "missing: x"
    assert score_reply("a(y=2)", golden[::-1], [A, B]).detail == "missing: x"
    assert score_reply("a(x=5)", golden, [A, B]).detail == "x = 5, not 1"


@pytest.mark.parametrize(
    ("value", "golden", "right"),
    [
        ("5", 5, True),
        (5.0, "5", True),
        ("1e3", 1000, True),
        ("-5", 5, False),
        ("1.5", "15", False),  # as BFCL folds strings they are equal
        ("New-York, NY", "new york ny", True),
        ("it's", 'it"s', True),
        ("true", True, True),
        (1, True, False),
        (["1", "b"], [1, "B"], True),
        ([1], [1, 2], False),
        ({"k": "1"}, {"k": 1}, True),
        ({}, {"k": 1}, False),
        ({"k": 1, "more": 2}, {"k": 1}, False),
        ({}, {"k": AcceptedValues(("", 1))}, True),
        ("a", AcceptedValues((7, "A.")), True),
        (["a"], "a", False),
        ("9" * 400, 1, False),
        (10**400, "1", False),
    ],
)
def test_loose_values(value, golden, right):
    assert normalized_equal(value, golden) is right


def test_loose_counts_content_and_nothing_else():
    golden = [Call("a", {"x": 1, "y": "New York"}), Call("b", {"x": 2})]

    def levels(text):
        return score_reply(text, golden, [A, B], ("any", "loose")).levels

    assert levels("a(x='1', y='new york')") == {"any": 2, "loose": 3}
    assert levels("a(x='1', y='Boston')") == {"any": 2, "loose": 2}
    assert levels("a(x=1)") == {"any": 1, "loose": 1}
    assert levels("c(x=1)") == {"any": 0, "loose": 0}
    assert levels("a(x='1', y='new york'") == {"any": 0, "loose": 0}
    assert levels("b(x='2.0')") == {"any": 2, "loose": 3}
    # The closest golden call under `any`, with one wrong value, is not the one that is loosely right, with two.
    golden[1:] = [Call("a", {"x": "2", "y": "Bonn"}), Call("a", {"x": 2, "y": "Rome"})]
    assert levels("a(x='2', y='ROME')") == {"any": 2, "loose": 3}


def test_any_call_is_right_where_one_is_wanted():
    for text, level, kind in (
        ("a(x=1)", 3, "correct"),
        ("c()", 3, "correct"),
        ("a(x=1", 0, "format"),
        ("No.", 0, "format"),
    ):
        score = score_any_call(text, [A], ("any", "all"))
        assert (score.levels, score.kind) == ({"any": level, "all": level}, kind)


def test_finish_under_another_name():
    golden, tools = [Call("hsinif", {"x": AnyValue()})], [A, {**B, "name": "hsinif"}]
    assert score_reply("finish(x='done')", golden, tools).kind == "tool_hallucination"
    assert score_reply("finish(x='done')", golden, tools, finish="hsinif").kind == "correct"
    assert score_reply("hsinif(x='done')", golden, tools, finish="hsinif").kind == "correct"
    assert score_reply("finish(x=1)", golden, [*tools, {**B, "name": "finish"}], finish="hsinif").kind == "wrong_tool"


def test_no_call_is_the_answer_where_there_is_no_golden_call():
    score = score_reply("I cannot help with that.", [], [A], ("any", "rotbench_official"))
    assert (score.levels, score.kind) == ({"any": 3, "rotbench_official": 3}, "correct")
    assert score_reply("a(x=1)", [], [A]).kind == "wrong_tool"
    assert score_reply("c(x=1)", [], [A]).levels == {"any": 0, "first": 0, "all": 0}


def test_rotbench_official_quirks():
    tools = [A, B, {**B, "name": "resu_ot_ksa"}, {**B, "name": "hsinif"}]

    def level(text, *golden):
        return score_reply(text, golden, tools, ["rotbench_official"]).levels["rotbench_official"]

    assert level("a()", Call("a", {})) == 0
    assert level("a(x=1)", Call("a", {})) == 1
    assert level("a(x='?', y='2')", Call("a", {"x": "None", "y": "2"})) == 3
    # The alternative that does not judge x takes it away from the one after it.
    assert level("a(x='1', y='2')", Call("a", {"x": "None", "y": "3"}), Call("a", {"x": "1", "y": "2"})) == 2
    assert level("a(x='1', y='2')", Call("a", {"x": "1", "y": "2"}), Call("a", {"x": "None", "y": "3"})) == 3
    assert level("finish(x='done')", Call("hsinif", {"x": "other"})) == 3
    assert level("finish(x='done')", Call("resu_ot_ksa", {"x": "done"})) == 0
    assert level("resu_ot_ksa(x='?')", Call("resu_ot_ksa", {"x": "which?"})) == 3
    assert level("ask_to_user(x='?')", Call("ask_to_user", {"x": "which?"})) == 3
    assert level("b(x=1)", Call("b", {"x": "1"})) == 2
    assert level("b(x=True)", Call("b", {"x": 1})) == 3
    assert level("b(x='1'", Call("b", {"x": "1"})) == 0


def test_tools_may_be_wrapped_and_policies_must_be_known():
    wrapped = [{"type": "function", "function": tool} for tool in (A, B)]
    assert score_reply("a(x=1)", [Call("a", {"x": 1})], wrapped).kind == "correct"
    assert score_reply("b(x=1)", [Call("a", {"x": 1})], wrapped).kind == "wrong_tool"
    with pytest.raises(InputError, match="the policy is 'best'; allowed: any, first, all, loose, rotbench_official"):
        score_reply("a()", [Call("a", {})], [A], ["best"])


@settings(max_examples=100, deadline=None)
@given(st.text() | st.text(alphabet="ab(xy=1,'\"[{}])\n :"))
def test_never_raises_for_any_reply(text):
    golden = [Call("a", {"x": 1}), Call("b", {"x": AcceptedValues(("", "1"))})]
    for answer in (golden, golden[:1], []):
        score = score_reply(text, answer, [A, B], ("any", "first", "all", "rotbench_official"))
        assert score.kind in KINDS and set(score.levels.values()) <= {0, 1, 2, 3}
        assert score.levels["any"] >= max(score.levels["first"], score.levels["all"] if len(answer) == 1 else 0)


def levels_of(*levels):
    kinds = ("wrong_tool", "parameter", "content", "correct")
    return [Score({"any": level, "all": 0}, kinds[level], "") for level in levels]


def test_summary_counts_levels_and_kinds():
    summary = summarize(levels_of(3, 3, 2, 1, 0, 0, 0, 3))
    assert (summary.n, summary.policy) == (8, "any")
    assert [summary.scores[m].percent for m in ("TS", "PI", "CF")] == [62.5, 50.0, 37.5]
    assert {kind: share.percent for kind, share in summary.kinds.items() if share.percent} == {
        "correct": 37.5,
        "wrong_tool": 37.5,
        "parameter": 12.5,
        "content": 12.5,
    }
    assert list(summary.kinds) == list(KINDS)
    assert summarize(levels_of(3, 0), "all").scores["TS"].percent == 0


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # Newcombe 1998, table I, method 3 (score interval without continuity correction).
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0.0, 16.11), (1, 29, 0.61, 17.18), (29, 29, 88.30, 100)],
)
def test_wilson_interval_equals_published_examples(right, n, low, high):
    share = summarize(levels_of(*[3] * right, *[0] * (n - right))).scores["TS"]
    assert share.percent == pytest.approx(100 * right / n)
    assert (share.low, share.high) == pytest.approx((low, high), abs=0.006)


def test_marks_are_percentages():
    assert metric_marks(levels_of(0, 1, 2, 3), "PI") == [0.0, 0.0, 100.0, 100.0]
    with pytest.raises(InputError, match="allowed: TS, PI, CF"):
        metric_marks([], "F1")
    with pytest.raises(InputError, match="lack policy 'first'"):
        summarize(levels_of(1), "first")
    with pytest.raises(InputError, match="no scores"):
        summarize([])


def test_paired_difference_agrees_with_the_normal_interval_on_many_queries():
    rng = np.random.default_rng(1)
    before = rng.normal(size=1000)
    after = before + rng.normal(0.1, 0.5, size=1000)
    mean, low, high = paired_difference(before.tolist(), after.tolist(), resamples=4000)
    difference = after - before
    half = 1.96 * difference.std(ddof=1) / math.sqrt(1000)
    assert mean == pytest.approx(difference.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.002)
    assert paired_difference(before[:300], after[:300]) == paired_difference(before[:300], after[:300])
    assert paired_difference(before[:300], after[:300]) != paired_difference(before[:300], after[:300], seed=1)
    # Pairing is what makes it narrow: the same values in another order differ as much, less surely.
    _, loose_low, loose_high = paired_difference(before.tolist(), rng.permutation(after).tolist(), resamples=1000)
    assert loose_high - loose_low > 2 * (high - low)


def test_paired_difference_of_marks():
    before, after = (
        metric_marks(levels_of(*[0] * 60, *[3] * 40), "CF"),
        metric_marks(levels_of(*[3] * 30, *[0] * 30, *[3] * 40), "CF"),
    )
    mean, low, high = paired_difference(before, after)
    assert mean == 30 and low == pytest.approx(21, abs=1.5) and high == pytest.approx(39, abs=1.5)
    assert paired_difference(after, before)[0] == -30
    assert paired_difference(before, before) == (0, 0, 0)


def test_paired_difference_refuses_what_cannot_be_paired():
    with pytest.raises(InputError, match="2 values before and 1 after"):
        paired_difference([1, 2], [1])
    with pytest.raises(InputError, match="at least one query"):
        paired_difference([], [])
    with pytest.raises(InputError, match=r"query 1 has 2\.0 before and nan after"):
        paired_difference([1.0, 2.0], [1.0, math.nan])


def test_random_pick_is_the_mean_of_one_in_n():
    a, b = Call("a", {}), Call("b", {})
    assert random_tool_ts([[a], [a, b], [Call("gone", {})]], [[A, B], [A, B], [A]]) == pytest.approx(50)
    assert random_tool_ts([[a]], [[A, A, B, B]]) == 50
    assert random_tool_ts([[], [a]], [[A], []]) == 0
    with pytest.raises(InputError, match="1 golden answers and 0 tool lists"):
        random_tool_ts([[a]], [])


def test_random_pick_of_rotbench_is_what_picking_scores(benchmark):
    rows = benchmark("rotbench_clean").examples
    expected = random_tool_ts([row.golden for row in rows], [row.tools for row in rows])
    scores = [
        np.mean([score_reply(f"{tool.name}()", row.golden, row.tools).levels["any"] >= 1 for tool in row.tools])
        for row in rows
    ]
    assert expected == pytest.approx(100 * np.mean(scores))


def test_a_picked_tool_list_is_read_in_any_form():
    assert random_tool_ts([[Call("a", {})]], [as_tool_list([A, B]).tools]) == 50
