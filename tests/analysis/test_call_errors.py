"""Errors of calls by their documentation: examples of every kind, and Python's verdict on 1,373 executed calls."""

import re

import pytest

from tljax.analysis.call_errors import CALL_ERRORS, call_errors
from tljax.analysis.feedback_errors import find_step_errors
from tljax.calls.tool import Call, Tool, tool_from_json
from tljax.data.reader import open_trajectories

SCHEMAS = {
    "a": {"type": "string"},
    "n": {"type": "integer"},
    "x": {"type": "float"},
    "flag": {"type": "boolean"},
    "unit": {"type": "string", "enum": ["C", "F"]},
    "one": {"enum": [1, "two", None]},
    "list": {"type": "array", "items": {"type": "number"}},
    "pair": {"type": "tuple"},
    "deep": {"type": "dict", "properties": {"days": {"type": "array", "items": {"enum": ["Mo", "Tu"]}}}},
    "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    "maybe": {"type": ["string", "null"]},
    "odd": {"type": "datetime"},
    "free": {},
}
TOOL = tool_from_json({"name": "f", "parameters": {"properties": SCHEMAS, "required": ["a", "maybe"]}}, "f")
GOOD = {"a": "x", "maybe": None}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, ()),
        ({"n": 3}, ()),
        ({"n": 3.0}, ()),
        ({"n": 3.5}, ("wrong type",)),
        ({"n": float("inf")}, ("wrong type",)),
        ({"n": "3"}, ("wrong type",)),
        ({"n": True}, ("wrong type",)),
        ({"n": None}, ()),
        ({"x": 1}, ()),
        ({"x": "1.5"}, ("wrong type",)),
        ({"flag": 1}, ("wrong type",)),
        ({"flag": False}, ()),
        ({"a": 5}, ("wrong type",)),
        ({"a": None}, ("wrong type",)),
        ({"maybe": 1}, ("wrong type",)),
        ({"unit": "C"}, ()),
        ({"unit": "K"}, ("value not allowed",)),
        ({"one": 1.0}, ()),
        ({"one": True}, ("value not allowed",)),
        ({"list": [1, 2.5]}, ()),
        ({"list": [1, "2"]}, ("wrong type",)),
        ({"list": 1}, ("wrong type",)),
        ({"pair": [1, "a"]}, ()),
        ({"deep": {"days": ["Mo"], "else": 1}}, ()),
        ({"deep": {"days": ["Mo", "We"]}}, ("value not allowed",)),
        ({"deep": []}, ("wrong type",)),
        ({"either": "s"}, ()),
        ({"either": 1.5}, ("wrong type",)),
        ({"odd": 1, "free": [1]}, ()),
        ({"b": 1}, ("unexpected parameter",)),
        ({"b": 1, "n": "x", "unit": "K"}, ("unexpected parameter", "wrong type", "value not allowed")),
    ],
)
def test_every_kind_of_error_in_a_call_is_found(given, wanted):
    assert call_errors(Call("f", GOOD | given), [TOOL]) == wanted


def test_missing_parameters_and_unknown_tools():
    assert call_errors(Call("f", {"a": "x"}), [TOOL]) == ("missing parameter",)
    assert call_errors(Call("f", {"b": 1}), [TOOL]) == ("missing parameter", "unexpected parameter")
    assert call_errors(Call("g", {"b": 1}), [TOOL]) == ("unknown tool",)
    other = tool_from_json({"name": "f", "parameters": {"properties": {"b": {}}}}, "f")
    assert call_errors(Call("f", {"b": 1}), [TOOL, other]) == ()


def test_values_and_schemas_of_any_depth_are_checked():
    value: list = []
    for _ in range(100_000):
        value = [value]
    schema: dict = {"type": "array"}
    schema["items"] = schema
    endless = Tool("f", "", {"x": schema}, ())
    assert call_errors(Call("f", {"x": value}), [endless]) == ()


def test_the_verdict_on_executed_calls_is_pythons_own(shared):
    """For each executed call of BFCL, Python raised an error exactly if the documentation shows one."""
    raised = {
        "unknown tool": "is not defined",
        "missing parameter": r"missing \d+ required positional",
        "unexpected parameter": "unexpected keyword argument",
    }
    source = open_trajectories(str(shared / "data/train/bfcl_multiturn_errors.json"), "refuse")
    found = [one for trajectory in source.trajectories() for one in find_step_errors(trajectory)]
    assert len(found) == 1373 and {one.calls is None for one in found} == {False}
    for kind, pattern in raised.items():
        said = [bool(re.search(pattern, one.feedback[:300])) for one in found]
        assert [kind in one.calls for one in found] == said and sum(said) > 60
    assert set(raised) < set(CALL_ERRORS)
