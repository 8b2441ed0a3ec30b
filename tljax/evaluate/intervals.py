"""Means and shares of what comes in groups, with intervals that know it: tokens of a reply, steps of a trajectory.

Steps of one trajectory resemble each other, and a trajectory of ten steps is not ten independent observations. All
figures here are ratios sum(totals) / sum(counts) over groups, whose variance is that of the linearized ratio
(Cochran, Sampling Techniques, 1977, section 6.3): C / (C - 1) * sum((total - ratio * count)^2) / n^2 for C groups.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

_Z = NormalDist().inv_cdf(0.975)


class Estimate(NamedTuple):
    """A figure with its 95 % interval, over `n` observations in `groups` groups; a share is in percent.

    digits: behind the point, for people.
    """

    value: float
    low: float
    high: float
    n: int
    groups: int
    digits: int


@dataclass
class ClusteredSums:
    """All that a ratio and its variance need of the groups, in a few numbers, whatever their number."""

    groups: int = 0
    count: float = 0
    total: float = 0.0
    total_squared: float = 0.0
    count_squared: float = 0.0
    product: float = 0.0

    def add(self, total: float, count: float) -> None:
        """One group: the sum over its observations and their number (or weight); a group without any is none."""
        if not count:
            return
        self.groups += 1
        self.count += count
        self.total += total
        self.total_squared += total * total
        self.count_squared += count * count
        self.product += total * count

    def mean(self) -> Estimate | None:
        """The mean with a normal interval, without ends where a single group cannot show them; None of nothing."""
        if not self.count:
            return None
        mean, variance = self.total / self.count, self._variance()
        half = float("inf") if variance is None else _Z * variance**0.5
        return Estimate(mean, mean - half, mean + half, int(self.count), self.groups, digits=3)

    def percent(self, n: int) -> Estimate | None:
        """The part in percent with a normal interval, where counts are weights; n: how many observations there are."""
        mean = self.mean()
        if mean is None:
            return None
        low, high = max(0.0, 100 * mean.low), min(100.0, 100 * mean.high)
        return Estimate(100 * mean.value, low, high, n, self.groups, digits=1)

    def share(self) -> Estimate | None:
        """The share in percent of observations that count 1 (others 0) with Wilson's interval; None of nothing.

        The interval is that of the effective number of observations: n divided by how much larger the variance is
        than that of independent ones, where it is larger (Kish's design effect). Without that figure, where all are
        alike or a single group is there, it is as for independent ones.
        """
        if not self.count:
            return None
        p, n, variance = self.total / self.count, float(self.count), self._variance()
        if variance and p < 1:
            alone = p * (1 - p) / (n - 1)  # estimated as the variance is
            n /= max(1.0, variance / alone)
        spread = _Z * _Z / n
        middle = (p + spread / 2) / (1 + spread)
        half = _Z / (1 + spread) * ((p * (1 - p) + spread / 4) / n) ** 0.5
        low, high = 0.0 if p == 0 else middle - half, 1.0 if p == 1 else middle + half
        return Estimate(100 * p, 100 * low, 100 * high, int(self.count), self.groups, digits=1)

    def _variance(self) -> float | None:
        """Of the ratio; None where a single group cannot show it."""
        if self.groups < 2:
            return None
        ratio = self.total / self.count
        squares = self.total_squared - 2 * ratio * self.product + ratio * ratio * self.count_squared
        return self.groups / (self.groups - 1) * max(squares, 0.0) / self.count**2
