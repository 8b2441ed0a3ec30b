"""The reward of one turn of a dialogue, without a golden call: IRM's kinds of error, as far as the turn shows them.

A dialogue that the model holds has no golden calls: its turns depart from those of any solution. The first row that
applies decides, and each value is a field of config.reward.steps:

    field                     kind                default
    format                    format                -2     no call can be read in the reply
    unknown_tool              tool_hallucination    -2     the tool list has no such tool
    hallucinated_and_missing  parameter             -1.3   both of the next two
    hallucinated              parameter             -0.8   a parameter that the documentation lacks
    missing                   parameter             -0.5   a required parameter that the call leaves out
    call_error                call_error            -0.25  the call is as documented, and its feedback is an error
    neutral                   neutral                0     none of these: whether the call was right, only the end tells

The first five have the values of IRM's table (arXiv 2412.15495) for the same errors; the feedback's error mostly comes
from wrong values, and has the value of wrong content. config.reward.steps.scale multiplies all of them: they are summed
over turns, and where an attempt costs more than its chance of success is worth, the policy learns to give up at once.
An answer without a call, where no tool ends the dialogue, is neutral. The last turn also gets what the end is worth
(`rewards`).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from tljax.agent.loop import FINISH, Dialogue, Exchange
from tljax.calls.compare import ToolList
from tljax.rl.irm import Reward

STEP_KINDS = ("neutral", "format", "tool_hallucination", "parameter", "call_error")


@dataclass(frozen=True, kw_only=True)
class StepValues:
    """The values of config.reward.steps, multiplied by its scale."""

    format: float
    unknown_tool: float
    hallucinated: float
    missing: float
    hallucinated_and_missing: float
    call_error: float
    neutral: float

    @classmethod
    def from_config(cls, reward: Any) -> "StepValues":
        """Returns the values of a config's `reward` block."""
        steps = reward.steps
        return cls(**{field.name: float(steps.scale * steps[field.name]) for field in dataclasses.fields(cls)})


def step_reward(exchange: Exchange, tools: ToolList, values: StepValues) -> Reward:
    """Returns the reward of a turn by the table above; its detail names the tool, the parameters, or the feedback."""
    call, result = exchange.call, exchange.result
    if call is None or result is None:
        return Reward(values.format, "format", "no call can be read")
    if call.name not in tools.schemas:
        return Reward(values.unknown_tool, "tool_hallucination", call.name)
    known = tools.schemas[call.name]
    required = next(tool.required for tool in tools.tools if tool.name == call.name)
    hallucinated = [name for name in call.arguments if name not in known]
    missing = [name for name in required if name not in call.arguments]
    if hallucinated or missing:
        parts = [f"hallucinated {', '.join(hallucinated)}"] * bool(hallucinated)
        parts += [f"missing {', '.join(missing)}"] * bool(missing)
        value = values.hallucinated if hallucinated else values.missing
        if hallucinated and missing:
            value = values.hallucinated_and_missing
        return Reward(value, "parameter", "; ".join(parts))
    if result.error:
        return Reward(values.call_error, "call_error", " ".join(result.value.split())[:200])
    return Reward(values.neutral, "neutral", "")


def step_rewards(dialogue: Dialogue, values: StepValues) -> list[Reward]:
    """Returns the reward of every turn of a dialogue that has ended."""
    rewards = [step_reward(exchange, dialogue.opening.tools, values) for exchange in dialogue.exchanges]
    if dialogue.outcome == FINISH and dialogue.opening.finish is None:  # the last reply is the answer, without a call
        rewards[-1] = Reward(values.neutral, "neutral", "")
    return rewards
