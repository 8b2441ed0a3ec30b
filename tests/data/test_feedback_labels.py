"""The default rule against labels that people gave; it was developed on one half of the texts."""

import json
from pathlib import Path

import pytest

from tests.data import feedback_labels
from tests.data.feedback_labels import HALVES, Labelled
from tljax.data.mae_default import find_error


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


@pytest.mark.parametrize("half", HALVES)
def test_the_default_rule_agrees_with_the_labels_of_public_error_styles(half: str) -> None:
    scores = feedback_labels.measure([row for row in feedback_labels.written() if row.half == half])
    assert scores.precision >= 0.95
    assert scores.recall >= 0.95


@pytest.mark.parametrize("number", [1, 2])
def test_the_default_rule_agrees_with_labels_by_others(number: int) -> None:
    labelled = feedback_labels.others()[number]
    assert len({row.text for row in labelled}) == len(labelled) >= 160
    scores = feedback_labels.measure(labelled)
    assert scores.precision >= 0.95
    assert scores.recall >= 0.95


def test_every_failed_call_of_the_airline_trajectories_is_blocked_and_no_other(shared: Path) -> None:
    texts = [
        message["content"]
        for line in (shared / "data/train/tau_airline.jsonl").read_text(encoding="utf-8").splitlines()
        for message in json.loads(line)["messages"]
        if message["role"] == "tool"
    ]
    failed = [text.startswith("Error") for text in texts]
    assert sum(failed) == 73
    assert [find_error(text) is not None for text in texts] == failed
