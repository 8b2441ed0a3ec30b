"""Rewards of dialogues: the end of a task, rows with an answer, a user's function, a user's environment."""

import sys

import pytest

from tests.rl.dialogues.sampled import reward_block
from tests.rl.dialogues.test_step_rewards import Says, Text
from tljax.agent.dialogues import query_requests, toolbox_task_request
from tljax.agent.loop import DialogueLimits, hold_dialogues
from tljax.core.errors import InputError
from tljax.rl.dialogues.rewards import DialogueRewards
from tljax.storage.atomic import write_jsonl

LIMITS = DialogueLimits(turns=4, tokens=9000, new_tokens=200, repeats=3)
MYTOOLS = '''
class Counter:
    """A counter up to a row's number."""

    def __init__(self):
        self.count = 0
        self._hidden = 1

    def reset(self, goal=3, **row):
        self.goal, self.asked = goal, row["prompt"][-1]["content"]
        if goal == 13:
            raise ValueError("no luck")
        return f" Count to {goal}."

    def add(self, step: int = 1) -> int:
        """
        Add to the counter.

        Args:
            step: How much to add.

        Returns:
            The new count.
        """
        if step == 99:
            import os
            os._exit(1)
        self.count += step
        return self.count

    def get_reward(self):
        return {5: float("nan"), 6: "x"}.get(self.count, 1 - abs(self.goal - self.count))


class Plain:
    reward = 0.25
    def __init__(self):
        self.reward = 0.5
    def reset(self, **row):
        return None
    def look(self) -> str:
        "Look."
        return "nothing"
'''


def hold(requests, *texts):
    rounds = hold_dialogues(
        [(i, request.opening) for i, request in enumerate(requests)], Says(*texts), Text(), LIMITS, rows=4
    )
    return sorted((one for ended in rounds for one in ended), key=lambda one: one.number)


def scored(requests, *texts, **changes):
    with DialogueRewards(reward_block(**changes)) as rewards:
        return rewards.score(list(zip(requests, hold(requests, *texts), strict=True)))


def values_of(found):
    return [[reward.value for reward in rewards] for _, rewards in found]


def toolbox_task():
    """A task of one call, with the call that solves it."""
    for index in range(50):
        request = toolbox_task_request(5, "train", index, "mae")
        if request.task is not None and len(request.task.calls) == 2 and not request.task.state:
            return request
    raise AssertionError("no such task")


def test_the_last_turn_gets_success_or_failure():
    request = toolbox_task()
    right = f'finish(answer="{request.task.answer}")'
    ((row, rewards),) = scored([request], right)
    assert row["success"] and [reward.value for reward in rewards] == [0.125 + 1.0]
    ((row, rewards),) = scored([request], "nonsense(x=1)", 'finish(answer="wrong")')
    assert not row["success"]
    assert [(reward.value, reward.kind) for reward in rewards] == [(-1.9, "tool_hallucination"), (-0.375, "neutral")]
    ((_, rewards),) = scored([request], "I give up", success=9.0)
    assert [reward.value for reward in rewards] == [-2.5]
    ((_, rewards),) = scored([request], right, success=9.0, clip=3.0)
    assert [reward.value for reward in rewards] == [3.0]


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """asked(rows, tools="") -> requests; the working folder holds the files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mytools.py").write_text(MYTOOLS)
    listed = [{"name": "look_up", "description": "Look.", "parameters": {"properties": {"word": {}}}}]

    def make(rows, tools="", finish="finish"):
        own = {} if tools else {"tools": listed}
        write_jsonl(tmp_path / "tasks.jsonl", [{"query": "Go."} | own | row for row in rows])
        return query_requests(str(tmp_path / "tasks.jsonl"), "mae", finish, tools, 2.0)

    return make


def test_a_row_with_an_answer_tells_whether_it_is_solved(asked):
    requests = asked([{"id": 1, "answer": "42, x"}, {"id": 2, "answer": 7}])
    found = scored(requests, 'look_up(word="x")', 'finish(answer="42,x ")')
    assert [row["success"] for row, _ in found] == [True, False]
    assert values_of(found) == [[0.125, 1.125], [0.125, -0.375]]


REWARDS = """
import os
def last(dialogue):
    assert "tokens" not in dialogue
    turns = dialogue["turns"]
    return len(turns) + dialogue["row"]["bonus"] + (turns[0]["call"]["name"] == "look_up") / 4
def each(dialogue):
    return [i + turn["call_error"] for i, turn in enumerate(dialogue["turns"])]
def of_environment(dialogue):
    return dialogue["environment"]["count"] / 8
def short(dialogue):
    return [1.0]
def no_number(dialogue):
    return [0.0, "x"]
def ends(dialogue):
    os._exit(3)
def two(dialogue, more):
    return 0
"""


def test_a_users_function_rewards_the_last_turn_or_each(asked, tmp_path):
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    requests = asked([{"id": 1, "bonus": 0.5}, {"id": 2, "bonus": -0.5}])
    texts = ("look_up(verb=1)", 'finish(answer="x")')
    assert values_of(scored(requests, *texts, rule="my_rewards:last")) == [[0.0, 2.75], [0.0, 1.75]]
    found = scored(requests, *texts, rule="my_rewards:each")
    assert values_of(found) == [[1.0, 1.0]] * 2  # the first call's feedback is an error
    # Kinds are the table's, so that their shares mean the same under every rule.
    assert [reward.kind for reward in found[0][1]] == ["parameter", "neutral"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("short", "task 'a': config.reward.rule my_rewards:short returned 1 values for a dialogue of 2 turns"),
        (
            "no_number",
            "returned 'x', of type str; allowed: a finite number, or a Reward, or a list of a number",
        ),
        ("ends", "ended its process"),
        ("two", "my_rewards:two(dialogue, more) does not fit"),
        ("none", "module my_rewards has no none"),
    ],
)
def test_a_users_function_that_fails_is_one_line(asked, tmp_path, function, message):
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    with pytest.raises(InputError) as raised:
        scored(asked([{"id": "a"}]), "look_up(word=1)", 'finish(answer="x")', rule=f"my_rewards:{function}")
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_an_environment_begins_acts_and_rewards(asked, tmp_path):
    requests = asked([{"id": 1, "goal": 2}, {"id": 2, "goal": 4}], f"{tmp_path / 'mytools.py'}:Counter")
    opening = requests[0].opening
    assert [tool.name for tool in opening.tools.tools] == ["add", "finish"]
    assert opening.tools.schemas["add"]["step"]["description"] == "How much to add."
    first, second = hold(requests, "add(step=1)", "add(step=1)", 'finish(answer="x")')
    # Each dialogue has an object of its own, and reads what `reset` returned behind the user's words.
    text = Text().decode(first.tokens)
    assert "User: Go. Count to 2.\nAssistant:" in text and "Count to 4" in Text().decode(second.tokens)
    assert [exchange.result.value for exchange in first.exchanges] == ["1", "2", "x"]
    assert first.executor.ending.attributes == {"count": 2, "goal": 2, "asked": "Go."}
    with DialogueRewards(reward_block()) as rewards:
        found = rewards.score([(requests[0], first), (requests[1], second)])
    assert values_of(found) == [[0.125, 0.125, 1.125], [0.125, 0.125, 0.125 + 1 - 2]]
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    with DialogueRewards(reward_block(rule="my_rewards:of_environment")) as rewards:
        assert values_of(rewards.score([(requests[0], first)])) == [[0.0, 0.0, 0.25]]


def test_an_attribute_is_the_reward_of_a_class_without_get_reward(asked, tmp_path):
    requests = asked([{"id": 1}], f"{tmp_path / 'mytools.py'}:Plain", finish="")
    assert values_of(scored(requests, "look()", "nothing")) == [[0.125, 0.625]]


def test_an_environment_that_cannot_begin_ends_its_dialogue_alone(asked, tmp_path):
    requests = asked([{"id": 1, "goal": 13}, {"id": 2, "goal": 1}], f"{tmp_path / 'mytools.py'}:Counter")
    (row, none), (_, rewards) = scored(requests, "add()", 'finish(answer="x")')
    assert (row["outcome"], row["detail"], none) == ("environment", "ValueError: no luck", [])
    assert [reward.value for reward in rewards] == [0.125, 1.125]


def test_an_environment_whose_process_ends_stays_ended(asked, tmp_path):
    """A new process would begin in the middle of the dialogue; the run goes on, and the end has no reward."""
    requests = asked([{"id": 1}], f"{tmp_path / 'mytools.py'}:Counter")
    (one,) = hold(requests, "add(step=99)", "add(step=1)", 'finish(answer="x")')
    first, second = (exchange.result.value for exchange in one.exchanges[:2])
    assert first == "RuntimeError: add() ended its process"
    assert second == "RuntimeError: the environment ended in an earlier call"
    assert one.executor.ending is None
    with DialogueRewards(reward_block()) as rewards:
        assert values_of(rewards.score([(requests[0], one)])) == [[-0.25, -0.25, 0.125]]


@pytest.mark.parametrize(("step", "message"), [(5, "returned nan, which is not finite"), (6, "raised ValueError")])
def test_an_environment_without_a_number_stops_the_run(asked, tmp_path, step, message):
    requests = asked([{"id": 9}], f"{tmp_path / 'mytools.py'}:Counter")
    with pytest.raises(InputError, match=f"task 9: the reward of its environment: get_reward\\(\\) {message}"):
        scored(requests, f"add(step={step})", 'finish(answer="x")')


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("mytools.py:Nothing", "has no class Nothing"),
        ("empty.py:Empty", "Empty has no public method but reset and get_reward"),
        ("empty.py:Fails", r"Fails\(\) fails \(KeyError"),
        ("empty.py:Async", "is async"),
    ],
)
def test_a_class_that_cannot_be_used_is_one_line(asked, tmp_path, tools, message):
    (tmp_path / "empty.py").write_text(
        "class Empty:\n    def reset(self): pass\n    def _own(self): pass\n"
        "class Fails:\n    def __init__(self): {}['x']\n    def f(self): pass\n"
        "class Async:\n    async def f(self): pass\n"
    )
    with pytest.raises(InputError, match=message):
        asked([{"id": 1}], str(tmp_path / tools))
    assert "empty" not in sys.modules
