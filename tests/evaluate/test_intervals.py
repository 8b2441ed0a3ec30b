"""Intervals of clustered observations: those of independent ones where they are independent, honest where not."""

import numpy as np
import pytest

from tljax.analysis.tables import Table, format_cell
from tljax.core.errors import InputError
from tljax.evaluate.intervals import ClusteredSums, paired_share_difference


def sums_of(groups):
    found = ClusteredSums()
    for group in groups:
        found.add(sum(group), len(group))
    return found


def test_single_observations_give_the_textbook_intervals():
    values = [0.1, 2.5, 0.4, 1.0, 3.5, 0.0]
    mean = sums_of([[x] for x in values]).mean()
    half = 1.959964 * np.std(values, ddof=1) / len(values) ** 0.5
    assert mean[:3] == pytest.approx((np.mean(values), np.mean(values) - half, np.mean(values) + half), abs=1e-6)
    assert (mean.n, mean.groups) == (6, 6)


@pytest.mark.parametrize(("hits", "n"), [(3, 10), (0, 10), (10, 10), (46, 133), (1, 1)])
def test_shares_of_single_observations_are_wilsons(hits, n):
    stats = pytest.importorskip("scipy.stats")
    wanted = stats.binomtest(hits, n).proportion_ci(method="wilson")
    share = sums_of([[1]] * hits + [[0]] * (n - hits)).share()
    assert share[:3] == pytest.approx((100 * hits / n, 100 * wanted.low, 100 * wanted.high), abs=1e-4)


def test_the_same_observation_twice_is_no_news():
    marks = [1, 0, 0, 1, 1] * 20
    once, twice = sums_of([[x] for x in marks]).share(), sums_of([[x, x] for x in marks]).share()
    assert twice.n == 200 and twice.groups == 100
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high), abs=0.1)
    apart = sums_of([[x] for x in marks + marks]).share()
    assert twice.high - twice.low > 1.3 * (apart.high - apart.low)


def test_intervals_of_resembling_steps_cover_the_truth():
    """Steps of a trajectory succeed with its own probability, of mean 0.3; naive intervals cover far less."""
    rng, covered, naive = np.random.default_rng(0), 0, 0
    for _ in range(400):
        chances = rng.beta(0.6, 1.4, size=60)
        groups = [rng.random(rng.integers(1, 10)) < chance for chance in chances]
        share = sums_of(groups).share()
        covered += share.low <= 30 <= share.high
        alone = sums_of([[x] for group in groups for x in group]).share()
        naive += alone.low <= 30 <= alone.high
    assert 0.91 < covered / 400 < 0.985 and naive / 400 < 0.85


def test_nothing_and_a_single_group():
    assert ClusteredSums().mean() is None and ClusteredSums().share() is None and ClusteredSums().percent(0) is None
    one = sums_of([[1.0, 2.0]])
    assert format_cell(one.mean()) == "1.500 [?, ?]"
    assert sums_of([[1, 0]]).share().low > 0
    empty = sums_of([[1], [], [0]])
    assert empty.groups == 2


def test_parts_of_a_whole():
    found = ClusteredSums()
    for part, whole in ((1.0, 4.0), (3.0, 4.0), (0.0, 2.0)):
        found.add(part, whole)
    share = found.percent(7)
    assert share.value == pytest.approx(40) and share.n == 7 and 0 <= share.low < 40 < share.high <= 100


def test_a_table_is_the_same_everywhere():
    share, mean = sums_of([[1], [0], [1]]).share(), sums_of([[2.0, 1.0]]).mean()
    table = Table("t", "Title", ["what", "n", "%"], [["a|b", 1234, share], ["c", 0, None], ["d", 2, mean]], "Note.")
    lines = table.text().splitlines()
    assert lines[0] == "Title" and lines[2].startswith("  a|b   1,234  66.7 [20.8, 93.9]") and lines[-1] == "  (Note.)"
    assert len({len(line) for line in lines[1:-1]}) == 1
    assert "| a\\|b | 1,234 | 66.7 [20.8, 93.9] |" in table.markdown()
    rows = table.json()["rows"]
    assert rows[0]["n"] == 1234 and rows[0]["%"]["value"] == pytest.approx(200 / 3) and rows[0]["%"]["n"] == 3
    assert rows[1]["%"] is None and rows[2]["%"]["low"] is None


def test_a_paired_difference_of_shares_by_hand_and_covering_the_truth():
    """The linearized residuals by hand; then simulated dialogues whose two sides resemble each other."""
    before, after = [(1, 2), (0, 2), (1, 1)], [(1, 1), (0, 0), (2, 3)]
    # Shares 2/5 and 3/4; residuals (t - p n) / sum(n) after minus before, times 3/2 for three groups.
    residuals = [0.25 / 4 - 0.2 / 5, 0 + 0.8 / 5, -0.25 / 4 - 0.6 / 5]
    half = 1.959964 * (1.5 * sum(r * r for r in residuals)) ** 0.5
    found = paired_share_difference(before, after)
    assert found == pytest.approx((35, 35 - 100 * half, 35 + 100 * half))
    assert paired_share_difference([(0, 0), (0, 0)], [(1, 1), (1, 1)]) is None
    assert paired_share_difference([(1, 1)], [(0, 1)]) is None
    with pytest.raises(InputError, match="1 groups before and 2 after"):
        paired_share_difference([(1, 1)], [(1, 1), (0, 1)])
    rng, inside = np.random.default_rng(1), 0
    for _ in range(1600):
        rate = rng.beta(1, 1, 100)
        calls = rng.integers(1, 5, (2, 100))
        errors = rng.binomial(calls, [rate, 0.5 * rate])
        sides = [list(zip(errors[i].tolist(), calls[i].tolist(), strict=True)) for i in (0, 1)]
        _, low, high = paired_share_difference(*sides)
        inside += low <= -25 <= high
    assert 0.93 < inside / 1600 < 0.97
