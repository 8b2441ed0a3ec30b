"""Comparison of calls: every kind, equality of values, golden alternatives, and values made to break it."""

import math
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tljax.calls.compare import AcceptedValues, AnyValue, as_tool_list, compare, values_equal
from tljax.calls.parse import ParsedText, parse_calls
from tljax.calls.tool import Call, Tool
from tljax.core.errors import InputError

WEATHER = {
    "name": "weather",
    "parameters": {
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"type": "string"}},
        "required": ["city"],
    },
}
TOOLS = as_tool_list([WEATHER, {"type": "function", "function": {"name": "finish", "parameters": {}}}])
GOLDEN = Call("weather", {"city": "Oslo", "days": 3})


def kind(text, golden=GOLDEN, **options):
    return compare(TOOLS.parse(text), golden, TOOLS, **options)


@pytest.mark.parametrize(
    ("text", "expected", "detail"),
    [
        ("weather(city='Oslo', days=3)", "correct", ""),
        ("weather('Oslo', 3.0)", "correct", ""),
        ("sunny", "format", "no call in the reply"),
        ("weather(city='Oslo', days=3", "format", "a call that never closes"),
        ("weather(city='Oslo', city='Rome')", "format", "an argument given twice"),
        ("weather(1, 2, 3, 4)", "format", "more positional arguments than parameters"),
        ("wether(city='Oslo', days=3)", "tool_hallucination", "'wether' is not listed"),
        ("finish()", "wrong_tool", "'finish', not 'weather'"),
        ("weather(city='Oslo', days=3, when='now')", "parameter", "hallucinated: when"),
        ("weather(city='Oslo', days=3, unit='C')", "parameter", "redundant: unit"),
        ("weather(days=3)", "parameter", "missing: city"),
        ("weather(unit='C', x=1)", "parameter", "hallucinated: x; redundant: unit; missing: city, days"),
        ("weather(city='Rome', days='3')", "content", "city = 'Rome', not 'Oslo'; days = '3', not 3"),
    ],
)
def test_every_kind_names_what_is_wrong(text, expected, detail):
    comparison = kind(text)
    assert (comparison.kind, comparison.detail) == (expected, detail)
    assert comparison.level == {"correct": 3, "content": 2, "parameter": 1}.get(expected, 0)


def test_only_the_first_call_counts():
    assert kind("weather(city='Oslo', days=3)\nfinish()").kind == "correct"


def test_a_golden_tool_that_is_not_listed_can_be_called():
    golden = Call("closest", {"city": "Oslo"})
    assert kind("closest(city='Oslo')", golden).kind == "correct"
    assert kind("closest(city='Oslo', days=1)", golden).hallucinated == ("days",)


def test_an_undocumented_golden_argument_is_no_hallucination():
    golden = Call("weather", {"code": "x"})
    assert kind("weather(code='x')", golden).kind == "correct"
    assert kind("weather(city='x')", golden).redundant == ("city",)


def test_ignored_arguments_are_neither_asked_nor_compared():
    golden = Call("weather", {"city": "Oslo", "key": "secret"})
    for text in ("weather(city='Oslo')", "weather(city='Oslo', key='X')", "weather(city='Oslo', other='X', key=1)"):
        assert kind(text, golden, ignored={"key", "other"}).kind == "correct"
    assert kind("weather(key='secret')", golden, ignored={"key"}).missing == ("city",)


def test_any_value_is_asked_for_but_not_judged():
    golden = Call("weather", {"city": "Oslo", "days": AnyValue()})
    assert kind("weather(city='Oslo', days=[1])", golden).kind == "correct"
    assert kind("weather(city='Oslo')", golden).missing == ("days",)


def test_choices_take_any_value_and_may_be_left_out():
    golden = Call("weather", {"city": AcceptedValues(("New York", "NYC")), "unit": AcceptedValues(("", "C"))})
    for text in ("weather(city='NYC')", "weather(city='new-york', unit='c')", "weather(unit='', city='N.Y.C.')"):
        assert kind(text, golden).kind == "correct"
    assert kind("weather(unit='C')", golden).missing == ("city",)
    assert kind("weather(city='NYC', unit='F')", golden).detail == "unit = 'F', not '' or 'C'"


def test_choices_refuse_a_float_for_a_documented_integer():
    def level(days, *choices):
        return compare(Call("weather", {"days": days}), Call("weather", {"days": AcceptedValues(choices)}), TOOLS).level

    assert level(3, 3) == 3 and level(3.0, 3) == 2 and level(3.0, 3.0) == 3 and level(3, 3.0) == 3
    assert level("3", 3) == 2 and level(True, 1) == 2
    schema = {"type": "array", "items": {"type": "integer"}}
    assert values_equal([1, 2], AcceptedValues(([1, 2],)), schema) and not values_equal(
        [1.0, 2], AcceptedValues(([1, 2],)), schema
    )
    assert values_equal([1.0, 2], [1, 2], schema)


def test_choices_reach_into_dicts_and_lists():
    golden = AcceptedValues(([{"field": AcceptedValues(("age",)), "order": AcceptedValues(("", "asc"))}],))
    assert values_equal([{"field": "Age"}], golden) and values_equal([{"field": "age", "order": "ASC"}], golden)
    assert not values_equal([{"field": "name"}], golden) and not values_equal([{"order": "asc"}], golden)
    assert not values_equal([{"field": "age", "x": 1}], golden)


@pytest.mark.parametrize(
    ("value", "golden", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (False, False, True),
        ("1", 1, False),
        ("a", "A", False),
        ("a", "a ", False),
        (None, None, True),
        (None, "None", False),
        (None, 0, False),
        ([1, 2], [2, 1], False),
        ([1, [2]], [1.0, [2]], True),
        ([1], [1, 1], False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1.0}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ([True], [1], False),
        ({}, [], False),
        (math.nan, math.nan, True),
        (math.nan, 1.0, False),
        (math.inf, 10**400, False),
        (10**400, 10**400, True),
        (0.1 + 0.2, 0.3, False),
        (5e-05, 0.00005, True),
    ],
)
def test_values(value, golden, same):
    assert values_equal(value, golden) is same and values_equal(golden, value) is same


def test_values_too_deep_or_too_long_are_compared_and_shown():
    deep = shallow = []
    for _ in range(10 * sys.getrecursionlimit()):
        deep = [deep]
    for value in (deep, {"a": deep}, 10**5000, "\n" * 1000, "x" * 1000, ["x" * 1000]):
        comparison = compare(Call("weather", {"city": value}), Call("weather", {"city": shallow}), TOOLS)
        assert comparison.kind == "content" and "\n" not in comparison.detail and len(comparison.detail) < 200
        assert compare(Call("weather", {"city": value}), Call("weather", {}), TOOLS).detail == "redundant: city"
    assert not values_equal(deep, [deep])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(VALUES, VALUES)
def test_equality_is_reflexive_and_symmetric(a, b):
    assert values_equal(a, a) and values_equal(a, AcceptedValues((b, a))) and values_equal(a, AnyValue())
    assert values_equal(a, b) is values_equal(b, a)


@settings(deadline=None)
@given(st.text(), st.text(), VALUES, VALUES)
def test_never_raises_and_a_call_equals_itself(name, key, a, b):
    call = Call(name, {key: a})
    assert compare(call, call, TOOLS).kind == "correct"
    assert isinstance(compare(call, Call("weather", {key: b, "x": a}), TOOLS).detail, str)
    assert compare(ParsedText((), None), call, TOOLS).kind == "format"


def test_tool_list_reads_every_form_of_tools():
    wrapped = as_tool_list([{"type": "function", "function": WEATHER}])
    assert wrapped.schemas == as_tool_list([WEATHER]).schemas == as_tool_list(as_tool_list([WEATHER]).tools).schemas
    assert wrapped is as_tool_list([{"type": "function", "function": dict(WEATHER)}]) and wrapped is as_tool_list(
        wrapped
    )


def test_tool_list_sees_a_list_that_changed():
    tools = [dict(WEATHER)]
    assert "weather" in as_tool_list(tools).schemas
    tools[0]["name"] = "climate"
    assert list(as_tool_list(tools).schemas) == ["climate"]


def test_tools_of_one_name_share_their_parameters():
    twice = as_tool_list([Tool("f", "", {"a": {}}, ()), Tool("f", "", {"b": {}}, ())])
    assert compare(twice.parse("f(a=1, b=2)"), Call("f", {"b": 2}), twice).redundant == ("a",)


def test_tools_that_are_none_are_an_input_error():
    with pytest.raises(InputError, match=r"tools\[1\]\.name: is null or missing"):
        as_tool_list([WEATHER, {"description": "nameless"}])


ODD = as_tool_list(
    [WEATHER, *({"name": name, "parameters": {"properties": {"a,b": {}, "it's": {}}}} for name in ("m n", "f(x"))]
)
PIECES = ["weather", "m n", "f(x", "(", ")", "a,b", "it's", "city", "=", "1", "'x'", " ", ", ", "\n", "I call "]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
@example("I call m n(a,b=1)")
@example("f(x(it's=1)")
@example("weather('Oslo', 3)")
def test_parse_with_the_list_equals_parse_with_every_tool(text):
    assert ODD.parse(text) == parse_calls(text, ODD.tools)
