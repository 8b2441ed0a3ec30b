"""Progress of a generation: a bar on a terminal, lines elsewhere."""

import time
from collections.abc import Mapping

from tqdm import tqdm

from tljax.distributed import processes
from tljax.distributed.log import has_terminal, log
from tljax.generate.batches import Reply

LINE_EVERY = 10.0  # seconds between lines


class Progress:
    """Shows a bar on a terminal, and logs a line every LINE_EVERY seconds elsewhere.

    total: replies of the whole run; before: those that an earlier start has finished.
    """

    def __init__(self, total: int, before: int, unit: str = "reply", units: str = "replies"):
        self._units = units
        self._total, self._done, self._tokens = total, before, 0
        self._before, self._start = before, time.perf_counter()
        self._last_line = self._start
        hidden = not (has_terminal() and processes.is_primary())
        self._bar = tqdm(total=total, initial=before, unit=unit, dynamic_ncols=True, disable=hidden)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._bar.close()

    def add(self, replies: Mapping[int, Reply]) -> None:
        """Counts a finished batch."""
        self.advance(len(replies), sum(len(reply.logprobs) for reply in replies.values()))

    def advance(self, count: int, tokens: int = 0) -> None:
        """Counts `count` finished replies and `tokens` generated tokens."""
        self._done += count
        self._tokens += tokens
        now = time.perf_counter()
        self._bar.set_postfix_str(f"{self._tokens / (now - self._start):,.0f} tokens/s", refresh=False)
        self._bar.update(count)
        if self._bar.disable and now - self._last_line >= LINE_EVERY:
            self._last_line = now
            rate = (self._done - self._before) / (now - self._start)
            left = tqdm.format_interval((self._total - self._done) / rate) if rate else "?"
            log(
                f"{self._done:,}/{self._total:,} {self._units}  {rate:,.1f} {self._units}/s  "
                f"{self._tokens / (now - self._start):,.0f} tokens/s  ETA {left}"
            )

    def format_summary(self, padded_lengths: set[int]) -> str:
        """Returns a line with the replies, the seconds (compilation included) and the compiled prompt lengths."""
        seconds = time.perf_counter() - self._start
        lengths = ", ".join(str(length) for length in sorted(padded_lengths))
        speed = f"{self._tokens:,} tokens in {seconds:,.1f} s, {self._tokens / seconds:,.0f} tokens/s"
        return (
            f"generated {self._done - self._before:,} replies with {speed}; programs compiled: {len(padded_lengths)}, "
            f"for prompts of up to {lengths} tokens"
        )
