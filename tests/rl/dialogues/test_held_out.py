"""Scores of held-out tasks during training: their metrics, the choice of the best, the table of before and after."""

import pytest

from tljax.rl.dialogues.held_out import (
    eval_metrics,
    format_metrics,
    format_table,
    read_rows,
    selection_loss,
    write_rows,
)
from tljax.storage.run_folder import RunFolder


def row(number, success, calls, wrong, reward):
    return {
        "id": number,
        "success": success,
        "answer_right": success,
        "state_right": True,
        "changes_state": False,
        "valid": True,
        "calls": calls,
        "documentation_errors": wrong,
        "call_errors": wrong,
        "reward": reward,
    }


BEFORE = {
    "domain": [row(0, False, 3, 3, -2.0), row(1, False, 1, 0, 0.0), row(2, True, 2, 1, 0.5), row(3, False, 0, 0, -2)]
}
AFTER = {
    "domain": [row(0, True, 2, 0, 1.0), row(1, True, 2, 1, 0.75), row(2, True, 2, 0, 1.0), row(3, False, 1, 1, -2)]
}


def test_metrics_and_the_best():
    metrics = eval_metrics({"domain": BEFORE["domain"], "held_out": AFTER["domain"]})
    assert metrics["domain_success"] == 25 and metrics["held_out_success"] == 75
    assert metrics["domain_DE"] == pytest.approx(100 * 4 / 6) and metrics["domain_VA"] == 100
    assert metrics["domain_reward"] == pytest.approx(-0.875)
    assert metrics["reward"] == metrics["held_out_reward"] == pytest.approx(0.1875)
    assert selection_loss("domain_success", metrics) == -25
    assert selection_loss("domain_CE", metrics) == pytest.approx(100 * 4 / 6)
    assert selection_loss("toolbox_success", metrics) is None
    assert "domain (4 tasks) success 25.0, DE 66.7, CE 66.7, reward -0.875" in format_metrics(metrics, BEFORE, 3)


def test_the_table_has_both_sides_and_their_difference():
    lines = format_table(BEFORE, AFTER).splitlines()
    assert lines[1] == "  domain, 4 tasks"
    solved, va, de, _, reward = lines[2:]
    assert solved.split()[:4] == ["solved", "25.0", "->", "75.0,"] and "change +50.0 [" in solved
    assert va.split()[1:4] == ["100.0", "->", "100.0,"] and "change +0.0 [+0.0, +0.0]" in va
    assert de.split()[1:4] == ["66.7", "->", "28.6,"] and "change -38.1 [" in de
    assert reward.split()[1:4] == ["-0.875", "->", "0.188,"] and "change +1.062 [" in reward


def test_a_set_without_calls_or_known_solutions_has_fewer_lines():
    silent = {
        "held_out": [{"valid": False, "calls": 0, "documentation_errors": 0, "call_errors": 0, "reward": 0.0}] * 2
    }
    assert [line.split()[0] for line in format_table(silent, silent).splitlines()[2:]] == ["VA", "reward"]


def test_rows_of_other_tasks_are_not_compared(tmp_path):
    folder = RunFolder(tmp_path)
    requests = [type("Request", (), {"id": i}) for i in range(4)]
    write_rows(folder, 2, BEFORE)
    found = read_rows(folder, 2, {"domain": requests})  # pyright: ignore
    assert [one["id"] for one in found["domain"]] == [0, 1, 2, 3] and found["domain"][2]["success"]
    assert read_rows(folder, 2, {"domain": requests[:3]}) == read_rows(folder, 4, {"domain": requests}) == {}
