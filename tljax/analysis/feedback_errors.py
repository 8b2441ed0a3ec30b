"""Trajectories -> which steps failed, by two MAE rules on the tool feedback and by the tools' documentation.

This is the first analysis of TL-Training (arXiv 2412.15495): training data contains calls that failed.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tljax.analysis.call_errors import CALL_ERRORS, call_errors
from tljax.analysis.tables import Table
from tljax.data.mae import Rule, load_rule
from tljax.data.trajectory import Trajectory
from tljax.evaluate.intervals import ClusteredSums

MAX_SHOWN = 20  # the report lists so many of the steps on which the rules differ


@dataclass(frozen=True, slots=True)
class StepErrors:
    """The errors of one step, the `step`-th assistant turn from 1.

    answered: its call has tool feedback. default, release: the reasons of the two rules; None if they see no error, or
    if there is no feedback. calls: kinds of call error; None if the step has no call, or its prompt no tool list.
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
    """Returns the kind in a reason "kind: excerpt"; for the rule release it is the keyword."""
    return reason.partition(": ")[0].removeprefix("keyword ")


def find_step_errors(trajectory: Trajectory) -> list[StepErrors]:
    """Returns the errors of every assistant turn, in order."""
    default, release = (rule(trajectory) for rule in (_DEFAULT, _RELEASE))
    errors = []
    positions = [i for i, turn in enumerate(trajectory.turns) if turn.role == "assistant"]
    for k, i in enumerate(positions):
        turn = trajectory.turns[i]
        after = trajectory.turns[i + 1] if i + 1 < len(trajectory.turns) else None
        answered = turn.call is not None and after is not None and after.role == "function"
        documented = turn.call is not None and bool(trajectory.tools)
        errors.append(
            StepErrors(
                trajectory.id,
                k + 1,
                turn.call.name if turn.call is not None else "",
                answered,
                default[k].reason if answered else None,
                release[k].reason if answered else None,
                call_errors(turn.call, trajectory.tools) if turn.call is not None and documented else None,
                after.text if after is not None and answered else "",
            )
        )
    return errors


_DEFAULT: Rule = load_rule("default")
_RELEASE: Rule = load_rule("release")


class FeedbackCounts:
    """Counts over trajectories; `tables` returns the analysis. Memory does not grow with their number."""

    def __init__(self) -> None:
        self.trajectories = self.steps = self.calls = self.documented = 0
        self._sums: dict[tuple[str, ...], ClusteredSums] = {}
        self._differing: list[StepErrors] = []
        self.num_different = 0

    def add(self, steps: Sequence[StepErrors]) -> None:
        """Adds all steps of one trajectory."""
        self.trajectories += 1
        self.steps += len(steps)
        self.calls += sum(bool(step.name) for step in steps)
        answered = [step for step in steps if step.answered]
        documented = [step for step in steps if step.calls is not None]
        self.documented += len(documented)
        self._count(("answered",), len(answered), (key for step in answered for key in _feedback_keys(step)))
        self._count(("checked",), len(documented), (key for step in documented for key in _call_keys(step)))
        both = [step for step in documented if step.answered]
        for kind in {kind for step in both for kind in _kinds(step)}:
            members = [step for step in both if kind in _kinds(step)]
            self.sums("failed", kind).add(sum(step.default is not None for step in members), len(members))
        failed = [step for step in both if step.default is not None]
        self.sums("documented").add(sum(bool(step.calls) for step in failed), len(failed))
        for step in answered:
            if (step.default is None) != (step.release is None):
                self.num_different += 1
                if len(self._differing) < MAX_SHOWN:
                    self._differing.append(step)

    def sums(self, *key: str) -> ClusteredSums:
        """Returns the sums under a key, such as ("failed", kind)."""
        return self._sums.setdefault(key, ClusteredSums())

    def _count(self, unit: tuple[str, ...], n: int, keys: Iterable[tuple[str, ...]]) -> None:
        """Adds a group of n observations; `keys` has each key as often as an observation counts for it."""
        hits = Counter(keys)
        self.sums(*unit).add(n, n)
        for key in hits:
            self.sums(*key)
        for key, count in hits.items():
            self._sums[key].add(count, n)

    def shares(self, *key: str) -> tuple[int, ClusteredSums]:
        """Returns how many steps count for a key, and its sums, which include the groups in which no step counts."""
        hits = self._sums.get(key, ClusteredSums())
        unit = self.sums("checked" if key[0] == "call" else "answered")
        # A group without a hit adds its size alone.
        sums = ClusteredSums(unit.groups, unit.count, hits.total, hits.total_squared, unit.count_squared, hits.product)
        return int(hits.total), sums

    def kinds(self, rule: str) -> list[str]:
        """Returns the error kinds of a rule, the most frequent first."""
        totals = [(key[1], sums.total) for key, sums in self._sums.items() if key[0] == rule and len(key) == 2]
        return [kind for kind, _ in sorted(totals, key=lambda pair: (-pair[1], pair[0]))]

    def count(self, *key: str) -> int:
        """Returns how many steps count for a key, such as ("both", kind) or ("rules", "default only")."""
        return int(self._sums[key].total) if key in self._sums else 0

    def tables(self) -> list[Table]:
        """Returns the tables, `differences` last; without those for which there are no steps (see `missing_tables`)."""
        tables = [self._by_kind(), self._by_keyword(), self._agreement()] if self.sums("answered").count else []
        tables += [self._by_call()] if self.documented else []
        return [*tables, self._differences()] if self.sums("answered").count else tables

    def missing_tables(self) -> list[str]:
        """Returns a line for each reason why tables are missing."""
        if not self.calls:
            return ["no step makes a call, so there are no tables of feedback and of calls"]
        lines = [] if self.sums("answered").count else ["no call has tool feedback, so there are no tables of it"]
        return (
            lines
            if self.documented
            else [*lines, "no call has a tool list in its prompt, so there is no table of call errors"]
        )

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
            f"Calls by what the documentation says of them, of {self.sums('checked').count:,} calls with a tool list",
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
            f"Steps on which the rules differ, {min(self.num_different, MAX_SHOWN):,} of {self.num_different:,}",
            ["trajectory", "step", "default", "release", "feedback"],
            note="All are in steps.csv.",
        )
        for step in self._differing:
            excerpt = " ".join(step.feedback[:400].split())[:80]
            table.rows.append(
                [str(step.id)[:40], step.step, step.default or "-", reason_kind(step.release or "-"), excerpt]
            )
        return table


def _kinds(step: StepErrors) -> set[str]:
    return {*step.calls, "any error"} if step.calls else {"fits"}


def _call_keys(step: StepErrors) -> Iterator[tuple[str, ...]]:
    for kind in _kinds(step):
        yield "call", kind


def _feedback_keys(step: StepErrors) -> Iterator[tuple[str, ...]]:
    """Yields the keys under which a step with feedback counts."""
    default, release = step.default is not None, step.release is not None
    names = {(True, True): "both", (True, False): "default only", (False, True): "release only"}
    yield "rules", names.get((default, release), "neither")
    if step.default is not None:
        yield "rules", "default"
        yield "default", reason_kind(step.default)
        if release:
            yield "both", reason_kind(step.default)
    else:
        yield "rules", "fine"
    if step.release is not None:
        yield "rules", "release"
        yield "release", reason_kind(step.release)
        if default:
            yield "release both", reason_kind(step.release)
