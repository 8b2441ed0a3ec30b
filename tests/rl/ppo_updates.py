"""A small actor, critic and rollout, and one update of them, for tests of PPO."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tljax.distributed.mesh import make_mesh
from tljax.generate.sampling import SampleOptions
from tljax.model import llama, lora
from tljax.model.value import drop_lm_head, init_value_head
from tljax.rl.advantage import AdvantageOptions
from tljax.rl.experience import make_experience
from tljax.rl.models import PPOModels
from tljax.rl.options import UpdateOptions
from tljax.rl.ppo import make_update
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


def make_options(algorithm="ppo", group=1, kl_place="reward", epochs=1, minibatches=1, **changes):
    """The critic makes as many passes and steps as the actor, if `changes` do not give it others."""
    steps = dict(epochs=epochs, minibatches=minibatches, accumulate=1, remat="none", loss_chunk=4)
    steps |= dict(critic_epochs=epochs, critic_minibatches=minibatches, critic_warmup=0)
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


ADAPTER = lora.LoraOptions(rank=2, alpha=4.0, targets=("q", "o", "down"))


def adapter_update(options=None, rows=None):
    """Gradients of both adapters and of the value head, and the metrics, of one update on one frozen trunk."""
    models = PPOModels(CONFIG, has_critic=True, adapter=ADAPTER)
    tx, frozen, options = optax.sgd(1.0), random_params(2), options or make_options()
    draw = jax.jit(lora.init_adapter, static_argnums=(1, 2))
    # B is 0 at first, and then A has no gradient; the reference is the trunk, so the KL tells how far B moves it.
    actor, critic = (jax.tree.map(lambda x: x + 0.1, draw(jax.random.key(n), CONFIG, ADAPTER)) for n in (1, 2))
    head = jnp.linspace(-0.1, 0.1, CONFIG.d_model, dtype=jnp.float32)
    head = jax.device_put(head, frozen["final_norm"].sharding)
    policy, value = init_state(actor, tx), init_state({"trunk": critic, "head": head}, tx)
    state = PPOState(policy, value, jnp.float32(KL_COEF))
    before = jax.device_get(trained_weights(state))
    experience, scores = make_experience(models, options)(state, frozen, rows or make_rows())
    state, metrics = make_update(models, tx, tx, options)(state, frozen, experience, jax.random.key(0))
    after = jax.device_get(trained_weights(state))
    return jax.tree.map(lambda old, new: old - new, before, after), jax.device_get(scores | metrics)
