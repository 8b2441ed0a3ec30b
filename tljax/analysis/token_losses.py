"""Token scores -> loss and rank of golden tokens by token class.

This is the second analysis of TL-Training (arXiv 2412.15495).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tljax.analysis.golden_steps import GoldenStep
from tljax.analysis.tables import Table
from tljax.analysis.token_classes import CLASSES
from tljax.analysis.token_scores import TokenScores
from tljax.evaluate.intervals import ClusteredSums, Estimate

# Bins for the rank of the golden token: label and last rank, inclusive.
RANK_BINS = {"1": 1, "2": 2, "3-5": 5, "6-10": 10, "11-100": 100, "above 100": 2**31 - 1}
ALL_TOKENS = "all tokens"


class TokenCounts:
    """Sums over trajectories by token class; `tables` returns the analysis. Memory does not grow with the tokens."""

    def __init__(self) -> None:
        self.loss = {name: ClusteredSums() for name in (*CLASSES, ALL_TOKENS)}
        self.first = {name: ClusteredSums() for name in (*CLASSES, ALL_TOKENS)}
        self._parts = {field: {name: ClusteredSums() for name in CLASSES} for field in ("tokens", "weight", "loss")}
        self._ranks = {name: {label: ClusteredSums() for label in RANK_BINS} for name in (*CLASSES, ALL_TOKENS)}
        self._counts: dict[str, Counter[int]] = {name: Counter() for name in (*CLASSES, ALL_TOKENS)}

    def add(self, steps: Sequence[GoldenStep], scores: Sequence[TokenScores]) -> None:
        """Adds steps of one trajectory with the scores of their golden replies."""
        classes = np.array([name for step in steps for name in step.classes])
        nll = np.concatenate([reply.nll for reply in scores]).astype(np.float64)
        rank = np.concatenate([reply.rank for reply in scores])
        weight = np.concatenate([step.weights for step in steps]).astype(np.float64)
        bins = np.searchsorted(list(RANK_BINS.values()), rank)
        per_token = {"tokens": np.ones(len(nll)), "weight": weight, "loss": nll}
        for name in (*CLASSES, ALL_TOKENS):
            members = classes == name if name != ALL_TOKENS else np.ones(len(nll), bool)
            n = int(members.sum())
            self.loss[name].add(float(nll[members].sum()), n)
            self.first[name].add(int((rank[members] == 1).sum()), n)
            for i, label in enumerate(RANK_BINS):
                self._ranks[name][label].add(int((bins[members] == i).sum()), n)
            self._counts[name].update(rank[members].tolist())
            if name != ALL_TOKENS:
                for field, values in per_token.items():
                    self._parts[field][name].add(float(values[members].sum()), float(values.sum()))

    def mean_loss(self, name: str) -> Estimate | None:
        """Returns the mean loss of a class in nats per token."""
        mean = self.loss[name].mean()
        return mean and mean._replace(low=max(mean.low, 0.0) if mean.groups > 1 else mean.low)

    def part(self, field: str, name: str) -> Estimate | None:
        """Returns the share of a class in the sum of "tokens", "weight" (PKT's) or "loss", in percent."""
        return self._parts[field][name].percent(int(self.loss[name].count))

    def ranks(self, name: str) -> list[float]:
        """Returns the percentages of RANK_BINS in a class."""
        shares = [sums.share() for sums in self._ranks[name].values()]
        return [0.0 if share is None else share.value for share in shares]

    def names(self) -> list[str]:
        """Returns the classes that occur, in the order of CLASSES."""
        return [name for name in CLASSES if self.loss[name].count]

    def tables(self) -> list[Table]:
        """Returns two tables: loss and first choices by class, and ranks by class."""
        losses = Table(
            "token_classes",
            f"Golden tokens by what they are for, of {int(self.loss[ALL_TOKENS].groups):,} trajectories; "
            "every token after the golden ones before it",
            ["token", "n", "loss, nats [95 %]", "first choice, % [95 %]", "% of tokens", "% of loss", "% of weight"],
            note="First choice: greedy decoding takes the golden token. Weight: PKT's, as config.data.pkt has it.",
        )
        for name in (*self.names(), ALL_TOKENS):
            parts = [self.part(field, name) if name != ALL_TOKENS else None for field in ("tokens", "loss", "weight")]
            row = [int(self.loss[name].count), self.mean_loss(name), self.first[name].share(), *parts]
            losses.rows.append([name, *row])
        ranks = Table(
            "token_ranks",
            "Rank of the golden token among the model's choices, % of tokens [95 %]",
            ["token", "n", *RANK_BINS, "median", "90th percentile"],
        )
        for name in (*self.names(), ALL_TOKENS):
            shares = [sums.share() for sums in self._ranks[name].values()]
            ends = [percentile(self._counts[name], share) for share in (0.5, 0.9)]
            ranks.rows.append([name, int(self.loss[name].count), *shares, *ends])
        return [losses, ranks]


def percentile(counts: Counter[int], share: float) -> int:
    """Returns the smallest counted value that at least `share` of all counted values do not exceed."""
    cumulative, value = 0, 0
    for value in sorted(counts):
        cumulative += counts[value]
        if cumulative >= share * counts.total():
            break
    return value
