"""The rewards of other papers: all calls of a turn, matched to the golden ones."""

import pytest

from tljax.calls.compare import KINDS, as_tool_list
from tljax.rl.call_matching import MATCHED_RULES, matched_reward
from tljax.rl.irm import reward

TOOLS = as_tool_list(
    [
        {
            "name": name,
            "description": "",
            "parameters": {"type": "object", "properties": {p: {"type": "string"} for p in "abc"}},
        }
        for name in ("find", "book")
    ]
)
ONE = 'find(a="1", b="2")'
TWO = 'find(a="1", b="2")\nbook(c="3")'

# By hand from the paper's equations: 1 for the format, and 6 * matched / possible - 3 for the calls.
TOOLRL = [
    (ONE, ONE, 4.0),
    ('find(b="2", a="1")', ONE, 4.0),
    ('find(a="1", b="x")', ONE, 1 + 6 * (1 + 1 + 1) / 4 - 3),
    ('find(a="1")', ONE, 1 + 6 * (1 + 1 / 2 + 1) / 4 - 3),
    ('find(a="1", b="2", c="3")', ONE, 1 + 6 * (1 + 2 / 3 + 2) / 4 - 3),
    ('book(a="1", b="2")', ONE, 1 + 0 - 3),
    ("I do not know.", ONE, 0 - 3),
    ('find(a="1", b="2"', ONE, 0 - 3),
    ("find()", "find()", 4.0),
    (TWO, TWO, 4.0),
    ('book(c="3")\nfind(a="1", b="2")', TWO, 4.0),
    (ONE, TWO, 1 + 6 * (1 / 2 + 1 + 2) / (1 + 2 + 3) - 3),
    # Each call is matched once: the better of two calls of one tool, and none twice.
    (f'find(a="1", b="x")\n{ONE}', ONE, 1 + 6 * (1 / 2 + 1 + 2) / 4 - 3),
    (ONE, f"{ONE}\n{ONE}", 1 + 6 * (1 / 2 + 1 + 2) / (1 + 2 + 4) - 3),
    # Taking the first call that fits best would leave find(a="1") nothing but find(b="2").
    ('find(a="1")\nfind(b="2")', 'find(a="1", b="2")\nfind(a="1")', 1 + 6 * (1 + (1 / 2 + 1) + (1 + 1)) / 6 - 3),
]


@pytest.mark.parametrize("prediction, golden, wanted", TOOLRL)
def test_toolrl_rewards_names_parameters_and_values_in_parts(prediction, golden, wanted):
    assert matched_reward(prediction, golden, TOOLS, "toolrl").value == pytest.approx(wanted)


@pytest.mark.parametrize("prediction, golden, wanted", TOOLRL)
def test_binary_rewards_all_golden_calls_alone(prediction, golden, wanted):
    assert matched_reward(prediction, golden, TOOLS, "binary").value == (1.0 if wanted == 4.0 else 0.0)


@pytest.mark.parametrize("rule", MATCHED_RULES)
def test_the_kind_of_error_is_that_of_the_table(rule):
    kinds = {matched_reward(prediction, golden, TOOLS, rule).kind for prediction, golden, _ in TOOLRL}
    assert kinds <= set(KINDS) and {"correct", "format", "wrong_tool", "parameter", "content"} <= kinds
    for prediction, golden, _ in TOOLRL:
        by_table = reward(prediction, golden, TOOLS)
        found = matched_reward(prediction, golden, TOOLS, rule)
        assert (found.kind, found.detail) == (by_table.kind, by_table.detail)


def test_a_golden_call_that_cannot_be_read_gives_the_least():
    assert matched_reward(ONE, "no call", TOOLS, "binary").value == 0.0
    assert matched_reward(ONE, "no call", TOOLS, "toolrl").value == -3.0
