"""Rows: targets and weights, the end token at the end of every reply, and steps that share a row by their prefix."""

import datasets
import numpy as np
import pytest

from tljax.data.batch_arrays import KEY_TOKEN, NAME_TOKEN, OTHER_TOKEN, PROMPT_TOKEN
from tljax.data.pkt import classify_tokens
from tljax.data.rows import build_rows, content_hash, held_out_trajectories, prepare_rows
from tljax.data.steps import Step, TokenizedReply

EOS = 2


def make_step(number, tokens, reply_start, key=(), weights=None):
    count = len(tokens) - reply_start
    weights = np.ones(count, np.float32) if weights is None else np.asarray(weights, np.float32)
    reply = TokenizedReply(
        tokens=np.asarray(tokens, np.int32),
        reply_start=reply_start,
        token_classes=classify_tokens(count, key),
        key_weight=1.0,
        weights=weights,
        unlisted="",
    )
    return Step("t", number, text="", reply="", length=len(tokens), tokenized=reply)


BLOCKED = Step("t", 1, text="", reply="", reason="x: y")

# A trajectory 1 10 | 20 21 | 30 | 40 41 42, whose replies are 20 21 and 40 41 42, with </s> = 2 closing each.
FIRST = make_step(1, [1, 10, 20, 21, EOS], 2, key=(0,), weights=[2, 1, 1])
SECOND = make_step(2, [1, 10, 20, 21, 30, 40, 41, 42, EOS], 5, key=(0, 1), weights=[3, 3, 1, 1])


def test_trajectory_row_by_hand():
    (row,) = build_rows([FIRST, SECOND], "trajectory", 0.0)
    assert row.steps == (1, 2)
    assert row.tokens.tolist() == [1, 10, 20, 21, 30, 40, 41, 42]
    assert row.targets.tolist() == [0, 20, 21, EOS, 40, 41, 42, EOS]
    assert row.loss_weights.tolist() == [0, 0.5, 0.25, 0.25, 0.375, 0.375, 0.125, 0.125]
    first, second = [NAME_TOKEN, OTHER_TOKEN, OTHER_TOKEN], [NAME_TOKEN, KEY_TOKEN, OTHER_TOKEN, OTHER_TOKEN]
    assert row.token_classes.tolist() == [0, *first, *second]
    assert row.loss_weights.dtype == np.float32 and row.tokens.dtype == row.targets.dtype == np.int32


def test_step_rows_hold_one_reply_each():
    first, second = build_rows([FIRST, SECOND], "step", 0.0)
    assert first.tokens.tolist() == [1, 10, 20, 21] and first.targets.tolist() == [0, 20, 21, EOS]
    assert second.targets.tolist() == [0, 0, 0, 0, 40, 41, 42, EOS]
    assert second.loss_weights.sum() == pytest.approx(1)


def test_blocked_steps_train_nothing_but_stay_in_the_context():
    (row,) = build_rows([BLOCKED, SECOND], "trajectory", 0.0)
    assert row.steps == (2,)
    assert row.loss_weights[:4].tolist() == [0, 0, 0, 0] and row.tokens[:4].tolist() == [1, 10, 20, 21]


def test_a_step_whose_tokens_are_no_prefix_gets_its_own_row():
    merged = make_step(1, [1, 10, 20, 99, EOS], 2)  # the tokenizer joined 21 with what follows
    rows = build_rows([merged, SECOND], "trajectory", 0.0)
    assert [r.steps for r in rows] == [(1,), (2,)]


def test_weights_of_a_long_reply_sum_to_one():
    step = make_step(1, np.arange(3, 5003), 1, weights=np.full(4999, 9.0))
    (row,) = build_rows([step], "trajectory", 0.0)
    assert row.loss_weights.sum(dtype=np.float64) == pytest.approx(1, abs=1e-6)


def test_a_row_whose_prompt_is_trained_by_hand():
    (row,) = build_rows([FIRST, SECOND], "trajectory", 0.5)
    assert row.tokens.tolist() == [1, 10, 20, 21, 30, 40, 41, 42]
    # Every next token but those after a reply, where the end token stands.
    assert row.targets.tolist() == [10, 20, 21, EOS, 40, 41, 42, EOS]
    assert row.loss_weights.tolist() == pytest.approx([x / 12.5 for x in (0.5, 2, 1, 1, 3, 3, 1, 1)])
    first, second = [NAME_TOKEN, OTHER_TOKEN, OTHER_TOKEN], [NAME_TOKEN, KEY_TOKEN, OTHER_TOKEN, OTHER_TOKEN]
    assert row.token_classes.tolist() == [PROMPT_TOKEN, *first, *second]
    assert row.loss_weights.dtype == np.float32 and row.targets.dtype == np.int32


def test_step_rows_train_their_whole_history_as_prompt():
    first, second = build_rows([FIRST, SECOND], "step", 1.0)
    assert first.targets.tolist() == [10, 20, 21, EOS]
    assert second.targets.tolist() == [10, 20, 21, 30, 40, 41, 42, EOS]
    assert second.token_classes[:4].tolist() == [PROMPT_TOKEN] * 4
    assert second.loss_weights.tolist() == pytest.approx([x / 12 for x in (1, 1, 1, 1, 3, 3, 1, 1)])


def test_prepared_rows_are_read_from_the_cache_for_equal_facts_only(tmp_path):
    calls = []

    def trajectories():
        calls.append(1)
        return [[FIRST, SECOND], [BLOCKED]]

    first = prepare_rows(trajectories, "trajectory", 0.0, {"source": "a"}, str(tmp_path))
    again = prepare_rows(trajectories, "trajectory", 0.0, {"source": "a"}, str(tmp_path))
    assert len(calls) == 1 and first[0]["targets"].tolist() == again[0]["targets"].tolist()
    prepare_rows(trajectories, "trajectory", 0.0, {"source": "b"}, str(tmp_path))
    prepare_rows(trajectories, "trajectory", 1.0, {"source": "b"}, str(tmp_path))
    assert len(calls) == 3
    assert list(first["length"]) == [8, 0] and list(first["weighted"]) == [7, 0]
    assert [list(b) for b in first["blocked"]] == [[], ["x: y"]]
    assert isinstance(first, datasets.Dataset) and first[0]["loss_weights"].dtype == np.float32


def test_held_out_leaves_some_and_depends_on_seed_and_count_alone():
    assert len(held_out_trajectories(40, 0.25, seed=1)) == 10
    assert held_out_trajectories(40, 0.25, seed=1).tolist() == held_out_trajectories(40, 0.25, seed=1).tolist()
    assert held_out_trajectories(40, 0.25, seed=1).tolist() != held_out_trajectories(40, 0.25, seed=2).tolist()
    assert [len(held_out_trajectories(n, f, seed=0)) for n, f in ((40, 0.0), (2, 0.01), (1, 0.5), (0, 0.5))] == [
        0,
        1,
        0,
        0,
    ]


def test_content_hash_sees_every_number(tmp_path):
    def rows_with(step):
        return prepare_rows(lambda: [[step]], "step", 0.0, {"x": repr(step)}, str(tmp_path))

    base = content_hash(rows_with(FIRST))
    assert base == content_hash(rows_with(FIRST))
    heavier = make_step(1, [1, 10, 20, 21, EOS], 2, key=(0,), weights=[3, 1, 1])
    other = make_step(1, [1, 11, 20, 21, EOS], 2, key=(0,), weights=[2, 1, 1])
    assert len({base, content_hash(rows_with(heavier)), content_hash(rows_with(other))}) == 3
