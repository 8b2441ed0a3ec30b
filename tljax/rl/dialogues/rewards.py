"""The rewards of dialogues: one for each turn, by the steps' table and the task's success, or by a user's function.

The last turn also gets, by `DialogueRewards`, what the end of the dialogue is worth: the reward of the user's
environment (`agent.worker`) if it has one, or else config.reward.success or config.reward.failure where the task tells
what solves it. A task of the toolbox does, and so does a row of a file with the field "answer".
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from tljax.agent.dialogues import DialogueRequest, is_answer
from tljax.agent.executors import FileExecutor
from tljax.agent.loop import Dialogue
from tljax.agent.scores import dialogue_row
from tljax.agent.worker import Ending
from tljax.core.errors import InputError
from tljax.rl.dialogues.step_rewards import StepValues, step_rewards
from tljax.rl.irm import Reward
from tljax.rl.reward import check_limits, clip_rewards
from tljax.rl.reward_workers import RewardWorkers

STEPS_RULE = "table"  # the value of reward.rule that means the table of `step_rewards`


class DialogueRewards:
    """Computes the rewards of dialogues by config.reward. Close it after use, or use it in a `with`.

    rule: STEPS_RULE, or module:function, which gets `user_view` of a dialogue, and returns the value of the last turn
    or a list with one for each turn; its kinds and details are the table's. Raises InputError for values out of range,
    and for a function that cannot be imported or takes other arguments.
    """

    def __init__(self, reward: Any) -> None:
        check_limits(reward.clip, reward.timeout, reward.workers)
        self._values, self._clip = StepValues.from_config(reward), reward.clip
        self._success, self._failure = float(reward.success), float(reward.failure)
        own = reward.rule != STEPS_RULE
        self._workers = RewardWorkers(reward.rule, reward.workers, reward.timeout, of_dialogues=True) if own else None

    def __enter__(self) -> "DialogueRewards":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes of a user's function, if there are any."""
        if self._workers is not None:
            self._workers.close()

    def score(self, pairs: Sequence[tuple[DialogueRequest, Dialogue]]) -> list[tuple[dict[str, Any], list[Reward]]]:
        """Returns for every ended dialogue its row as JSON (`dialogue_json`) and the reward of each of its turns.

        Raises InputError, which names the task, if a user's function raises, hangs, ends its process or returns
        anything but rewards, and if an environment's reward cannot be read.
        """
        rows = [dialogue_json(request, dialogue) for request, dialogue in pairs]
        rewards = [step_rewards(dialogue, self._values) for _, dialogue in pairs]
        if self._workers is None:
            rewards = [self._with_end(*pair, row, turns) for pair, row, turns in zip(pairs, rows, rewards, strict=True)]
        else:
            # A dialogue that could not begin has no turn to reward.
            judged = [i for i, turns in enumerate(rewards) if turns]
            calls = [(user_view(pairs[i][0], rows[i], _ending(pairs[i][1])),) for i in judged]
            found = self._workers.call(calls, lambda i: f"task {pairs[judged[i]][0].id!r}")
            for i, values in zip(judged, found, strict=True):
                rewards[i] = [
                    dataclasses.replace(reward, value=value) for reward, value in zip(rewards[i], values, strict=True)
                ]
        return [(row, clip_rewards(turns, self._clip)) for row, turns in zip(rows, rewards, strict=True)]

    def _with_end(
        self, request: DialogueRequest, dialogue: Dialogue, row: dict[str, Any], rewards: list[Reward]
    ) -> list[Reward]:
        end = environment_reward(request, dialogue)
        if end is None and "success" in row:
            end = self._success if row["success"] else self._failure
        if not rewards or end is None:
            return rewards
        return [*rewards[:-1], dataclasses.replace(rewards[-1], value=rewards[-1].value + end)]


def environment_reward(request: DialogueRequest, dialogue: Dialogue) -> float | None:
    """Returns the reward of the dialogue's environment, None if it has none. Raises InputError if it is no number."""
    ending = _ending(dialogue)
    if ending is None:
        return None
    if ending.error:
        raise InputError(f"task {request.id!r}: the reward of its environment: {ending.error}; mend the class")
    if ending.reward is not None and not math.isfinite(ending.reward):
        raise InputError(f"task {request.id!r}: the reward of its environment is {ending.reward}; mend the class")
    return ending.reward


def _ending(dialogue: Dialogue) -> Ending | None:
    return dialogue.executor.ending if isinstance(dialogue.executor, FileExecutor) else None


def dialogue_json(request: DialogueRequest, dialogue: Dialogue) -> dict[str, Any]:
    """Returns `agent.scores.dialogue_row`, with each exchange's call as {"name", "arguments"}, None if it has none.

    If the task's row has an "answer", the dialogue is solved if its answer is the same (`agent.dialogues.is_answer`).
    """
    row = dialogue_row(request, dialogue)
    wanted = request.row.get("answer")
    if wanted is not None:
        right = is_answer(row["answer"], [str(wanted)])
        row |= {"success": right, "answer_right": right, "state_right": True, "changes_state": False}
        row["wanted"] = str(wanted)
    for found, exchange in zip(row["exchanges"], dialogue.exchanges, strict=True):
        call = exchange.call
        found["call"] = None if call is None else {"name": call.name, "arguments": call.arguments}
    return row


def user_view(request: DialogueRequest, row: dict[str, Any], ending: Ending | None = None) -> dict[str, Any]:
    """Returns a dialogue as a user's reward function gets it, a JSON object.

    "id", "query", "answer" (None if it did not end in one), "outcome" (`agent.loop.OUTCOMES`), "success" where the task
    tells it, "row" (that of the user's file, {} otherwise), "environment" (the public attributes of the user's object
    that are texts, numbers or truth values), and "turns": of each reply "reply" (its text), "call" ({"name",
    "arguments"} or None), "feedback" and "call_error" (None and False without a call).
    """
    turns = [
        {
            "reply": exchange["reply"],
            "call": exchange["call"],
            "feedback": exchange.get("feedback"),
            "call_error": exchange.get("call_error", False),
        }
        for exchange in row["exchanges"]
    ]
    told = {name: row[name] for name in ("id", "query", "answer", "outcome", "success") if name in row}
    environment = ending.attributes if ending is not None else {}
    return told | {"row": dict(request.row), "environment": environment, "turns": turns}
