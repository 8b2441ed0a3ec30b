"""Labelled feedback of tools, and the precision and recall of MAE's default rule on it.

`python -m tests.data.feedback_labels` prints one line for each half; a seeded hash of the text decides on the half.
The rule's single verdicts on the half "held out" were not looked at while it was written. Its texts were known to the
author of the rule, though, so the figures of the texts in public styles are optimistic.

feedback_labels.jsonl has texts in public error styles, feedback_labels_real.jsonl names texts of real files by a hash.
feedback_labels_others.jsonl has two sets by authors who did not know the rule. Each was measured before anybody looked
at its verdicts: precision 97.5 % and recall 78.0 % on the first, then, with the first set's faults mended, 94.0 % and
78.8 % on the second. Now both are known, and further texts of others are likely to score as those did.
A label says whether the call failed.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from tljax.data.mae_default import find_error
from tljax.data.reader import open_trajectories

REPO = Path(__file__).parents[2]
SEED = "feedback 1"
HALVES = ("development", "held out")


@dataclass(frozen=True)
class Labelled:
    text: str
    error: bool

    @property
    def half(self) -> str:
        """A property of the text alone, so that a further text moves no other one."""
        return HALVES[hashlib.sha256(f"{SEED}\n{self.text}".encode()).digest()[0] % 2]


def _rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()]


def written() -> list[Labelled]:
    """Returns the texts in public error styles."""
    return [Labelled(**row) for row in _rows("feedback_labels.jsonl")]


def others() -> dict[int, list[Labelled]]:
    """Returns the sets of texts whose authors did not know the rule, by their number."""
    rows = _rows("feedback_labels_others.jsonl")
    return {n: [Labelled(row["text"], row["error"]) for row in rows if row["set"] == n] for n in (1, 2)}


def real(folder: Path, cache_dir: str | None = None) -> list[Labelled]:
    """Returns the labelled texts of the real files in `folder`."""
    rows = _rows("feedback_labels_real.jsonl")
    texts = {}
    for file in sorted({row["file"] for row in rows}):
        for trajectory in open_trajectories(str(folder / file), "refuse", cache_dir).trajectories():
            for turn in trajectory.turns:
                if turn.role == "function":
                    texts[file, hashlib.sha256(turn.text.encode()).hexdigest()[:16]] = turn.text
    return [Labelled(texts[row["file"], row["sha256"]], row["error"]) for row in rows]


@dataclass(frozen=True)
class Scores:
    """Counts of texts: errors that the rule found, successes that it took for errors, errors that it missed."""

    found: int
    false: int
    missed: int

    @property
    def precision(self) -> float:
        return self.found / (self.found + self.false)

    @property
    def recall(self) -> float:
        return self.found / (self.found + self.missed)


def measure(labelled: list[Labelled]) -> Scores:
    verdicts = [(row.error, find_error(row.text) is not None) for row in labelled]
    return Scores(verdicts.count((True, True)), verdicts.count((False, True)), verdicts.count((True, False)))


def main() -> None:
    sources = {"written": written()}
    if (folder := REPO.parent / "shared" / "data" / "train").is_dir():
        sources["real"] = real(folder)
    parts = {
        f"{source}, {half}": [row for row in labelled if row.half == half]
        for source, labelled in sources.items()
        for half in HALVES
    }
    parts |= {f"by others, set {number}": labelled for number, labelled in others().items()}
    for name, rows in parts.items():
        scores, errors = measure(rows), sum(row.error for row in rows)
        print(
            f"{name}: {len(rows)} texts, {errors} errors; precision {scores.precision:.1%}, recall {scores.recall:.1%}"
        )


if __name__ == "__main__":
    main()
