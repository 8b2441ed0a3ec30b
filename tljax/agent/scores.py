"""Dialogues -> scores: DE, CE and VA, and in the toolbox the share of tasks solved.

The paper reports DE, CE and VA on ToolEyes without defining them, and its code does not compute them. The definitions
here are ours, and figures by them are not the paper's:

* DE, documentation error: calls that contradict the tool list (an unknown tool, a parameter that the documentation
  lacks, a required one missing), of all calls, `finish` included;
* CE, call error: calls whose execution gave an error (an exception's text; of a user's tool also what the default MAE
  rule takes for an error), of all calls, `finish` included;
* VA, valid answer: queries whose dialogue ends in `finish` with an answer that is neither empty nor a refusal, of all
  queries;
* success, in the toolbox: tasks that end in `finish` with the results asked for as the answer, and with the state that
  the solution leaves, of all tasks.

`ask_to_user` is a call like others and no error where it is listed; nobody answers, and its feedback says so. Calls of
one dialogue resemble each other: intervals of DE and CE take dialogues, not calls, as independent.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tljax.agent.dialogues import DialogueRequest, check_solution
from tljax.agent.executors import ToolboxExecutor
from tljax.agent.loop import FINISH, OUTCOMES, Dialogue, Exchange
from tljax.evaluate.intervals import ClusteredSums
from tljax.evaluate.score import Share, wilson_share

DEFINITIONS = {
    "success": "tasks that end in finish with the results asked for, and the state that the solution leaves",
    "answer": "... with the results asked for",
    "state": "... with the state that the solution leaves, after whatever end, of tasks that change it",
    "VA": "queries that end in finish with an answer that is neither empty nor a refusal",
    "DE": "calls that contradict the tool list: unknown tool, undocumented parameter, required one missing",
    "CE": "calls whose execution gave an error",
}

_VERBS = "handle|help|assist|answer|complete|solve|fulfil+|finish|provide|process|perform|do|access"
_REFUSAL = re.compile(
    rf"\b(?:I|we)(?: am| was| are| were|'m|'re)? (?:cannot|can ?not|can't|could not|couldn't|unable to|not able to)"
    rf" (?:\w+ ){{0,2}}?(?:{_VERBS})\b|\b(?:I|we) (?:do not|don't) know\b"
    r"|^\W*(?:I am |I'm |we are )?(?:sorry|unable to)\b|\bcannot handle the task\b",
    re.IGNORECASE,
)


class DialogueScore(NamedTuple):
    """A share with what it counts: `count` of `n`; share is None where there is nothing to count."""

    count: int
    n: int
    share: Share | None


def is_refusal(answer: str) -> bool:
    """Whether an answer says that there is none: "I cannot handle the task", as ToolEyes asks for, and its like."""
    return _REFUSAL.search(" ".join(answer.replace("\u2019", "'").split())) is not None


def dialogue_row(asked: DialogueRequest, dialogue: Dialogue) -> dict[str, Any]:
    """All that is kept of a dialogue, as JSON; scores are made of these rows alone."""
    calls = [one for one in dialogue.exchanges if one.result is not None]
    answer = dialogue.answer
    row: dict[str, Any] = {
        "set": asked.set,
        "id": asked.id,
        "query": asked.query,
        "outcome": dialogue.outcome,
        "detail": dialogue.detail,
        "answer": answer,
        "valid": bool(answer and answer.strip()) and not is_refusal(answer or ""),
        "calls": len(calls),
        "documentation_errors": sum(one.undocumented is not None for one in calls),
        "call_errors": sum(one.result is not None and one.result.error for one in calls),
    }
    if asked.task is not None and isinstance(dialogue.executor, ToolboxExecutor):
        found = check_solution(asked.task, dialogue.executor.state, answer)
        row |= {"success": found.state and found.answer, "state_right": found.state, "answer_right": found.answer}
        row |= {"wanted": asked.task.answer, "changes_state": bool(asked.task.state)}
    row["exchanges"] = [_exchange(one) for one in dialogue.exchanges]
    return row | {"tokens": dialogue.tokens, "ended": dialogue.outcome == FINISH}


def _exchange(one: Exchange) -> dict[str, Any]:
    if one.result is None:
        return {"reply": one.reply}
    feedback = {"feedback": one.result.value, "call_error": one.result.error}
    return {"reply": one.reply} | feedback | {"documentation_error": one.undocumented}


def dialogue_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, DialogueScore]:
    """The scores of one set's rows, by the names in DEFINITIONS; those of tasks where the rows are tasks."""
    figures = {}
    if rows and "success" in rows[0]:
        changing = [row for row in rows if row["changes_state"]]
        figures = {"success": _of_dialogues(rows, "success"), "answer": _of_dialogues(rows, "answer_right")}
        figures["state"] = _of_dialogues(changing, "state_right")
    figures["VA"] = _of_dialogues(rows, "valid")
    return figures | {"DE": _of_calls(rows, "documentation_errors"), "CE": _of_calls(rows, "call_errors")}


def _of_dialogues(rows: Sequence[Mapping[str, Any]], field: str) -> DialogueScore:
    count, n = sum(row[field] for row in rows), len(rows)
    return DialogueScore(count, n, wilson_share(count / n, n) if n else None)


def _of_calls(rows: Sequence[Mapping[str, Any]], field: str) -> DialogueScore:
    sums = ClusteredSums()
    for row in rows:
        sums.add(row[field], row["calls"])
    share = sums.share()
    count, n = sum(row[field] for row in rows), sum(row["calls"] for row in rows)
    return DialogueScore(count, n, Share(share.value, share.low, share.high) if share else None)


def count_outcomes(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many dialogues ended in which way, in the order of OUTCOMES."""
    return {outcome: sum(row["outcome"] == outcome for row in rows) for outcome in OUTCOMES}
