"""Batches: packing, segments and positions. Batch n depends on (seed, n) alone, and every token is trained on once."""

from collections import Counter

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tljax.core.errors import InputError
from tljax.data.batch import Batches, pack
from tljax.data.rows import FEATURES


def dataset_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for number, n in enumerate(lengths):
        weights = (rng.random(n) < 0.4).astype(np.float32) * rng.random(n).astype(np.float32)
        rows.append(
            {
                "id": str(number),
                "trajectory": number,
                "steps": [1],
                "blocked": [],
                "unlisted": [],
                "length": n,
                "weighted": int((weights > 0).sum()),
                "tokens": (1000 * (number + 1) + np.arange(n)).astype(np.int32),
                "targets": np.arange(n, dtype=np.int32),
                "loss_weights": weights,
                "token_classes": (weights > 0).astype(np.int8),
            }
        )
    return datasets.Dataset.from_list(rows, features=FEATURES).with_format("numpy")


LENGTHS = [5, 9, 3, 16, 7, 7, 2, 11, 4, 13, 6]


@given(st.lists(st.integers(1, 32), max_size=200))
@settings(max_examples=50, deadline=None)
def test_packing_holds_every_sequence_once_within_the_room(lengths):
    rows = pack(np.asarray(lengths, np.int64), 32)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in row) <= 32 for row in rows)


def test_packing_is_tight():
    lengths = np.random.default_rng(0).integers(1, 400, 2000)
    assert lengths.sum() / (1024 * len(pack(lengths, 1024))) > 0.95


@pytest.mark.parametrize("packed", [True, False])
def test_an_epoch_trains_every_token_once(packed):
    batches = Batches(dataset_of(LENGTHS), rows=2, tokens=16, epochs=2, seed=3, packed=packed)
    half = [n for n in range(batches.steps) if batches.epoch(n) < 1]
    for steps in (half, range(len(half), batches.steps)):
        seen = Counter()
        for n in steps:
            batch = batches.build(n)
            seen.update(batch["tokens"][batch["segments"] > 0].tolist())
        assert seen == Counter(1000 * (i + 1) + t for i, n in enumerate(LENGTHS) for t in range(n))


def test_segments_and_positions_mark_the_sequences():
    batches = Batches(dataset_of(LENGTHS), rows=3, tokens=16, epochs=1, seed=3, packed=True)
    for n in range(batches.steps):
        batch = batches.build(n)
        for row in range(3):
            tokens, segments = batch["tokens"][row], batch["segments"][row]
            padding = segments == 0
            assert not batch["loss_weights"][row][padding].any() and not tokens[padding].any()
            for segment in set(segments[~padding].tolist()):
                inside = segments == segment
                assert batch["positions"][row][inside].tolist() == list(range(inside.sum()))
                assert len(set((tokens[inside] // 1000).tolist())) == 1  # one sequence
                assert (tokens[inside] % 1000).tolist() == list(range(inside.sum()))


def test_a_batch_depends_on_seed_and_step_alone():
    data = dataset_of(LENGTHS)

    def make(seed):
        return Batches(data, rows=2, tokens=16, epochs=3, seed=seed, packed=True)

    one, two = make(7), make(7)
    _ = [one.build(n) for n in range(4)]
    last = one.steps - 1
    for name, array in one.build(last).items():
        assert np.array_equal(array, two.build(last)[name])
    assert any(not np.array_equal(make(7).build(n)["tokens"], make(8).build(n)["tokens"]) for n in range(2))
    first, second = make(7).build(0)["tokens"], make(7).build(one.steps // 3)["tokens"]
    assert not np.array_equal(first, second)  # epochs are shuffled apart


def test_a_process_builds_its_rows_of_the_same_batch():
    batches = Batches(dataset_of(LENGTHS), rows=4, tokens=16, epochs=1, seed=0, packed=True)
    whole = batches.build(0)
    part = batches.build(0, [1, 3])
    assert all(np.array_equal(part[name], whole[name][[1, 3]]) for name in whole)


def test_room_for_targets_is_enough_and_used():
    batches = Batches(dataset_of(LENGTHS), rows=2, tokens=32, epochs=4, seed=0, packed=True)
    most = max(int((batches.build(n)["loss_weights"] > 0).sum(1).max()) for n in range(batches.steps))
    assert most == batches.max_targets


def test_evaluation_keeps_the_order_of_the_data():
    batches = Batches(dataset_of([16, 16, 16]), rows=1, tokens=16, epochs=1, seed=None, packed=True)
    assert [int(batches.build(n)["tokens"][0, 0]) // 1000 for n in range(3)] == [1, 2, 3]


def test_a_row_longer_than_the_batch_is_refused():
    with pytest.raises(InputError, match=r"batch.tokens is 8.*16 tokens"):
        Batches(dataset_of(LENGTHS), rows=1, tokens=8, epochs=1, seed=0, packed=True)


def test_steps_beyond_the_last_are_refused():
    batches = Batches(dataset_of(LENGTHS), rows=1, tokens=16, epochs=1, seed=0, packed=True)
    with pytest.raises(IndexError, match="there are"):
        batches.build(batches.steps)
    assert batches.epoch(batches.steps) == 1.0
