"""Compares a peer with tljax: whether both did the same work, and the ratio of each quantity that both measured."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from tljax.bench.measurement import ratio

MAX_LOSS_DIFFERENCE = 0.01  # of the loss, at every update
MIN_EQUAL_TOKENS = 0.9  # the share of the replies' tokens before the first that differs


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A peer beside tljax.

    void: why the comparison says nothing, "" if it holds; then `ratios` has, for each quantity, how many times better
    tljax is. agreement: one sentence on how nearly both did the same.
    """

    peer: str
    void: str
    agreement: str
    ratios: dict[str, float]


def compare(ours: dict[str, Any], name: str, theirs: dict[str, Any]) -> Comparison:
    """Returns the comparison of two results of `side.run_side`."""
    void, agreement = "", ""
    if "losses" in theirs:
        void, agreement = _compare_losses(ours["losses"], theirs["losses"])
    elif "replies" in theirs:
        void, agreement = _compare_replies(ours["replies"], theirs["replies"])
    elif "replies per second" in theirs["measurements"]:
        agreement = "its loss is another one; the rates of replies are compared, and no losses"
    elif "weights" in theirs:
        agreement = f"both read {theirs['weights']:,} weights"
        if ours["weights"] != theirs["weights"]:
            void = f"tljax has {ours['weights']:,} weights and {name} {theirs['weights']:,}"
    both = [quantity for quantity in ours["measurements"] if quantity in theirs["measurements"]]
    ratios = {q: ratio(ours["measurements"][q], theirs["measurements"][q]) for q in both}
    return Comparison(name, void, agreement, {} if void else ratios)


def _compare_losses(ours: Sequence[float], theirs: Sequence[float]) -> tuple[str, str]:
    """Returns why the comparison is void, "" if it holds, and how far the loss curves differ."""
    if len(ours) != len(theirs):
        return f"tljax made {len(ours)} updates and the peer {len(theirs)}", ""
    differences = [abs(a - b) / max(abs(a), 1e-9) for a, b in zip(ours, theirs, strict=True)]
    # NaN compares as False, and so as a difference.
    bad = next((n for n, difference in enumerate(differences) if not difference <= MAX_LOSS_DIFFERENCE), None)
    if bad is None:
        return "", f"the losses of {len(ours)} updates differ by at most {100 * max(differences):.2g} %"
    return (
        f"the losses differ by more than {100 * MAX_LOSS_DIFFERENCE:g} %: at update {bad + 1} tljax has "
        f"{ours[bad]:.5g} and the peer {theirs[bad]:.5g}"
    ), ""


def _compare_replies(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[str, str]:
    """Returns why the comparison is void, "" if it holds, and how many tokens are equal; replies by batch size."""
    pairs = [pair for batch, replies in ours.items() for pair in zip(replies, theirs[batch], strict=True)]
    total = sum(len(a) for a, _ in pairs)
    equal = sum(_common_prefix(a, b) for a, b in pairs)
    share = equal / max(total, 1)
    text = f"{100 * share:.1f} % of the replies' tokens are equal, up to the first that differs in each reply"
    if share < MIN_EQUAL_TOKENS:
        return f"only {text}; {100 * MIN_EQUAL_TOKENS:g} % must be", ""
    return "", text


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
