"""A config's source and tools -> the tasks that dialogues begin with: to train on, and sets of held-out ones."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tljax.agent.dialogues import DialogueRequest, query_requests, toolbox_requests, toolbox_task_request, tools_hash
from tljax.agent.loop import DialogueLimits, has_room_for_reply
from tljax.core.errors import InputError, locate_errors
from tljax.data.prompt import Dialect
from tljax.data.reader import format_first_errors
from tljax.data.rows import held_out_trajectories
from tljax.data.tokenizer import Tokenizer
from tljax.evaluate.in_training import HELD_OUT_ROWS, TOOLBOX
from tljax.model.llama import LlamaConfig

TRAIN_SPLIT = "train"

DialogueSets = dict[str, list[DialogueRequest]]


@dataclass(frozen=True)
class DialogueTasks:
    """The tasks of a source.

    train: the tasks to train on. sets: the held-out tasks that eval.sets names, by set. limits: those of every
    dialogue. summary: lines for people. content: a hash of `train` and of the tools' file; a run that resumes refuses
    others by it.
    """

    train: list[DialogueRequest]
    sets: DialogueSets
    limits: DialogueLimits
    summary: str
    content: str

    @property
    def longest(self) -> int:
        """The number of tokens before the last reply of the longest dialogue that the limits allow."""
        return self.limits.tokens - self.limits.new_tokens


def dialogue_limits(config: Any, c: LlamaConfig) -> DialogueLimits:
    """Returns the limits of configs/ppo.py; no dialogue is longer than the model can read."""
    rollout = config.rollout
    longest = min(rollout.max_dialogue_tokens or c.max_tokens, c.max_tokens)
    return DialogueLimits(rollout.max_turns, longest, rollout.max_new_tokens, rollout.max_repeats)


def load_tasks(config: Any, tokenizer: Tokenizer, dialect: Dialect, limits: DialogueLimits) -> DialogueTasks:
    """Returns the tasks of configs/ppo.py.

    data.source = toolbox gives toolbox.trajectories tasks of the split "train", whose tools run; a file gives its rows
    (`agent.dialogues.query_requests`), whose calls run by config.tools, or are answered by a mock. The fraction
    data.eval_fraction of them is held out, and tasks whose prompts are longer than rollout.max_prompt_tokens, or leave
    no room for a reply, are left out. Raises InputError for a bad file, and if no task is left to train on.
    """
    requests = _read_requests(config, dialect)
    lengths = _prompt_lengths(requests, tokenizer)
    longest = config.rollout.max_prompt_tokens
    fits = [length <= longest and has_room_for_reply(length, limits) for length in lengths]
    held_out = set(held_out_trajectories(len(requests), config.data.eval_fraction, config.seed).tolist())
    train = [request for i, request in enumerate(requests) if fits[i] and i not in held_out]
    kept = [request for i, request in enumerate(requests) if fits[i] and i in held_out]
    summary = (
        f"tasks: {len(requests):,} of {config.data.source}: {len(train):,} to train on, {len(kept):,} held out, "
        f"{len(fits) - sum(fits):,} left out, whose prompts are longer than {longest:,} tokens"
    )
    if not train:
        raise InputError(
            f"{config.data.source}: no task is left to train on; the shortest prompt has {min(lengths, default=0):,} "
            f"tokens; raise config.rollout.max_prompt_tokens = {longest:,} or rollout.max_dialogue_tokens"
        )
    sets, notes = _held_out_sets(config, dialect, tokenizer, limits, kept)
    content = _content_hash(train, tools_hash(config.tools) if config.tools else "")
    return DialogueTasks(train, sets, limits, "\n".join([summary, *notes]), content)


def _read_requests(config: Any, dialect: Dialect) -> list[DialogueRequest]:
    if config.data.source == TOOLBOX:
        seed = config.toolbox.seed
        return [toolbox_task_request(seed, TRAIN_SPLIT, i, dialect) for i in range(config.toolbox.trajectories)]
    tools = os.path.expanduser(config.tools)
    requests = query_requests(config.data.source, dialect, config.finish, tools, config.tool_seconds)
    without = [request.id for request in requests if request.row.get("answer") is None]
    if 0 < len(without) < len(requests):
        raise InputError(
            f"{config.data.source}: {len(without):,} of {len(requests):,} rows have no field answer, the first one "
            f"{without[0]!r}; give the right answer in every row, or in none"
        )
    return requests


def _prompt_lengths(requests: Sequence[DialogueRequest], tokenizer: Tokenizer) -> list[int]:
    lengths = []
    for request in requests:
        with locate_errors(f"set {request.set}, {request.id}"):
            lengths.append(len(tokenizer.encode(request.opening.prompt)[0]))
    return lengths


def _held_out_sets(
    config: Any, dialect: Dialect, tokenizer: Tokenizer, limits: DialogueLimits, kept: list[DialogueRequest]
) -> tuple[DialogueSets, list[str]]:
    """Returns at most eval.queries tasks of every set of eval.sets, and lines on what is left out.

    A task without room for a reply is left out; the prompts of held-out tasks may be of any length otherwise.
    """
    sets: DialogueSets = {}
    for name in eval_set_names(config):
        if name == TOOLBOX:
            for request in toolbox_requests(config.eval.queries, dialect):
                sets.setdefault(request.set, []).append(request)
        else:
            sets[name] = kept[: config.eval.queries]
    notes = []
    for name, requests in list(sets.items()):
        lengths = _prompt_lengths(requests, tokenizer)
        long = [f"{r.id}: {n:,} tokens" for r, n in zip(requests, lengths, strict=True) if not _fits(n, config, limits)]
        sets[name] = [r for r, n in zip(requests, lengths, strict=True) if _fits(n, config, limits)]
        if long:
            notes += [f"note:  {name}: {len(long):,} tasks leave no room for a reply", *format_first_errors(long)]
        if not sets[name]:
            notes.append(f"note:  eval.sets names {name}, which has no tasks; data.eval_fraction holds tasks out")
            del sets[name]
    return sets, notes


def _fits(length: int, config: Any, limits: DialogueLimits) -> bool:
    return length + config.eval.new_tokens <= limits.tokens


def eval_set_names(config: Any) -> list[str]:
    """Returns the names in eval.sets. Raises InputError for any but held_out and toolbox."""
    names = list(dict.fromkeys(name.strip() for name in config.eval.sets.split(",") if name.strip()))
    for name in names:
        if name not in (HELD_OUT_ROWS, TOOLBOX):
            raise InputError(
                f"config.eval.sets names {name!r}; allowed with rollout.turns = multi, separated by commas: "
                f"{HELD_OUT_ROWS} (tasks that data.eval_fraction holds out) and {TOOLBOX} (its two held-out splits)"
            )
    return names


def _content_hash(requests: Sequence[DialogueRequest], tools: str) -> str:
    digest = hashlib.sha256(tools.encode())
    for request in requests:
        digest.update(repr((request.id, request.opening.prompt)).encode() + b"\n")
    return digest.hexdigest()
