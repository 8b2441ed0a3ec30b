"""The default rule against labels that people gave; half of the texts were never looked at while it was written."""

from pathlib import Path

import pytest

from tests.data import feedback_labels
from tests.data.feedback_labels import HALVES, Labelled


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Labelled]:
    return feedback_labels.real(shared / "data/train", str(tmp_path_factory.mktemp("arrow")))


def test_labels_cover_errors_and_successes_in_both_halves() -> None:
    labelled = feedback_labels.written()
    assert len({row.text for row in labelled}) == len(labelled) >= 100
    for half in HALVES:
        errors = [row.error for row in labelled if row.half == half]
        assert len(errors) >= 0.4 * len(labelled)
        assert 0.35 * len(errors) <= sum(errors) <= 0.65 * len(errors)


@pytest.mark.parametrize("half", HALVES)
def test_the_default_rule_agrees_with_the_labels_of_real_files(real: list[Labelled], half: str) -> None:
    assert len({row.text for row in real}) == len(real) >= 200
    scores = feedback_labels.measure([row for row in real if row.half == half])
    assert scores.precision >= 0.95
    assert scores.recall >= 0.95
