"""The state of PPO on disk keeps the names of older checkpoints, with and without a critic."""

import jax
import jax.numpy as jnp
import pytest

from tljax.rl.state import PPOState
from tljax.training.checkpoint import Checkpoints
from tljax.training.state import TrainState


def make_state(critic: bool) -> PPOState:
    def learner(value: float) -> TrainState:
        return TrainState(jnp.int32(3), {"w": jnp.full((2,), value)}, ({"mu": jnp.full((2,), value + 0.5)},))

    return PPOState(learner(1.0), learner(2.0) if critic else None, jnp.float32(0.25))


@pytest.mark.parametrize("critic", [True, False])
def test_a_checkpoint_has_the_names_that_older_ones_have(critic):
    tree = make_state(critic).to_checkpoint()
    assert list(tree) == ["step", "params", "opt_state", "critic", "critic_opt_state", "kl_coef"]
    assert tree["params"]["w"].tolist() == [1, 1] and tree["opt_state"][0]["mu"].tolist() == [1.5, 1.5]
    if critic:
        assert tree["critic"]["w"].tolist() == [2, 2] and tree["critic_opt_state"][0]["mu"].tolist() == [2.5, 2.5]
    else:
        assert tree["critic"] == {} and tree["critic_opt_state"] == ()


@pytest.mark.parametrize("critic", [True, False])
def test_a_state_comes_back_from_the_disk_and_its_parts_can_be_donated(critic, tmp_path):
    state = make_state(critic)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state.to_checkpoint(), {})
        restored = PPOState.from_checkpoint(checkpoints.restore(3, abstract.to_checkpoint()))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for got, want in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert got.dtype == want.dtype and got.tolist() == want.tolist()
    again = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(restored)
    assert int(again.actor.step) == 4
