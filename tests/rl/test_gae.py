"""Token rewards and GAE equal the released numbers and the sums of their definition, with masks of every shape."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from tljax.rl.gae import gae, token_rewards, whiten
from tljax.rl.loss import kl_sums, policy_sums, value_sums


@pytest.fixture(scope="module")
def golden(shared):
    return json.loads((shared / "golden" / "ppo.json").read_text())


def arrays(case, *names):
    """Columns from the last prompt position on, where the first reply token is predicted."""
    return [jnp.asarray(case[name], jnp.float32)[:, case["prompt_length"] - 1 :] for name in names]


def mask_of(case):
    columns = len(case["rewards"][0])
    return jnp.asarray([[t < length for t in range(columns)] for length in case["answer_lengths"]])


@pytest.mark.parametrize("number", range(6))
def test_the_released_rewards_advantages_and_losses(golden, number):
    case = golden[number]
    mask = mask_of(case)
    names = ("logprobs", "ref_logprobs", "values", "new_logprobs", "new_values")
    logprobs, ref, values, new_logprobs, new_values = arrays(case, *names)
    scores = jnp.clip(jnp.asarray(case["scores"], jnp.float32), -case["clip_reward"], case["clip_reward"])
    rewards = token_rewards(logprobs, ref, scores, mask, case["kl_coef"])
    advantages, returns = gae(rewards, values, mask, case["gamma"], case["lam"])
    for name, found in (("rewards", rewards), ("advantages", advantages), ("returns", returns)):
        np.testing.assert_allclose(np.where(mask, case[name], 0), found, atol=1e-5, err_msg=name)
    policy = policy_sums(new_logprobs, logprobs, advantages, mask, case["cliprange"])
    value = value_sums(new_values, values, returns, mask, case["cliprange_value"])
    assert float(policy.loss / policy.tokens) == pytest.approx(case["actor_loss"], abs=1e-5)
    assert float(value.loss / value.tokens) == pytest.approx(case["critic_loss"], abs=1e-5)
    assert 0 < float(policy.clipped) < float(policy.tokens) == float(value.tokens) == sum(case["answer_lengths"])


@pytest.fixture(scope="module")
def random():
    """The masks have gaps, an empty row and a full row. Values off the mask are garbage."""
    rng = np.random.default_rng(0)
    mask = rng.random((6, 9)) < 0.6
    mask[1], mask[2] = False, True
    rewards, values = rng.normal(size=(2, 6, 9)).astype(np.float32)
    return np.where(mask, rewards, np.float32(1e9)), np.where(mask, values, np.float32(-1e9)), mask


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (0.97, 1.0), (0.9, 0.0)])
def test_advantages_are_discounted_sums_of_errors(random, gamma, lam):
    """A_t = sum over l of (gamma lam)^l delta_{t+l}, on each row's reply tokens put side by side."""
    rewards, values, mask = random
    advantages, returns = gae(*map(jnp.asarray, random), gamma, lam)
    for row in range(len(mask)):
        r, v = rewards[row][mask[row]].astype(np.float64), values[row][mask[row]].astype(np.float64)
        errors = r + gamma * np.append(v[1:], 0)[: len(v)] - v
        wanted = [sum((gamma * lam) ** k * e for k, e in enumerate(errors[t:])) for t in range(len(v))]
        np.testing.assert_allclose(np.asarray(advantages)[row][mask[row]], wanted, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(np.asarray(returns)[row][mask[row]], np.add(wanted, v), rtol=1e-4, atol=1e-4)
    assert not np.asarray(advantages)[~mask].any() and not np.asarray(returns)[~mask].any()


def test_at_lambda_one_an_advantage_is_the_discounted_return_minus_the_value(random):
    rewards, _, mask = random
    _, returns = gae(*map(jnp.asarray, random), 0.9, 1.0)
    for row in range(len(mask)):
        r = rewards[row][mask[row]].astype(np.float64)
        wanted = [sum(0.9**k * x for k, x in enumerate(r[t:])) for t in range(len(r))]
        np.testing.assert_allclose(np.asarray(returns)[row][mask[row]], wanted, rtol=1e-4, atol=1e-4)


def test_a_fractional_score_lands_on_the_last_reply_token_and_survives():
    """Rows are left-padded, right-padded, full, with a gap, or empty, with every fractional score of the table."""
    mask = jnp.asarray([[0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]], bool)
    scores = jnp.asarray([-0.25, -0.8, -1.3, -1.8, -0.5], jnp.float32)
    same = jnp.full(mask.shape, -1.5, jnp.float32)
    rewards = token_rewards(same, same, scores, mask, 0.3)
    assert rewards.dtype == jnp.float32
    wanted = [[0, 0, 0, -0.25], [0, -0.8, 0, 0], [0, 0, 0, -1.3], [0, 0, -1.8, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(rewards, wanted, atol=1e-7)
    advantages, _ = gae(rewards, jnp.zeros_like(rewards), mask, 1.0, 1.0)
    np.testing.assert_allclose(advantages, jnp.where(mask, scores[:, None], 0), atol=1e-7)


def test_whitened_advantages_have_mean_zero_and_deviation_one(random):
    advantages, mask = jnp.asarray(random[0]), jnp.asarray(random[2])
    white = np.asarray(whiten(advantages, mask))
    assert white[np.asarray(mask)].mean() == pytest.approx(0, abs=1e-6)
    assert white[np.asarray(mask)].std() == pytest.approx(1, abs=1e-4)
    assert not white[~np.asarray(mask)].any()
    assert not np.asarray(whiten(jnp.full((2, 3), 5.0), jnp.ones((2, 3), bool))).any()


def test_an_unchanged_policy_has_ratio_one_and_nothing_clipped(random):
    advantages, _, mask = map(jnp.asarray, random)
    logprobs = jnp.where(mask, -1.0, jnp.nan)
    sums = policy_sums(logprobs, logprobs, jnp.where(mask, advantages, jnp.nan), mask, 0.2)
    assert float(sums.ratio / sums.tokens) == 1 and float(sums.clipped) == 0 and float(sums.kl) == 0
    assert float(sums.loss) == pytest.approx(-float(advantages[mask].sum()), rel=1e-5)


def test_kl_estimates_agree_on_the_mean_over_samples_of_the_policy():
    rng = np.random.default_rng(0)
    policy, reference = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5))
    drawn = rng.choice(5, size=(400, 50), p=policy)
    logprobs, ref = (jnp.asarray(np.log(p)[drawn], jnp.float32) for p in (policy, reference))
    k1, k3 = (float(x) / drawn.size for x in kl_sums(logprobs, ref, jnp.ones(drawn.shape, bool)))
    exact = float((policy * np.log(policy / reference)).sum())
    assert k1 == pytest.approx(exact, abs=0.05) and k3 == pytest.approx(exact, abs=0.05)
