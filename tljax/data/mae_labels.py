"""A JSONL file with verdicts of any critic (a person, a model, a program) on assistant steps, as a rule of MAE.

One line is {"id", "step", "keep", "reason"}. id is the id of the trajectory, or its row number where it has none; step
counts the assistant steps from 1, as launch/prepare_data.py numbers them. A step without a verdict is kept and counted.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tljax.core.errors import InputError, one_line
from tljax.core.json_fields import json_type_name, shorten
from tljax.data.trajectory import Trajectory
from tljax.storage.remote import local_path

FIELDS = ("id", "step", "keep", "reason")
ALLOWED = 'a line is {"id": id or row number, "step": number from 1, "keep": true or false, "reason": optional text}'
# A reason of the form "kind: text" keeps its own kind, by which the summaries count. The kind is at most this long.
MAX_KIND = 40


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the file. reason: None for a step to keep, else "kind: text"."""

    line: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class Labels:
    """The verdicts of a file by id and step; an id is a string, so that 7 and "7" are the same."""

    file: str
    verdicts: dict[str, dict[int, Verdict]]

    def reasons(self, trajectory: Trajectory, steps: int) -> list[str | None]:
        """Returns for each of the steps of a trajectory the reason to block it, or None to keep it."""
        verdicts = self.verdicts.get(str(trajectory.id), {})
        return [verdicts[step].reason if step in verdicts else None for step in range(1, steps + 1)]

    def check(self, trajectories: Iterable[Trajectory], rows_skipped: int) -> str:
        """Returns a note on the steps without a verdict, or "".

        Raises InputError for a verdict on a trajectory or a step that the source does not have, and for one whose id
        names two trajectories. Malformed rows are skipped, so with any of them the verdicts on unknown ids are counted.
        """
        rows: dict[str, int] = {}
        num_steps = without = 0
        for trajectory in trajectories:
            key = str(trajectory.id)
            steps = sum(turn.role == "assistant" for turn in trajectory.turns)
            verdicts = self.verdicts.get(key, {})
            if verdicts and key in rows:
                raise InputError(
                    f"{self._row(verdicts)}.id: {key!r:.60} names two trajectories of the source (rows {rows[key]} and "
                    f"{trajectory.row}); give them different ids"
                )
            rows[key] = trajectory.row
            for step, verdict in verdicts.items():
                if step > steps:
                    raise InputError(
                        f"data.mae {self.file}, row {verdict.line}.step: is {step}, but the trajectory (id {key!r:.60}"
                        f", row {trajectory.row} of the source) has {steps} assistant steps; number them from 1, as "
                        "launch/prepare_data.py does"
                    )
            num_steps += steps
            without += steps - len(verdicts)
        unknown = [key for key in self.verdicts if key not in rows]
        if unknown and not rows_skipped:
            raise InputError(
                f"{self._row(self.verdicts[unknown[0]])}.id: no trajectory of the source has the id {unknown[0]!r:.60}"
                f"{_nearest(unknown[0], rows)}; allowed: the id of a trajectory, or its row number where it has none"
            )
        notes = [f"{without:,} of {num_steps:,} steps have no verdict in {self.file} and are kept"] if without else []
        if unknown:
            notes.append(f"the verdicts of {self.file} on {len(unknown):,} ids match no row that was read")
        return "; ".join(notes)

    def _row(self, verdicts: dict[int, Verdict]) -> str:
        return f"data.mae {self.file}, row {min(verdict.line for verdict in verdicts.values())}"


def read_labels(file: str) -> Labels:
    """Returns the verdicts of a JSONL file. Raises InputError, with file and row, for a line that is not a verdict."""
    labels = Labels(file, {})
    try:
        with local_path(file, "config.data.mae").open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    _add(labels, line, number)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"data.mae: cannot read {file} ({one_line(error)}); allowed: a JSONL file in UTF-8, {ALLOWED}"
        ) from None
    if not labels.verdicts:
        raise InputError(f"data.mae {file}: holds no verdicts; {ALLOWED}")
    return labels


def _add(labels: Labels, line: str, number: int) -> None:
    location = f"data.mae {labels.file}, row {number}"
    try:
        fields = json.loads(line, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{location}: is not JSON ({one_line(error)}); {ALLOWED}") from None
    if not isinstance(fields, dict):
        raise InputError(f"{location}: is {json_type_name(fields)}, not an object; {ALLOWED}")
    for name in fields:
        if name not in FIELDS:
            raise InputError(f"{location}.{name:.40}: is no known field{_nearest(name, FIELDS)}; {ALLOWED}")
    key, step = _field(fields, "id", (str, int), location), _field(fields, "step", (int,), location)
    keep, reason = _field(fields, "keep", (bool,), location), fields.get("reason")
    if step < 1:
        raise InputError(f"{location}.step: is {step}; steps count from 1; {ALLOWED}")
    if reason is not None and not isinstance(reason, str):
        raise InputError(f"{location}.reason: is {json_type_name(reason)}, not a string; {ALLOWED}")
    verdicts = labels.verdicts.setdefault(str(key), {})
    if step in verdicts:
        raise InputError(
            f"{location}: is a second verdict on step {step} of id {str(key)!r:.60}, after row {verdicts[step].line}; "
            "remove one of them"
        )
    verdicts[step] = Verdict(number, None if keep else _reason(reason or ""))


def _field(fields: dict[str, Any], name: str, types: tuple[type, ...], location: str) -> Any:
    value = fields.get(name)
    if type(value) not in types:  # not isinstance: True is an int
        found = "is missing" if name not in fields else f"is {json_type_name(value)}: {shorten(value, 40)}"
        raise InputError(f"{location}.{name}: {found}; {ALLOWED}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field occurs twice")
    return fields


def _reason(text: str) -> str:
    """Returns "kind: text" on one line. The kind is "label" if the critic's reason has none."""
    text = " ".join(text.split())
    kind, colon, rest = text.partition(": ")
    return text if colon and kind and rest and len(kind) <= MAX_KIND else f"label: {text or 'blocked'}"


def _nearest(name: str, names: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name[:100], [other for _, other in zip(range(1000), names, strict=False)], 1)
    return f" (did you mean {nearest[0]!r:.60}?)" if nearest else ""
