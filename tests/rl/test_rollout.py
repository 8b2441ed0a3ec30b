"""Rollouts: the order of the prompts, replies as arrays, and a buffer that a restart reads."""

import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tljax.calls.compare import as_tool_list
from tljax.data.prompt_table import Prompt
from tljax.distributed.mesh import make_mesh
from tljax.generate.batches import Reply
from tljax.rl import train_iteration
from tljax.rl.irm import Reward
from tljax.rl.rollout import (
    Rollout,
    equal_groups,
    forget_rollouts,
    gap_metrics,
    pad_rollout,
    prompt_indices,
    read_rollout,
    replacement_indices,
    sampled_logprobs,
    with_no_end,
    write_rollout,
)

REPLIES = [
    Reply(tokens=[5, 6], logprobs=[-0.1, -0.2, -0.3], end=2),
    Reply(tokens=[7, 8, 9], logprobs=[-1.0, -2.0, -3.0], end=None),
    Reply(tokens=[], logprobs=[-0.5], end=2),
]
PROMPTS = [
    Prompt("a", 1, list(range(10, 14)), "", "", as_tool_list([])),
    Prompt("b", 2, list(range(20, 29)), "", "", as_tool_list([])),
    Prompt("c", 3, [30], "", "", as_tool_list([])),
]
TEXTS = ["f(a", "g(\x85\u2028)", ""]  # with what str.splitlines() takes for ends of lines
REWARDS = [Reward(-0.25, "content", "x"), Reward(-2.0, "format", "no end"), Reward(1.0, "correct", "")]


def test_each_epoch_takes_every_prompt_once_in_an_order_of_its_own():
    asked = [number for step in range(10) for number in prompt_indices(step, count=7, prompts=7, group=1, seed=3)]
    epochs = [asked[start : start + 7] for start in range(0, 70, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 5


def test_updates_across_epochs_lose_no_prompt():
    asked = Counter(
        number for step in range(7) for number in prompt_indices(step, count=8, prompts=16, group=1, seed=0)
    )
    assert asked == Counter(dict.fromkeys(range(8), 14))
    assert prompt_indices(3, count=5, prompts=3, group=1, seed=0) != prompt_indices(
        3, count=5, prompts=3, group=1, seed=1
    )


def test_a_groups_replies_lie_side_by_side():
    grouped = prompt_indices(2, count=9, prompts=4, group=3, seed=5)
    assert grouped == [number for number in prompt_indices(2, count=9, prompts=4, group=1, seed=5) for _ in range(3)]


def test_rows_hold_prompt_reply_and_end():
    with jax.set_mesh(make_mesh(1, 1, 1, devices=jax.devices()[:1])):
        rollout = Rollout([0, 1, 2], REPLIES, TEXTS, REWARDS)
        rows = jax.device_get(pad_rollout(PROMPTS, rollout, [-0.25, -2, 1], round_to=4, max_new_tokens=6))
    assert rows.tokens.shape == (3, 12) and rows.replies.shape == (3, 6)
    assert rows.tokens[0].tolist() == [10, 11, 12, 13, 5, 6, 2, 0, 0, 0, 0, 0]
    assert rows.tokens[1].tolist() == [*range(20, 29), 7, 8, 9]
    replies = [row[mask].tolist() for row, mask in zip(rows.replies, rows.mask, strict=True)]
    assert replies == [[5, 6, 2], [7, 8, 9], [2]]
    for row, (start, mask) in enumerate(zip(rows.starts, rows.mask, strict=True)):
        assert rows.tokens[row, start : start + mask.sum()].tolist() == rows.replies[row][mask].tolist()
    assert rows.rewards.dtype == np.float32 and rows.rewards.tolist() == [-0.25, -2, 1]


def test_a_reply_without_an_end_is_worth_less_by_no_end():
    rollout = with_no_end(Rollout([0, 1, 2], REPLIES, TEXTS, REWARDS), -0.5)
    assert [(r.value, r.kind) for r in rollout.rewards] == [(-0.25, "content"), (-2.5, "format"), (1.0, "correct")]


def test_metrics_and_result_of_an_iteration_show_the_rewards_that_are_learned_from(monkeypatch):
    stored = Rollout([0, 1, 2], REPLIES, TEXTS, REWARDS)
    learned = []

    def experience(state, frozen, batch):
        learned.extend(np.asarray(batch.rewards).tolist())
        return SimpleNamespace(logprobs=jnp.zeros(batch.mask.shape, jnp.float32)), {}

    monkeypatch.setattr(train_iteration, "sample", lambda *_: (stored, {}))
    block = {
        "prompts": 3,
        "group": 1,
        "rows": 3,
        "round_to": 4,
        "max_new_tokens": 6,
        "share_prompts": True,
        "resample": 0,
    }
    blocks = {"rollout": block, "reward": {"no_end": -0.5}, "ppo": {"token_weights": "none"}}
    context: Any = SimpleNamespace(
        config=ConfigDict({"seed": 0} | blocks),
        prompts=SimpleNamespace(train=PROMPTS),
        models=SimpleNamespace(actor=lambda *_: None),
    )
    programs: Any = SimpleNamespace(
        options=SimpleNamespace(sample=None, shared=1, importance_cap=0.0),
        experience=experience,
        update=lambda state, *_: (state, {}),
        widths=set(),
    )
    state: Any = SimpleNamespace(actor=SimpleNamespace(params=None))
    with jax.set_mesh(make_mesh(1, 1, 1, devices=jax.devices()[:1])):
        _, _, rollout, metrics = train_iteration.train_iteration(context, programs, {}, state, 0)
    assert learned == [reward.value for reward in rollout.rewards] == [-0.25, -2.5, 1.0]
    assert metrics["reward"] == pytest.approx(-1.75 / 3)


def test_rows_hold_the_weights_and_the_samplers_logprobs_of_their_tokens():
    weights = [np.asarray(row, np.float32) for row in ([3, 1, 2], [1, 5, 1, 7], [4])]
    with jax.set_mesh(make_mesh(1, 1, 1, devices=jax.devices()[:1])):
        rollout = Rollout([0, 1, 2], REPLIES, TEXTS, REWARDS)
        extras = {"round_to": 4, "max_new_tokens": 4, "priorities": weights, "with_sampled": True}
        rows = jax.device_get(pad_rollout(PROMPTS, rollout, [0, 0, 0], **extras))
    # The second reply has no end token, so the weight of one is left out.
    assert rows.priorities.tolist() == [[3, 1, 2, 0], [1, 5, 1, 0], [4, 0, 0, 0]]
    np.testing.assert_allclose(rows.sampled_logprobs, [[-0.1, -0.2, -0.3, 0], [-1, -2, -3, 0], [-0.5, 0, 0, 0]])
    assert rows.priorities.dtype == rows.sampled_logprobs.dtype == np.float32


def test_the_gap_of_the_sampler_counts_its_tokens_alone():
    sampled, scored = np.zeros((2, 4), np.float32), np.asarray([[0.1, -0.2, 0.3, 9], [-0.4, 0.5, 9, 9]], np.float32)
    found = gap_metrics(sampled, scored, np.abs(scored) < 1)
    assert found["sampler_gap"] == pytest.approx(0.5) and found["sampler_gap_p50"] == pytest.approx(0.3)
    assert found["sampler_gap_p90"] == pytest.approx(0.46) and found["sampler_gap_p99"] == pytest.approx(0.496)


def test_other_prompts_replace_those_of_an_update():
    others = replacement_indices(3, 1, [0, 2, 4], count=8, needed=4, seed=0)
    assert len(set(others)) == 4 and not set(others) & {0, 2, 4}
    assert replacement_indices(3, 1, [0, 2, 4], count=8, needed=9, seed=0)[:4] == others
    assert len(replacement_indices(3, 1, [0, 2, 4], count=8, needed=9, seed=0)) == 5
    assert replacement_indices(0, 1, range(8), count=8, needed=2, seed=0) == []
    drawn = {
        tuple(replacement_indices(*which, [], count=50, needed=5, seed=seed))
        for which in ((3, 1), (3, 2), (4, 1))
        for seed in (0, 1)
    }
    assert len(drawn) == 6


def test_a_group_is_equal_if_all_its_rewards_are():
    assert equal_groups([1, 1, 1, -2, -2, -2, 0.5, 0.5], 2).tolist() == [True, False, True, True]


class Answers:
    """Stands for model and reward: the replies to an even prompt are all of kind "content", to an odd one they differ.

    The first reply of each group ended, the second did not.
    """

    def __init__(self, monkeypatch, tmp_path, **rollout):
        self.keys, self.asked = [], []
        block = {"group": 2, "resample": 0} | rollout
        config = ConfigDict({"seed": 0, "rollout": block, "reward": {"no_end": 0.0}})
        prompts = SimpleNamespace(train=range(12))
        self.context: Any = SimpleNamespace(config=config, prompts=prompts, folder=tmp_path)
        self.equal = lambda index: index % 2 == 0
        monkeypatch.setattr(train_iteration, "_answer", self.answer)

    def answer(self, context, actor, key, indices, options):
        self.keys.append(jax.random.key_data(key).tolist())
        self.asked.append(indices)
        values = [-0.25 if self.equal(i) or k % 2 == 0 else 1.0 for k, i in enumerate(indices)]
        rollout = Rollout(
            indices, [REPLIES[k % 2] for k in range(len(indices))], [f"{i}" for i in indices],
            [Reward(value, "content", "") for value in values],
        )  # fmt: skip
        return rollout, {"seconds_rollout": 1.0, "seconds_reward": 0.5}

    def sample(self, drawn):
        options: Any = None
        return train_iteration.sample(self.context, {}, 4, drawn, options)


def test_groups_of_equal_rewards_are_replaced_by_groups_that_differ(monkeypatch, tmp_path):
    answers = Answers(monkeypatch, tmp_path, resample=20)
    drawn = [0, 0, 1, 1, 2, 2]
    rollout, seconds = answers.sample(drawn)
    assert rollout.prompt_indices[2:4] == [1, 1]
    assert all(index % 2 for index in rollout.prompt_indices) and len(set(rollout.prompt_indices)) == 3
    assert rollout.texts == [f"{i}" for i in rollout.prompt_indices]
    assert not equal_groups([reward.value for reward in rollout.rewards], 2).any()
    # Never more prompts than there are equal groups, and a key of its own for each attempt.
    assert len({tuple(key) for key in answers.keys}) == len(answers.keys) > 1
    assert max(map(len, answers.asked[1:])) == 4
    assert seconds == {"seconds_rollout": len(answers.asked) * 1.0, "seconds_reward": len(answers.asked) * 0.5}
    # A restart reads the result back by the prompts that were drawn, and asks nothing.
    count = len(answers.asked)
    assert answers.sample(drawn)[0] == rollout and len(answers.asked) == count


@pytest.mark.parametrize("resample, attempts", [(0, 0), (1, 1), (2, 2), (20, 3)])
def test_the_attempts_are_bounded_and_no_prompt_is_asked_twice(monkeypatch, tmp_path, resample, attempts):
    answers = Answers(monkeypatch, tmp_path, resample=resample)
    answers.equal = lambda index: True
    rollout, _ = answers.sample([0, 0, 2, 2, 4, 4])
    # 9 of 12 prompts are left for three groups, so a fourth attempt finds none.
    assert len(answers.asked) == 1 + attempts
    asked = [index for indices in answers.asked for index in indices[::2]]
    assert len(set(asked)) == len(asked) == 3 + 3 * attempts
    assert rollout.prompt_indices == [0, 0, 2, 2, 4, 4]  # groups that are equal too replace none


def test_groups_stay_where_no_prompt_is_left(monkeypatch, tmp_path):
    answers = Answers(monkeypatch, tmp_path, resample=5)
    answers.context.prompts.train = range(3)
    assert answers.sample([0, 0, 1, 1, 2, 2])[0].prompt_indices == [0, 0, 1, 1, 2, 2]
    assert len(answers.asked) == 1


def test_a_penalty_for_no_end_makes_rewards_differ(monkeypatch, tmp_path):
    answers = Answers(monkeypatch, tmp_path, resample=5)
    answers.context.config.reward.no_end = -0.5
    assert answers.sample([0, 0, 2, 2])[0].prompt_indices == [0, 0, 2, 2] and len(answers.asked) == 1


def test_sampled_logprobs_lie_under_their_tokens():
    found = sampled_logprobs(Rollout([0, 1, 2], REPLIES, TEXTS, REWARDS), 4)
    np.testing.assert_allclose(found, [[-0.1, -0.2, -0.3, 0], [-1, -2, -3, 0], [-0.5, 0, 0, 0]])


def test_a_rollout_comes_back_as_it_was(tmp_path):
    rollout = Rollout([9, 9, 1], REPLIES, TEXTS, REWARDS)  # 9 has replaced 4
    write_rollout(tmp_path / "rollouts", 7, rollout, [4, 4, 1])
    assert read_rollout(tmp_path / "rollouts", 7, [9, 9, 1]) is None
    assert read_rollout(tmp_path / "rollouts", 7, [4, 4, 1]) == rollout
    assert read_rollout(tmp_path / "rollouts", 8, [4, 4, 1]) is None
    lines = [json.loads(line) for line in (tmp_path / "rollouts" / "7.jsonl").read_text().split("\n")[:-1]]
    assert [line["kind"] for line in lines] == ["content", "format", "correct"]


@pytest.mark.parametrize("picks", [[4, 1, 4], [4, 4], [4, 4, 1, 1]])
def test_a_rollout_of_other_prompts_is_not_taken(tmp_path, picks):
    write_rollout(tmp_path, 7, Rollout([4, 4, 1], REPLIES, TEXTS, REWARDS), [4, 4, 1])
    assert read_rollout(tmp_path, 7, picks) is None


def test_old_rollouts_are_removed(tmp_path):
    for step in (3, 9, 10, 11):
        write_rollout(tmp_path, step, Rollout([4, 4, 1], REPLIES, TEXTS, REWARDS), [4, 4, 1])
    forget_rollouts(tmp_path, 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10.jsonl", "11.jsonl"]
