"""The optimizer of every training stage: AdamW under a learning-rate schedule."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tljax.core.errors import InputError

SCHEDULES = ("cosine", "constant")


def make_schedule(optim: Any, total_steps: int) -> optax.Schedule:
    """Returns the learning rate of update n, counted from 0: linear warm-up over W updates, then cosine or constant.

        n <  W:  lr * (n + 1) / W
        n >= W:  lr * (f + (1 - f) * (1 + cos(pi * (n - W) / (total_steps - W))) / 2)      "cosine"
                 lr                                                                      "constant"

    W is optim.warmup_steps, or if that is 0, ceil(warmup_fraction * total_steps); f is optim.final_lr_fraction.
    From update W on this is transformers.get_cosine_schedule_with_warmup. Its warm-up starts one update earlier at
    rate 0, which wastes the first update and, with W = total_steps = 1, the whole run; here no update before
    total_steps has rate 0.

    Raises InputError for a value out of range.
    """
    _check_schedule(optim, total_steps)
    warmup = optim.warmup_steps or math.ceil(optim.warmup_fraction * total_steps)
    decay = max(1, total_steps - warmup)

    def schedule(count):
        n = jnp.asarray(count, jnp.float32)
        rising = (n + 1) / max(1, warmup)
        if optim.schedule == "constant":
            return jnp.float32(optim.lr) * jnp.minimum(rising if warmup else 1.0, 1.0)
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip((n - warmup) / decay, 0, 1)))
        falling = optim.final_lr_fraction + (1 - optim.final_lr_fraction) * cosine
        return jnp.float32(optim.lr) * jnp.where(n < warmup, rising, falling)

    return schedule


def make_optimizer(optim: Any, total_steps: int) -> optax.GradientTransformation:
    """Returns global-norm clipping, then AdamW with decoupled weight decay (Loshchilov & Hutter 2019).

    The moments are float32.

    With optim.clip_norm 0 nothing is clipped. With optim.decay_norms False norm scales and biases do not decay, as in
    the Hugging Face Trainer; the released run gives its optimizer to DeepSpeed, which decays all weights.

    Raises InputError for a value out of range.
    """
    _check(optim, "b1", 0 <= optim.b1 < 1, "0 to below 1")
    _check(optim, "b2", 0 <= optim.b2 < 1, "0 to below 1")
    _check(optim, "eps", 0 < optim.eps < math.inf, "above 0")
    _check(optim, "weight_decay", 0 <= optim.weight_decay < math.inf, "0 or more")
    _check(optim, "clip_norm", 0 <= optim.clip_norm < math.inf, "0 (no clipping) or more")
    clip = optax.clip_by_global_norm(optim.clip_norm) if optim.clip_norm else optax.identity()
    adamw = optax.adamw(
        make_schedule(optim, total_steps),
        b1=optim.b1,
        b2=optim.b2,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        mask=None if optim.decay_norms else decay_mask,
    )
    return _in_float32(optax.chain(clip, adamw))


def decay_mask(params: Any) -> Any:
    """Returns True for each weight that decays: for all but norm scales and biases, which their names tell.

    Shapes cannot tell: the norm scales of L stacked layers are a matrix [L, D].
    """

    def decays(path, _):
        name = str(getattr(path[-1], "key", path[-1]))
        return not (name.endswith("norm") or "bias" in name)

    return jax.tree_util.tree_map_with_path(decays, params)


def _in_float32(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Runs tx on float32 copies: optax keeps the second moment in the dtype of the params, whatever mu_dtype says."""

    def to_float32(tree):
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

    def update(updates, state, params=None):
        return tx.update(to_float32(updates), state, to_float32(params))

    return optax.GradientTransformation(lambda params: tx.init(to_float32(params)), update)


def _check_schedule(optim: Any, total_steps: int) -> None:
    if total_steps < 1:
        raise InputError(
            f"the run has {total_steps} updates; at least 1 is needed: give more data, epochs or max_steps"
        )
    _check(optim, "schedule", optim.schedule in SCHEDULES, " or ".join(SCHEDULES))
    _check(optim, "lr", 0 <= optim.lr < math.inf, "0 or more")
    _check(optim, "warmup_fraction", 0 <= optim.warmup_fraction <= 1, "0 to 1")
    _check(optim, "warmup_steps", 0 <= optim.warmup_steps <= total_steps, f"0 to the run's {total_steps} updates")
    _check(optim, "final_lr_fraction", 0 <= optim.final_lr_fraction <= 1, "0 to 1")


def _check(optim: Any, field: str, ok: bool, allowed: str) -> None:
    if not ok:
        raise InputError(f"config.optim.{field} is {optim[field]!r}; allowed is {allowed}")
