"""The shares of failed steps equal the known figures of real data and a plain recount."""

import pytest

from tljax.analysis.feedback_errors import FeedbackCounts, find_step_errors, reason_kind
from tljax.data.formats.read import trajectory_from_record
from tljax.data.mae import load_rule
from tljax.data.reader import open_trajectories

TOOLS = [{"name": "f", "parameters": {"properties": {"x": {"type": "integer"}}, "required": ["x"]}}]


def counted(trajectories):
    counts = FeedbackCounts()
    for trajectory in trajectories:
        counts.add(find_step_errors(trajectory))
    return counts


def row(*messages, tools=TOOLS):
    return trajectory_from_record({"tools": tools, "messages": list(messages)}, "test", 1)


def call(name="f", **arguments):
    return {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}


def output(text):
    return {"role": "tool", "content": text}


USER = {"role": "user", "content": "?"}


def test_each_step_has_its_errors_of_call_and_feedback():
    said = {"role": "assistant", "content": "Done."}
    found = find_step_errors(
        row(USER, call(x=1), output("5"), call(x="a"), output("'ja'"), said, USER, call("g"), USER, call(x=2))
    )
    assert [one.step for one in found] == [1, 2, 3, 4, 5]
    assert [one.answered for one in found] == [True, True, False, False, False]
    assert [one.calls for one in found] == [(), ("wrong type",), None, ("unknown tool",), ()]
    assert found[0].default is None and found[0].release is None
    assert reason_kind(found[1].default) == "exception" and found[1].release is None
    # Not answered: what the released rule says of the missing feedback is no error.
    assert found[3].release is None
    assert [one.name for one in found] == ["f", "f", "", "g", "f"]


def test_without_a_tool_list_no_call_is_judged():
    found = find_step_errors(row(USER, call(x=1), output("name 'f' is not defined"), tools=None))
    assert found[0].calls is None and reason_kind(found[0].default) == "unknown tool"
    counts = counted([row(USER, call(x=1), output("5"), tools=None)])
    assert "call_errors" not in [table.name for table in counts.tables()]
    assert counts.missing_tables() == ["no call has a tool list in its prompt, so there is no table of call errors"]


def test_missing_tables_are_named_in_a_line_and_no_table_is_all_zero():
    said = {"role": "assistant", "content": "Done."}
    counts = counted([row(USER, said)])
    assert (
        counts.tables() == []
        and "no step makes a call" in counts.missing_tables()[0]
        and len(counts.missing_tables()) == 1
    )
    counts = counted([row(USER, call(x=1))])
    assert [table.name for table in counts.tables()] == ["call_errors"]
    assert counts.missing_tables() == ["no call has tool feedback, so there are no tables of it"]
    assert counted([row(USER, call(x=1), output("5"))]).missing_tables() == []


def test_all_answers_count_for_the_default_rule_and_the_next_for_the_released():
    found = find_step_errors(row(USER, call(x=1), output("5"), output("connection error")))
    assert reason_kind(found[0].default) == "connection" and found[0].release is None


def test_the_figures_of_rotbench_are_the_known_ones(shared):
    """46 flags of the released rule, 8 of them false; 18 failures that it misses."""
    counts = counted(open_trajectories(str(shared / "data/train/rotbench_third_clean.json"), "refuse").trajectories())
    assert (counts.trajectories, counts.steps, counts.sums("answered").count) == (70, 210, 133)
    names = ("both", "default only", "release only", "neither")
    assert [counts.count("rules", name) for name in names] == [38, 18, 8, 69]
    tables = {table.name: {line[0]: line for line in table.rows} for table in counts.tables()}
    assert tables["release_keywords"]["any keyword"][1] == 46
    assert tables["release_keywords"]["positional argument"][1] == 9 and tables["release_keywords"]['"error":'][1] == 18
    assert tables["feedback_errors"]["any error"][1:] == [56, counts.shares("rules", "default")[1].share(), 38, 18]
    assert tables["feedback_errors"]["any error"][2].value == pytest.approx(100 * 56 / 133)
    assert tables["feedback_errors"]["no error found"][1:4:2] == [77, 8]


@pytest.mark.parametrize("name", ["toolalpaca_verified", "bfcl_multiturn_errors"])
def test_the_counts_equal_a_plain_recount(shared, name):
    trajectories = list(open_trajectories(str(shared / f"data/train/{name}.json"), "refuse").trajectories())
    counts = counted(trajectories)
    rule, kinds, answered = load_rule("default"), {}, 0
    for trajectory in trajectories:
        turns = trajectory.turns
        places = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
        for i, decision in zip(places, rule(trajectory), strict=True):
            answered += i + 1 < len(turns) and turns[i + 1].role == "function"
            if not decision.kept:
                kinds.setdefault(reason_kind(decision.reason), set()).add((trajectory.row, i))
    shown = {line[0]: line for line in counts.tables()[0].rows}
    for kind, steps in kinds.items():
        assert shown[kind][1] == len(steps) and shown[kind][2].n == answered
        assert shown[kind][2].value == pytest.approx(100 * len(steps) / answered)
        assert shown[kind][2].groups == len(trajectories)
    assert shown["any error"][1] == sum(map(len, kinds.values()))


def test_calls_that_err_fail_more_often():
    good = [row(USER, call(x=i), output(str(i))) for i in range(30)]
    # In words that the released rule does not know.
    bad = [row(USER, call(), output("missing the required parameter x")) for _ in range(10)]
    (table,) = [one for one in counted(good + bad).tables() if one.name == "call_errors"]
    rows = {line[0]: line for line in table.rows}
    assert rows["missing parameter"][1] == 10 and rows["missing parameter"][2].value == pytest.approx(25)
    assert rows["missing parameter"][4].value == 100 and rows["fits the documentation"][4].value == 0
    assert "Of 10 calls whose feedback is an error, 100.0 %" in table.note
