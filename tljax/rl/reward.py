"""Rewards of a batch of replies, by the IRM rules or by a user's function in child processes with a time limit."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from tljax.calls.compare import ToolList
from tljax.core.errors import InputError
from tljax.core.user_function import is_function_path
from tljax.data.prompt_table import Prompt
from tljax.distributed import processes
from tljax.rl.call_matching import MATCHED_RULES, matched_reward
from tljax.rl.irm import RULES as IRM_RULES
from tljax.rl.irm import Reward, reward
from tljax.rl.reward_workers import ALLOWED, FIELD, RewardWorkers

RULES = (*IRM_RULES, *MATCHED_RULES)


class RewardFunction:
    """Computes the rewards of replies by the rule of config.reward. Close it after use, or use it in a `with`.

    rule: "table" or "release" (`irm.reward`), "binary" or "toolrl" (`call_matching.matched_reward`), or module:function
    with `fn(prediction, golden, tools) -> float | Reward` and tools as flat JSON. Each of the `workers` processes
    imports the function, and each call has `timeout` seconds.
    If the function returns a number, or a Reward without a kind, the reply gets the kind and detail of the rule
    "table", so that shares of kinds mean the same under every rule.
    clip: rewards are clipped to -clip..clip (released value: 5); 0 leaves them unchanged.
    Raises InputError for values out of range, and for a function that cannot be imported or takes other arguments.
    """

    def __init__(self, *, rule: str, clip: float, timeout: float, workers: int) -> None:
        check_limits(clip, timeout, workers)
        self._rule, self._clip = _check_rule(rule), clip
        self._workers = None if self._rule in RULES else self._start(workers, timeout)

    def __enter__(self) -> "RewardFunction":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, workers: int, timeout: float) -> RewardWorkers | None:
        # A user's function may return another reward at every call, so only one process of a run calls it.
        return RewardWorkers(self._rule, workers, timeout) if processes.is_primary() else None

    def close(self) -> None:
        """Ends the processes of a user's function, if there are any."""
        if self._workers is not None:
            self._workers.close()

    def score(self, predictions: Sequence[str], prompts: Sequence[Prompt]) -> list[Reward]:
        """Returns the reward of every prediction, which replies to the prompt with the same index.

        Raises InputError, which names the prompt, if a user's function raises, hangs, ends its process or returns
        anything but a reward.
        """
        pairs = list(zip(predictions, prompts, strict=True))
        if self._rule in MATCHED_RULES:
            rewards = [matched_reward(prediction, p.golden, p.tools, self._rule) for prediction, p in pairs]
        elif self._rule in IRM_RULES:
            rewards = [reward(prediction, p.golden, p.tools, self._rule) for prediction, p in pairs]
        else:
            results = processes.run_on_primary(lambda: self._call_workers(pairs))
            rewards = [_complete(*result, *pair) for result, pair in zip(results, pairs, strict=True)]
        return clip_rewards(rewards, self._clip)

    def _call_workers(self, pairs: Sequence[tuple[str, Prompt]]) -> list[tuple[float, str, str]]:
        assert self._workers is not None
        calls = [(prediction, p.golden, _as_json(p.tools)) for prediction, p in pairs]
        return self._workers.call(calls, lambda i: f"prompt {pairs[i][1].id!r}, step {pairs[i][1].step}")


def check_limits(clip: float, timeout: float, workers: int) -> None:
    """Raises InputError for a field of config.reward that is out of range."""
    for name, value in (("clip", clip), ("timeout", timeout)):
        if not (0 <= value < math.inf) or (name == "timeout" and value == 0):
            least = "at least 0" if name == "clip" else "above 0"
            raise InputError(f"config.reward.{name} is {value}; it must be {least} and finite")
    if workers < 1:
        raise InputError(f"config.reward.workers is {workers}; it must be at least 1")


def clip_rewards(rewards: Sequence[Reward], clip: float) -> list[Reward]:
    """Returns the rewards, each limited to -clip ... clip; 0 does not limit them."""
    if not clip:
        return list(rewards)
    return [r if abs(r.value) <= clip else replace(r, value=math.copysign(clip, r.value)) for r in rewards]


def _check_rule(rule: Any) -> str:
    allowed = f"allowed: {', '.join(RULES)}, module:function with {ALLOWED}"
    if not isinstance(rule, str):
        raise InputError(
            f"{FIELD} is of type {type(rule).__name__}; write the function into a module and name it; {allowed}"
        )
    rule = rule.strip()
    if rule in RULES:
        return rule
    if rule.startswith("__main__:"):
        raise InputError(
            f"{FIELD} is {rule!r}, which other processes cannot import; move the function to a module; {allowed}"
        )
    if not is_function_path(rule):
        raise InputError(f"{FIELD} is {rule!r}; {allowed}")
    return rule


def _complete(value: float, kind: str, detail: str, prediction: str, prompt: Prompt) -> Reward:
    if kind:
        return Reward(value, kind, detail)
    by_table = reward(prediction, prompt.golden, prompt.tools)
    return Reward(value, by_table.kind, detail or by_table.detail)


@lru_cache(maxsize=1024)
def _as_json(tools: ToolList) -> list[dict[str, Any]]:
    """Returns the tools as flat OpenAI JSON, the form that a user's function gets."""
    return [
        {
            "name": tool.name,
            "description": tool.description,
            "parameters": {"type": "object", "properties": tool.properties, "required": list(tool.required)},
        }
        for tool in tools.tools
    ]
