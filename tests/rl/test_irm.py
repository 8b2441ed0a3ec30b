"""IRM rewards: the released function, the paper's table, texts on which both agree, and texts made to break them."""

import json
import pickle
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import tljax.calls.compare
from tljax.calls.compare import KINDS, as_tool_list
from tljax.calls.render import render_call
from tljax.calls.tool import Call
from tljax.core.errors import InputError
from tljax.rl.irm import PARAMETER_REWARDS, REWARDS, RULES, Reward, reward

SEARCH = {
    "name": "search_advice",
    "parameters": {"properties": {"query": {"type": "string"}, "limit": {"type": "integer"}}, "required": ["query"]},
}
FINISH = {"name": "finish", "parameters": {"properties": {"answer": {"type": "string"}}, "required": ["answer"]}}
TOOLS = [SEARCH, FINISH]
VALUES = {*REWARDS.values(), *PARAMETER_REWARDS.values()}


def test_release_equals_the_released_function(shared):
    golden = json.loads((shared / "golden" / "rewards.json").read_text())
    for i, case in enumerate(golden["cases"]):
        result = reward(case["prediction"], case["golden"], golden["tool_lists"][case["tools"]], "release")
        assert result.value == case["release_reward"], (i, case, result)


@pytest.mark.parametrize("rule", ["table", "release"])
@pytest.mark.parametrize(
    ("prediction", "value", "kind", "detail"),
    [
        ("search_advice(query = 'love')", 1.0, "correct", ""),
        ("I cannot", -2.0, "format", "no call in the reply"),
        ("", -2.0, "format", "no call in the reply"),
        ("searchAdvice(query = 'love')", -2.0, "tool_hallucination", "'searchAdvice' is not listed"),
        ("finish(answer = 'love')", -1.5, "wrong_tool", "'finish', not 'search_advice'"),
        ("search_advice(limit = '1', x = '1')", -1.8, "parameter", "hallucinated: x; redundant: limit; missing: query"),
        ("search_advice(keyword = 'love')", -1.3, "parameter", "hallucinated: keyword; missing: query"),
        ("search_advice(query = 'love', limit = '1', x = '1')", -1.3, "parameter", "hallucinated: x; redundant: limit"),
        ("search_advice(limit = '1')", -1.0, "parameter", "redundant: limit; missing: query"),
        ("search_advice(query = 'love', x = '1')", -0.8, "parameter", "hallucinated: x"),
        ("search_advice(query = 'love', limit = '1')", -0.5, "parameter", "redundant: limit"),
        ("search_advice()", -0.5, "parameter", "missing: query"),
        ("search_advice(query = 'hate')", -0.25, "content", "query = 'hate', not 'love'"),
    ],
)
def test_rewards_are_those_of_the_papers_table(prediction, value, kind, detail, rule):
    golden = "search_advice(query = 'love')"
    assert reward(prediction, golden, TOOLS, rule) == Reward(value, kind, detail)
    wrapped = [{"type": "function", "function": tool} for tool in TOOLS]
    assert reward(f" {prediction} ", golden, wrapped, rule) == Reward(value, kind, detail)


@pytest.mark.parametrize(
    ("prediction", "golden", "table", "release"),
    [
        ('finish(answer="no")', 'finish(answer="yes")', -0.25, 1.0),
        ("search_advice(query = 'a', limit = 9)", "search_advice(query = 'a', limit = 3)", -0.25, 1.0),
        ("search_advice(query = 'a', limit = 9)", "search_advice(query = 'a')", -0.5, 1.0),
        ("search_advice(query='a', limit=3.0)", 'search_advice(query="a", limit=3)', 1.0, -0.5),
        ("finish(answer = 'yes (1)')", "finish(answer = 'no (2)')", -0.25, 1.0),
        ("finish(answer = 'yes')", "finish(answer = 'yes (2)')", -0.25, -0.5),
        ("finish(answer = 'it's fine')", "finish(answer = 'it's not')", -0.25, 1.0),
        ("I call finish(answer = 'yes')", "finish(answer = 'yes')", 1.0, -2.0),
        ("finish(answer = 'yes'", "finish(answer = 'yes')", -2.0, -2.0),
        ("finish(answer = 'yes', answer = 'yes')", "finish(answer = 'yes')", -2.0, 1.0),
        ("finish('yes')", "finish(answer = 'yes')", 1.0, -0.5),
        ("finish(answer = 'yes')\nfinish(answer = 'no')", "finish(answer = 'yes')", 1.0, 1.0),
        ("finish(answer = 'yes', more = 'x')", "finish(answer = 'yes', more = 'x')", 1.0, -0.8),
        ("(answer = 'yes')", "(answer = 'no')", -2.0, -0.25),
    ],
)
def test_the_table_and_the_released_function_differ_on_these_texts(prediction, golden, table, release):
    assert reward(prediction, golden, TOOLS).value == table
    assert reward(prediction, golden, TOOLS, "release").value == release


@pytest.mark.parametrize("rule", ["table", "release"])
def test_a_tool_that_is_not_listed_is_a_hallucination_even_where_golden(rule):
    result = reward("finish(answer = 'x')", "finish(answer = 'x')", [SEARCH], rule)
    assert result == Reward(-2.0, "tool_hallucination", "'finish' is not listed")


@pytest.mark.parametrize("rule", ["table", "release"])
def test_a_golden_call_that_cannot_be_read_is_named(rule):
    result = reward("finish(answer = 'x')", "finish", TOOLS, rule)
    assert result == Reward(-2.0, "format", "the golden call cannot be read (no_call)")


def test_release_reads_parameters_back_from_the_prompt():
    odd = {"name": "run", "parameters": {"properties": {"code:": {"type": "string"}, "a,b": {"type": "string"}}}}
    assert reward("run(b = '1')", "run()", [odd], "release").detail == "redundant: b"
    assert reward("run(code = '1')", "run()", [odd], "release").detail == "redundant: code"
    described = {"name": "run", "description": "like def walk(self, step: int): ...", "parameters": {}}
    assert reward("walk(self = '1')", "walk()", [described], "release").detail == "hallucinated: self"
    assert reward("walk(step = '1')", "walk()", [described], "release").detail == "redundant: step"


WORDS = st.sampled_from(["love", "12", "", "New York", "x_y", "a=b", "é"])
ARGUMENTS = st.dictionaries(st.sampled_from(["query", "limit", "answer", "x"]), WORDS)


@settings(deadline=None)
@given(st.sampled_from(["search_advice", "finish", "other"]), ARGUMENTS, ARGUMENTS)
@example("search_advice", {"limit": "1", "query": "a"}, {"query": "b", "limit": "2"})
def test_both_rules_agree_on_plain_texts(name, given, wanted):
    wanted = {key: value for key, value in wanted.items() if key in ("query", "limit")}
    prediction, golden = render_call(Call(name, given), "readme"), render_call(Call("search_advice", wanted), "readme")
    assert reward(prediction, golden, TOOLS) == reward(prediction, golden, TOOLS, "release")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(JSON, JSON, st.sampled_from(["mae", "readme"]))
def test_the_golden_call_is_right_whatever_its_values(query, limit, dialect):
    golden = render_call(Call("search_advice", {"query": query, "limit": limit}), dialect)
    assert reward(golden, golden, TOOLS).value == 1
    other = render_call(Call("search_advice", {"limit": limit, "query": [query]}), dialect)
    assert reward(other, golden, TOOLS).kind == "content"


PIECES = [
    "search_advice(",
    "finish(",
    "query",
    "limit",
    "answer",
    "=",
    "'",
    '"',
    "(",
    ")",
    "[",
    "{",
    "]",
    "}",
    ",",
    "\\",
]
PIECES += ["\n", " ", "1", "-", "**", "9" * 30, "'x'", '"y"', "</s>", "\nOutput:", "```", "é", "\x00", "\ud800"]
JOINED = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
TEXTS = st.text() | JOINED | st.builds("search_advice({}='{}', {}={})".format, *[st.sampled_from(PIECES) | JOINED] * 4)


def check_any_text(prediction, golden):
    for rule in RULES:
        result = reward(prediction, golden, TOOLS, rule)
        assert result.value in VALUES and result.kind in KINDS
        assert bool(result.detail) is (result.kind != "correct") and "\n" not in result.detail
        assert pickle.loads(pickle.dumps(result)) == result


@settings(max_examples=300, deadline=None, derandomize=True)
@given(TEXTS, TEXTS | st.just("search_advice(query='x')"))
def test_never_raises_for_any_text(prediction, golden):
    check_any_text(prediction, golden)


@pytest.mark.slow
@settings(max_examples=100_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(TEXTS, TEXTS | st.just("search_advice(query='x')"))
def test_never_raises_for_a_hundred_thousand_texts(prediction, golden):
    check_any_text(prediction, golden)


@pytest.mark.extended
@pytest.mark.parametrize("rule", ["table", "release"])
@pytest.mark.parametrize("piece", ["a", "(", ")", "'", "a = '", "[", "{", " ", "f(", "a,", "9", "a b "])
def test_time_is_linear_in_the_text(piece, rule):
    text = piece * (100_000 // len(piece))
    start = time.process_time()
    for prediction in (text, f"finish({text})", f"finish(answer={text}", f"finish(answer='{text}')"):
        reward(prediction, "finish(answer = 'x')", TOOLS, rule)
    # A quadratic reading of 100,000 characters takes minutes.
    assert time.process_time() - start < 5


@pytest.mark.parametrize("text", ["[" * 5000 + "]" * 5000, "9" * 5000, "9**9**9**9", "1e999", "-" * 5000 + "1"])
def test_values_of_any_size_and_depth_are_compared(text):
    prediction = f"search_advice(query={text})"
    assert reward(prediction, "search_advice(query='x')", TOOLS).kind == "content"
    assert reward(prediction, prediction, TOOLS).kind == "correct"


def test_equal_tool_lists_are_read_once(monkeypatch):
    read, reads = tljax.calls.compare.tool_from_json, []
    monkeypatch.setattr(tljax.calls.compare, "tool_from_json", lambda tool, at: reads.append(at) or read(tool, at))
    for i in range(5):
        tools = json.loads(json.dumps([{**SEARCH, "description": "read once"}]))
        assert reward(f"search_advice(query={i})", "search_advice(query=1)", tools).value == (1 if i == 1 else -0.25)
    assert len(reads) == 1


def test_tools_may_be_read_beforehand():
    tools = as_tool_list(TOOLS)
    assert reward("finish(answer=1)", "finish(answer=1)", tools).value == 1
    assert reward("finish(answer=1)", "finish(answer=1)", tools.tools).value == 1


def test_bad_arguments_are_one_clear_line():
    with pytest.raises(InputError, match="the reward rule is 'paper'; allowed: table, release"):
        reward("", "", TOOLS, "paper")
    with pytest.raises(InputError, match=r"tools\[0\]\.name: is null or missing"):
        reward("", "", [{}])
