"""The SFT step: a pure function (state, batch) -> (state, metrics), written for the global batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tljax.data.batch_arrays import KEY_TOKEN, NAME_TOKEN, NO_TARGET, OTHER_TOKEN
from tljax.distributed.mesh import shard_count, spec
from tljax.model import llama
from tljax.model.head import chunked_head
from tljax.model.lora import LoraOptions, combine_with_trunk
from tljax.model.sequence import shard_positions, weighted_positions_first
from tljax.sft.loss import masked_nll, weighted_nll
from tljax.training.state import TrainState, accumulate_gradients

Batch = dict[str, jax.Array]
Sums = dict[str, jax.Array]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOptions:
    """The fields of a config that shape the compiled program. A static pytree: a plain argument of jit."""

    max_targets: int  # the largest number of weighted positions in a packed row (Batches.max_targets)
    loss_chunk: int  # positions of a row that a device takes through the head at a time: logits are [B, loss_chunk, V]
    forward: llama.ForwardOptions
    lora: LoraOptions | None = None  # set if the params are an adapter, which is trained on a frozen trunk

    @classmethod
    def from_config(cls, config: Any, max_targets: int) -> "StepOptions":
        """Returns the options of configs/sft.py."""
        return cls(
            max_targets=max_targets,
            loss_chunk=config.model.loss_chunk,
            forward=llama.ForwardOptions.from_config(config.model),
            lora=LoraOptions.from_config(config.lora),
        )


def token_scores(params: dict, c: llama.LlamaConfig, batch: Batch, options: StepOptions) -> Batch:
    """Returns the log-probabilities of the targets at weighted positions; no other logits are computed.

    batch: tokens, targets, positions, segments int32 [B, T], loss_weights float32 [B, T], token_classes int8
    [B, T]. Returns logprobs, loss_weights float32 [B, M], hits bool [B, M] (the target is the most likely token),
    token_classes int8 [B, M], and columns int32 [B, M], the position of each in the row's T. M is max_targets, rounded
    up to whole chunks, on each of the devices that a row is split over.
    """
    hidden = llama.forward(params, c, batch["tokens"], batch["positions"], batch["segments"], options.forward)
    shape = batch["loss_weights"].shape
    # A device has at most as many weighted positions as the row, and as its own part of the row has positions.
    max_targets = min(options.max_targets, shape[1] // shard_count("positions"))
    chunk = min(options.loss_chunk, max_targets)
    room = -(-max_targets // chunk) * chunk
    columns = jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.int32)[None], shape, out_sharding=spec("batch", None))
    names = ("loss_weights", "targets", "token_classes")
    along = (shard_positions(x) for x in (*(batch[name] for name in names), columns))
    # A row with fewer weighted positions is filled up with positions of weight 0.
    loss_weights, targets, token_classes, columns, hidden = weighted_positions_first(room, *along, hidden)
    logprobs, hits = chunked_head(params, c, hidden, targets, chunk, _logprobs_and_hits)
    token_classes = jnp.where(loss_weights > 0, token_classes, jnp.int8(NO_TARGET))
    return {
        "logprobs": logprobs,
        "hits": hits,
        "loss_weights": loss_weights,
        "token_classes": token_classes,
        "columns": columns,
    }


def _logprobs_and_hits(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    return llama.token_logprobs(logits, targets), jnp.argmax(logits, axis=-1) == targets


def score_sums(scores: Batch, segments: jax.Array) -> Sums:
    """Returns sums and counts over the results of `token_scores`, for loss and metrics: float32 scalars.

    "loss" is the sum of step losses. Divided by "steps", both over the global batch, it is the mean loss. The weights
    of a step sum to 1, so their sum is the number of steps, up to float32 rounding.
    """
    loss, steps = weighted_nll(scores["logprobs"], scores["loss_weights"])
    key = scores["token_classes"] >= KEY_TOKEN
    name = scores["token_classes"] == NAME_TOKEN
    key_nll, keys = masked_nll(scores["logprobs"], key)
    other_nll, others = masked_nll(scores["logprobs"], scores["token_classes"] == OTHER_TOKEN)
    return {
        "loss": loss,
        "steps": jnp.round(steps),
        "key_nll": key_nll,
        "keys": keys,
        "other_nll": other_nll,
        "others": others,
        "name_hits": (name & scores["hits"]).sum().astype(jnp.float32),
        "names": name.sum().astype(jnp.float32),
        "tokens": (segments > 0).sum().astype(jnp.float32),
    }


def mean_metrics(sums: Sums) -> dict[str, jax.Array]:
    """Returns the metrics of a step, from sums over the global batch; the mean over no tokens is 0."""

    def ratio(total: str, count: str) -> jax.Array:
        return sums[total] / jnp.maximum(sums[count], 1.0)

    return {
        "loss": ratio("loss", "steps"),
        "loss_key": ratio("key_nll", "keys"),
        "loss_other": ratio("other_nll", "others"),
        "name_accuracy": ratio("name_hits", "names"),
        "steps": sums["steps"],
        "tokens": sums["tokens"],
        "reply_tokens": sums["keys"] + sums["others"],
    }


def make_sft_step(
    c: llama.LlamaConfig, tx: optax.GradientTransformation, schedule: optax.Schedule, options: StepOptions
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the jitted step (state, batch, trunk) -> (state, metrics); `state` is donated.

    trunk: the frozen weights in the compute dtype if options.lora is set, so that the state's params are an adapter;
    None otherwise.

    The batch has a leading axis for gradient accumulation, arrays [A, B, T]. The gradients of the sum of step losses
    are summed over A and divided once by the number of steps in the global batch, so that neither A nor the number of
    devices changes the mean.
    """

    def step(
        state: TrainState, batch: Batch, trunk: llama.Params | None = None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        def loss_fn(params: dict, part: Batch) -> tuple[jax.Array, Sums]:
            weights = combine_with_trunk(params, trunk, options.lora)
            sums = score_sums(token_scores(weights, c, part, options), part["segments"])
            return sums["loss"], sums

        grads, sums = accumulate_gradients(loss_fn, state.params, batch)
        count = jnp.maximum(sums["steps"], 1.0)
        grads = jax.tree.map(lambda g: g / count, grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        metrics = mean_metrics(sums) | {"grad_norm": optax.tree.norm(grads), "lr": jnp.asarray(schedule(state.step))}
        params = optax.apply_updates(state.params, updates)
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return jax.jit(step, donate_argnames="state")


def make_eval_step(c: llama.LlamaConfig, options: StepOptions) -> Callable[..., tuple[Sums, Batch]]:
    """Returns the jitted evaluation (params, batch, trunk) -> (sums, scores) of a batch [1, B, T].

    trunk: as in the step. sums: sums and counts, which are added over batches before `mean_metrics`. scores:
    `token_scores` of the batch.
    """

    def evaluate(params: dict, batch: Batch, trunk: llama.Params | None = None) -> tuple[Sums, Batch]:
        weights = combine_with_trunk(params, trunk, options.lora)
        scores = token_scores(weights, c, jax.tree.map(lambda x: x[0], batch), options)
        return score_sums(scores, batch["segments"]), scores

    return jax.jit(evaluate)
