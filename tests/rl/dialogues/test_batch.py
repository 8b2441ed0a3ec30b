"""Rows of dialogues: what is predicted from where, by hand; the sampler's log-probabilities; what MAE leaves out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.rl.dialogues.sampled import LONG, SAMPLE, as_sampled, dialogue, held, host
from tests.rl.ppo_updates import make_options, on_mesh, random_params
from tljax.rl.dialogues.batch import pad_dialogues, sampled_logprobs
from tljax.rl.dialogues.checks import MAE_RULES
from tljax.rl.minibatches import take_rows
from tljax.rl.reply_scores import reply_logprobs


def by_hand():
    """Two dialogues: three turns, the second of which is cut off; and one turn."""
    long = dialogue(
        [10, 11, 12],
        [([20, 21], True), ([22], False), ([], True)],
        [[30, 31], [32]],
        [-0.25, -2.0, 1.0],
        kinds=["call_error", "format", "neutral"],
    )
    return [long, dialogue([13], [([23], True)], [], [0.5])]


def scores(batch):
    options = dataclasses.replace(make_options(), sample=SAMPLE)

    @jax.jit
    def of_rows(params, batch):
        part = jax.tree.map(lambda x: x[0], take_rows(batch, jnp.arange(len(batch.rewards))[None]))
        return reply_logprobs(params, LONG, part, options)[0]

    return host(of_rows(random_params(0), batch))


def test_rows_by_hand():
    with on_mesh(1, 1, 1):
        batch = pad_dialogues(by_hand(), round_to=4)
    # prompt 0-2, reply 3-4, output 5-6, reply 7, output 8, an empty reply. The end token, 1, is a target alone.
    assert host(batch.tokens).tolist() == [[10, 11, 12, 20, 21, 30, 31, 22, 32, 0, 0, 0], [13, 23] + [0] * 10]
    assert host(batch.starts).tolist() == [3, 1]
    assert host(batch.replies).tolist() == [[20, 21, 1, 22, 1, 0], [23, 1, 0, 0, 0, 0]]
    assert host(batch.mask).tolist() == [[True] * 5 + [False], [True] * 2 + [False] * 4]
    # The token before each target: the second reply is predicted from the last token of the first output.
    assert host(batch.columns)[0, :5].tolist() == [2, 3, 4, 6, 8] and host(batch.columns)[1, :2].tolist() == [0, 1]
    assert host(batch.rewards).tolist() == [[0, 0, -0.25, -2.0, 1.0, 0], [0, 0.5, 0, 0, 0, 0]]
    assert batch.rewards.dtype == jnp.float32 and batch.learned is None


def test_rows_hold_the_samplers_logprobs_of_their_tokens():
    with on_mesh(1, 1, 1):
        batch = pad_dialogues(by_hand(), round_to=4, with_sampled=True)
    assert batch.sampled_logprobs is not None and batch.sampled_logprobs.dtype == jnp.float32
    for row, mask, one in zip(host(batch.sampled_logprobs), host(batch.mask), by_hand(), strict=True):
        np.testing.assert_allclose(row[mask], [value for turn in one.turns for value in turn.reply.logprobs])
        assert not row[~mask].any()


def test_many_sampled_tokens_widen_a_row():
    """More than half of a row: the room for them grows to the row's length."""
    with on_mesh(1, 1, 1):
        batch = pad_dialogues([dialogue([10], [([20, 21, 22], True)], [], [1.0])], round_to=4)
    assert batch.replies.shape == (1, 4) and host(batch.mask).all()


@pytest.mark.parametrize(
    ("mae", "learned"),
    [
        ("void", [True, True, True, False, True]),
        ("failed", [False, False, False, True, True]),
        ("void_or_failed", [False, False, False, False, True]),
    ],
)
def test_mae_keeps_turns_out_of_the_policys_loss(mae, learned):
    with on_mesh(1, 1, 1):
        batch, plain = pad_dialogues(by_hand(), round_to=4, mae=mae), pad_dialogues(by_hand(), round_to=4)
    assert mae in MAE_RULES and host(batch.policy_mask)[0, :5].tolist() == learned
    assert host(batch.policy_mask)[1, :2].all() and not host(batch.policy_mask)[:, 5].any()
    # The critic and the rewards have all turns.
    np.testing.assert_array_equal(host(batch.mask), host(plain.mask))
    np.testing.assert_array_equal(host(batch.rewards), host(plain.rewards))


def test_a_dialogue_that_could_not_begin_has_nothing_to_learn():
    empty = dialogue([10, 11], [], [], [])
    with on_mesh(1, 1, 1):
        batch = pad_dialogues([*by_hand(), empty], round_to=4)
        logprobs = scores(batch)
    assert not host(batch.mask)[2].any() and not host(batch.rewards)[2].any()
    assert np.isfinite(logprobs[host(batch.mask)]).all()


def test_scores_equal_the_samplers_for_several_turns():
    """The sampler computes them token by token with a cache, a turn at a time, from the same tokens."""
    with on_mesh(1, 1, 1):
        dialogues = as_sampled(held())
        batch = pad_dialogues(dialogues, round_to=32)
        scored = scores(batch)
    sampled, mask = sampled_logprobs(dialogues, batch.replies.shape[1]), host(batch.mask)
    counts = [len(one.turns) for one in dialogues]
    assert max(counts) == 3 and mask.sum() == sum(len(t.reply.all_tokens) for one in dialogues for t in one.turns)
    ends = [turn.reply.ended for one in dialogues for turn in one.turns]
    assert any(ends) and not all(ends)
    np.testing.assert_allclose(scored[mask], sampled[mask], atol=1e-5)
    assert (sampled[mask] < -0.01).all() and not sampled[~mask].any()


def test_tokens_are_those_that_were_sampled_and_read():
    """No token is made anew from text: each row is the prompt, the sampled replies and what the loop has encoded."""
    with on_mesh(1, 1, 1):
        dialogues = held()
        batch = pad_dialogues(as_sampled(dialogues), round_to=32)
    for row, one in zip(host(batch.tokens), dialogues, strict=True):
        assert row[: len(one.tokens)].tolist() == one.tokens
        for start, reply in one.replies:
            assert one.tokens[start : start + len(reply.tokens)] == list(reply.tokens)
