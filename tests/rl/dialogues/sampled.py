"""Small dialogues for tests: some written by hand, and some that a tiny model holds in a language of characters."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from tests.rl.ppo_updates import CONFIG, random_params
from tljax.agent.dialogues import DialogueRequest
from tljax.agent.loop import DialogueLimits, Opening
from tljax.calls.compare import as_tool_list
from tljax.calls.parse import ParsedText
from tljax.calls.tool import Call
from tljax.generate.batches import Reply
from tljax.generate.sampler import Sampler
from tljax.generate.sampling import SampleOptions
from tljax.rl.dialogues.rollout import SampledDialogue, Turn, sample_dialogues
from tljax.rl.irm import Reward
from tljax.toolbox.execute import Result

END = 1
SAMPLE = SampleOptions(
    compute_dtype="float32",
    attention="reference",
    max_new_tokens=4,
    temperature=0.9,
    top_k=0,
    top_p=1.0,
    eos_ids=(END,),
    pad_id=0,
)
LONG = dataclasses.replace(CONFIG, max_positions=256)  # of CONFIG's weights


def dialogue(prompt, turns, feedbacks, values, kinds=None, task=0):
    """turns: (tokens, ended) of each reply; feedbacks: tokens after each but the last; values: rewards of the turns."""
    tokens, found = list(prompt), []
    for i, (reply, ended) in enumerate(turns):
        logprobs = [-0.5] * (len(reply) + ended)
        found.append(Turn(len(tokens), Reply(tokens=list(reply), logprobs=logprobs, end=END if ended else None)))
        tokens += [*reply, *(feedbacks[i] if i < len(turns) - 1 else [])]
    kinds = kinds or ["neutral"] * len(turns)
    exchanges = [{"reply": ""} if kind == "format" else {"call_error": kind == "call_error"} for kind in kinds]
    rewards = [Reward(value, kind, "") for value, kind in zip(values, kinds, strict=True)]
    return SampledDialogue(task, {"tokens": tokens, "exchanges": exchanges}, found, rewards)


def random_dialogues(count=8, seed=0):
    """Dialogues of one to three turns with feedback between them; a reply may be an end token alone, or have none."""
    rng, made = np.random.default_rng(seed), []
    for b in range(count):
        turns = [(rng.integers(2, 40, rng.integers(1, 4)).tolist(), bool(rng.random() < 0.7)) for _ in range(1 + b % 3)]
        if b == 2:
            turns[1] = ([], True)
        feedbacks = [rng.integers(2, 40, rng.integers(1, 4)).tolist() for _ in turns]
        values = rng.choice([-2.0, -0.8, -0.25, 0.0, 1.0], len(turns)).tolist()
        made.append(dialogue(rng.integers(2, 40, rng.integers(3, 6)).tolist(), turns, feedbacks, values))
    return made


class Characters:
    """A tokenizer of 38 characters; token 1 ends a reply."""

    def encode(self, text):
        return [ord(c) % 38 + 2 for c in text], None

    def encode_continuation(self, text):
        return self.encode(text)[0]

    def decode(self, tokens):
        return "".join(chr(97 + token % 26) for token in tokens)


class AnyText:
    """A list of one tool, `say`, which every text calls; a text that begins with `ends` is none."""

    def __init__(self, ends=""):
        self._listed, self._ends = as_tool_list([{"name": "say", "parameters": {}}]), ends
        self.tools, self.schemas = self._listed.tools, self._listed.schemas

    def parse(self, text):
        if self._ends and text.startswith(tuple(self._ends)):
            return ParsedText((), "no_call")
        return ParsedText((Call("say", {}),), None)


class Counting:
    """Answers each call of a dialogue with its number."""

    def __init__(self):
        self.calls = 0

    def execute(self, call):
        self.calls += 1
        return Result(str(self.calls), False)

    def close(self):
        pass


def requests_of(texts, ends=""):
    make = functools.partial(AnyText, ends)
    return [
        DialogueRequest("set", i, text, Opening(text, make(), "finish", Counting))  # pyright: ignore
        for i, text in enumerate(texts)
    ]


@functools.cache
def held(texts=("one", "another", "third one", "x"), rows=4, turns=3, ends="ab"):
    """Dialogues of the tiny model on the current mesh, as `agent.loop` ends them."""
    limits = DialogueLimits(turns=turns, tokens=200, new_tokens=4, repeats=9)
    sampler = Sampler(random_params(0), LONG, SAMPLE, key=jax.random.key(3), rows=rows, round_to=32)
    return sample_dialogues(requests_of(texts, ends), sampler, Characters(), limits, calls_at_once=2)  # pyright: ignore


def as_sampled(dialogues):
    """The dialogues that the model has held, each turn with a reward of its own."""
    made = []
    for number, one in enumerate(dialogues):
        turns = [Turn(start, reply) for start, reply in one.replies]
        exchanges = [{"reply": exchange.reply, "call_error": False} for exchange in one.exchanges]
        rewards = [Reward(0.25 * i - number, "neutral", "") for i in range(len(turns))]
        made.append(SampledDialogue(number, {"tokens": one.tokens, "exchanges": exchanges}, turns, rewards))
    return made


def reward_block(scale=1.0, **changes):
    """The fields of config.reward that dialogues read."""
    steps = dict(format=-2.0, unknown_tool=-1.9, hallucinated_and_missing=-1.3, hallucinated=-0.8, missing=-0.5)
    steps |= dict(call_error=-0.25, neutral=0.125, scale=scale)
    block = dict(rule="table", clip=5.0, timeout=20.0, workers=1, success=1.0, failure=-0.5, steps=ConfigDict(steps))
    return SimpleNamespace(**(block | changes))


def host(array):
    return np.asarray(jax.device_get(array))


def float32(values):
    return jnp.asarray(values, jnp.float32)
