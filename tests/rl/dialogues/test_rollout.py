"""Dialogues as they are sampled: the same in any company, kept in a file, ended by limits, read by metrics."""

import dataclasses

import numpy as np
import pytest

from tests.rl.dialogues.sampled import as_sampled, dialogue, held
from tests.rl.ppo_updates import on_mesh
from tljax.rl.dialogues.metrics import rollout_metrics
from tljax.rl.dialogues.rollout import read_dialogues, with_no_end, write_dialogues


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_a_dialogue_is_the_same_whoever_is_held_beside_it(rows):
    """Seeds are those of a dialogue's number and turn, so places and rounds do not matter."""
    with on_mesh(1, 1, 1):
        wanted, found = held(), held(rows=rows)
    assert [one.tokens for one in found] == [one.tokens for one in wanted]
    assert [one.outcome for one in found] == [one.outcome for one in wanted]


def test_the_dialogues_of_a_group_differ():
    with on_mesh(1, 1, 1):
        dialogues = held(texts=("same",) * 6)
    assert len({tuple(one.tokens) for one in dialogues}) == 6
    # Nor do a dialogue's turns repeat each other's draws.
    first = {tuple(reply.tokens) for one in dialogues for _, reply in one.replies[:1]}
    second = {tuple(reply.tokens) for one in dialogues for _, reply in one.replies[1:2]}
    assert len(first) > 2 and len(second) > 2


def test_limits_end_dialogues():
    with on_mesh(1, 1, 1):
        dialogues = held(turns=2, ends="")
    assert {one.outcome for one in dialogues} == {"turn_limit"}
    assert {len(one.replies) for one in dialogues} == {2}


def test_a_rollout_is_read_back_as_it_was(tmp_path):
    with on_mesh(1, 1, 1):
        dialogues = as_sampled(held())
    write_dialogues(tmp_path / "rollouts", 3, dialogues)
    tasks = [one.task for one in dialogues]
    assert read_dialogues(tmp_path / "rollouts", 3, tasks) == dialogues
    assert read_dialogues(tmp_path / "rollouts", 4, tasks) is None
    assert read_dialogues(tmp_path / "rollouts", 3, tasks[::-1]) is None


def scored(calls, errors, outcome, success, **changes):
    one = dialogue([10], [([20], True), ([21, 22], False)], [[30]], [-0.25, 1.0], kinds=["call_error", "neutral"])
    row = {"calls": calls, "documentation_errors": 1, "call_errors": errors, "outcome": outcome, "success": success}
    return dataclasses.replace(one, row=one.row | row, **changes)


def test_metrics_by_hand():
    good = scored(3, 2, "finish", True)
    bad = scored(1, 0, "loop", False, rewards=[dataclasses.replace(good.rewards[0], value=-2.0, kind="format")] * 2)
    logprobs = np.full((4, 6), -0.5, np.float32)
    logprobs[1, 3] = -0.25
    logprobs[:, 4:] = 9.0  # off the mask
    found = rollout_metrics([good, bad, good, good], 2, logprobs)
    assert found["reward"] == pytest.approx((3 * 0.75 - 4) / 4)
    assert found["success"] == 0.75 and found["end_finish"] == 0.75 and found["end_loop"] == 0.25
    assert found["end_format"] == found["end_environment"] == 0
    assert found["DE"] == 4 / 10 and found["CE"] == 6 / 10
    assert found["equal_groups"] == 0.5
    assert found["share_call_error"] == 3 / 8 and found["share_format"] == 2 / 8 and found["share_parameter"] == 0
    assert found["turns"] == 2 and found["reply_tokens"] == 4 and found["ended"] == 0.5
    assert found["sampler_gap"] == 0.25


def test_replies_that_did_not_end_cost_the_fields_value():
    one = scored(1, 0, "finish", True)
    assert [reward.value for reward in with_no_end([one], -1.5)[0].rewards] == [-0.25, -0.5]
