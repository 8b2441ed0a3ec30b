"""The update from dialogues equals one in loops that knows turns alone, on every mesh, and for each algorithm."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.rl.dialogues.sampled import random_dialogues
from tests.rl.ppo_updates import (
    CONFIG,
    KL_COEF,
    assert_close,
    first_state,
    make_options,
    on_mesh,
    one_update,
    random_params,
)
from tljax.model import llama
from tljax.rl.dialogues.batch import pad_dialogues

DIALOGUES = random_dialogues()


def rows(mae="off", dialogues=DIALOGUES):
    return pad_dialogues(dialogues, round_to=8, mae=mae)


@pytest.fixture(scope="module")
def plain():
    with on_mesh(1, 1, 1):
        return one_update(make_options(), rows=rows())


def places_of(dialogues):
    """(row, column of the input, target, reward) of each sampled token, in order, from the turns themselves."""
    found = []
    for b, one in enumerate(dialogues):
        for turn, reward in zip(one.turns, one.rewards, strict=True):
            targets = turn.reply.all_tokens
            for j, target in enumerate(targets):
                found.append((b, turn.start - 1 + j, target, reward.value if j == len(targets) - 1 else 0.0))
    return found


def reference(dialogues):
    """(advantages, returns, gradients): full logits, GAE in Python's float64 over each dialogue's tokens, autodiff."""
    with on_mesh(1, 1, 1):
        state, frozen, places = first_state(True), random_params(2), places_of(dialogues)
        row, column, targets = (np.asarray(x) for x in zip(*[place[:3] for place in places], strict=True))
        width = max(len(one.row["tokens"]) for one in dialogues)
        tokens = np.asarray([one.row["tokens"] + [0] * (width - len(one.row["tokens"])) for one in dialogues], np.int32)
        segments = (tokens != 0).astype(np.int32)
        options = llama.ForwardOptions("float32", attention="reference")

        def hidden_of(params):
            columns = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), tokens.shape)
            return llama.forward(params, CONFIG, jnp.asarray(tokens), columns, jnp.asarray(segments), options)

        def logprobs_of(params):
            logits = llama.logits(params, CONFIG, hidden_of(params))
            return jax.reshard(jax.nn.log_softmax(logits, axis=-1), jax.P())[row, column, targets]

        def values_of(critic):
            return jax.reshard(hidden_of(critic["trunk"]), jax.P())[row, column] @ critic["head"]

        old, ref = (np.asarray(jax.jit(logprobs_of)(params), np.float64) for params in (state.actor.params, frozen))
        values = np.asarray(jax.jit(values_of)(state.critic.params), np.float64)
        advantages, following = np.zeros(len(places)), 0.0
        for k in reversed(range(len(places))):
            last = k + 1 == len(places) or places[k + 1][0] != places[k][0]  # of its dialogue
            following = 0.0 if last else following
            reward = places[k][3] - KL_COEF * (old[k] - ref[k])
            following = reward + (0.0 if last else values[k + 1]) - values[k] + 0.95 * following
            advantages[k] = following
        returns = advantages + values

        def actor_loss(params):
            ratio = jnp.exp(logprobs_of(params) - jnp.asarray(old, jnp.float32))
            return -(jnp.asarray(advantages, jnp.float32) * ratio).sum() / len(places)

        def critic_loss(critic):
            return (0.5 * (values_of(critic) - jnp.asarray(returns, jnp.float32)) ** 2).sum() / len(places)

        gradients = (
            jax.jit(jax.grad(actor_loss))(state.actor.params),
            jax.jit(jax.grad(critic_loss))(state.critic.params),
        )
        return advantages, returns, jax.device_get(gradients)


def test_an_update_equals_one_in_loops_over_turns_and_tokens(plain):
    """No token of an output has a loss here, and the next token after a call is the first one after its output."""
    advantages, returns, gradients = reference(DIALOGUES)
    mask = plain.experience.batch.mask
    assert mask.sum() == len(advantages)
    np.testing.assert_allclose(plain.experience.advantages[mask], advantages, atol=2e-5)
    np.testing.assert_allclose(plain.experience.returns[mask], returns, atol=2e-5)
    assert not plain.experience.advantages[~mask].any()
    assert_close(plain.gradients, gradients)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients[0])) > 1e-3


def test_an_output_is_read_and_never_a_target(plain):
    """Other outputs change what is read; the sampled tokens, their number and their rewards stay the same."""
    changed = []
    for one in DIALOGUES:
        tokens, sampled = list(one.row["tokens"]), set()
        for turn in one.turns:
            sampled |= set(range(turn.start, turn.start + len(turn.reply.tokens)))
        for i in range(one.turns[0].start, len(tokens)):
            tokens[i] = tokens[i] if i in sampled else 2 + (tokens[i] - 1) % 38
        changed.append(dataclasses.replace(one, row=one.row | {"tokens": tokens}))
    with on_mesh(1, 1, 1):
        before, after = jax.device_get((rows(), rows(dialogues=changed)))
    assert (before.tokens != after.tokens).any()
    for name in ("starts", "replies", "mask", "rewards", "columns"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    np.testing.assert_array_equal(plain.experience.batch.replies, before.replies)


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_a_group_compares_the_sums_over_turns(algorithm):
    with on_mesh(1, 1, 1):
        found = one_update(make_options(algorithm, group=4), rows=rows())
    experience = found.experience
    penalties = KL_COEF * (experience.logprobs - experience.ref_logprobs)
    totals = [sum(reward.value for reward in one.rewards) for one in DIALOGUES]
    totals = np.asarray(totals) - np.where(experience.batch.mask, penalties, 0).sum(1)
    for b in range(8):
        members = totals[b // 4 * 4 : b // 4 * 4 + 4]
        others = np.delete(members, b % 4)
        wanted = totals[b] - others.mean()
        if algorithm == "grpo":
            wanted = (totals[b] - members.mean()) / (members.std(ddof=1) + 1e-4)
        mask = experience.batch.mask[b]
        np.testing.assert_allclose(experience.advantages[b][mask], wanted, atol=2e-5)
        assert not experience.advantages[b][~mask].any()


@pytest.mark.parametrize(
    ("algorithm", "mesh"),
    [
        pytest.param("ppo", (1, 8, 1), marks=pytest.mark.extended),
        pytest.param("rloo", (2, 2, 2), marks=pytest.mark.extended),
        pytest.param("grpo", (8, 1, 1), marks=pytest.mark.extended),
        pytest.param("ppo", (1, 2, 2, 2), marks=pytest.mark.slow),
    ],
)
def test_an_update_from_dialogues_is_the_same_on_every_mesh(algorithm, mesh):
    options = make_options(algorithm, group=1 if algorithm == "ppo" else 4)
    with on_mesh(1, 1, 1):
        wanted = one_update(options, rows=rows())
    with on_mesh(*mesh):
        found = one_update(options, rows=rows())
    assert_close(found.gradients, wanted.gradients)
    for name, value in wanted.metrics.items():
        assert found.metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_turns_that_mae_leaves_out_have_no_policy_gradient_and_teach_the_critic(plain):
    """With every turn void the actor stays, and the critic learns what it learns without the rule."""
    void = [
        dataclasses.replace(one, rewards=[dataclasses.replace(reward, kind="format") for reward in one.rewards])
        for one in DIALOGUES
    ]
    with on_mesh(1, 1, 1):
        found = one_update(make_options(), rows=rows("void", void))
    assert not any(leaf.any() for leaf in jax.tree.leaves(found.gradients[0]))
    assert_close(found.gradients[1], plain.gradients[1])


def test_a_constant_mean_divides_by_the_tokens_of_all_turns():
    options = make_options("dr_grpo", group=4, loss_mean="constant", turns=3)
    with on_mesh(1, 1, 1):
        found = one_update(options, rows=rows())
    experience = found.experience
    mask = experience.batch.mask
    # The first step has ratio 1: the loss is minus the sum of the advantages.
    assert found.metrics["policy_loss"] == pytest.approx(-experience.advantages[mask].sum() / (8 * 3 * 6), abs=1e-6)
