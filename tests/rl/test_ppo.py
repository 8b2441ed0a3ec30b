"""The update: against a plain one written out, on any mesh and in any parts, and what never may move."""

import dataclasses
import math

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
from tljax.rl.state import PPOState, RolloutBatch
from tljax.training.state import init_state

CONFIG = dataclasses.replace(
    llama.preset("tiny", vocab_size=40),
    num_layers=2,
    d_model=16,
    num_heads=4,
    num_kv_heads=4,
    head_dim=8,
    d_ff=32,
    rope_theta=1e4,
    max_positions=64,
)
STARTS = (5, 9, 3, 7, 6, 4, 8, 2)
LENGTHS = (6, 1, 4, 6, 2, 5, 3, 6)
KL_COEF = 0.3


def on_mesh(*shape: int):
    return jax.set_mesh(make_mesh(*shape, devices=jax.devices()[: math.prod(shape)]))


def random_params(seed: int) -> llama.Params:
    """Weights ten times as large as first ones, so that words differ in probability."""
    drawn = jax.jit(llama.init_params, static_argnums=(1, 2))(jax.random.key(seed), CONFIG, jnp.float32)
    return jax.tree.map(lambda x: x * 10 if float(jnp.std(x)) > 0 else x, drawn)


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


def make_options(algorithm="ppo", group=1, kl_place="reward", temperature=1.0, whiten=False, **changes):
    fields = {
        "epochs": 1,
        "minibatches": 1,
        "accumulate": 1,
        "clip": 0.2,
        "value_clip": 0.2,
        "entropy_coef": 0.0,
        "critic_warmup": 0,
        "kl_target": 0.0,
        "kl_horizon": 1e4,
        "remat": "none",
        "loss_chunk": 4,
    }
    return UpdateOptions(
        advantage=AdvantageOptions(
            algorithm=algorithm, gamma=1.0, lam=0.95, whiten=whiten, group=group, kl_place=kl_place
        ),
        sample=SampleOptions(
            max_new_tokens=6,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            eos_ids=(1,),
            pad_id=0,
            compute_dtype="float32",
            attention="reference",
        ),
        **(fields | changes),
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


def weights(state):
    return state.actor.params, state.critic and state.critic.params


def one_update(options, rows=None, state=None, updates=1):
    """Host copies of first and last weights of actor and critic, the experience, and all metrics."""
    plan = PPOModels(CONFIG, has_critic=options.advantage.algorithm == "ppo", adapter=None)
    state = state or first_state(plan.has_critic)
    rows, frozen = rows or make_rows(), random_params(2)
    before = jax.device_get(weights(state))
    judge, update = make_experience(plan, options), make_update(plan, optax.sgd(1.0), optax.sgd(1.0), options)
    found = {}
    for n in range(updates):
        experience, judged = judge(state, frozen, rows)
        state, metrics = update(state, frozen, experience, jax.random.key(n))
        found = jax.device_get(judged | metrics)
    return before, jax.device_get(weights(state)), jax.device_get(experience), found


def gradients(found):
    return jax.tree.map(lambda old, new: old - new, found[0], found[1])


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
    dtypes = {"compute_dtype": jnp.float32, "remat": "none", "attention": "reference"}
    return llama.forward(params, CONFIG, rows.tokens, columns, segments, **dtypes)


def test_an_update_is_that_of_loops_over_rows_and_tokens(plain):
    """Log-probabilities from whole logits, GAE and losses in Python, gradients by automatic differentiation."""
    with on_mesh(1, 1, 1):
        rows, state, frozen = make_rows(), first_state(True), random_params(2)
        places = [(b, t) for b, length in enumerate(LENGTHS) for t in range(length)]

        def logprob_table(params):
            logits = llama.logits(params, CONFIG, hidden_of(params, rows))
            table = jax.reshard(jax.nn.log_softmax(logits, axis=-1), jax.P())
            return [table[b, STARTS[b] - 1 + t, rows.tokens[b, STARTS[b] + t]] for b, t in places]

        def value_list(critic):
            hidden = jax.reshard(hidden_of(critic["trunk"], rows), jax.P())
            return [hidden[b, STARTS[b] - 1 + t] @ critic["head"] for b, t in places]

        old = dict(zip(places, map(float, jax.jit(logprob_table)(state.actor.params)), strict=True))
        ref = dict(zip(places, map(float, jax.jit(logprob_table)(frozen)), strict=True))
        value = dict(zip(places, map(float, jax.jit(value_list)(state.critic.params)), strict=True))
        scores = np.asarray(rows.rewards)
        advantage, returns = {}, {}
        for b, length in enumerate(LENGTHS):
            following = 0.0
            for t in reversed(range(length)):
                reward = -KL_COEF * (old[b, t] - ref[b, t]) + (scores[b] if t == length - 1 else 0.0)
                next_value = value[b, t + 1] if t + 1 < length else 0.0
                following = reward + next_value - value[b, t] + 0.95 * following
                advantage[b, t], returns[b, t] = following, following + value[b, t]

        def actor_loss(params):
            terms = zip(places, logprob_table(params), strict=True)
            return -sum(advantage[place] * jnp.exp(now - old[place]) for place, now in terms) / len(places)

        def critic_loss(critic):
            terms = zip(places, value_list(critic), strict=True)
            return sum(0.5 * (now - returns[place]) ** 2 for place, now in terms) / len(places)

        wanted = jax.device_get(
            (jax.jit(jax.grad(actor_loss))(state.actor.params), jax.jit(jax.grad(critic_loss))(state.critic.params))
        )
        assert plain[3]["policy_loss"] == pytest.approx(float(actor_loss(state.actor.params)), rel=1e-4)
        assert plain[3]["value_loss"] == pytest.approx(float(critic_loss(state.critic.params)), rel=1e-4)
    assert_close(gradients(plain), wanted)
    assert plain[3]["kl"] == pytest.approx(np.mean([old[place] - ref[place] for place in places]), rel=1e-4)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted[0])) > 1e-3


def test_first_update_has_ratio_1_and_clips_nothing(plain):
    assert plain[3]["ratio_first"] == pytest.approx(1, abs=1e-6)
    assert plain[3]["clipped_first"] == plain[3]["value_clipped"] == plain[3]["policy_kl"] == 0


def test_fractional_rewards_reach_the_last_reply_token(plain):
    """A buffer of integers, or a reward one place too late, would lose them."""
    experience = plain[2]
    for b, length in enumerate(LENGTHS):
        last = length - 1
        penalty = KL_COEF * (experience.logprobs[b, last] - experience.ref_logprobs[b, last])
        score = experience.advantages[b, last] + experience.values[b, last] + penalty
        assert score == pytest.approx(float(experience.batch.rewards[b]), abs=1e-5)
        assert not experience.advantages[b, length:].any() and not experience.returns[b, length:].any()


@pytest.mark.parametrize(
    "mesh, accumulate",
    [
        ((1, 2, 2, 2), 2),
        pytest.param((2, 2, 2), 2, marks=pytest.mark.slow),
        pytest.param((1, 1, 1), 4, marks=pytest.mark.slow),
        pytest.param((1, 8, 1), 1, marks=pytest.mark.slow),
    ],
)
def test_neither_mesh_nor_parts_change_an_update(plain, mesh, accumulate):
    with on_mesh(*mesh):
        found = one_update(make_options(accumulate=accumulate))
    assert_close(gradients(found), gradients(plain))
    for name, value in plain[3].items():
        assert found[3][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_padding_changes_nothing(plain):
    with on_mesh(1, 1, 1):
        found = one_update(make_options(), rows=make_rows(width=24, room=9, filler=1))
    assert_close(gradients(found), gradients(plain))


def summing() -> optax.GradientTransformation:
    """Moves nothing and keeps the sum of all gradients."""

    def update(grads, total, params=None):
        return jax.tree.map(jnp.zeros_like, grads), jax.tree.map(jnp.add, total, grads)

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


@pytest.mark.extended
def test_minibatches_see_every_row_once_an_epoch():
    """Of replies with one token each, two epochs' gradients in eight minibatches sum to 16 times their mean."""

    def total(**shape):
        state = first_state(True)
        actor, critic = (
            x.replace(opt_state=jax.tree.map(jnp.zeros_like, x.params)) for x in (state.actor, state.critic)
        )
        state = PPOState(actor, critic, state.kl_coef)
        plan, options, frozen = (
            PPOModels(CONFIG, has_critic=True, adapter=None),
            make_options(**shape),
            random_params(2),
        )
        rows = make_rows()
        rows = dataclasses.replace(rows, mask=rows.mask & (jnp.arange(6)[None] == 0))
        experience, _ = make_experience(plan, options)(state, frozen, rows)
        after, metrics = make_update(plan, summing(), summing(), options)(state, frozen, experience, jax.random.key(7))
        assert int(after.actor.step) == 1 and metrics["ratio"] == pytest.approx(1)
        return jax.device_get((after.actor.opt_state, after.critic.opt_state))

    with on_mesh(1, 1, 1):
        many, once = total(minibatches=8, epochs=2), total()
    assert_close(many, jax.tree.map(lambda x: 16 * x, once), tolerance=1e-4)


def test_a_run_without_critic_learns_from_groups():
    """GRPO: each row's advantage is its reward among its group's, and the KL is a term of the loss."""
    with on_mesh(1, 1, 1):
        options = make_options("grpo", group=4, kl_place="loss")
        found = one_update(options)
        experience, scores = found[2], np.asarray(make_rows().rewards)
        groups = scores.reshape(2, 4)
        wanted = (groups - groups.mean(1, keepdims=True)) / (groups.std(1, ddof=1, keepdims=True) + 1e-4)
        np.testing.assert_allclose(experience.advantages[:, 0], wanted.reshape(-1), rtol=1e-5)
        assert "value_loss" not in found[3]
        log_ratio = np.where(experience.batch.mask, experience.logprobs - experience.ref_logprobs, 0)
        k3 = (np.exp(-log_ratio) - 1 + log_ratio).sum() / sum(LENGTHS)
        assert found[3]["loss"] - found[3]["policy_loss"] == pytest.approx(KL_COEF * k3, rel=1e-4)
        assert found[3]["kl_k3"] == pytest.approx(k3, rel=1e-4)


def test_rloo_holds_a_reply_against_the_mean_of_the_others():
    with on_mesh(1, 1, 1):
        experience = one_update(make_options("rloo", group=2))[2]
    kl = np.where(experience.batch.mask, experience.logprobs - experience.ref_logprobs, 0).sum(1)
    rewards = np.asarray(experience.batch.rewards) - KL_COEF * kl
    wanted = [rewards[b] - rewards[b ^ 1] for b in range(len(rewards))]
    np.testing.assert_allclose(experience.advantages[:, 0], wanted, rtol=1e-4, atol=1e-5)


def test_the_entropy_bonus_is_the_words_entropy_and_warm_up_moves_the_critic_alone(plain):
    with on_mesh(1, 1, 1):
        rows, params = make_rows(), random_params(0)
        table = jax.device_get(jax.nn.log_softmax(llama.logits(params, CONFIG, hidden_of(params, rows)), axis=-1))
        at = [table[b, STARTS[b] - 1 + t] for b, length in enumerate(LENGTHS) for t in range(length)]
        entropy = -np.mean([(np.exp(row) * row).sum() for row in at])
        found = one_update(make_options(entropy_coef=0.5, critic_warmup=1))
    assert plain[3]["entropy"] == pytest.approx(entropy, rel=1e-4)
    assert found[3]["loss"] == pytest.approx(plain[3]["loss"] - 0.5 * entropy, rel=1e-4)
    assert jax.tree.all(jax.tree.map(np.array_equal, found[0][0], found[1][0]))
    assert_close(gradients(found)[1], gradients(plain)[1])


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
    plan = PPOModels(CONFIG, has_critic=True, adapter=ADAPTER)
    tx, frozen, options = optax.sgd(1.0), random_params(2), make_options()
    draw = jax.jit(lora.init_adapter, static_argnums=(1, 2))
    # B is 0 at first, and then A has no gradient; the reference is the trunk, so the KL tells how far B moves it.
    actor, critic = (jax.tree.map(lambda x: x + 0.1, draw(jax.random.key(n), CONFIG, ADAPTER)) for n in (1, 2))
    head = jnp.linspace(-0.1, 0.1, CONFIG.d_model, dtype=jnp.float32)
    head = jax.device_put(head, frozen["final_norm"].sharding)
    policy, value = init_state(actor, tx), init_state({"trunk": critic, "head": head}, tx)
    state = PPOState(policy, value, jnp.float32(KL_COEF))
    before = jax.device_get(weights(state))
    experience, judged = make_experience(plan, options)(state, frozen, make_rows())
    state, metrics = make_update(plan, tx, tx, options)(state, frozen, experience, jax.random.key(0))
    after = jax.device_get(weights(state))
    return jax.tree.map(lambda old, new: old - new, before, after), jax.device_get(judged | metrics)


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
