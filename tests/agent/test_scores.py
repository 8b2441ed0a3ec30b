"""Scores of dialogues: what counts as a refusal and as an answer, and figures by hand."""

import json

import pytest

from tljax.agent.dialogues import check_solution
from tljax.agent.report import dialogue_table, report_json, transcript
from tljax.agent.scores import count_outcomes, dialogue_scores, is_refusal
from tljax.toolbox.tasks import Task, make_task
from tljax.toolbox.tools import SPLITS


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        ("I cannot handle the task", True),
        ("I cannot handle the task.", True),
        ("Sorry, I can\u2019t help with that.", True),
        ("I'm sorry, but the tool failed.", True),
        ("I am unable to complete your request.", True),
        ("Unable to find flights.", True),
        ("We could not really solve it", True),
        ("I don't know", True),
        ("The task is done: sorry.txt was removed", False),
        ("The museum cannot provide parking.", False),
        ("I found 3 flights; you cannot bring pets.", False),
        ("42", False),
        ("I can handle it: 5", False),
    ],
)
def test_refusals(answer, refusal):
    assert is_refusal(answer) is refusal


@pytest.mark.parametrize(
    ("asked", "answer", "right"),
    [
        (("5",), "5", True),
        (("5",), " 5\n", True),
        (("5",), "It makes 5.", False),
        (("5",), "5, Paris", False),
        (("5", "Paris"), "Paris, 5", True),
        (("5", "Paris"), "5,Paris", True),
        (("5", "Paris"), "Paris and 5", False),
        (("5", "Paris"), "5", False),
        (("5", "5"), "5", False),
        (("5", "5"), "5, 5", True),
        (("5", "5"), "5, 5, 5", False),
        (("New York",), "NewYork", False),
        (("5",), "15", False),
        (("5",), "-5", False),
        (("5",), "5.1", False),
        (("5",), "1.5", False),
        (("5",), "5,000", False),
        (("5",), "five", False),
        (("[1, 2]", "3"), "3, [1,2]", True),
        (("[1, 2, 3]",), "[1, 3, 2]", False),
        (("[1, 2]", "[3, 4]"), "[1, 4], [3, 2]", False),
        (("a.c",), "abc", False),
        (("5",), None, False),
        (("5",), "", False),
    ],
)
def test_answers_of_tasks(asked, answer, right):
    task = Task("", (), (), asked, ", ".join(asked), (), "", "", {"stock": {"lamp": -1}})
    assert check_solution(task, {"stock": {"lamp": -1}}, answer).answer is right
    assert check_solution(task, {"stock": {"lamp": -1}}, answer).state
    assert not check_solution(task, {}, answer).state


@pytest.mark.parametrize("split", SPLITS)
def test_the_query_itself_is_no_answer(split):
    tasks = [make_task(1, split, index) for index in range(200)]
    assert not any(check_solution(task, task.state, task.query).answer for task in tasks)
    assert all(check_solution(task, task.state, task.answer).answer for task in tasks)


def row(calls, de, ce, valid, outcome="finish", **more):
    exchange = {"reply": "f()", "feedback": "3", "call_error": ce > 0, "documentation_error": "x" if de else None}
    counts = {"calls": calls, "documentation_errors": de, "call_errors": ce, "valid": valid, "outcome": outcome}
    texts = {"set": "s", "id": 1, "query": "q?", "detail": "", "answer": "a", "exchanges": [exchange] * calls}
    return counts | texts | more


def test_figures_have_their_own_denominators():
    rows = [row(3, 1, 2, True), row(1, 0, 0, False), row(0, 0, 0, False, "format")]
    figures = dialogue_scores(rows)
    assert {name: figure[:2] for name, figure in figures.items()} == {"VA": (1, 3), "DE": (1, 4), "CE": (2, 4)}
    # Wilson's interval of 2 in 4 by hand: (p + z2/2n +- z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n).
    assert figures["CE"].share == pytest.approx((50, 15.0039, 84.9961), abs=1e-3)
    assert count_outcomes(rows) == {
        "finish": 2,
        "format": 1,
        "loop": 0,
        "turn_limit": 0,
        "length_limit": 0,
        "environment": 0,
    }


def test_calls_of_one_dialogue_are_not_independent():
    apart, together = [row(10, 1, 1, True)] * 20, [row(10, 10, 10, True)] * 2 + [row(10, 0, 0, True)] * 18
    one, other = dialogue_scores(apart)["DE"], dialogue_scores(together)["DE"]
    assert one[:2] == other[:2] == (20, 200) and one.share.percent == other.share.percent == pytest.approx(10)
    # Wilson's interval of 2 in 20, as two dialogues of twenty are all that it rests on, and not of 20 in 200.
    assert (other.share.low, other.share.high) == pytest.approx((2.8, 30.1), abs=0.7)
    assert one.share.high < 15.1


def test_the_state_is_that_of_tasks_that_change_it():
    def task(right, changes):
        done = {"success": right, "answer_right": True, "state_right": right, "changes_state": changes}
        return row(1, 0, 0, True, **done)

    figures = dialogue_scores([task(True, False), task(True, True), task(False, True), task(True, False)])
    assert (figures["state"][:2], figures["success"][:2]) == ((1, 2), (3, 4))
    none = [task(True, False)]
    assert dialogue_scores(none)["state"] == (0, 0, None)
    assert "no tasks that change the state" in dialogue_table({"s": none}, [])


def test_the_table_and_the_report_say_what_they_count():
    rows = [row(0, 0, 0, False, "format")]
    shown = dialogue_table({"s": rows}, ["a note"])
    assert "s: 1 dialogues, 0.0 replies each" in shown and shown.endswith("a note")
    assert "DE           -                  no calls" in shown and "0 of 1 queries" in shown
    more = {"success": True, "answer_right": True, "state_right": True, "changes_state": True, "wanted": "a"}
    rows = [row(3, 1, 2, True, tokens=[1], ended=True, **more)]
    assert "1 of 1 tasks" in dialogue_table({"s": rows}, []) and "1 of 1 tasks that change the state" in dialogue_table(
        {"s": rows}, []
    )
    report = json.loads(report_json({"s": rows}, ["a note"], {"model": "m"}))
    (found,) = report["sets"]
    assert (found["name"], found["n"], found["scores"]["DE"]["n"]) == ("s", 1, 3)
    assert found["scores"]["success"]["percent"] == 100 and found["rows"][0]["index"] == 0
    assert "tokens" not in found["rows"][0] and report["definitions"]["DE"]


def test_a_transcript_marks_what_went_wrong():
    shown = transcript(row(1, 1, 1, True, "loop", detail="again"))
    assert shown.splitlines() == ["=== s 1: loop (again)", "User: q?", "Assistant: f()", "Output: 3   <- DE, CE"]
