"""Bytes and seconds as text."""

import pytest

from tljax.core.units import format_bytes, format_seconds


@pytest.mark.parametrize(
    ("text", "count", "options"),
    [
        ("3.37 GB", 3.37e9, {}),
        ("1,000.0 GB", 1e12, {"digits": 1}),
        ("1.00 MB", 1e6, {}),
        ("172.03 kB", 172_032, {}),
        ("0.2 MB", 172_032, {"digits": 1, "min_unit": "MB"}),
        ("999 B", 999, {}),
        ("0 B", 0, {}),
    ],
)
def test_bytes_are_written_in_the_largest_unit_that_they_fill(text, count, options):
    assert format_bytes(count, **options) == text


def test_less_than_a_second_is_written_in_milliseconds():
    assert [format_seconds(x) for x in (1.0, 0.0446)] == ["1.00 s", "44.6 ms"]
