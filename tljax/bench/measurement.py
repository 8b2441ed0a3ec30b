"""Measurement: the values of one quantity over the repeats, and what is quoted of them."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The values of one quantity, one for each repeat, in the order in which they were measured.

    higher_is_better: True for a rate, False for seconds and bytes.
    """

    unit: str
    values: Sequence[float]
    higher_is_better: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields of the report: the median, the spread from min to max, and all values."""
        return {
            "unit": self.unit,
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "values": list(self.values),
            "higher_is_better": self.higher_is_better,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Measurement":
        return cls(fields["unit"], fields["values"], fields["higher_is_better"])


def rate(unit: str, amounts: Sequence[float], seconds: Sequence[float]) -> Measurement:
    """Returns a rate: the amounts divided by the seconds that each took."""
    return Measurement(unit, [a / s for a, s in zip(amounts, seconds, strict=True)], higher_is_better=True)


def ratio(ours: Measurement, theirs: Measurement) -> float:
    """Returns how many times better the median of ours is: 2.0 for twice the rate, or for half the seconds."""
    return ours.median / theirs.median if ours.higher_is_better else theirs.median / ours.median
