"""A model's greedy replies, what is wrong with them, and what becomes of them with their first wrong token corrected.

The first wrong token is the first golden token that greedy decoding does not take; up to it the reply is the golden
one (in bfloat16 but for near ties, which decoding with a cache may break otherwise). Corrected, decoding goes on
greedily from the golden tokens up to and including that one.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tljax.analysis.golden_steps import GoldenStep
from tljax.analysis.tables import Table
from tljax.analysis.token_classes import CLASSES, NAME_CLASSES
from tljax.analysis.token_scores import TokenScores
from tljax.calls.compare import KINDS, Comparison, compare
from tljax.evaluate.intervals import ClusteredSums, Estimate
from tljax.evaluate.score import METRICS

NONE, ANY, IN_NAME = "none: the golden reply", "any wrong token", "in the name, all three"
WRONG_COUNTS = {"0": 0, "1": 1, "2": 2, "3": 3, "4-5": 5, "6-10": 10, "above 10": 2**31 - 1}


@dataclass(frozen=True, slots=True)
class ComparedReply:
    """A reply's text, how its first call compares with the golden one, and whether that names the golden tool."""

    text: str
    comparison: Comparison
    named: bool

    @property
    def right(self) -> bool:
        return self.comparison.kind == "correct"


@dataclass(frozen=True, slots=True)
class StepReplies:
    """One step's replies. `first` is the position of its first wrong token, `wrong` the number of wrong ones.

    `wrong` counts under the golden prefix, so it is how many corrections in a row lead to the golden reply. `corrected`
    is None where no token is wrong.
    """

    step: GoldenStep
    greedy: ComparedReply
    wrong: int
    first: int | None
    corrected: ComparedReply | None


def first_wrong_position(step: GoldenStep, scores: TokenScores) -> int | None:
    """The position of the first golden token that greedy decoding does not take; None where it takes all."""
    return next((i for i, (best, own) in enumerate(zip(scores.best, step.reply, strict=True)) if best != own), None)


def corrected_prompt(step: GoldenStep, first: int) -> list[int] | None:
    """What decoding goes on from; None where the correction is the end token, after which nothing comes."""
    return [*step.prompt, *step.reply[: first + 1]] if first + 1 < len(step.reply) else None


def compare_reply(step: GoldenStep, text: str) -> ComparedReply:
    """A reply's verdict by its first call."""
    parsed = step.tools.parse(text)
    named = bool(parsed.calls) and parsed.calls[0].name == step.golden.name
    return ComparedReply(text, compare(parsed, step.golden, step.tools), named)


class ReplyCounts:
    """Sums over trajectories; `tables()` are the analysis. Memory does not grow with the replies."""

    def __init__(self) -> None:
        self.replies = ClusteredSums()
        self._sums: dict[tuple[str, ...], ClusteredSums] = {}
        self._pairs: Counter[tuple[str, str]] = Counter()

    def add(self, outcomes: Sequence[StepReplies]) -> None:
        """All outcomes of one trajectory."""
        n = len(outcomes)
        self.replies.add(n, n)
        for kind in KINDS:
            self._share(("kind", kind), (one.greedy.comparison.kind == kind for one in outcomes))
        for level, metric in enumerate(METRICS, start=1):
            self._share(("metric", metric), (one.greedy.comparison.level >= level for one in outcomes))
        for label, low, high in _bins():
            self._share(("wrong", label), (low <= one.wrong <= high for one in outcomes))
        for detail in _DETAILS:
            self._share(("detail", *detail), (detail in _details(one.greedy.comparison) for one in outcomes))
        for name in (NONE, *CLASSES, IN_NAME, ANY):
            having = [one for one in outcomes if _belongs(one, name)]
            self._share(("first", name), (_belongs(one, name) for one in outcomes))
            self._share(("right before", name), (one.greedy.right for one in having))
            corrected = [(one, one.corrected) for one in having if one.corrected is not None]
            self._share(("right after", name), (after.right for _, after in corrected))
            self._share(("exact after", name), (one.wrong == 1 for one, _ in corrected))
            self._share(("named after", name), (after.named for one, after in corrected if _name_follows(one)))
        for one in outcomes:
            found = one.greedy.comparison
            if found.kind in ("wrong_tool", "tool_hallucination"):
                self._pairs[(found.golden, found.called)] += 1

    def _share(self, key: tuple[str, ...], marks: Iterable[bool]) -> None:
        marks = list(marks)
        self._sums.setdefault(key, ClusteredSums()).add(sum(marks), len(marks))

    def share(self, *key: str) -> Estimate | None:
        """The share of replies under a key such as ("kind", "format") or ("right after", class)."""
        return self._sums[key].share() if key in self._sums else None

    def classes(self) -> list[str]:
        """The classes that hold a first wrong token, in the order of CLASSES."""
        return [name for name in CLASSES if ("first", name) in self._sums and self._sums[("first", name)].total]

    def tables(self) -> list[Table]:
        """First wrong tokens and their correction; names; numbers of wrong tokens; error kinds; scores."""
        return [self._corrections(), self._names(), self._wrong(), self._kinds(), self._scores()]

    def _row(self, label: str, *key: str) -> list:
        return [label, int(self._sums[key].total), self.share(*key)]

    def _kinds(self) -> Table:
        table = Table(
            "error_kinds",
            f"Error kinds of the model's calls, of {int(self.replies.count):,} greedy replies",
            ["kind", "replies", "% [95 %]"],
        )
        for kind in KINDS:
            table.rows.append(self._row(kind, "kind", kind))
            for detail in _DETAILS:
                if detail[0] == kind and self._sums[("detail", *detail)].total:
                    table.rows.append(self._row(f"- {detail[1]}", "detail", *detail))
        if self._pairs:
            pairs = (f"{called or 'nothing'} for {golden}: {n:,}" for (golden, called), n in self._pairs.most_common(5))
            table.note = f"Most frequent wrong tools: {', '.join(pairs)}."
        return table

    def _scores(self) -> Table:
        table = Table("scores", "Scores of the greedy replies", ["score", "replies", "% [95 %]"])
        names = {"TS": "TS, right tool", "PI": "PI, and right parameters", "CF": "CF, and right values"}
        table.rows = [self._row(names[metric], "metric", metric) for metric in METRICS]
        return table

    def _corrections(self) -> Table:
        table = Table(
            "corrections",
            "Replies by their first wrong token, and once it is corrected",
            ["first wrong token", "replies", "% [95 %]", "right before", "right after", "golden after"],
            note="In % [95 %] of the row's replies: the call is correct before and after the correction; after it the "
            "golden tokens follow one by one. A reply that the end token corrects is right by definition.",
        )
        for name in (NONE, *self.classes(), ANY):
            shares = [self.share(what, name) for what in ("right before", "right after", "exact after")]
            table.rows.append([*self._row(name, "first", name), *shares])
        return table

    def _names(self) -> Table:
        table = Table(
            "names",
            "Replies whose first wrong token lies in the tool's name: does the rest of the name follow its correction?",
            ["first wrong token", "replies", "with more name to come", "name right after", "call right after"],
            note="In % [95 %]; the name of those with more of it to come, before the correction no name is right. "
            "TL-Training (arXiv 2412.15495) reports that it often follows; its figures are not known here.",
        )
        for name in (*NAME_CLASSES, IN_NAME):
            counts = [
                int(self._sums.get((what, name), ClusteredSums()).count) for what in ("right after", "named after")
            ]
            table.rows.append([name, *counts, *(self.share(what, name) for what in ("named after", "right after"))])
        return table

    def _wrong(self) -> Table:
        table = Table(
            "wrong_tokens",
            "Wrong tokens a reply, which is how many corrections in a row lead to the golden reply",
            ["wrong tokens", "replies", "% [95 %]"],
        )
        table.rows = [self._row(label, "wrong", label) for label in WRONG_COUNTS]
        return table


# What a kind of error is made of; a reply may have several of a kind.
_DETAILS = (
    ("format", "no_call"),
    ("format", "truncated"),
    ("format", "duplicate_argument"),
    ("format", "too_many_positional"),
    ("parameter", "hallucinated"),
    ("parameter", "redundant"),
    ("parameter", "missing"),
)


def _details(found: Comparison) -> set[tuple[str, str]]:
    if found.kind == "format":
        return {("format", found.issue)}
    parts = {"hallucinated": found.hallucinated, "redundant": found.redundant, "missing": found.missing}
    return {("parameter", what) for what, names in parts.items() if names}


def _belongs(one: StepReplies, name: str) -> bool:
    """Whether a reply's first wrong token is of a class, or of one of the classes together."""
    if one.first is None:
        return name == NONE
    own = one.step.classes[one.first]
    return name == ANY or own == name or (name == IN_NAME and own in NAME_CLASSES)


def _name_follows(one: StepReplies) -> bool:
    """Whether more of the tool's name comes after the first wrong token; if not, the name is right with it."""
    return one.first is not None and any(kind in NAME_CLASSES for kind in one.step.classes[one.first + 1 :])


def _bins() -> list[tuple[str, int, int]]:
    ends = list(WRONG_COUNTS.values())
    return list(zip(WRONG_COUNTS, [0, *(end + 1 for end in ends[:-1])], ends, strict=True))
