"""The batches that are answered, and the quantities of one: from the seconds to the first token and to the last."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from tljax.bench.measurement import Measurement, rate
from tljax.bench.repeats import Repeats
from tljax.core.errors import InputError


def batch_sizes(config: Any) -> list[int]:
    """Returns the numbers of config.batches. Raises InputError for one that is no whole number from 1."""
    words = [word.strip() for word in config.batches.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise InputError(f"config.batches is {config.batches!r}; allowed: whole numbers from 1, such as 1,8,32,128")
    return list(dict.fromkeys(int(word) for word in words))


def measure_replies(
    answer: Callable[[int], Any], prompts: Sequence[Sequence[int]], new_tokens: int, warmup: int, count: int
) -> dict[str, Measurement]:
    """Answers a batch warmup + count times with one token and with `new_tokens`, in turn, and returns the measurements.

    answer: generates so many tokens of every reply, and waits for them. The prefill ends with the first token. Decoding
    is the time of longer replies beyond the median prefill. It is left out where noise leaves no time for it.
    """
    first, last = Repeats(warmup), Repeats(warmup)
    for _ in range(warmup + count):
        for repeats, tokens in ((first, 1), (last, new_tokens)):
            repeats.begin()
            answer(tokens)
            repeats.end()
    size, prefill = len(prompts), statistics.median(first.seconds)
    decoding = [seconds - prefill for seconds in last.seconds if seconds > prefill]
    quantities = {
        f"first token, batch {size}": Measurement("s", first.seconds),
        f"last token, batch {size}": Measurement("s", last.seconds),
        f"prefill, batch {size}": rate("tokens/s", [float(sum(map(len, prompts)))] * count, first.seconds),
    }
    if decoding:
        tokens = [float(size * (new_tokens - 1))] * len(decoding)
        quantities[f"decode, batch {size}"] = rate("tokens/s", tokens, decoding)
    return quantities
