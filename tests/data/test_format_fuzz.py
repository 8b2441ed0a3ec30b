"""Random changes of rows of every format: never an exception but InputError, never a loss of content."""

from tests.data.format_fuzz import fuzz


def test_a_changed_row_is_read_without_loss_or_refused_in_one_line():
    outcomes = fuzz(seed=15, count=1000)
    assert outcomes["read"] > 200 and outcomes["refused"] > 200
