"""Advantages within a group of replies equal those that TRL computes with torch."""

import jax.numpy as jnp
import numpy as np
import pytest

from tljax.rl.advantage import group_advantages

REWARDS = np.asarray([1, -0.25, -2, 1, -0.5, -0.5, -1.5, 1, 1, 1, -1.8, 1], np.float32)


def test_grpo_takes_mean_and_deviation_of_the_group():
    torch = pytest.importorskip(
        "torch", reason="torch is the oracle of this test; it is installed on Python 3.11 alone"
    )
    groups = torch.tensor(REWARDS).view(-1, 4)
    wanted = (groups - groups.mean(dim=1, keepdim=True)) / (groups.std(dim=1, keepdim=True) + 1e-4)
    found = group_advantages(jnp.asarray(REWARDS), 4, "grpo")
    np.testing.assert_allclose(found, wanted.flatten().numpy(), rtol=1e-5, atol=1e-6)


def test_rloo_takes_the_mean_of_the_others():
    found = np.asarray(group_advantages(jnp.asarray(REWARDS), 3, "rloo")).reshape(-1, 3)
    for rewards, advantages in zip(REWARDS.reshape(-1, 3), found, strict=True):
        for i, advantage in enumerate(advantages):
            assert advantage == pytest.approx(rewards[i] - np.delete(rewards, i).mean(), abs=1e-6)


@pytest.mark.parametrize("reward", [-1.3, 5.0, 0.1])
def test_a_group_of_equal_rewards_teaches_nothing(reward):
    """float32 cannot represent -1.3, so that the mean of eight such rewards differs from each of them."""
    assert not group_advantages(jnp.full((16,), reward, jnp.float32), 8, "grpo").any()
