"""The policy's loss: asymmetric limits of the ratio, and what its sums are divided by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.rl.ppo_updates import assert_close, make_options, make_rows, on_mesh, one_update, score_rollout
from tljax.rl.advantage import group_advantages
from tljax.rl.loss import LOSS_MEANS, importance_weights, kl_sums, policy_sums, token_weights


@pytest.mark.parametrize(
    "ratio, advantage, clip_high, loss, clipped",
    [
        (1.25, 1.0, 0.28, -1.25, 0),  # within the upper limit of its own, beyond that of clip
        (1.3, 1.0, 0.28, -1.28, 1),
        (1.25, 1.0, 0.0, -1.2, 1),
        (0.7, -1.0, 0.28, 0.8, 1),  # the lower limit is that of clip
        (1.3, -1.0, 0.28, 1.3, 0),
    ],
)
def test_the_ratio_has_an_upper_limit_of_its_own(ratio, advantage, clip_high, loss, clipped):
    one = jnp.ones((1, 1), jnp.float32)
    sums = policy_sums(jnp.log(ratio) * one, 0 * one, advantage * one, one > 0, 0.2, clip_high=clip_high)
    assert float(sums.loss) == pytest.approx(loss) and float(sums.clipped) == clipped


LENGTHS = (3, 1, 0, 4)


def means(losses):
    """The three means of a loss per token, in plain loops over replies."""
    rows = [row[:length] for row, length in zip(losses, LENGTHS, strict=True) if length]
    return {
        "token": sum(map(sum, rows)) / sum(LENGTHS),
        "reply": sum(sum(row) / len(row) for row in rows) / len(rows),
        "constant": sum(map(sum, rows)) / (len(rows) * 6),
    }


@pytest.mark.parametrize("loss_mean", LOSS_MEANS)
def test_the_loss_is_a_mean_over_tokens_or_replies_or_a_constant_number(loss_mean):
    advantages = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    mask = jnp.asarray(np.arange(5)[None] < np.asarray(LENGTHS)[:, None])
    zeros = jnp.zeros((4, 5), jnp.float32)
    weights, divisor = token_weights(mask, loss_mean, 6)
    loss = policy_sums(zeros, zeros, jnp.asarray(advantages), mask, 0.2, weights=weights).loss / divisor
    assert float(loss) == pytest.approx(means(-advantages)[loss_mean], rel=1e-5)
    # The KL of a policy that is e times as likely as the reference is 1 by k1 at every token.
    k1 = kl_sums(zeros + 1, zeros, mask, weights)[0] / divisor
    assert float(k1) == pytest.approx(means(np.ones((4, 5)))[loss_mean], rel=1e-5)


def test_dr_grpo_does_not_divide_by_the_deviation():
    found = group_advantages(jnp.asarray([1.0, -2.0, -2.0, -2.0, 0.5, 0.5, 0.5, 0.5]), 4, "dr_grpo")
    np.testing.assert_allclose(found, [2.25, -0.75, -0.75, -0.75, 0, 0, 0, 0])


@pytest.mark.extended
def test_parts_do_not_change_a_mean_over_replies():
    with on_mesh(1, 1, 1):
        whole, parts = (one_update(make_options(loss_mean="reply", accumulate=n)) for n in (1, 4))
        other = one_update(make_options())
    assert_close(whole.gradients, parts.gradients)
    assert whole.metrics["loss"] == pytest.approx(parts.metrics["loss"], rel=1e-5)
    changed = jax.tree.map(lambda a, b: np.abs(a - b).max(), whole.gradients[0], other.gradients[0])
    assert max(jax.tree.leaves(changed)) > 1e-3


@pytest.mark.parametrize("loss_mean", LOSS_MEANS)
def test_token_weights_make_means_weighted_means(loss_mean):
    rng = np.random.default_rng(1)
    losses, given = rng.normal(size=(4, 5)).astype(np.float32), rng.uniform(1, 9, (4, 5)).astype(np.float32)
    mask = jnp.asarray(np.arange(5)[None] < np.asarray(LENGTHS)[:, None])
    weights, divisor = token_weights(mask, loss_mean, 6, jnp.asarray(given).at[2].set(jnp.nan))
    rows = [(given[i, :n].astype(float), losses[i, :n].astype(float)) for i, n in enumerate(LENGTHS) if n]
    want = {
        "token": sum((w * x).sum() for w, x in rows) / sum(w.sum() for w, _ in rows),
        "reply": sum((w * x).sum() / w.sum() for w, x in rows) / len(rows),
        "constant": sum((w * x).sum() for w, x in rows) / (len(rows) * 6),
    }
    assert float((weights * losses).sum() / divisor) == pytest.approx(want[loss_mean], rel=1e-5)


def test_importance_weights_are_ratios_up_to_the_cap():
    ratios = jnp.asarray([[0.5, 1.0, 1.7, 3.0, 9.0]])
    mask = jnp.asarray([[True, True, True, True, False]])
    sampled = jnp.where(mask, -1 - jnp.log(ratios), jnp.nan)
    found = importance_weights(jnp.full((1, 5), -1.0), sampled, mask, 2.0)
    np.testing.assert_allclose(found, [[0.5, 1.0, 1.7, 2.0, 1.0]], rtol=1e-6)


@pytest.mark.extended
def test_importance_weights_and_priorities_weigh_the_gradient_of_each_token():
    """The gradients are those of advantages that a loop over tokens has weighed, and the critic's do not change."""
    rng = np.random.default_rng(2)
    with on_mesh(1, 1, 1):
        plain = make_options()
        experience, scores = score_rollout(plain)
        mask = np.asarray(experience.batch.mask)
        ratios, given = rng.uniform(0.3, 4, mask.shape), rng.uniform(1, 9, mask.shape)
        factors = np.minimum(ratios, 2.0) * given * mask.sum() / (given * mask).sum()
        by_hand = experience.replace(advantages=experience.advantages * factors.astype(np.float32))
        rows = make_rows().replace(
            priorities=jnp.asarray(given, jnp.float32),
            sampled_logprobs=experience.logprobs - jnp.log(ratios).astype(jnp.float32),
        )
        options = make_options(importance_cap=2.0)
        found = one_update(options, scored=(experience.replace(batch=rows), scores))
        want = one_update(plain, scored=(by_hand, scores))
        unweighted = one_update(plain, scored=(experience, scores))
    assert_close(found.gradients, want.gradients)
    assert_close(found.gradients[1], unweighted.gradients[1])
    changed = jax.tree.map(lambda a, b: np.abs(a - b).max(), found.gradients[0], unweighted.gradients[0])
    assert max(jax.tree.leaves(changed)) > 1e-3
