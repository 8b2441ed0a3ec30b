"""A model's greedy replies to held-out queries, scored and kept."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from tljax.calls.render import render_call
from tljax.calls.tool import Call
from tljax.core.errors import InputError
from tljax.data.tokens import Tokenizer
from tljax.evaluate.benchmarks.results import PROMPT_TOO_LONG, score_example
from tljax.evaluate.benchmarks.sets import Query
from tljax.evaluate.score import METRICS, Score, summarize
from tljax.generate.batches import generate_replies
from tljax.generate.sampling import SampleOptions
from tljax.model import llama
from tljax.storage.atomic import write_jsonl


@dataclass(frozen=True, slots=True)
class ScoredReply:
    """A reply to a query and what it is worth."""

    text: str
    score: Score


def score_replies(
    params: llama.Params,
    c: llama.LlamaConfig,
    tokenizer: Tokenizer,
    sets: Mapping[str, Sequence[Query]],
    options: SampleOptions,
    rows: int,
) -> dict[str, list[ScoredReply]]:
    """Replies to all queries of all sets on the current mesh, `rows` at a time, and their scores.

    A prompt that leaves no room for a reply in the model's context is not asked, which counts as an error of form.
    Raises InputError where that is so of every one.
    """
    queries = [query for members in sets.values() for query in members]
    prompts = [tokenizer.encode(query.prompt)[0] for query in queries]
    fits = [i for i, prompt in enumerate(prompts) if len(prompt) + options.max_new_tokens <= c.max_tokens]
    if not fits:
        raise InputError(
            f"no prompt of {', '.join(sets)} leaves room for a reply: the model reads {c.max_tokens:,} tokens, of "
            f"which new_tokens takes {options.max_new_tokens:,}; lower it, or ask other sets"
        )
    asked = [prompts[i] for i in fits]
    replies = generate_replies(params, c, asked, options, key=jax.random.key(0), rows=rows)
    texts = {i: tokenizer.decode(reply.tokens).strip() for i, reply in zip(fits, replies, strict=True)}
    scored = (
        ScoredReply(texts.get(i, ""), score_example(query.example, texts.get(i), ("any",)))
        for i, query in enumerate(queries)
    )
    return {name: [next(scored) for _ in members] for name, members in sets.items()}


def format_summary(answers: Mapping[str, Sequence[ScoredReply]], seconds: float) -> str:
    """How many answers took how long, compilation included, for people."""
    found = [answer for members in answers.values() for answer in members]
    unasked = sum(answer.score.detail == PROMPT_TOO_LONG for answer in found)
    long = f" ({unasked:,} more too long for the model, which count as errors of form)" if unasked else ""
    return f"answered {len(found) - unasked:,} held-out queries in {seconds:.0f} s{long}"


def write_scored_replies(
    path: Path, sets: Mapping[str, Sequence[Query]], answers: Mapping[str, Sequence[ScoredReply]], dialect: str
) -> None:
    """Writes a JSON line a query: set, index, golden, prediction, level (0 none, 1 TS, 2 PI, 3 CF), kind and detail.

    golden: the first golden call as text; null where there is none, or none of plain values.
    """
    write_jsonl(
        path,
        (
            {
                "set": name,
                "index": query.example.index,
                "golden": _golden(query, dialect),
                "prediction": found.text,
                "level": found.score.levels["any"],
                "kind": found.score.kind,
                "detail": found.score.detail,
            }
            for name, members in sets.items()
            for query, found in zip(members, answers[name], strict=True)
        ),
    )


def _golden(query: Query, dialect: str) -> str | None:
    if not query.example.golden:
        return None
    try:
        json.dumps(query.golden.arguments)
    except TypeError:  # a value that leaves a choice is none of JSON's
        return None
    # Arguments that are not compared, such as keys of an API, are none of the answer.
    shown = {name: value for name, value in query.golden.arguments.items() if name not in query.example.ignored}
    return render_call(Call(query.golden.name, shown), dialect)


def scores_from_rows(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Score]]:
    """The scores in rows of `write_answers`, by set."""
    scores: dict[str, list[Score]] = {}
    for row in rows:
        scores.setdefault(row["set"], []).append(Score({"any": row["level"]}, row["kind"], row["detail"]))
    return scores


def scores_by_set(answers: Mapping[str, Sequence[ScoredReply]]) -> dict[str, list[Score]]:
    """The scores of answers, by set."""
    return {name: [one.score for one in members] for name, members in answers.items()}


def score_metrics(scores: Mapping[str, Sequence[Score]]) -> dict[str, float]:
    """TS, PI, CF and the share of every kind in percent, as "composition_TS", for metrics.jsonl and TensorBoard."""
    found = {}
    for name, members in scores.items():
        summary = summarize(members)
        found |= {f"{name}_{metric}": summary.scores[metric].percent for metric in METRICS}
        found |= {f"{name}_{kind}": share.percent for kind, share in summary.kinds.items()}
    return found
