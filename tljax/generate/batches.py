"""Generates replies to any number of prompts of any length, in batches of few shapes for `decode.generate`."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from tljax.core.errors import InputError
from tljax.distributed.mesh import check_rows, gather_to_host, global_batch, process_rows
from tljax.generate.decode import PromptBatch, ReplyBatch, generate
from tljax.generate.sampling import SampleOptions, check_sample_options
from tljax.model import llama

ROUND_TO = 64  # tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
    """The reply to one prompt."""

    tokens: list[int]  # without the end token
    logprobs: list[float]  # one per token, then that of the end token if there is one
    end: int | None  # the end token, None where max_new_tokens ran out

    @property
    def ended(self) -> bool:
        return self.end is not None

    @property
    def all_tokens(self) -> list[int]:
        """The tokens with the end token, one for each of the logprobs."""
        return self.tokens if self.end is None else [*self.tokens, self.end]


def padded_length(length: int, round_to: int) -> int:
    """Returns the length that rows of `length` tokens (1 or more) are padded to.

    Each padded length is compiled, so there are few: multiples of `round_to` up to 8 `round_to`, of 2 `round_to` up to
    16, of 4 `round_to` up to 32, and so on. That is four lengths for each doubling, and above 4 `round_to` at most a
    quarter of the tokens is padding.
    """
    parts = -(-length // round_to)
    step = round_to << max(0, (parts - 1).bit_length() - 3)
    return -(-length // step) * step


def batch_by_length(lengths: Sequence[int], rows: int, round_to: int) -> list[tuple[int, list[int]]]:
    """Returns batches of at most `rows` prompts, each as its padded length and the prompts' indices.

    A batch holds prompts of similar length. The longest come first, so that memory runs out at once or never.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches = [order[start : start + rows] for start in range(0, len(order), rows)]
    return [(padded_length(lengths[batch[0]], round_to), batch) for batch in batches]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A model with the options, the random key and the batch size that its replies are sampled with."""

    params: llama.Params
    config: llama.LlamaConfig
    options: SampleOptions
    _: dataclasses.KW_ONLY
    key: jax.Array
    rows: int  # rows of a batch, over all devices
    round_to: int = ROUND_TO  # tokens; see padded_length
    copies: int = 1  # how often each prompt follows in a row; it is computed once for all its copies

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[Reply]:
        """Returns the reply to every prompt, in order. Prompts and errors are those of `generate_batches`."""
        replies: dict[int, Reply] = {}
        for batch in self.generate_batches(prompts):
            replies |= batch
        return [replies[i] for i in range(len(prompts))]

    def generate_batches(
        self, prompts: Sequence[Sequence[int]], row_ids: Sequence[int] | None = None
    ) -> Iterator[dict[int, Reply]]:
        """Yields {prompt index: reply} for one batch of `batch_by_length` after the other, on the current mesh.

        prompts: lists of token ids. A sample depends only on the key and on the prompt's row id (by default its index).
        Raises InputError before the first batch for options out of range, rows that do not divide over the mesh, and a
        prompt that is empty, too long with max_new_tokens for the model, or has a token outside its vocabulary. Raises
        FloatingPointError if the logits of a reply are not finite, and ValueError if `copies` of a prompt differ.
        """
        # All checks, before the first batch.
        check_sample_options(self.options, self.config.vocab_size)
        copies = self.copies
        check_rows(self.rows // copies, "rows" if copies == 1 else f"rows / {copies} copies of a prompt")
        if self.round_to < 1:
            raise InputError(f"round_to is {self.round_to}; allowed: a whole number from 1")
        ids = range(len(prompts)) if row_ids is None else row_ids
        if len(ids) != len(prompts):
            raise InputError(f"there are {len(ids)} row_ids for {len(prompts)} prompts; give one per prompt, or none")
        for i, prompt in enumerate(prompts):
            _check_prompt(self.config, prompt, i, self.options)
        groups = (prompts[i : i + copies] for i in range(0, len(prompts), copies) if copies > 1)
        if any(len(group) < copies or any(list(prompt) != list(group[0]) for prompt in group) for group in groups):
            raise ValueError(f"each prompt must come {copies} times in a row")

        # Batch by batch; a batch has a row of prompts for `copies` rows of replies.
        rows = self.rows // copies
        for length, batch in batch_by_length([len(prompt) for prompt in prompts[::copies]], rows, self.round_to):
            host = {
                "tokens": np.zeros((rows, length), np.int32),
                "lengths": np.zeros(rows, np.int32),
                "row_ids": np.zeros((rows, copies), np.int32),
            }
            for row, i in enumerate(batch):
                prompt = prompts[i * copies]
                host["tokens"][row, : len(prompt)], host["lengths"][row] = prompt, len(prompt)
                host["row_ids"][row] = ids[i * copies : (i + 1) * copies]
            local = process_rows(rows)
            prompt_batch = PromptBatch(**global_batch({name: array[local] for name, array in host.items()}))
            generated = generate(self.params, self.config, prompt_batch, self.key, self.options)
            indices = [i * copies + j for i in batch for j in range(copies)]
            replies = dict(zip(indices, _replies(gather_to_host(generated)), strict=False))
            self._check_finite(replies)
            yield replies

    def _check_finite(self, replies: dict[int, Reply]) -> None:
        for i, reply in replies.items():
            bad = next((t for t, logprob in enumerate(reply.logprobs, start=1) if not math.isfinite(logprob)), None)
            if bad is not None:
                raise FloatingPointError(
                    f"the model's logits at token {bad} of the reply to prompt {i} are not finite, computed in "
                    f"{self.options.compute_dtype}, and the reply would mean nothing; give other weights, or an "
                    "earlier checkpoint of the training that made them"
                )


def _check_prompt(c: llama.LlamaConfig, prompt: Sequence[int], index: int, options: SampleOptions) -> None:
    if not len(prompt):
        raise InputError(f"prompt {index} is empty; it needs at least one token, such as <s>")
    outside = [token for token in (min(prompt), max(prompt)) if not 0 <= token < c.vocab_size]
    if outside:
        raise InputError(f"prompt {index} holds token {outside[0]}, but the model's are 0 to {c.vocab_size - 1}")
    field = f"prompt {index} with max_new_tokens ({len(prompt)} + {options.max_new_tokens})"
    llama.check_length(c, len(prompt) + options.max_new_tokens, field)


def _replies(generated: ReplyBatch) -> list[Reply]:
    """Returns the replies of a batch's rows; rows that only fill the batch have empty replies."""
    replies = []
    for row, length in enumerate(generated.lengths):
        tokens, logprobs = generated.tokens[row, :length].tolist(), generated.logprobs[row, :length].tolist()
        end = tokens.pop() if length and generated.ended[row] else None
        replies.append(Reply(tokens=tokens, logprobs=logprobs, end=end))
    return replies
