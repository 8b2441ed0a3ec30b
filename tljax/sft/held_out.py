"""The loss and metrics of held-out rows, while a model trains."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tljax.data.batch import Batches
from tljax.distributed import processes
from tljax.sft.batches import load_batch
from tljax.sft.context import SFTContext
from tljax.sft.samples import write_samples
from tljax.sft.step import mean_metrics
from tljax.training.metrics import MetricsLogger


def evaluate_loss(
    context: SFTContext, held_out: Batches, eval_step: Callable[..., Any], logger: MetricsLogger, step: int
) -> float:
    """Returns the loss over all held-out rows after update `step`, and logs it with the other metrics as "eval_*".

    eval_step: the function of `step.make_eval_step` with the model's weights: batch -> sums, scores. Appends the first
    `eval.samples` replies with their scores to samples.jsonl.
    """
    logger.flush()
    num_samples = context.config.eval.samples
    total = None
    for n in range(held_out.steps):
        sums, scores = eval_step(load_batch(held_out, n, accumulate=1))
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        if n == 0 and num_samples:
            path = context.folder / "samples.jsonl"
            write_samples(path, step, held_out.build(0), scores, context.tokenizer, num_samples)
    assert total is not None
    processes.report_progress("the evaluation's batches")
    metrics = {f"eval_{name}": value for name, value in jax.device_get(mean_metrics(total)).items()}
    logger.log_metrics(step, metrics)
    logger.log_message(
        f"step {step}: held-out loss {metrics['eval_loss']:.4f} a step; a key token {metrics['eval_loss_key']:.4f}, "
        f"another {metrics['eval_loss_other']:.4f}; first name token right {100 * metrics['eval_name_accuracy']:.1f} %"
    )
    return float(metrics["eval_loss"])
