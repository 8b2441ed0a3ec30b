"""Predictions belong to rows: none is lost, doubled or taken for another's."""

import json

import pytest

from tljax.core.errors import InputError
from tljax.evaluate.benchmarks.predictions import prediction_rows, read_predictions
from tljax.evaluate.benchmarks.sets import GOLDEN, UNKNOWN, EvalSet, Example, Skipped


def a_set(name, n, *, left_out=(), expected_reply=GOLDEN, parts=()):
    rows = tuple(Example(i, f"r{i}", (), (), expected_reply=expected_reply) for i in range(n) if i not in left_out)
    return EvalSet(name, "bfcl", rows, tuple(Skipped(i, f"r{i}", "broken") for i in left_out), parts=parts)


def rows(n, text="f()", **more):
    return [{"index": i, "prediction": text} | more for i in range(n)]


def test_one_set_needs_no_name(make, tmp_path):
    file = make.lines(tmp_path / "p.jsonl", rows(3)[::-1])
    assert read_predictions(file, [a_set("a", 3)]) == ({"a": dict.fromkeys((2, 1, 0), "f()")}, [])


def test_rows_that_are_left_out_may_be_there_or_not(make, tmp_path):
    one = a_set("a", 4, left_out=(1, 2))
    file = make.lines(tmp_path / "p.jsonl", [row for row in rows(4) if row["index"] != 1])
    assert sorted(read_predictions(file, [one])[0]["a"]) == [0, 2, 3]


def test_null_is_a_row_that_was_not_asked(make, tmp_path):
    file = make.lines(tmp_path / "p.jsonl", [*rows(1, None), {"index": 1, "prediction": ""}])
    assert read_predictions(file, [a_set("a", 2)])[0] == {"a": {0: None, 1: ""}}


def test_a_set_of_parts_takes_theirs_or_its_own(make, tmp_path):
    parts = [a_set("x", 2), a_set("y", 1)]
    whole = a_set("xy", 3, parts=(("x", 2), ("y", 1)))
    of_parts = [*rows(2, "of x", set="x"), *rows(1, "of y", set="y")]
    found, untold = read_predictions(make.lines(tmp_path / "p.jsonl", of_parts), [*parts, whole])
    assert found["xy"] == {0: "of x", 1: "of x", 2: "of y"} and untold == []
    found, untold = read_predictions(make.lines(tmp_path / "p.jsonl", rows(3, set="xy")), [*parts, whole])
    assert list(found) == ["xy"] and len(untold) == 2 and untold[0] == "set x: has no predictions, and is left out"
    assert [row["index"] for row in prediction_rows(found)] == [0, 1, 2]


def test_sets_without_golden_answers_have_no_scores(make, tmp_path):
    sets = [a_set("a", 1), a_set("eyes", 5, expected_reply=UNKNOWN)]
    file = make.lines(tmp_path / "p.jsonl", [*rows(1, set="a"), *rows(2, set="eyes")])
    found, untold = read_predictions(file, sets)
    assert list(found) == ["a"] and "has no golden answers" in untold[0]


GOOD = rows(3)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], ["is empty"]),
        (["[1]"], ["line 1", "begins a JSON array"]),
        (["3"], ["line 1", "is not a JSON object"]),
        ([*GOOD[:2], "", '{"index": 2, "pred'], ["line 4", "is not JSON"]),
        ([*GOOD[:2], {"prediction": "x"}], ["line 3, field index: is missing", "allowed: 0 to 2"]),
        ([*GOOD[:2], {"index": True, "prediction": "x"}], ["line 3", "True is no row of set a"]),
        ([*GOOD[:2], {"index": -1, "prediction": "x"}], ["line 3", "-1 is no row"]),
        ([*GOOD[:2], {"index": 3, "prediction": "x"}], ["line 3", "3 is no row of set a"]),
        ([*GOOD[:2], {"index": "2", "prediction": "x"}], ["line 3", "'2' is no row"]),
        ([*GOOD[:2], {"index": 2}], ["line 3, field prediction: is missing"]),
        ([*GOOD[:2], {"index": 2, "prediction": ["f()"]}], ["line 3, field prediction", "a string, or null"]),
        ([*GOOD, GOOD[1]], ["line 4", "1 of set a is on line 2 too"]),
        ([{**GOOD[0], "set": "b"}], ["line 1, field set: 'b' is not in config.data; allowed: a"]),
        (GOOD[::2], ["set a lacks 1 of 3 rows: 1;"]),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(tmp_path, lines, words):
    file = tmp_path / "p.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    with pytest.raises(InputError) as error:
        read_predictions(file, [a_set("a", 3)])
    line = str(error.value)
    assert "\n" not in line and str(file) in line and all(word in line for word in words), line


def test_several_sets_need_names(make, tmp_path):
    with pytest.raises(
        InputError, match=r"line 1, field set: is missing, but config\.data has several sets; allowed: a, b"
    ):
        read_predictions(make.lines(tmp_path / "p.jsonl", GOOD), [a_set("a", 3), a_set("b", 3)])
    with pytest.raises(InputError, match="does not exist"):
        read_predictions(tmp_path / "gone.jsonl", [a_set("a", 3)])
    (tmp_path / "binary").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InputError, match="is not UTF-8"):
        read_predictions(tmp_path / "binary", [a_set("a", 3)])
