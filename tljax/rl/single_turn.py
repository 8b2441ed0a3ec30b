"""What a run does with single replies to prompts: its data, an update, an evaluation, the tables at the end.

`dialogues.multi_turn` has the same functions for whole dialogues.
"""

from typing import Any

from tljax.data.prompt import Dialect
from tljax.data.prompt_table import PromptDataset, load_prompts
from tljax.data.tokenizer import Tokenizer
from tljax.evaluate import in_training
from tljax.model import llama
from tljax.rl import held_out
from tljax.rl.held_out import reward_metrics
from tljax.rl.samples import write_samples
from tljax.rl.state import PPOState
from tljax.rl.train_iteration import PPOContext, train_iteration
from tljax.toolbox.embedded import resolve_source_file
from tljax.training import exported_change
from tljax.training.metrics import MetricsLogger

__all__ = ["evaluate", "format_scores", "load", "train_iteration", "write_samples"]


def load(config: Any, tokenizer: Tokenizer, dialect: Dialect) -> PromptDataset:
    """Returns the prompts of the config's source, which is made first if it is generated data."""
    file = resolve_source_file(config.data.source, config.toolbox, config.data.cache)
    limit = config.rollout.max_prompt_tokens
    return load_prompts(config.data, file, tokenizer, seed=config.seed, max_prompt_tokens=limit, dialect=dialect)


def evaluate(
    context: PPOContext, frozen: llama.Params, state: PPOState, logger: MetricsLogger, step: int
) -> float | None:
    """Generates replies to the sets of eval.sets, and logs their scores and rewards.

    Returns the value that best-checkpoint selection minimizes, None if it is not known.
    """
    config, params = context.config, state.actor.params
    # Weights are scored as the export rounds them; an adapter is exported as it is.
    params = params if context.models.adapter else exported_change.as_exported(params, context.export_dtype)
    actor = context.models.actor(frozen, params)
    eval_context = in_training.EvalContext(config, context.tokenizer, context.folder, logger)
    replies = in_training.score_eval_sets(eval_context, context.sets, context.model.config, actor, step)
    if not replies:
        return None
    metrics, held_out_metrics = in_training.eval_metrics(replies), {}
    name = in_training.HELD_OUT_ROWS
    if name in replies:
        rewards = held_out.held_out_rewards(
            replies[name], context.sets[name], context.prompts.held_out, context.reward_function
        )
        held_out_metrics = reward_metrics(rewards)
        logger.log_message(held_out.format_metrics(held_out_metrics, step, len(rewards)))
        metrics |= {f"eval_{metric}": value for metric, value in held_out_metrics.items()}
    logger.log_metrics(step, metrics)
    return in_training.selection_loss(config, held_out_metrics, replies)


def format_scores(context: PPOContext, step: int) -> list[str]:
    """Returns the tables of scores and rewards after update `step`, [] if no set is scored."""
    table = in_training.score_report(context.sets, context.folder, step)
    if not table:
        return []
    before, after = (held_out.rewards_by_set(context.folder, n, context.sets) for n in (0, step))
    if not before or not after:
        return [table]
    heading = "mean reward of the same answers by IRM's table [95 % interval]"
    return [table, heading, held_out.format_reward_table(before, after)]
