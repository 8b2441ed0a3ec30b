"""How far a batch inference is: a bar on a terminal, lines elsewhere."""

import time
from collections.abc import Mapping

from tqdm import tqdm

from tljax.distributed import processes
from tljax.distributed.log import has_terminal, log
from tljax.generate.batches import Reply

LINE_EVERY = 10.0  # seconds between lines of progress, where there is no terminal for a bar


class Progress:
    """A bar on a terminal, a line every LINE_EVERY seconds elsewhere."""

    def __init__(self, total: int, before: int, unit: str = "reply", units: str = "replies"):
        self._units = units
        self._total, self._now, self._tokens = total, before, 0
        self._before, self._begin = before, time.perf_counter()
        self._told = self._begin
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
        """Counts what is finished, and tokens that were generated."""
        self._now += count
        self._tokens += tokens
        now = time.perf_counter()
        self._bar.set_postfix_str(f"{self._tokens / (now - self._begin):,.0f} tokens/s", refresh=False)
        self._bar.update(count)
        if self._bar.disable and now - self._told >= LINE_EVERY:
            self._told = now
            rate = (self._now - self._before) / (now - self._begin)
            left = tqdm.format_interval((self._total - self._now) / rate) if rate else "?"
            log(
                f"{self._now:,}/{self._total:,} {self._units}  {rate:,.1f} {self._units}/s  "
                f"{self._tokens / (now - self._begin):,.0f} tokens/s  ETA {left}"
            )

    def told(self, widths: set[int]) -> str:
        """What was done in which time, compilation included."""
        seconds = time.perf_counter() - self._begin
        shown = ", ".join(str(width) for width in sorted(widths))
        speed = f"{self._tokens:,} tokens in {seconds:,.1f} s, {self._tokens / seconds:,.0f} tokens/s"
        return (
            f"generated {self._now - self._before:,} replies with {speed}; programs compiled: {len(widths)}, for "
            f"prompts of up to {shown} tokens"
        )
