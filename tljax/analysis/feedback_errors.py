"""Which steps failed: by what their tools answered under two MAE rules, and by what the documentation says of the call.

The first analysis of TL-Training (arXiv 2412.15495): training data holds calls that failed.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tljax.analysis.call_errors import CALL_ERRORS, call_errors
from tljax.analysis.tables import Table
from tljax.data.mae import Rule, load_rule
from tljax.data.trajectory import Trajectory
from tljax.evaluate.intervals import ClusteredSums

SHOWN = 20  # steps on which the rules differ that the report lists


@dataclass(frozen=True, slots=True)
class StepErrors:
    """What is known of one step, the `step`-th assistant turn from 1.

    answered: its call has tool feedback. default, release: the reasons of the two rules, None where they find no
    error; of steps without feedback they are not asked. calls: kinds of call error, None where the step has no call
    or its prompt no tool list.
    """

    id: str | int
    step: int
    name: str
    answered: bool
    default: str | None
    release: str | None
    calls: tuple[str, ...] | None
    feedback: str


def reason_kind(reason: str) -> str:
    """The kind in a rule's "kind: excerpt", of the released rule the keyword."""
    return reason.partition(": ")[0].removeprefix("keyword ")


def find_step_errors(trajectory: Trajectory) -> list[StepErrors]:
    """One Verdict for every assistant turn, in order."""
    default, release = (rule(trajectory) for rule in (_DEFAULT, _RELEASE))
    found = []
    places = [i for i, turn in enumerate(trajectory.turns) if turn.role == "assistant"]
    for k, i in enumerate(places):
        turn = trajectory.turns[i]
        after = trajectory.turns[i + 1] if i + 1 < len(trajectory.turns) else None
        answered = turn.call is not None and after is not None and after.role == "function"
        known = turn.call is not None and bool(trajectory.tools)
        found.append(
            StepErrors(
                trajectory.id,
                k + 1,
                turn.call.name if turn.call is not None else "",
                answered,
                default[k].reason if answered else None,
                release[k].reason if answered else None,
                call_errors(turn.call, trajectory.tools) if turn.call is not None and known else None,
                after.text if after is not None and answered else "",
            )
        )
    return found


_DEFAULT: Rule = load_rule("default")
_RELEASE: Rule = load_rule("release")


class FeedbackCounts:
    """Counts over trajectories, whose memory does not grow with them; `tables()` are the analysis."""

    def __init__(self) -> None:
        self.trajectories = self.steps = self.calls = self.judged = 0
        self._sums: dict[tuple[str, ...], ClusteredSums] = {}
        self._differing: list[StepErrors] = []
        self.differ = 0

    def add(self, found: Sequence[StepErrors]) -> None:
        """The verdicts of one trajectory."""
        self.trajectories += 1
        self.steps += len(found)
        self.calls += sum(bool(one.name) for one in found)
        answered = [one for one in found if one.answered]
        judged = [one for one in found if one.calls is not None]
        self.judged += len(judged)
        self._count(("answered",), len(answered), (key for one in answered for key in _feedback_keys(one)))
        self._count(("judged",), len(judged), (key for one in judged for key in _call_keys(one)))
        both = [one for one in judged if one.answered]
        for kind in {kind for one in both for kind in _kinds(one)}:
            having = [one for one in both if kind in _kinds(one)]
            self.sums("failed", kind).add(sum(one.default is not None for one in having), len(having))
        failed = [one for one in both if one.default is not None]
        self.sums("documented").add(sum(bool(one.calls) for one in failed), len(failed))
        for one in answered:
            if (one.default is None) != (one.release is None):
                self.differ += 1
                if len(self._differing) < SHOWN:
                    self._differing.append(one)

    def sums(self, *key: str) -> ClusteredSums:
        """The sums under a key, such as ("failed", kind)."""
        return self._sums.setdefault(key, ClusteredSums())

    def _count(self, unit: tuple[str, ...], n: int, keys: Iterable[tuple[str, ...]]) -> None:
        """Of n observations in this group, those that count for each key; a key's other groups count 0."""
        hits = Counter(keys)
        self.sums(*unit).add(n, n)
        for key in hits:
            self.sums(*key)
        for key, count in hits.items():
            self._sums[key].add(count, n)

    def shares(self, *key: str) -> tuple[int, ClusteredSums]:
        """How many count for a key, and the sums over its unit, with the groups in which none counts."""
        own = self._sums.get(key, ClusteredSums())
        unit = self.sums("judged" if key[0] == "call" else "answered")
        # Groups without a hit add nothing but their sizes.
        whole = ClusteredSums(unit.groups, unit.count, own.total, own.total_squared, unit.count_squared, own.product)
        return int(own.total), whole

    def kinds(self, rule: str) -> list[str]:
        """The kinds that a rule names, the most frequent first."""
        found = [(key[1], sums.total) for key, sums in self._sums.items() if key[0] == rule and len(key) == 2]
        return [kind for kind, _ in sorted(found, key=lambda pair: (-pair[1], pair[0]))]

    def count(self, *key: str) -> int:
        """How many steps count for a key, such as ("both", kind) or ("rules", "default only")."""
        return int(self._sums[key].total) if key in self._sums else 0

    def tables(self) -> list[Table]:
        """What there is to say, as tables, `differences` last; of nothing answered, or nothing judged, none."""
        tables = [self._by_kind(), self._by_keyword(), self._agreement()] if self.sums("answered").count else []
        tables += [self._by_call()] if self.judged else []
        return [*tables, self._differences()] if self.sums("answered").count else tables

    def untold(self) -> list[str]:
        """Why there are no tables, a line each."""
        if not self.calls:
            return ["no step makes a call, so there are no tables of feedback and of calls"]
        lines = [] if self.sums("answered").count else ["no call has tool feedback, so there are no tables of it"]
        return lines if self.judged else [*lines, "no call has a tool list in its prompt, so calls are not judged"]

    def _row(self, label: str, *key: str) -> list:
        count, sums = self.shares(*key)
        return [label, count, sums.share()]

    def _by_kind(self) -> Table:
        table = Table(
            "feedback_errors",
            f"Steps by kind of feedback, of {self.sums('answered').count:,} steps with tool feedback in "
            f"{self.trajectories:,} trajectories",
            ["feedback (rule default)", "steps", "% [95 %]", "release blocks too", "release misses"],
            note="Of the last row the rule release blocks those steps in which the rule default finds no error.",
        )
        for kind in self.kinds("default"):
            both = self.count("both", kind)
            row = self._row(kind, "default", kind)
            table.rows.append([*row, both, row[1] - both])
        row = self._row("any error", "rules", "default")
        both = self.count("rules", "both")
        table.rows.append([*row, both, row[1] - both])
        table.rows.append([*self._row("no error found", "rules", "fine"), self.count("rules", "release only"), None])
        return table

    def _by_keyword(self) -> Table:
        table = Table(
            "release_keywords",
            "Steps that the released rule blocks, by its first keyword that occurs",
            ["keyword (rule release)", "steps", "% [95 %]", "default blocks too", "default keeps"],
        )
        for kind in self.kinds("release"):
            both, row = self.count("release both", kind), self._row(kind, "release", kind)
            table.rows.append([*row, both, row[1] - both])
        both, row = self.count("rules", "both"), self._row("any keyword", "rules", "release")
        table.rows.append([*row, both, row[1] - both])
        return table

    def _agreement(self) -> Table:
        table = Table("rules", "The two rules side by side", ["blocked by", "steps", "% [95 %]"])
        for name in ("both", "default only", "release only", "neither"):
            table.rows.append(self._row(name, "rules", name))
        return table

    def _by_call(self) -> Table:
        note = "A call may err in several ways and then counts in several rows. "
        documented = self.sums("documented").share()
        if documented is not None:
            note += (
                f"Of {documented.n:,} calls whose feedback is an error, {documented.value:.1f} % "
                f"[{documented.low:.1f}, {documented.high:.1f}] contradict the documentation."
            )
        table = Table(
            "call_errors",
            f"Calls by what the documentation says of them, of {self.sums('judged').count:,} calls with a tool list",
            ["call", "calls", "% [95 %]", "with feedback", "feedback is an error, % [95 %]"],
            note=note,
        )
        for kind in (*CALL_ERRORS, "any error", "fits"):
            failed = self.sums("failed", kind)
            label = "fits the documentation" if kind == "fits" else kind
            table.rows.append([*self._row(label, "call", kind), failed.count, failed.share()])
        return table

    def _differences(self) -> Table:
        table = Table(
            "differences",
            f"Steps on which the rules differ, {min(self.differ, SHOWN):,} of {self.differ:,}",
            ["trajectory", "step", "default", "release", "feedback"],
            note="All are in steps.csv.",
        )
        for one in self._differing:
            excerpt = " ".join(one.feedback[:400].split())[:80]
            table.rows.append(
                [str(one.id)[:40], one.step, one.default or "-", reason_kind(one.release or "-"), excerpt]
            )
        return table


def _kinds(one: StepErrors) -> set[str]:
    return {*one.calls, "any error"} if one.calls else {"fits"}


def _call_keys(one: StepErrors) -> Iterator[tuple[str, ...]]:
    for kind in _kinds(one):
        yield "call", kind


def _feedback_keys(one: StepErrors) -> Iterator[tuple[str, ...]]:
    """Keys under which an answered step counts."""
    default, release = one.default is not None, one.release is not None
    names = {(True, True): "both", (True, False): "default only", (False, True): "release only"}
    yield "rules", names.get((default, release), "neither")
    if one.default is not None:
        yield "rules", "default"
        yield "default", reason_kind(one.default)
        if release:
            yield "both", reason_kind(one.default)
    else:
        yield "rules", "fine"
    if one.release is not None:
        yield "rules", "release"
        yield "release", reason_kind(one.release)
        if default:
            yield "release both", reason_kind(one.release)
