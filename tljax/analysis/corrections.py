"""Greedy replies -> error kinds, scores, and the effect of correcting the first wrong token (third analysis).

The first wrong token is at the first golden token that greedy decoding does not take. Up to there the reply equals the
golden one (in bfloat16 near ties may differ, since decoding uses a cache). The correction puts the golden token there,
and greedy decoding continues after it.
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
    """A reply's text, the comparison of its first call with the golden one; named: it calls the golden tool."""

    text: str
    comparison: Comparison
    named: bool

    @property
    def right(self) -> bool:
        return self.comparison.kind == "correct"


@dataclass(frozen=True, slots=True)
class StepReplies:
    """The greedy reply to one step, and the reply after the correction.

    num_wrong: the golden tokens that greedy decoding does not take, each after the golden tokens before it; so many
    corrections in a row lead to the golden reply. first_wrong: the position of the first of them. first_wrong and
    corrected are None if no token is wrong.
    """

    step: GoldenStep
    greedy: ComparedReply
    num_wrong: int
    first_wrong: int | None
    corrected: ComparedReply | None


def first_wrong_position(step: GoldenStep, scores: TokenScores) -> int | None:
    """Returns the position of the first golden token that greedy decoding does not take; None if it takes all."""
    return next((i for i, (best, gold) in enumerate(zip(scores.best, step.reply, strict=True)) if best != gold), None)


def corrected_prompt(step: GoldenStep, first_wrong: int) -> list[int] | None:
    """Returns the tokens from which decoding continues; None if the correction is the end token."""
    return [*step.prompt, *step.reply[: first_wrong + 1]] if first_wrong + 1 < len(step.reply) else None


def compare_reply(step: GoldenStep, text: str) -> ComparedReply:
    """Compares the first call of a reply with the golden call."""
    parsed = step.tools.parse(text)
    named = bool(parsed.calls) and parsed.calls[0].name == step.golden.name
    return ComparedReply(text, compare(parsed, step.golden, step.tools), named)


class ReplyCounts:
    """Sums over trajectories; `tables` returns the analysis. Memory does not grow with the number of replies."""

    def __init__(self) -> None:
        self.replies = ClusteredSums()
        self._sums: dict[tuple[str, ...], ClusteredSums] = {}
        self._pairs: Counter[tuple[str, str]] = Counter()

    def add(self, replies: Sequence[StepReplies]) -> None:
        """Adds all replies of one trajectory."""
        n = len(replies)
        self.replies.add(n, n)
        for kind in KINDS:
            self._share(("kind", kind), (reply.greedy.comparison.kind == kind for reply in replies))
        for level, metric in enumerate(METRICS, start=1):
            self._share(("metric", metric), (reply.greedy.comparison.level >= level for reply in replies))
        for label, low, high in _bins():
            self._share(("wrong", label), (low <= reply.num_wrong <= high for reply in replies))
        for detail in _DETAILS:
            self._share(("detail", *detail), (detail in _details(reply.greedy.comparison) for reply in replies))
        for name in (NONE, *CLASSES, IN_NAME, ANY):
            members = [reply for reply in replies if _belongs(reply, name)]
            self._share(("first", name), (_belongs(reply, name) for reply in replies))
            self._share(("right before", name), (reply.greedy.right for reply in members))
            corrected = [(reply, reply.corrected) for reply in members if reply.corrected is not None]
            self._share(("right after", name), (after.right for _, after in corrected))
            self._share(("exact after", name), (reply.num_wrong == 1 for reply, _ in corrected))
            self._share(("named after", name), (after.named for reply, after in corrected if _name_follows(reply)))
        for reply in replies:
            comparison = reply.greedy.comparison
            if comparison.kind in ("wrong_tool", "tool_hallucination"):
                self._pairs[(comparison.golden, comparison.called)] += 1

    def _share(self, key: tuple[str, ...], marks: Iterable[bool]) -> None:
        marks = list(marks)
        self._sums.setdefault(key, ClusteredSums()).add(sum(marks), len(marks))

    def share(self, *key: str) -> Estimate | None:
        """Returns the share of replies under a key such as ("kind", "format") or ("right after", class)."""
        return self._sums[key].share() if key in self._sums else None

    def classes(self) -> list[str]:
        """Returns the token classes in which a first wrong token occurs, in the order of CLASSES."""
        return [name for name in CLASSES if ("first", name) in self._sums and self._sums[("first", name)].total]

    def tables(self) -> list[Table]:
        """Returns tables of corrections, of names, of wrong tokens per reply, of error kinds and of scores."""
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
            shares = [self.share(field, name) for field in ("right before", "right after", "exact after")]
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
                int(self._sums.get((field, name), ClusteredSums()).count) for field in ("right after", "named after")
            ]
            table.rows.append([name, *counts, *(self.share(field, name) for field in ("named after", "right after"))])
        return table

    def _wrong(self) -> Table:
        table = Table(
            "wrong_tokens",
            "Wrong tokens a reply, which is how many corrections in a row lead to the golden reply",
            ["wrong tokens", "replies", "% [95 %]"],
        )
        table.rows = [self._row(label, "wrong", label) for label in WRONG_COUNTS]
        return table


# The details of an error kind; a reply may have several of them.
_DETAILS = (
    ("format", "no_call"),
    ("format", "truncated"),
    ("format", "duplicate_argument"),
    ("format", "too_many_positional"),
    ("format", "colon_argument"),
    ("parameter", "hallucinated"),
    ("parameter", "redundant"),
    ("parameter", "missing"),
)


def _details(call: Comparison) -> set[tuple[str, str]]:
    if call.kind == "format":
        return {("format", call.issue)}
    parameters = {"hallucinated": call.hallucinated, "redundant": call.redundant, "missing": call.missing}
    return {("parameter", detail) for detail, names in parameters.items() if names}


def _belongs(reply: StepReplies, name: str) -> bool:
    """Returns True if a reply's first wrong token is of the class `name`, which may be NONE, ANY or IN_NAME."""
    if reply.first_wrong is None:
        return name == NONE
    token_class = reply.step.classes[reply.first_wrong]
    return name == ANY or token_class == name or (name == IN_NAME and token_class in NAME_CLASSES)


def _name_follows(reply: StepReplies) -> bool:
    """Returns True if the golden name continues after the first wrong token; else the correction completes it."""
    first = reply.first_wrong
    return first is not None and any(name in NAME_CLASSES for name in reply.step.classes[first + 1 :])


def _bins() -> list[tuple[str, int, int]]:
    ends = list(WRONG_COUNTS.values())
    return list(zip(WRONG_COUNTS, [0, *(end + 1 for end in ends[:-1])], ends, strict=True))
