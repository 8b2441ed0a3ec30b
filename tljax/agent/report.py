"""Scores of dialogues as a table, as JSON, and dialogues as text that people read."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tljax.agent.loop import FINISH
from tljax.agent.scores import DEFINITIONS, DialogueScore, count_outcomes, dialogue_scores

NOTE = "DE, CE, VA by our definitions, as the paper gives none"
MOCK = "a mock answers the calls: it checks them against the tool list and runs nothing, so CE is DE"
UNITS = {"DE": "calls", "CE": "calls", "VA": "queries", "success": "tasks", "answer": "tasks"}
UNITS["state"] = "tasks that change the state"


def rows_by_set(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows by their set, in order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["set"], []).append(row)
    return found


def dialogue_table(sets: Mapping[str, Sequence[Mapping[str, Any]]], notes: Sequence[str]) -> str:
    """A block a set: every score in percent with its 95 % interval and what it counts, and how the dialogues ended."""
    lines, names = [], dict[str, None]()
    for name, rows in sets.items():
        figures = dialogue_scores(rows)
        names |= dict.fromkeys(figures)
        replies = sum(len(row["exchanges"]) for row in rows)
        lines.append(f"{name}: {len(rows):,} dialogues, {replies / len(rows):.1f} replies each")
        lines += [_line(score, figure) for score, figure in figures.items()]
        ends = ", ".join(f"{outcome} {count:,}" for outcome, count in count_outcomes(rows).items() if count)
        lines.append(f"  ends      {ends}")
    lines += [f"{name:<9}{DEFINITIONS[name]}" for name in names]
    return "\n".join([*lines, *notes])


def _line(score: str, figure: DialogueScore) -> str:
    label = f"  {'  ' if score in ('answer', 'state') else ''}{score}"
    if figure.share is None:
        return f"{label:<10}     -                  no {UNITS[score]}"
    percent, low, high = figure.share
    interval = f"[{low:.1f}, {high:.1f}]"
    return f"{label:<10}{percent:>6.1f} {interval:<16}{figure.count:>7,} of {figure.n:,} {UNITS[score]}"


def report_json(sets: Mapping[str, Sequence[Mapping[str, Any]]], notes: Sequence[str], facts: dict[str, Any]) -> str:
    """The report as JSON: what was run, and of every set its scores, ends, and its rows without their texts."""
    listed, meant = [], {}
    for name, rows in sets.items():
        scores = {
            score: {"count": figure.count, "n": figure.n} | (figure.share._asdict() if figure.share else {})
            for score, figure in dialogue_scores(rows).items()
        }
        meant |= {score: DEFINITIONS[score] for score in scores}
        left_out = ("set", "query", "exchanges", "tokens", "ended", "wanted")
        brief = [
            {"index": i} | {key: value for key, value in row.items() if key not in left_out}
            for i, row in enumerate(rows)
        ]
        listed.append({"name": name, "n": len(rows), "scores": scores, "ends": count_outcomes(rows), "rows": brief})
    report = facts | {"definitions": meant, "notes": list(notes), "sets": listed}
    return json.dumps(report, ensure_ascii=False, indent=1) + "\n"


def transcript(row: Mapping[str, Any]) -> str:
    """One dialogue as it was held, with what went wrong beside each call."""
    told = row["outcome"] + (f" ({row['detail']})" if row["detail"] else "")
    if "success" in row:
        told += "" if row["success"] else f"; wanted: {row['wanted']}"
        told = ("solved, " if row["success"] else "not solved, ") + told
    lines = [f"=== {row['set']} {row['id']}: {told}", f"User: {row['query']}"]
    for one in row["exchanges"]:
        last = row["outcome"] == FINISH and one is row["exchanges"][-1]
        lines.append(f"Assistant: {one['reply']}")
        if "feedback" in one and not last:
            marks = [word for word, wrong in (("DE", one["documentation_error"]), ("CE", one["call_error"])) if wrong]
            lines.append(f"Output: {one['feedback']}" + (f"   <- {', '.join(marks)}" if marks else ""))
    return "\n".join(lines) + "\n"


def transcripts(sets: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """All dialogues, one below the other."""
    return "\n".join(transcript(row) for rows in sets.values() for row in rows)
