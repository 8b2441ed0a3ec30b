"""Option strings and the range of numbers."""

import pytest

from tljax.core.config import check_range, parse_options
from tljax.core.errors import InputError


def test_options():
    assert parse_options("", ("a", "b"), ("f",), "a") == ("a", set())
    assert parse_options(" b , f ", ("a", "b"), ("f",), "a") == ("b", {"f"})


def test_ranges():
    check_range("seed", 0, 0)
    for value in (-1, 2**31, float("nan")):
        with pytest.raises(InputError, match=r"config.seed is .*allowed: 0 to 2,147,483,647"):
            check_range("seed", value, 0)
