"""Dialogues -> scores: DE, CE and VA, and for the toolbox the share of solved tasks.

The paper reports DE, CE and VA on ToolEyes without defining them, and its code does not compute them. The definitions
here are ours, so the figures cannot be compared with the paper's:

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
    """A score: `count` of `n`, and their share; the share is None if n is 0."""

    count: int
    n: int
    share: Share | None


def is_refusal(answer: str) -> bool:
    """Returns True if an answer is a refusal, such as "I cannot handle the task", which ToolEyes prescribes."""
    return _REFUSAL.search(" ".join(answer.replace("\u2019", "'").split())) is not None


def dialogue_row(request: DialogueRequest, dialogue: Dialogue) -> dict[str, Any]:
    """Returns a dialogue as a row of JSON, which holds all that the scores depend on."""
    calls = [exchange for exchange in dialogue.exchanges if exchange.result is not None]
    answer = dialogue.answer
    row: dict[str, Any] = {
        "set": request.set,
        "id": request.id,
        "query": request.query,
        "outcome": dialogue.outcome,
        "detail": dialogue.detail,
        "answer": answer,
        "valid": bool(answer and answer.strip()) and not is_refusal(answer or ""),
        "calls": len(calls),
        "documentation_errors": sum(exchange.undocumented is not None for exchange in calls),
        "call_errors": sum(exchange.result is not None and exchange.result.error for exchange in calls),
    }
    if request.task is not None and isinstance(dialogue.executor, ToolboxExecutor):
        check = check_solution(request.task, dialogue.executor.state, answer)
        row |= {"success": check.state and check.answer, "state_right": check.state, "answer_right": check.answer}
        row |= {"wanted": request.task.answer, "changes_state": bool(request.task.state)}
    row["exchanges"] = [_exchange_json(exchange) for exchange in dialogue.exchanges]
    return row | {"tokens": dialogue.tokens, "ended": dialogue.outcome == FINISH}


def _exchange_json(exchange: Exchange) -> dict[str, Any]:
    if exchange.result is None:
        return {"reply": exchange.reply}
    feedback = {"feedback": exchange.result.value, "call_error": exchange.result.error}
    return {"reply": exchange.reply} | feedback | {"documentation_error": exchange.undocumented}


def dialogue_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, DialogueScore]:
    """Returns the scores of one set's rows by the names in DEFINITIONS; toolbox tasks have more of them."""
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
    """Returns the number of dialogues with each outcome, in the order of OUTCOMES."""
    return {outcome: sum(row["outcome"] == outcome for row in rows) for outcome in OUTCOMES}
