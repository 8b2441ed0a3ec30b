"""Checks the fields of configs/ppo.py that dialogues have, before any device work."""

import dataclasses
import math
import os
from typing import Any

from tljax.agent.worker import split_tools
from tljax.core.config import check_range
from tljax.core.errors import InputError
from tljax.core.user_function import is_function_path
from tljax.distributed import processes
from tljax.evaluate.in_training import HELD_OUT_ROWS, TOOLBOX
from tljax.evaluate.toolbox_queries import HELD_OUT_SPLITS
from tljax.rl.dialogues.held_out import check_best
from tljax.rl.dialogues.rewards import STEPS_RULE
from tljax.rl.dialogues.step_rewards import StepValues
from tljax.rl.dialogues.tasks import eval_set_names

MAE_RULES = ("off", "void", "failed", "void_or_failed")  # rollout.mae
DAY = 86_400  # seconds


def check_single_replies(config: Any) -> None:
    """Raises InputError for a field that only dialogues have."""
    for field, value, default in (
        ("tools", config.tools, ""),
        ("rollout.mae", config.rollout.mae, "off"),
        ("finish", config.finish, "finish"),
    ):
        if value != default:
            raise InputError(
                f"config.{field} is {value!r}, which is for dialogues; set config.rollout.turns=multi, or leave it "
                f"{default!r}"
            )


def check_dialogues(config: Any) -> None:
    """Raises InputError for a value that is not allowed with rollout.turns = multi."""
    processes.check_single_process("config.rollout.turns=multi")
    rollout, rule = config.rollout, config.reward.rule
    if rule != STEPS_RULE and not is_function_path(str(rule)):
        raise InputError(
            f"config.reward.rule is {rule!r}, which compares with golden calls, and dialogues have none; allowed with "
            f"rollout.turns = multi: {STEPS_RULE!r}, which stands for reward.steps, or module:function"
        )
    for field, value, default in (
        ("rollout.resample", rollout.resample, 0),
        ("ppo.token_weights", config.ppo.token_weights, "none"),
    ):
        if value != default:
            raise InputError(
                f"config.{field} is {value!r}, which is for single replies; leave it {default!r} with rollout.turns = "
                "multi"
            )
    names = ["scale", *(field.name for field in dataclasses.fields(StepValues))]
    fields = [(f"steps.{name}", config.reward.steps[name]) for name in names]
    for name, value in [*fields, ("success", config.reward.success), ("failure", config.reward.failure)]:
        if not math.isfinite(value):
            raise InputError(f"config.reward.{name} is {value}; it must be a finite number")
    if not 0 < config.tool_seconds <= DAY:
        raise InputError(f"config.tool_seconds is {config.tool_seconds}; it must be above 0 and at most {DAY:,}, a day")
    longest = max(rollout.max_new_tokens, config.eval.new_tokens)
    if 0 < rollout.max_dialogue_tokens <= longest:
        raise InputError(
            f"config.rollout.max_dialogue_tokens is {rollout.max_dialogue_tokens}, but a reply may have {longest} "
            "tokens and a prompt comes before it; raise it, or leave it 0 for as many as the model can read"
        )
    check_range("data.eval_fraction", config.data.eval_fraction, 0.0, 1.0)
    _check_source(config)
    sets = eval_set_names(config)
    check_best(config, [s for name in sets for s in (HELD_OUT_SPLITS if name == TOOLBOX else (HELD_OUT_ROWS,))])


def _check_source(config: Any) -> None:
    if config.data.source == TOOLBOX:
        for field, default in (("tools", ""), ("finish", "finish")):
            if config[field] != default:
                raise InputError(
                    f"config.{field} is {config[field]!r}, but config.data.source is 'toolbox', which has its own; "
                    "name a file of tasks in config.data.source, or leave the field as it is"
                )
        return
    if config.tools:
        file = os.path.expanduser(split_tools(config.tools)[0])
        if not os.path.isfile(file):
            raise InputError(
                f"config.tools is {config.tools!r}, which is no file; allowed: FILE.py, whose functions are the tools, "
                "or FILE.py:CLASS, whose methods are"
            )
    if not os.path.isfile(os.path.expanduser(config.data.source)):
        raise InputError(
            f"config.data.source is {config.data.source!r}; with rollout.turns = multi it is 'toolbox', or a JSONL "
            'file of tasks, {"id", "query"} or {"id", "messages"}'
        )
