"""Model and queries -> greedy replies with their scores -> rows of a JSONL file."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from tljax.calls.render import render_call
from tljax.calls.tool import Call
from tljax.core.errors import InputError, locate_errors
from tljax.data.prompt import call_dialect
from tljax.data.tokenizer import Tokenizer
from tljax.evaluate.benchmarks.results import PROMPT_TOO_LONG, score_example
from tljax.evaluate.benchmarks.sets import Query
from tljax.evaluate.score import METRICS, Score, summarize
from tljax.generate.sampler import Sampler
from tljax.generate.sampling import SampleOptions
from tljax.model import llama
from tljax.storage.atomic import write_jsonl


@dataclass(frozen=True, slots=True)
class ScoredReply:
    """The reply to a query, and its score."""

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
    """Generates replies to the queries of all sets on the current mesh, `rows` at a time, and scores them.

    A prompt that leaves no room for a reply in the model's context gets no reply, which counts as a format error.
    Raises InputError if no prompt leaves room.
    """
    queries = [query for members in sets.values() for query in members]
    prompts = []
    for query in queries:
        with locate_errors(f"query {query.example.id}"):
            prompts.append(tokenizer.encode(query.prompt)[0])
    fits = [i for i, prompt in enumerate(prompts) if len(prompt) + options.max_new_tokens <= c.max_tokens]
    if not fits:
        raise InputError(
            f"no prompt of {', '.join(sets)} leaves room for a reply: the model reads {c.max_tokens:,} tokens, of "
            f"which new_tokens takes {options.max_new_tokens:,}; lower it, or name other sets"
        )
    fitting = [prompts[i] for i in fits]
    replies = Sampler(params, c, options, key=jax.random.key(0), rows=rows).generate(fitting)
    texts = {i: tokenizer.decode(reply.tokens).strip() for i, reply in zip(fits, replies, strict=True)}
    scored = (
        ScoredReply(texts.get(i, ""), score_example(query.example, texts.get(i), ("any",)))
        for i, query in enumerate(queries)
    )
    return {name: [next(scored) for _ in members] for name, members in sets.items()}


def format_summary(replies: Mapping[str, Sequence[ScoredReply]], seconds: float) -> str:
    """Says in one line how many queries were answered, and in which time, compilation included."""
    every_reply = [reply for members in replies.values() for reply in members]
    num_long = sum(reply.score.detail == PROMPT_TOO_LONG for reply in every_reply)
    long = f" ({num_long:,} more too long for the model, which count as format errors)" if num_long else ""
    return f"answered {len(every_reply) - num_long:,} held-out queries in {seconds:.0f} s{long}"


def write_scored_replies(
    path: Path, sets: Mapping[str, Sequence[Query]], replies: Mapping[str, Sequence[ScoredReply]], dialect: str
) -> None:
    """Writes a JSON line for each query: set, index, golden, prediction, level (as in `score`), kind and detail.

    golden: the first golden call as text; null if there is none, or if a value of it cannot be written as JSON.
    """
    write_jsonl(
        path,
        (
            {
                "set": name,
                "index": query.example.index,
                "golden": _golden(query, dialect),
                "prediction": reply.text,
                "level": reply.score.levels["any"],
                "kind": reply.score.kind,
                "detail": reply.score.detail,
            }
            for name, members in sets.items()
            for query, reply in zip(members, replies[name], strict=True)
        ),
    )


def _golden(query: Query, dialect: str) -> str | None:
    if not query.example.golden:
        return None
    try:
        json.dumps(query.golden.arguments)
    except TypeError:  # AnyValue and Choices are not JSON
        return None
    # Arguments that are not compared, such as the keys of an API, are not part of the answer.
    compared = {name: value for name, value in query.golden.arguments.items() if name not in query.example.ignored}
    return render_call(Call(query.golden.name, compared), call_dialect(dialect))


def scores_from_rows(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Score]]:
    """Returns the scores in rows of `write_scored_replies`, by set."""
    scores: dict[str, list[Score]] = {}
    for row in rows:
        scores.setdefault(row["set"], []).append(Score({"any": row["level"]}, row["kind"], row["detail"]))
    return scores


def scores_by_set(replies: Mapping[str, Sequence[ScoredReply]]) -> dict[str, list[Score]]:
    """Returns the scores of the replies, by set."""
    return {name: [reply.score for reply in members] for name, members in replies.items()}


def score_metrics(scores: Mapping[str, Sequence[Score]]) -> dict[str, float]:
    """Returns TS, PI, CF and the share of every kind in percent, named like "composition_TS", for the metrics files."""
    metrics = {}
    for name, members in scores.items():
        summary = summarize(members)
        metrics |= {f"{name}_{metric}": summary.scores[metric].percent for metric in METRICS}
        metrics |= {f"{name}_{kind}": share.percent for kind, share in summary.kinds.items()}
    return metrics
