"""Randomly changed rows of every format are read without loss of content, or refused with InputError."""

import time

import pytest

from tests.data.format_fuzz import fuzz, render


def test_a_changed_row_is_read_without_loss_or_refused_in_one_line():
    outcomes = fuzz(seed=15, count=1000)
    assert outcomes["read"] > 200 and outcomes["refused"] > 200


@pytest.mark.parametrize("unit", ["[{", "{'name': ", '[{"name": "', "\n", "'}", "Action: f\nAction Input: {}\n"])
def test_long_texts_of_brackets_take_little_time(unit):
    """The texts take a tenth of a second and are allowed seconds; quadratic time would take tens of seconds."""
    text = unit * (200_000 // len(unit))
    begin = time.process_time()
    for reply in (f'<functioncall> {{"name": "f", "arguments": \'{text}', f"Action: f\nAction Input: {text}"):
        messages = [("system", text), ("user", "q"), ("assistant", reply)]
        render({"conversations": [{"from": role, "value": value} for role, value in messages]}, "auto")
        render({"system": text, "chat": f"USER: q\nASSISTANT: {reply}"}, "auto")
    assert time.process_time() - begin < 8
