"""Rows of dialogues -> a table of scores, a report as JSON, and transcripts."""

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
    """Returns rows by set, in order."""
    sets: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        sets.setdefault(row["set"], []).append(row)
    return sets


def dialogue_table(sets: Mapping[str, Sequence[Mapping[str, Any]]], notes: Sequence[str]) -> str:
    """Returns a block for each set: scores in percent with 95 % intervals and counts, and numbers of outcomes."""
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
    """Returns the report as JSON: the facts of the run, and each set's scores, outcomes, and rows without texts."""
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
    """Returns a dialogue as text, with errors marked beside each call."""
    outcome = row["outcome"] + (f" ({row['detail']})" if row["detail"] else "")
    if "success" in row:
        outcome += "" if row["success"] else f"; wanted: {row['wanted']}"
        outcome = ("solved, " if row["success"] else "not solved, ") + outcome
    lines = [f"=== {row['set']} {row['id']}: {outcome}", f"User: {row['query']}"]
    for exchange in row["exchanges"]:
        last = row["outcome"] == FINISH and exchange is row["exchanges"][-1]
        lines.append(f"Assistant: {exchange['reply']}")
        if "feedback" in exchange and not last:
            marks = [
                word
                for word, wrong in (("DE", exchange["documentation_error"]), ("CE", exchange["call_error"]))
                if wrong
            ]
            lines.append(f"Output: {exchange['feedback']}" + (f"   <- {', '.join(marks)}" if marks else ""))
    return "\n".join(lines) + "\n"


def transcripts(sets: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Returns all dialogues as text, in order."""
    return "\n".join(transcript(row) for rows in sets.values() for row in rows)
