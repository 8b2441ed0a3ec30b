"""The PPO update equals one written with loops, on every mesh and in any number of parts."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tljax.distributed.mesh import make_mesh
from tljax.generate.sampling import SampleOptions
from tljax.model import llama, lora
from tljax.model.value import drop_lm_head, init_value_head
from tljax.rl.advantage import AdvantageOptions
from tljax.rl.models import PPOModels
from tljax.rl.ppo import UpdateOptions, make_experience, make_update, next_kl_coef
from tljax.rl.state import Experience, PPOState, RolloutBatch
from tljax.training.state import init_state

SHAPE = dict(num_layers=2, d_model=16, num_heads=4, num_kv_heads=4, head_dim=8, d_ff=32)
CONFIG = dataclasses.replace(llama.preset("tiny", vocab_size=40), rope_theta=1e4, max_positions=64, **SHAPE)
STARTS = (5, 9, 3, 7, 6, 4, 8, 2)
LENGTHS = (6, 1, 4, 6, 2, 5, 3, 6)
KL_COEF = 0.3


def on_mesh(*shape: int):
    return jax.set_mesh(make_mesh(*shape, devices=jax.devices()[: math.prod(shape)]))


@jax.jit
def random_params(seed: int) -> llama.Params:
    """Weights ten times as large as initial ones, so that tokens differ in probability."""
    params = llama.init_params(jax.random.key(seed), CONFIG, jnp.float32)
    table = llama.params_table(CONFIG)
    return jax.tree.map(lambda p, x: x * 10 if p.init == "normal" else x, table, params, is_leaf=llama.is_param)


def make_rows(width: int = 16, room: int = 6, filler: int = 0) -> RolloutBatch:
    rng = np.random.default_rng(0)
    B = len(STARTS)
    tokens, replies = np.full((B, width), filler, np.int32), np.full((B, room), filler, np.int32)
    for row, (start, length) in enumerate(zip(STARTS, LENGTHS, strict=True)):
        tokens[row, : start + length] = rng.integers(0, CONFIG.vocab_size, start + length)
        replies[row, :length] = tokens[row, start : start + length]
    host = RolloutBatch(
        tokens=tokens,
        starts=np.asarray(STARTS, np.int32),
        replies=replies,
        mask=np.arange(room)[None] < np.asarray(LENGTHS)[:, None],
        rewards=rng.choice(np.asarray([-2, -1.5, -0.8, -0.25, 1], np.float32), B),
    )
    return jax.device_put(host, jax.NamedSharding(jax.sharding.get_mesh(), jax.P()))


def make_options(algorithm="ppo", group=1, kl_place="reward", **changes):
    steps = dict(epochs=1, minibatches=1, accumulate=1, critic_warmup=0, remat="none", loss_chunk=4)
    losses = dict(clip=0.2, value_clip=0.2, entropy_coef=0.0, kl_target=0.0, kl_horizon=1e4)
    sampling = dict(max_new_tokens=6, temperature=1.0, top_k=0, top_p=1.0, eos_ids=(1,), pad_id=0)
    return UpdateOptions(
        advantage=AdvantageOptions(
            algorithm=algorithm, gamma=1.0, lam=0.95, whiten=False, group=group, kl_place=kl_place
        ),
        sample=SampleOptions(compute_dtype="float32", attention="reference", **sampling),
        **(steps | losses | changes),
    )


def first_state(critic: bool, head_seed: int = 5) -> PPOState:
    """Actor and critic differ, the value head is not zero, and one step of plain descent moves by the gradient."""
    tx = optax.sgd(1.0)
    actor = init_state(random_params(0), tx)
    value = None
    if critic:
        head = jax.random.normal(jax.random.key(head_seed), (CONFIG.d_model,), jnp.float32)
        head = jax.device_put(head, jax.tree.leaves(jax.jit(init_value_head, static_argnums=0)(CONFIG))[0].sharding)
        value = init_state({"trunk": drop_lm_head(random_params(1)), "head": 0.1 * head}, tx)
    return PPOState(actor, value, jnp.float32(KL_COEF))


def trained_weights(state):
    return state.actor.params, state.critic and state.critic.params


class Update(NamedTuple):
    """Host copies of the trained weights of actor and critic before and after an update, its experience and metrics."""

    before: Any
    after: Any
    experience: Experience
    metrics: dict[str, Any]

    @property
    def gradients(self):
        return jax.tree.map(lambda old, new: old - new, self.before, self.after)


def models_of(options):
    return PPOModels(CONFIG, has_critic=options.advantage.algorithm == "ppo", adapter=None)


def score_rollout(options, rows=None):
    """The experience and its metrics, on the devices."""
    models = models_of(options)
    return make_experience(models, options)(first_state(models.has_critic), random_params(2), rows or make_rows())


def one_update(options, rows=None, scored=None):
    """One update, from `scored` if another update with the same experience has it."""
    models = models_of(options)
    state = first_state(models.has_critic)
    before = jax.device_get(trained_weights(state))
    experience, scores = scored or score_rollout(options, rows)
    update = make_update(models, optax.sgd(1.0), optax.sgd(1.0), options)
    kept = jax.device_get(experience)
    state, metrics = update(state, random_params(2), experience, jax.random.key(0))
    return Update(before, jax.device_get(trained_weights(state)), kept, jax.device_get(scores | metrics))


def assert_close(got, want, tolerance=2e-5):
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=jax.tree_util.keystr(path))


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
    """For replies of one token each, the gradients of two epochs in eight minibatches sum to 16 times their mean."""

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
    assert_close(many, jax.tree.map(lambda x: 16 * x, once), tolerance=1e-4)


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
def test_the_entropy_bonus_counts_in_the_loss_and_warm_up_moves_the_critic_alone(plain):
    with on_mesh(1, 1, 1):
        rows, params = make_rows(), random_params(0)
        logits = jax.jit(lambda params: llama.logits(params, CONFIG, hidden_of(params, rows)))(params)
        table = jax.device_get(jax.nn.log_softmax(logits, axis=-1))
        at = [table[b, STARTS[b] - 1 + t] for b, length in enumerate(LENGTHS) for t in range(length)]
        entropy = -np.mean([(np.exp(row) * row).sum() for row in at])
        experience = jax.device_put(plain.experience, jax.NamedSharding(jax.sharding.get_mesh(), jax.P()))
        found = one_update(make_options(entropy_coef=0.5, critic_warmup=1), scored=(experience, {}))
    assert plain.metrics["entropy"] == pytest.approx(entropy, rel=1e-4)
    assert found.metrics["loss"] == pytest.approx(plain.metrics["loss"] - 0.5 * entropy, rel=1e-4)
    assert jax.tree.all(jax.tree.map(np.array_equal, found.before[0], found.after[0]))
    assert_close(found.gradients[1], plain.gradients[1])


@pytest.mark.parametrize("kl, wanted", [(0.5, 0.8), (6.3, 1.05), (100.0, 1.2)])
def test_an_adaptive_kl_coef_follows_the_target(kl, wanted):
    """Ziegler et al.: K_beta = 1 / horizon, the error clipped at 0.2, replies counted."""
    options = make_options(kl_target=6.0, kl_horizon=64.0)
    assert float(next_kl_coef(jnp.float32(1.0), jnp.float32(kl), 64, options)) == pytest.approx(wanted)
    assert float(next_kl_coef(jnp.float32(1.0), jnp.float32(kl), 32, options)) == pytest.approx(1 + (wanted - 1) / 2)
    assert float(next_kl_coef(jnp.float32(0.3), jnp.float32(kl), 64, make_options())) == pytest.approx(0.3)


ADAPTER = lora.LoraOptions(rank=2, alpha=4.0, targets=("q", "o", "down"))


def adapter_update():
    """Gradients of both adapters and of the value head, and the metrics, of one update on one frozen trunk."""
    models = PPOModels(CONFIG, has_critic=True, adapter=ADAPTER)
    tx, frozen, options = optax.sgd(1.0), random_params(2), make_options()
    draw = jax.jit(lora.init_adapter, static_argnums=(1, 2))
    # B is 0 at first, and then A has no gradient; the reference is the trunk, so the KL tells how far B moves it.
    actor, critic = (jax.tree.map(lambda x: x + 0.1, draw(jax.random.key(n), CONFIG, ADAPTER)) for n in (1, 2))
    head = jnp.linspace(-0.1, 0.1, CONFIG.d_model, dtype=jnp.float32)
    head = jax.device_put(head, frozen["final_norm"].sharding)
    policy, value = init_state(actor, tx), init_state({"trunk": critic, "head": head}, tx)
    state = PPOState(policy, value, jnp.float32(KL_COEF))
    before = jax.device_get(trained_weights(state))
    experience, scores = make_experience(models, options)(state, frozen, make_rows())
    state, metrics = make_update(models, tx, tx, options)(state, frozen, experience, jax.random.key(0))
    after = jax.device_get(trained_weights(state))
    return jax.tree.map(lambda old, new: old - new, before, after), jax.device_get(scores | metrics)


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
