"""Means and shares with intervals for grouped observations: tokens of a reply, steps of a trajectory.

The steps of one trajectory resemble each other, so a trajectory of ten steps is not ten independent observations. All
figures here are ratios sum(totals) / sum(counts) over groups, whose variance is that of the linearized ratio
(Cochran, Sampling Techniques, 1977, section 6.3): C / (C - 1) * sum((total - ratio * count)^2) / n^2 for C groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from tljax.core.errors import InputError
from tljax.evaluate.score import wilson_share

_Z = NormalDist().inv_cdf(0.975)


class Estimate(NamedTuple):
    """A figure with its 95 % interval, over `n` observations in `groups` groups; shares are in percent.

    digits: the number of decimals to print.
    """

    value: float
    low: float
    high: float
    n: int
    groups: int
    digits: int


@dataclass
class ClusteredSums:
    """The six sums over groups from which a ratio and its variance follow; their size does not grow with the groups."""

    groups: int = 0
    count: float = 0
    total: float = 0.0
    total_squared: float = 0.0
    count_squared: float = 0.0
    product: float = 0.0

    def add(self, total: float, count: float) -> None:
        """Adds a group: the sum over its observations and their number (or weight). Ignores an empty group."""
        if not count:
            return
        self.groups += 1
        self.count += count
        self.total += total
        self.total_squared += total * total
        self.count_squared += count * count
        self.product += total * count

    def mean(self) -> Estimate | None:
        """Returns the mean with a normal interval; None if there is no observation.

        A single group shows no variance: its interval is infinite.
        """
        if not self.count:
            return None
        mean, variance = self.total / self.count, self._variance()
        half = float("inf") if variance is None else _Z * variance**0.5
        return Estimate(mean, mean - half, mean + half, int(self.count), self.groups, digits=3)

    def percent(self, n: int) -> Estimate | None:
        """Returns the ratio in percent with a normal interval, where the counts are weights; None if there is none.

        n: the number of observations.
        """
        mean = self.mean()
        if mean is None:
            return None
        low, high = max(0.0, 100 * mean.low), min(100.0, 100 * mean.high)
        return Estimate(100 * mean.value, low, high, n, self.groups, digits=1)

    def share(self) -> Estimate | None:
        """Returns the share in percent of observations that are 1 (the others are 0); None if there is no observation.

        The interval is Wilson's for the effective number of observations: n divided by the ratio of the variance to
        that of independent observations, if it is above 1 (Kish's design effect). If all observations are equal, or
        there is a single group, this ratio is unknown and the interval is that of independent observations.
        """
        if not self.count:
            return None
        p, n, variance = self.total / self.count, float(self.count), self._variance()
        if variance and p < 1:
            independent = p * (1 - p) / (n - 1)  # estimated as the variance is
            n /= max(1.0, variance / independent)
        return Estimate(*wilson_share(p, n), int(self.count), self.groups, digits=1)

    def _variance(self) -> float | None:
        """The variance of the ratio; None if there is a single group."""
        if self.groups < 2:
            return None
        ratio = self.total / self.count
        squares = self.total_squared - 2 * ratio * self.product + ratio * ratio * self.count_squared
        return self.groups / (self.groups - 1) * max(squares, 0.0) / self.count**2


def paired_share_difference(
    before: Sequence[tuple[float, float]], after: Sequence[tuple[float, float]]
) -> tuple[float, float, float] | None:
    """Returns (difference, low, high) in percentage points: the share after minus that before, over the same groups.

    before, after: (total, count) of each group, in the same order; a group may be empty on one side. The interval is
    normal, from the variance of the difference of the two linearized ratios, which counts that a group's two sides
    resemble each other. None if one side has no observation, or if there is a single group.
    """
    if len(before) != len(after):
        raise InputError(f"paired_share_difference: {len(before)} groups before and {len(after)} after; give the same")
    sides = [np.asarray(side, np.float64).reshape(-1, 2) for side in (before, after)]
    if len(before) < 2 or any(side[:, 1].sum() == 0 for side in sides):
        return None
    shares = [side[:, 0].sum() / side[:, 1].sum() for side in sides]
    residuals = [
        (side[:, 0] - share * side[:, 1]) / side[:, 1].sum() for side, share in zip(sides, shares, strict=True)
    ]
    groups = len(before)
    variance = groups / (groups - 1) * ((residuals[1] - residuals[0]) ** 2).sum()
    difference, half = shares[1] - shares[0], _Z * variance**0.5
    return 100 * difference, 100 * (difference - half), 100 * (difference + half)
