"""Generates replies to any number of prompts of any length: as replies end, waiting prompts take their slots."""

import dataclasses
import math
from collections import deque
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tljax.core.errors import InputError
from tljax.distributed.mesh import (
    batch_shard_count,
    check_rows,
    gather_to_host,
    global_batch,
    mesh_platform,
    process_rows,
    weight_shard_count,
)
from tljax.generate import decode, slots
from tljax.generate.batches import ROUND_TO, Reply, padded_length, pool_widths
from tljax.generate.sampling import SampleOptions, check_sample_options
from tljax.model import llama

# Of a device: more make a prefill no more efficient, and their activations take memory. A CPU is as fast with few, and
# so computes few rows that only fill a batch: of 32 prompts of up to 607 tokens 15,488 columns, and not 18,432.
PREFILL_TOKENS = 4096
PREFILL_TOKENS_ON_CPU = 512


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A model with the options, the random key and the number of slots that its replies are sampled with."""

    params: llama.Params
    config: llama.LlamaConfig
    options: SampleOptions
    _: dataclasses.KW_ONLY
    key: jax.Array
    rows: int  # slots, each for one reply, over all devices
    round_to: int = ROUND_TO  # tokens; see padded_length
    copies: int = 1  # how often each prompt follows in a row; it is computed once for all its copies

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[Reply]:
        """Returns the reply to every prompt, in order. Prompts and errors are those of `generate_batches`."""
        replies: dict[int, Reply] = {}
        for batch in self.generate_batches(prompts):
            replies |= batch
        return [replies[i] for i in range(len(prompts))]

    def generate_batches(
        self,
        prompts: Sequence[Sequence[int]],
        row_ids: Sequence[int] | None = None,
        run_lengths: Sequence[int] | None = None,
    ) -> Iterator[dict[int, Reply]]:
        """Yields {prompt index: reply} whenever replies have ended, on the current mesh. Long prompts come first.

        prompts: lists of token ids. A sample depends only on the key and on the prompt's row id (by default its index).
        run_lengths: the lengths of all prompts of a run of which these are what is left: they decide the shapes, so
        that a run that was interrupted goes on with the same bits. Raises InputError before the first reply for options
        out of range, rows that do not divide over the mesh, and a prompt that is empty, too long with max_new_tokens
        for the model, or has a token outside its vocabulary. Raises FloatingPointError if the logits of a reply are not
        finite, and ValueError if `copies` of a prompt differ.
        """
        # All checks, before the first reply.
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
        if not prompts:
            return

        # Pool by pool.
        lengths = [len(prompt) for prompt in prompts] if run_lengths is None else run_lengths
        pools = pool_widths(lengths, self.round_to, self.rows)
        weights = decode.cast_weights(self.params, self.config, self.options.compute_dtype)
        batches = self._batches(prompts[::copies])
        for width, narrower in zip(pools, [*pools[1:], 0], strict=True):
            waiting = deque((padded, batch) for padded, batch in batches if narrower < padded <= width)
            if waiting:
                yield from _Pool(self, weights, width, prompts, ids).answer(waiting)

    @property
    def places(self) -> int:
        """The number of places for prompts on each device, each with a slot for every copy."""
        return self.rows // self.copies // batch_shard_count()

    def _batches(self, prompts: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
        """Returns batches of prompts that are computed together, each as its padded length and the prompts' indices.

        All prompts of a batch have the same padded length, so that the shapes do not depend on which are left.
        """
        by_width: dict[int, list[int]] = {}
        for i, prompt in enumerate(prompts):
            by_width.setdefault(padded_length(len(prompt), self.round_to), []).append(i)
        batches = []
        for width in sorted(by_width, reverse=True):
            indices, count = by_width[width], batch_shard_count() * prompts_at_a_time(self.places, width)
            batches += [(width, indices[start : start + count]) for start in range(0, len(indices), count)]
        return batches


def prompts_at_a_time(places: int, width: int) -> int:
    """Returns the number of prompts of one padded length that a device with so many places computes at a time.

    Few, so that few places stay free until as many can be filled. Where devices gather the weights of a layer for each
    prefill, half of the places are filled at a time.
    """
    part = places // (2 if weight_shard_count() > 1 else 8)
    tokens = PREFILL_TOKENS_ON_CPU if mesh_platform() == "cpu" else PREFILL_TOKENS
    return max(1, min(part, tokens // width))


class _Pool:
    """Slots of one width, and the prompts that are in them."""

    def __init__(
        self,
        sampler: Sampler,
        weights: llama.Params,
        width: int,
        prompts: Sequence[Sequence[int]],
        row_ids: Sequence[int],
    ):
        self.sampler, self.weights, self.prompts, self.row_ids = sampler, weights, prompts, row_ids
        shards, places = batch_shard_count(), sampler.places
        self.held: list[list[int | None]] = [[None] * places for _ in range(shards)]  # a prompt by device and place
        rows, columns = shards * places * sampler.copies, width + sampler.options.max_new_tokens
        self.slots = slots.empty_slots(sampler.config, rows, columns, options=sampler.options)

    def answer(self, waiting: deque[tuple[int, list[int]]]) -> Iterator[dict[int, Reply]]:
        """Yields {prompt index: reply} until no batch (padded length, prompts) is waiting and no prompt is held."""
        sampler = self.sampler
        while waiting or any(i is not None for held in self.held for i in held):
            while waiting and self._free_places() >= self._needed_places(waiting[0][1]):
                self._fill(*waiting.popleft())
            enough = self._needed_places(waiting[0][1]) if waiting else sampler.places
            self.slots = decode.decode(
                self.weights,
                sampler.config,
                self.slots,
                sampler.key,
                sampler.options,
                jnp.asarray(enough, jnp.int32),
                copies=sampler.copies,
            )
            yield self._take_replies()

    def _free_places(self) -> int:
        return min(held.count(None) for held in self.held)

    def _needed_places(self, batch: list[int]) -> int:
        return -(-len(batch) // len(self.held))

    def _fill(self, width: int, batch: list[int]) -> None:
        """Computes the prompts of a batch, and puts each into a free place, spread over the devices."""
        sampler, copies, shards = self.sampler, self.sampler.copies, len(self.held)
        each = prompts_at_a_time(sampler.places, width)
        host = {
            "tokens": np.zeros((shards * each, width), np.int32),
            "lengths": np.zeros(shards * each, np.int32),
            "row_ids": np.zeros((shards * each, copies), np.int32),
            "places": np.full(shards * each, sampler.places, np.int32),  # beyond the last: left out
        }
        for k, i in enumerate(batch):
            device, row = k % shards, k % shards * each + k // shards
            place = self.held[device].index(None)
            self.held[device][place] = i
            prompt = self.prompts[i * copies]
            host["tokens"][row, : len(prompt)], host["lengths"][row], host["places"][row] = prompt, len(prompt), place
            host["row_ids"][row] = self.row_ids[i * copies : (i + 1) * copies]
        local = process_rows(shards * each)
        arrays = global_batch({name: array[local] for name, array in host.items()})
        places = arrays.pop("places")
        prefilled = decode.prefill(sampler.params, sampler.config, slots.PromptBatch(**arrays), sampler.options)
        self.slots = slots.fill(self.slots, prefilled, places, sampler.options)

    def _take_replies(self) -> dict[int, Reply]:
        """Returns the replies of all places that are done, and makes these places free."""
        copies = self.sampler.copies
        generated = gather_to_host(self.slots.generated)
        done = generated.done.reshape(len(self.held), -1, copies).all(axis=2)
        replies: dict[int, Reply] = {}
        for device, held in enumerate(self.held):
            for place, i in enumerate(held):
                if i is None or not done[device, place]:
                    continue
                first = (device * len(held) + place) * copies
                replies |= {i * copies + j: _reply(generated, first + j) for j in range(copies)}
                held[place] = None
        _check_finite(replies, self.sampler.options)
        return replies


def _reply(generated: slots.ReplyBatch, row: int) -> Reply:
    length = generated.lengths[row]
    tokens, logprobs = generated.tokens[row, :length].tolist(), generated.logprobs[row, :length].tolist()
    end = tokens.pop() if length and generated.ended[row] else None
    return Reply(tokens=tokens, logprobs=logprobs, end=end)


def _check_finite(replies: dict[int, Reply], options: SampleOptions) -> None:
    for i, reply in replies.items():
        bad = next((t for t, logprob in enumerate(reply.logprobs, start=1) if not math.isfinite(logprob)), None)
        if bad is not None:
            raise FloatingPointError(
                f"the model's logits at token {bad} of the reply to prompt {i} are not finite, computed in "
                f"{options.compute_dtype}, and the reply would mean nothing; give other weights, or an "
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
