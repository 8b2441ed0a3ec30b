"""How unevenly tokens matter: loss and rank of golden tokens by what they are for.

The second analysis of TL-Training (arXiv 2412.15495).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tljax.analysis.golden_steps import GoldenStep
from tljax.analysis.tables import Table
from tljax.analysis.token_classes import CLASSES
from tljax.analysis.token_scores import TokenScores
from tljax.evaluate.intervals import ClusteredSums, Estimate

# Ranks of the golden token that are reported together: the last of each, inclusive.
RANK_BINS = {"1": 1, "2": 2, "3-5": 5, "6-10": 10, "11-100": 100, "above 100": 2**31 - 1}
ALL_TOKENS = "all tokens"


class TokenCounts:
    """Sums over trajectories by class; `tables()` are the analysis. Memory does not grow with the tokens."""

    def __init__(self) -> None:
        self.loss = {name: ClusteredSums() for name in (*CLASSES, ALL_TOKENS)}
        self.first = {name: ClusteredSums() for name in (*CLASSES, ALL_TOKENS)}
        self._parts = {what: {name: ClusteredSums() for name in CLASSES} for what in ("tokens", "weight", "loss")}
        self._ranks = {name: {label: ClusteredSums() for label in RANK_BINS} for name in (*CLASSES, ALL_TOKENS)}
        self._counts: dict[str, Counter[int]] = {name: Counter() for name in (*CLASSES, ALL_TOKENS)}

    def add(self, steps: Sequence[GoldenStep], scores: Sequence[TokenScores]) -> None:
        """All steps of one trajectory that were asked, and the scores of their golden replies."""
        classes = np.array([name for step in steps for name in step.classes])
        nll = np.concatenate([one.nll for one in scores]).astype(np.float64)
        rank = np.concatenate([one.rank for one in scores])
        weight = np.concatenate([step.weights for step in steps]).astype(np.float64)
        bins = np.searchsorted(list(RANK_BINS.values()), rank)
        whole = {"tokens": np.ones(len(nll)), "weight": weight, "loss": nll}
        for name in (*CLASSES, ALL_TOKENS):
            own = classes == name if name != ALL_TOKENS else np.ones(len(nll), bool)
            n = int(own.sum())
            self.loss[name].add(float(nll[own].sum()), n)
            self.first[name].add(int((rank[own] == 1).sum()), n)
            for i, label in enumerate(RANK_BINS):
                self._ranks[name][label].add(int((bins[own] == i).sum()), n)
            self._counts[name].update(rank[own].tolist())
            if name != ALL_TOKENS:
                for what, values in whole.items():
                    self._parts[what][name].add(float(values[own].sum()), float(values.sum()))

    def mean_loss(self, name: str) -> Estimate | None:
        """The mean loss of a class in nats a token."""
        found = self.loss[name].mean()
        return found and found._replace(low=max(found.low, 0.0) if found.groups > 1 else found.low)

    def part(self, what: str, name: str) -> Estimate | None:
        """The percentage of all "tokens", "weight" (PKT's) or "loss" that a class has."""
        return self._parts[what][name].percent(int(self.loss[name].count))

    def ranks(self, name: str) -> list[float]:
        """The percentages of RANKS in a class."""
        found = [sums.share() for sums in self._ranks[name].values()]
        return [0.0 if share is None else share.value for share in found]

    def names(self) -> list[str]:
        """The classes that occur, in the order of CLASSES."""
        return [name for name in CLASSES if self.loss[name].count]

    def tables(self) -> list[Table]:
        """Loss and first choices by class; ranks by class."""
        losses = Table(
            "token_classes",
            f"Golden tokens by what they are for, of {int(self.loss[ALL_TOKENS].groups):,} trajectories; "
            "every token after the golden ones before it",
            ["token", "n", "loss, nats [95 %]", "first choice, % [95 %]", "% of tokens", "% of loss", "% of weight"],
            note="First choice: greedy decoding takes the golden token. Weight: PKT's, as config.data.pkt has it.",
        )
        for name in (*self.names(), ALL_TOKENS):
            parts = [self.part(what, name) if name != ALL_TOKENS else None for what in ("tokens", "loss", "weight")]
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
    """The smallest value that at least `share` of what was counted does not exceed."""
    seen, value = 0, 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= share * counts.total():
            break
    return value
