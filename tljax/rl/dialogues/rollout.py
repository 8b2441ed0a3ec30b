"""Tasks -> sampled dialogues with their rewards, and the file in which the rollout of an update is kept."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from tljax.agent.dialogues import DialogueRequest
from tljax.agent.loop import Dialogue, DialogueLimits, DialoguePolicy, hold_dialogues
from tljax.core.errors import InputError
from tljax.data.tokenizer import Tokenizer
from tljax.generate.batches import Reply
from tljax.generate.sampler import Sampler
from tljax.rl.dialogues.rewards import DialogueRewards
from tljax.rl.irm import Reward
from tljax.storage.atomic import read_jsonl, write_jsonl


@dataclasses.dataclass(frozen=True)
class Turn:
    """A sampled reply in a dialogue, and the number of tokens before it."""

    start: int
    reply: Reply


@dataclasses.dataclass(frozen=True)
class SampledDialogue:
    """A dialogue that the policy has held.

    task: the number of its task. row: the dialogue as JSON (`rewards.dialogue_json`), whose "tokens" are the prompt,
    the replies without end tokens, and the feedback between them. turns, rewards: one of each for every reply.
    """

    task: int
    row: dict[str, Any]
    turns: list[Turn]
    rewards: list[Reward]


def dialogue_policy(sampler: Sampler, limits: DialogueLimits) -> DialoguePolicy:
    """Returns the policy of a sampler. A reply depends on its dialogue's number and turn, not on other dialogues."""

    def policy(dialogues: Sequence[Dialogue]) -> list[Reply]:
        ids = [dialogue.number * limits.turns + len(dialogue.replies) for dialogue in dialogues]
        replies: dict[int, Reply] = {}
        for batch in sampler.generate_batches([dialogue.tokens for dialogue in dialogues], ids):
            replies |= batch
        return [replies[i] for i in range(len(dialogues))]

    return policy


def sample_dialogues(
    requests: Sequence[DialogueRequest],
    sampler: Sampler,
    tokenizer: Tokenizer,
    limits: DialogueLimits,
    *,
    calls_at_once: int,
) -> list[Dialogue]:
    """Returns the ended dialogue of every request, in order; `sampler.rows` of them are held at a time."""
    openings = [(number, request.opening) for number, request in enumerate(requests)]
    policy = dialogue_policy(sampler, limits)
    rounds = hold_dialogues(openings, policy, tokenizer, limits, rows=sampler.rows, calls_at_once=calls_at_once)
    return sorted((dialogue for ended in rounds for dialogue in ended), key=lambda dialogue: dialogue.number)


def score_dialogues(
    tasks: Sequence[int],
    requests: Sequence[DialogueRequest],
    dialogues: Sequence[Dialogue],
    rewards: DialogueRewards,
) -> list[SampledDialogue]:
    """Returns the dialogues with the rewards of their turns; tasks: the number of each one's task.

    Raises InputError if none of them could begin.
    """
    if not any(dialogue.replies for dialogue in dialogues):
        raise InputError(f"none of {len(dialogues)} dialogues could begin; the first: {dialogues[0].detail}")
    scored = rewards.score(list(zip(requests, dialogues, strict=True)))
    return [
        SampledDialogue(task, row, [Turn(start, reply) for start, reply in dialogue.replies], values)  # pyright: ignore
        for task, dialogue, (row, values) in zip(tasks, dialogues, scored, strict=True)
    ]


def with_no_end(dialogues: Sequence[SampledDialogue], no_end: float) -> list[SampledDialogue]:
    """Returns the dialogues with `no_end` added to the reward of every turn whose reply did not end."""
    return [
        dataclasses.replace(
            dialogue,
            rewards=[
                reward if turn.reply.ended else dataclasses.replace(reward, value=reward.value + no_end)
                for turn, reward in zip(dialogue.turns, dialogue.rewards, strict=True)
            ],
        )
        for dialogue in dialogues
    ]


def write_dialogues(folder: Path, step: int, dialogues: Sequence[SampledDialogue]) -> None:
    """Writes FOLDER/STEP.jsonl, one dialogue per line, so that a restart need not sample and reward them again."""
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / f"{step}.jsonl", [dataclasses.asdict(dialogue) for dialogue in dialogues])


def read_dialogues(folder: Path, step: int, tasks: list[int]) -> list[SampledDialogue] | None:
    """Returns what `write_dialogues` wrote for this update and these tasks, or None."""
    path = folder / f"{step}.jsonl"
    if not path.is_file():
        return None
    lines: list[dict[str, Any]] = read_jsonl(path)
    if [line.get("task") for line in lines] != tasks:
        return None
    return [
        SampledDialogue(
            line["task"],
            line["row"],
            [Turn(turn["start"], Reply(**turn["reply"])) for turn in line["turns"]],
            [Reward(**reward) for reward in line["rewards"]],
        )
        for line in lines
    ]


def sampling_key(seed: int, n: int) -> jax.Array:
    """Returns the key that the replies of update `n` are sampled with."""
    return jax.random.fold_in(jax.random.key(seed), 2 * n)
