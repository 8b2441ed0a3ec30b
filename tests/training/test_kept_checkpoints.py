"""A run keeps the newest and the best checkpoints, even after a kill while it removed others."""

import shutil

from tests.training.states import abstract, committed, random_state
from tljax.training.checkpoint import Checkpoints


def test_newest_and_best_are_kept_also_by_a_resumed_run(tmp_path):
    state = random_state(abstract((1, 1, 1)), seed=1)
    with Checkpoints(tmp_path, keep=2, keep_best=1) as checkpoints:
        assert checkpoints.latest_step() is None and checkpoints.best_step() is None
        for step, loss in [(1, 0.9), (2, 0.1), (3, 0.5), (4, None)]:
            checkpoints.save(step, state, {}, selection_loss=loss)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3, 4] and committed(tmp_path) == ["2", "3", "4"]
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (4, 2)
    with Checkpoints(tmp_path, keep=2, keep_best=1) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (4, 2)
        for step, loss in [(5, None), (6, float("nan")), (7, 0.3)]:
            checkpoints.save(step, state, {}, selection_loss=loss)
        checkpoints.wait()
        assert committed(tmp_path) == ["2", "6", "7"] and checkpoints.best_step() == 2
        checkpoints.save(8, state, {}, selection_loss=0.05)
        checkpoints.save(9, state, {})
        checkpoints.save(10, state, {})
    assert committed(tmp_path) == ["10", "8", "9"]


def test_a_replaced_checkpoint_that_a_kill_left_is_removed(tmp_path):
    state = random_state(abstract((1, 1, 1)), seed=1)
    with Checkpoints(tmp_path, keep=4, keep_best=2) as checkpoints:
        for step, loss in [(1, 0.2), (2, 0.1), (3, 0.2), (4, 0.9)]:
            checkpoints.save(step, state, {}, selection_loss=loss)
    for part in ("metrics", "metadata"):
        shutil.rmtree(tmp_path / "1" / part)
    with Checkpoints(tmp_path, keep=1, keep_best=2) as checkpoints:
        assert committed(tmp_path) == ["2", "3", "4"] and checkpoints.steps() == [2, 3, 4]


def test_an_equally_good_older_checkpoint_that_a_kill_left_is_removed(tmp_path):
    """Scores are often equal; then Orbax keeps the newer checkpoint."""
    state = random_state(abstract((1, 1, 1)), seed=1)
    with Checkpoints(tmp_path, keep=3, keep_best=1) as checkpoints:
        for step, loss in [(1, 0.5), (2, 0.5), (3, 0.7)]:
            checkpoints.save(step, state, {}, selection_loss=loss)
    shutil.rmtree(tmp_path / "1" / "state")
    with Checkpoints(tmp_path, keep=1, keep_best=1) as checkpoints:
        assert checkpoints.steps() == [2, 3]


def test_of_equally_good_checkpoints_the_newest_is_kept_and_named(tmp_path):
    state = random_state(abstract((1, 1, 1)), seed=1)
    with Checkpoints(tmp_path, keep=1, keep_best=1) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state, {}, selection_loss=0.5)
        checkpoints.wait()
        assert checkpoints.best_step() == 3
        checkpoints.save(4, state, {}, selection_loss=0.7)
        checkpoints.wait()
        assert committed(tmp_path) == ["3", "4"] and checkpoints.best_step() == 3


def test_without_selection_loss_only_the_newest_are_kept(tmp_path):
    state = random_state(abstract((1, 1, 1)), seed=1)
    with Checkpoints(tmp_path, keep=1, keep_best=1) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state, {})
        checkpoints.wait()
        assert committed(tmp_path) == ["3"] and checkpoints.best_step() is None
