"""The PPO update equals one written with loops, on every mesh and in any number of parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.rl.ppo_updates import (
    CONFIG,
    KL_COEF,
    LENGTHS,
    STARTS,
    adapter_update,
    assert_close,
    first_state,
    make_options,
    make_rows,
    models_of,
    on_mesh,
    one_update,
    random_params,
    score_rollout,
)
from tljax.model import llama
from tljax.rl.advantage import advantages_and_returns
from tljax.rl.experience import make_experience
from tljax.rl.ppo import make_update, next_kl_coef
from tljax.rl.state import PPOState


@pytest.fixture(scope="module")
def plain():
    """One update of PPO on one device, in one part."""
    with on_mesh(1, 1, 1):
        return one_update(make_options())


def hidden_of(params, rows):
    columns = jnp.broadcast_to(jnp.arange(rows.tokens.shape[1], dtype=jnp.int32), rows.tokens.shape)
    ends = (rows.starts + rows.mask.sum(1))[:, None]
    segments = (columns < ends).astype(jnp.int32)
    options = llama.ForwardOptions("float32", attention="reference")
    return llama.forward(params, CONFIG, rows.tokens, columns, segments, options)


def test_an_update_equals_one_in_loops_over_rows_and_tokens(plain):
    """The other update takes full logits, computes GAE and losses in Python, and differentiates them automatically."""
    with on_mesh(1, 1, 1):
        rows, state, frozen = make_rows(), first_state(True), random_params(2)
        places = [(b, t) for b, length in enumerate(LENGTHS) for t in range(length)]
        row, column = np.asarray([(b, STARTS[b] - 1 + t) for b, t in places]).T
        targets = np.asarray(rows.tokens)[row, column + 1]

        def place_logprobs(params):
            logits = llama.logits(params, CONFIG, hidden_of(params, rows))
            return jax.reshard(jax.nn.log_softmax(logits, axis=-1), jax.P())[row, column, targets]

        def place_values(critic):
            return jax.reshard(hidden_of(critic["trunk"], rows), jax.P())[row, column] @ critic["head"]

        old, ref = (jax.device_get(jax.jit(place_logprobs)(params)) for params in (state.actor.params, frozen))
        old, ref = dict(zip(places, old, strict=True)), dict(zip(places, ref, strict=True))
        value = dict(zip(places, jax.device_get(jax.jit(place_values)(state.critic.params)), strict=True))
        scores = np.asarray(rows.rewards)
        advantage, returns = {}, {}
        for b, length in enumerate(LENGTHS):
            following = 0.0
            for t in reversed(range(length)):
                reward = -KL_COEF * (old[b, t] - ref[b, t]) + (scores[b] if t == length - 1 else 0.0)
                next_value = value[b, t + 1] if t + 1 < length else 0.0
                following = reward + next_value - value[b, t] + 0.95 * following
                advantage[b, t], returns[b, t] = following, following + value[b, t]

        def in_order(by_place):
            return np.asarray([by_place[place] for place in places], np.float32)

        def actor_loss(params):
            return -(in_order(advantage) * jnp.exp(place_logprobs(params) - in_order(old))).sum() / len(places)

        def critic_loss(critic):
            return (0.5 * (place_values(critic) - in_order(returns)) ** 2).sum() / len(places)

        policy_loss, actor_gradients = jax.jit(jax.value_and_grad(actor_loss))(state.actor.params)
        value_loss, critic_gradients = jax.jit(jax.value_and_grad(critic_loss))(state.critic.params)
        wanted = jax.device_get((actor_gradients, critic_gradients))
        assert plain.metrics["policy_loss"] == pytest.approx(float(policy_loss), rel=1e-4)
        assert plain.metrics["value_loss"] == pytest.approx(float(value_loss), rel=1e-4)
    assert_close(plain.gradients, wanted)
    assert plain.metrics["kl"] == pytest.approx(np.mean([old[place] - ref[place] for place in places]), rel=1e-4)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted[0])) > 1e-3


def test_the_first_step_has_ratio_1_and_clips_nothing(plain):
    assert plain.metrics["ratio_first"] == pytest.approx(1, abs=1e-6)
    assert plain.metrics["clipped_first"] == plain.metrics["value_clipped"] == plain.metrics["policy_kl"] == 0


def test_fractional_rewards_reach_the_last_reply_token(plain):
    """An integer buffer, or a reward one position too late, would lose them."""
    experience = plain.experience
    for b, length in enumerate(LENGTHS):
        last = length - 1
        penalty = KL_COEF * (experience.logprobs[b, last] - experience.ref_logprobs[b, last])
        score = experience.advantages[b, last] + experience.values[b, last] + penalty
        assert score == pytest.approx(float(experience.batch.rewards[b]), abs=1e-5)
        assert not experience.advantages[b, length:].any() and not experience.returns[b, length:].any()


@pytest.mark.parametrize(
    "mesh, accumulate",
    [
        pytest.param((1, 2, 2, 2), 2, marks=pytest.mark.extended),
        pytest.param((2, 2, 2), 2, marks=pytest.mark.slow),
        pytest.param((1, 1, 1), 4, marks=pytest.mark.slow),
        pytest.param((1, 8, 1), 1, marks=pytest.mark.slow),
    ],
)
def test_an_update_is_the_same_on_every_mesh_and_in_any_number_of_parts(plain, mesh, accumulate):
    with on_mesh(*mesh):
        found = one_update(make_options(accumulate=accumulate))
    assert_close(found.gradients, plain.gradients)
    for name, value in plain.metrics.items():
        assert found.metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


@pytest.mark.extended
def test_padding_does_not_change_an_update(plain):
    with on_mesh(1, 1, 1):
        found = one_update(make_options(), rows=make_rows(width=24, room=9, filler=1))
    assert_close(found.gradients, plain.gradients)


def summing() -> optax.GradientTransformation:
    """An optimizer that changes no weight and keeps the sum of all gradients."""

    def update(grads, total, params=None):
        return jax.tree.map(jnp.zeros_like, grads), jax.tree.map(jnp.add, total, grads)

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


@pytest.mark.extended
def test_minibatches_contain_every_row_once_per_epoch():
    """For replies of one token each, the gradients of two epochs in eight minibatches sum to 16 times their mean.

    The critic makes as many passes and steps as the actor, or its own.
    """

    def total(**shape):
        state = first_state(True)
        actor, critic = (
            x.replace(opt_state=jax.tree.map(jnp.zeros_like, x.params)) for x in (state.actor, state.critic)
        )
        state = PPOState(actor, critic, state.kl_coef)
        options, frozen = make_options(**shape), random_params(2)
        models = models_of(options)
        rows = make_rows()
        rows = dataclasses.replace(rows, mask=rows.mask & (jnp.arange(6)[None] == 0))
        experience, _ = make_experience(models, options)(state, frozen, rows)
        after, metrics = make_update(models, summing(), summing(), options)(
            state, frozen, experience, jax.random.key(7)
        )
        assert int(after.actor.step) == 1 and metrics["ratio"] == pytest.approx(1)
        return jax.device_get((after.actor.opt_state, after.critic.opt_state))

    with on_mesh(1, 1, 1):
        many, once = total(minibatches=8, epochs=2), total()
        own = total(critic_epochs=3, critic_minibatches=4)
    assert_close(many, jax.tree.map(lambda x: 16 * x, once), tolerance=1e-4)
    assert_close(own[0], once[0], tolerance=1e-4)
    assert_close(own[1], jax.tree.map(lambda x: 12 * x, once[1]), tolerance=1e-4)


def test_the_other_replies_correct_the_values_of_a_prompt():
    """Without a critic's help the group baseline is RLOO; with it, its own loop over replies and tokens."""
    rng, length = np.random.default_rng(0), np.asarray([3, 1, 4, 2, 4, 4, 0, 1])
    mask = jnp.asarray(np.arange(4)[None] < length[:, None])
    last = jnp.asarray(np.arange(4)[None] == length[:, None] - 1)
    rewards = jnp.where(last, jnp.asarray(rng.normal(size=(8, 1)), jnp.float32), 0)
    ppo = dataclasses.replace(make_options(group=4).advantage, group_baseline=True, lam=1.0)
    plain = dataclasses.replace(ppo, group_baseline=False, lam=0.9)
    # Values that differ between prompts alone.
    values = jnp.repeat(jnp.asarray([[0.5], [-1.0]], jnp.float32), 4, axis=0) * jnp.ones((8, 4), jnp.float32)
    values = jnp.where(jnp.asarray(length > 0)[:, None], values, 0)
    found, _ = advantages_and_returns(rewards[:4], values[:4], mask[:4], ppo)
    rloo, _ = advantages_and_returns(rewards[:4], values[:4], mask[:4], make_options("rloo", group=4).advantage)
    np.testing.assert_allclose(found, rloo, atol=1e-5)
    # Any values.
    values = jnp.asarray(rng.normal(size=(8, 4)), jnp.float32)
    before, returns = map(np.asarray, advantages_and_returns(rewards, values, mask, plain))
    after, same = advantages_and_returns(rewards, values, mask, dataclasses.replace(plain, group_baseline=True))
    for row in range(8):
        others = [other for other in range(row // 4 * 4, row // 4 * 4 + 4) if other != row]
        wanted = before[row] - np.mean([before[other, 0] for other in others])
        np.testing.assert_allclose(after[row], np.where(mask[row], wanted, 0), atol=1e-5)
    np.testing.assert_array_equal(same, returns)


def test_a_critic_learns_returns_of_its_own_lambda():
    """With lambda 1 and no discount, a token's return is the sum of the rewards that follow, whatever the values."""
    options = make_options().advantage
    rng = np.random.default_rng(0)
    rewards, values = (jnp.asarray(rng.normal(size=(2, 5)), jnp.float32) for _ in range(2))
    mask = jnp.asarray([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0]], bool)
    rewards = jnp.where(mask, rewards, 0)
    advantages, _ = advantages_and_returns(rewards, values, mask, options)
    found = advantages_and_returns(rewards, values, mask, dataclasses.replace(options, critic_lam=1.0))
    np.testing.assert_array_equal(found[0], advantages)
    after = np.cumsum(np.asarray(rewards)[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(found[1], np.where(mask, after, 0), rtol=1e-5, atol=1e-6)


def test_grpo_learns_from_groups_without_a_critic():
    """GRPO: each row's advantage is its reward among its group's, and the KL is a term of the loss."""
    with on_mesh(1, 1, 1):
        options = make_options("grpo", group=4, kl_place="loss")
        found = one_update(options)
        experience, scores = found.experience, np.asarray(make_rows().rewards)
        groups = scores.reshape(2, 4)
        wanted = (groups - groups.mean(1, keepdims=True)) / (groups.std(1, ddof=1, keepdims=True) + 1e-4)
        np.testing.assert_allclose(experience.advantages[:, 0], wanted.reshape(-1), rtol=1e-5)
        assert "value_loss" not in found.metrics
        log_ratio = np.where(experience.batch.mask, experience.logprobs - experience.ref_logprobs, 0)
        k3 = (np.exp(-log_ratio) - 1 + log_ratio).sum() / sum(LENGTHS)
        assert found.metrics["loss"] - found.metrics["policy_loss"] == pytest.approx(KL_COEF * k3, rel=1e-4)
        assert found.metrics["kl_k3"] == pytest.approx(k3, rel=1e-4)


def test_rloo_subtracts_the_mean_of_the_other_replies():
    with on_mesh(1, 1, 1):
        experience = jax.device_get(score_rollout(make_options("rloo", group=2))[0])
    kl = np.where(experience.batch.mask, experience.logprobs - experience.ref_logprobs, 0).sum(1)
    rewards = np.asarray(experience.batch.rewards) - KL_COEF * kl
    wanted = [rewards[b] - rewards[b ^ 1] for b in range(len(rewards))]
    np.testing.assert_allclose(experience.advantages[:, 0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.extended
def test_the_entropy_bonus_counts_in_the_loss(plain):
    with on_mesh(1, 1, 1):
        rows, params = make_rows(), random_params(0)
        logits = jax.jit(lambda params: llama.logits(params, CONFIG, hidden_of(params, rows)))(params)
        table = jax.device_get(jax.nn.log_softmax(logits, axis=-1))
        at = [table[b, STARTS[b] - 1 + t] for b, length in enumerate(LENGTHS) for t in range(length)]
        entropy = -np.mean([(np.exp(row) * row).sum() for row in at])
        experience = jax.device_put(plain.experience, jax.NamedSharding(jax.sharding.get_mesh(), jax.P()))
        found = one_update(make_options(entropy_coef=0.5), scored=(experience, {}))
    assert plain.metrics["entropy"] == pytest.approx(entropy, rel=1e-4)
    assert found.metrics["loss"] == pytest.approx(plain.metrics["loss"] - 0.5 * entropy, rel=1e-4)
    assert_close(found.gradients[1], plain.gradients[1])


def test_a_warm_up_moves_the_critic_alone(plain):
    with on_mesh(1, 1, 1):
        experience = jax.device_put(plain.experience, jax.NamedSharding(jax.sharding.get_mesh(), jax.P()))
        found = one_update(make_options(critic_warmup=1, minibatches=2), scored=(experience, {}))
        usual = one_update(make_options(minibatches=2), scored=(experience, {}))
    assert jax.tree.all(jax.tree.map(np.array_equal, found.before[0], found.after[0]))
    assert_close(found.gradients[1], usual.gradients[1])
    assert found.metrics.keys() == usual.metrics.keys()
    still = {"loss": 0, "policy_loss": 0, "ratio": 1, "clipped": 0, "policy_kl": 0, "grad_norm": 0}
    assert {name: found.metrics[name] for name in still} == still
    assert found.metrics["ratio_first"] == 1 and found.metrics["value_loss"] == usual.metrics["value_loss"]


@pytest.mark.parametrize("kl, wanted", [(0.5, 0.8), (6.3, 1.05), (100.0, 1.2)])
def test_an_adaptive_kl_coef_follows_the_target(kl, wanted):
    """Ziegler et al.: K_beta = 1 / horizon, the error clipped at 0.2, replies counted."""
    options = make_options(kl_target=6.0, kl_horizon=64.0)
    assert float(next_kl_coef(jnp.float32(1.0), jnp.float32(kl), 64, options)) == pytest.approx(wanted)
    assert float(next_kl_coef(jnp.float32(1.0), jnp.float32(kl), 32, options)) == pytest.approx(1 + (wanted - 1) / 2)
    assert float(next_kl_coef(jnp.float32(0.3), jnp.float32(kl), 64, make_options())) == pytest.approx(0.3)


@pytest.mark.slow
def test_adapters_share_a_trunk_on_any_mesh():
    with on_mesh(1, 1, 1):
        one, metrics = adapter_update()
    with on_mesh(2, 2, 2):
        many, _ = adapter_update()
    assert_close(many, one)
    assert metrics["kl_k3"] > 1e-3 and metrics["ratio_first"] == pytest.approx(1, abs=1e-6)
    assert all(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(one))
    assert not np.allclose(one[0]["q_a"], one[1]["trunk"]["q_a"])
