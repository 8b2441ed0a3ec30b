"""Replies, and the few shapes in which prompts of any length are computed."""

import dataclasses
from collections.abc import Sequence

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


def pool_widths(lengths: Sequence[int], round_to: int, places: int) -> list[int]:
    """Returns the widths of the pools of slots that answer prompts of these lengths, the widest first.

    A prompt is answered in the narrowest pool that holds its padded length. Each pool is half as wide as the one
    before, since every step of decoding reads all columns. There is one pool if all prompts find a place at once.
    """
    if not lengths:
        return []
    widths = [padded_length(max(lengths), round_to)]
    shortest = padded_length(min(lengths), round_to)
    while len(lengths) > places and (half := padded_length(-(-widths[-1] // 2), round_to)) < widths[-1]:
        if half < shortest:
            break
        widths.append(half)
    return widths
