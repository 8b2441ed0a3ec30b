"""Checks a PPO config before any device work."""

import math
from typing import Any

from tljax.core import config as checks
from tljax.core.errors import InputError
from tljax.data.check import check_data
from tljax.data.dialect import TEMPLATE
from tljax.distributed.mesh import check_initialized, check_rows, mesh_platform
from tljax.model import llama
from tljax.model.attention import IMPLEMENTATIONS, choose_implementation
from tljax.model.hf.config import DTYPES
from tljax.model.remat import REMATS
from tljax.rl.advantage import ALGORITHMS, KL_PLACES
from tljax.rl.dialogues.checks import MAE_RULES, check_dialogues, check_single_replies
from tljax.rl.loss import LOSS_MEANS
from tljax.rl.options import MULTI, TURNS, minibatch_counts, part_replies
from tljax.rl.priorities import TOKEN_WEIGHTS
from tljax.training import model_source, resume
from tljax.training.metrics import check_installed
from tljax.training.optimizer import SCHEDULES

CHOICES = {
    "algorithm": ALGORITHMS,
    "rollout.turns": TURNS,
    "rollout.mae": MAE_RULES,
    "resume": resume.RESUME,
    "kl.place": KL_PLACES,
    "ppo.loss_mean": LOSS_MEANS,
    "ppo.token_weights": TOKEN_WEIGHTS,
    "model.compute_dtype": llama.COMPUTE_DTYPES,
    "model.remat": REMATS,
    "model.attention": IMPLEMENTATIONS,
    "optim.schedule": SCHEDULES,
    "export.dtype": ("auto", *DTYPES),
}
MINIMUMS = {
    "rollout.prompts": 1,
    "rollout.group": 1,
    "rollout.rows": 1,
    "rollout.max_new_tokens": 1,
    "rollout.max_prompt_tokens": 1,
    "rollout.temperature": 0.0,
    "rollout.top_k": 0,
    "rollout.round_to": 1,
    "rollout.resample": 0,
    "reward.clip": 0.0,
    "kl.coef": 0.0,
    "kl.target": 0.0,
    "ppo.epochs": 1,
    "ppo.minibatches": 1,
    "ppo.accumulate": 1,
    "ppo.clip": 0.0,
    "ppo.clip_high": 0.0,
    "ppo.importance_cap": 0.0,
    "ppo.value_clip": 0.0,
    "ppo.updates": 0,
    "ppo.entropy_coef": 0.0,
    "critic.lr": 0.0,
    "critic.warmup": 0,
    "critic.epochs": 0,
    "critic.minibatches": 0,
    "log.samples": 0,
    "rollout.max_turns": 1,
    "rollout.max_dialogue_tokens": 0,
    "rollout.max_repeats": 2,
    "tool_calls": 1,
}


def check(config: Any) -> None:
    """Raises InputError for a field whose value is not allowed or needs a library that is not installed."""
    # Fields by themselves.
    check_data(config.data)
    check_installed(config.log.wandb)
    checks.check_choices(config, CHOICES)
    checks.check_minimums(config, checks.TRAINING_MINIMUMS | MINIMUMS)
    if config.rollout.turns == MULTI:
        check_dialogues(config)
    else:
        check_single_replies(config)
    if config.reward.rule == "release" and config.data.dialect == TEMPLATE:
        raise InputError(
            "config.reward.rule is 'release', which cannot read the calls of config.data.dialect = template; choose "
            "the rule table"
        )
    for field in ("ppo.gamma", "ppo.lam", "critic.lam"):
        checks.check_range(field, checks.get_field(config, field), 0.0, 1.0)
    for field in ("kl.horizon", "ppo.prompt_epochs"):
        checks.check_range(field, checks.get_field(config, field), 1e-3)
    checks.check_range("export.max_shard_bytes", config.export.max_shard_bytes, 1, 1e15)
    if not math.isfinite(config.reward.no_end):
        raise InputError(f"config.reward.no_end is {config.reward.no_end}; it must be a finite number")
    for field in ("prompt_weight", "new_names"):
        if config.data[field]:
            raise InputError(f"config.data.{field} has no meaning for rollouts; leave it 0")

    # Fields that depend on each other.
    group, algorithm = config.rollout.group, config.algorithm
    if algorithm != "ppo" and group < 2:
        raise InputError(
            f"config.algorithm is {algorithm!r}, which compares replies to one prompt, but rollout.group is {group}; "
            "set rollout.group to 2 or more"
        )
    if algorithm != "ppo" and config.critic.warmup:
        raise InputError(f"config.critic.warmup is {config.critic.warmup}, but {algorithm} has no critic; set it to 0")
    if config.rollout.resample and group < 2:
        raise InputError(
            f"config.rollout.resample is {config.rollout.resample}, which replaces groups of equal rewards, but "
            "rollout.group is 1; set rollout.group to 2 or more, or rollout.resample to 0"
        )
    if config.ppo.token_weights == "pkt" and config.data.pkt != "paper":
        raise InputError(
            f"config.ppo.token_weights is 'pkt', but config.data.pkt is {config.data.pkt!r}; sampled replies are "
            "weighed by the rule 'paper' alone"
        )
    rows = config.rollout.prompts * group
    for field, minibatches in zip(("ppo", "critic"), minibatch_counts(config), strict=False):
        parts = minibatches * config.ppo.accumulate
        if rows % parts:
            raise InputError(
                f"config.rollout.prompts x rollout.group = {rows} replies do not divide into {field}.minibatches x "
                f"ppo.accumulate = {parts} parts; use a multiple of {parts}"
            )
    if algorithm != "ppo" and config.rollout.temperature == 0:
        raise InputError(
            f"config.rollout.temperature is 0, at which all replies to a prompt are equal and {algorithm} learns "
            "nothing; set it above 0"
        )
    if config.kl.target and config.kl.horizon < rows:
        raise InputError(
            f"config.kl.horizon is {config.kl.horizon:g}, less than the {rows} replies of one update: kl.coef would "
            f"jump; use {rows} or more"
        )
    if config.model.path in ("", model_source.SCRATCH):
        raise InputError(
            f"config.model.path is {config.model.path!r}; PPO starts from an SFT model: give its run folder, an HF "
            "folder or a hub id"
        )


def start_notes(config: Any) -> list[str]:
    """Returns a line for each choice that is allowed and with which a run is known to learn little."""
    lines = []
    if config.algorithm == "ppo" and config.critic.warmup == 0:
        lines.append(
            "config.critic.warmup is 0, so the actor learns from a critic whose values are all 0 at first; let the "
            "critic learn from some thousand replies before (rollout.prompts x rollout.group in each rollout)"
        )
    if config.algorithm == "ppo" and 0 < config.critic.lr < config.optim.lr:
        lines.append(
            f"config.critic.lr is {config.critic.lr:g}, below optim.lr = {config.optim.lr:g}, so the critic follows "
            "the policy slowly; use a larger one"
        )
    if config.rollout.temperature == 0:
        lines.append(
            "config.rollout.temperature is 0, so replies are greedy and other calls are never tried; set it above 0"
        )
    if (config.algorithm == "dr_grpo") != (config.ppo.loss_mean == "constant"):
        lines.append(
            f"config.algorithm is {config.algorithm} and ppo.loss_mean is {config.ppo.loss_mean}; Dr. GRPO is the "
            "algorithm dr_grpo with the loss_mean constant"
        )
    return [f"note: {line}" for line in lines]


def check_total(config: Any, updates: int) -> None:
    """Raises InputError if the critic's warm-up takes all `updates`, so that the actor would get none."""
    if config.critic.warmup >= updates:
        raise InputError(
            f"config.critic.warmup is {config.critic.warmup}, but the run has {updates} updates, and the actor would "
            "never move; use less"
        )


def check_devices(config: Any, c: llama.LlamaConfig) -> None:
    """Raises InputError if model, rows or attention do not fit the current mesh, or replies do not fit the model."""
    llama.check_mesh(c)
    longest = config.rollout.max_prompt_tokens + config.rollout.max_new_tokens
    llama.check_length(c, longest, "rollout.max_prompt_tokens + rollout.max_new_tokens")
    check_rows(config.rollout.rows, "rollout.rows")
    for rows in part_replies(config):
        check_rows(rows, "replies of one part (rollout.prompts x rollout.group / minibatches / accumulate)")
    if config.eval.sets:
        check_rows(config.eval.rows, "eval.rows")
    choose_implementation(config.model.attention, config.model.compute_dtype, c.head_dim, mesh_platform())
    check_initialized()
