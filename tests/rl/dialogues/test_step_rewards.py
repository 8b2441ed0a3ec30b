"""The reward of a turn, row by row of the table, from dialogues that the agent loop holds."""

import runpy

import pytest

from tests.rl.dialogues.sampled import reward_block
from tljax.agent.loop import DialogueLimits, Exchange, Opening, hold_dialogues
from tljax.calls.compare import as_tool_list
from tljax.calls.tool import Call
from tljax.rl.dialogues.step_rewards import STEP_KINDS, StepValues, step_reward, step_rewards
from tljax.rl.irm import PARAMETER_REWARDS, REWARDS
from tljax.toolbox.execute import Result

TOOLS = as_tool_list(
    [
        {
            "name": "book",
            "parameters": {"properties": {"city": {}, "day": {}, "room": {}}, "required": ["city", "day"]},
        }
    ]
)
VALUES = StepValues.from_config(reward_block())
FINE, BAD = Result("booked", False), Result("ValueError: no such\n city", True)


@pytest.mark.parametrize(
    ("call", "result", "value", "kind", "detail"),
    [
        (None, None, -2.0, "format", "no call can be read"),
        (Call("fly", {"city": "Rome"}), BAD, -1.9, "tool_hallucination", "fly"),
        (Call("book", {"hotel": 1, "city": "Rome"}), BAD, -1.3, "parameter", "hallucinated hotel; missing day"),
        (Call("book", {"city": 1, "day": 2, "hotel": 3, "bed": 4}), BAD, -0.8, "parameter", "hallucinated hotel, bed"),
        (Call("book", {"room": 1}), BAD, -0.5, "parameter", "missing city, day"),
        # The documentation decides before the feedback, whether a tool ran or not.
        (Call("book", {"room": 1}), FINE, -0.5, "parameter", "missing city, day"),
        (Call("book", {"city": "?", "day": 1}), BAD, -0.25, "call_error", "ValueError: no such city"),
        (Call("book", {"city": "Rome", "day": 1}), FINE, 0.125, "neutral", ""),
    ],
)
def test_each_row_of_the_table(call, result, value, kind, detail):
    reward = step_reward(Exchange("", call, None, result), TOOLS, VALUES)
    assert (reward.value, reward.kind, reward.detail) == (value, kind, detail) and kind in STEP_KINDS


def test_the_configs_values_are_irms(repo):
    """Where a turn shows the same error, the table of IRM has the same value."""
    config = runpy.run_path(str(repo / "configs" / "ppo.py"))["get_config"]("tiny,multi")
    config.reward.steps.scale = 1.0
    values = StepValues.from_config(config.reward)
    assert values.format == REWARDS["format"] and values.unknown_tool == REWARDS["tool_hallucination"]
    assert values.call_error == REWARDS["content"] and values.neutral == 0
    assert {values.hallucinated, values.missing, values.hallucinated_and_missing} <= set(PARAMETER_REWARDS.values())


def test_the_scale_multiplies_all_values():
    values = StepValues.from_config(reward_block(scale=0.5))
    assert (values.format, values.unknown_tool, values.missing, values.neutral) == (-1.0, -0.95, -0.25, 0.0625)


class Says:
    """A policy whose replies are given texts, one token for each character."""

    def __init__(self, *texts):
        self.texts = list(texts)

    def __call__(self, dialogues):
        return [_Text([ord(c) for c in self.texts[len(one.replies)]]) for one in dialogues]


class _Text:
    ended = True

    def __init__(self, tokens):
        self.tokens = tokens


class Text:
    def encode(self, text):
        return [ord(c) for c in text], None

    def encode_continuation(self, text):
        return [ord(c) for c in text]

    def decode(self, tokens):
        return "".join(map(chr, tokens))


class Fine:
    def execute(self, call):
        return FINE

    def close(self):
        pass


@pytest.mark.parametrize(("finish", "kinds"), [(None, ["neutral", "neutral"]), ("end", ["neutral", "format"])])
def test_an_answer_without_a_call_is_neutral_where_no_tool_ends_the_dialogue(finish, kinds):
    opening = Opening("Book.", TOOLS, finish, Fine)
    policy = Says('book(city="Rome", day=1)', "It is booked")
    rounds = hold_dialogues([(0, opening)], policy, Text(), DialogueLimits(4, 900, 60, 3), rows=1)
    (dialogue,) = [one for ended in rounds for one in ended]
    assert [reward.kind for reward in step_rewards(dialogue, VALUES)] == kinds
