"""Rows -> batches of packed rows with one length. The batch of step n depends on (seed, n) alone."""

from collections.abc import Sequence
from functools import cached_property, lru_cache

import datasets
import numpy as np

from tljax.core.errors import InputError
from tljax.data.batch_arrays import BATCH_ARRAYS, ROW_ARRAYS

# The packed rows that may still get a sequence. More of them pack tighter and cost time in proportion.
OPEN_BINS = 64


def pack(lengths: np.ndarray, room: int) -> list[list[int]]:
    """Packs sequences into rows of `room` tokens by first fit, in the given order.

    lengths: int [R], the tokens of each sequence, at most `room`. Returns the indices of the sequences in each packed
    row.
    """
    packed: list[list[int]] = []
    free: dict[int, int] = {}  # packed row -> its free tokens, oldest row first
    for index, length in enumerate(lengths.tolist()):
        row = next((row for row, num_free in free.items() if num_free >= length), None)
        if row is None:
            row = len(packed)
            packed.append([])
            free[row] = room
            if len(free) > OPEN_BINS:
                del free[min(free, key=lambda row: free[row])]
        packed[row].append(index)
        free[row] -= length
    return packed


class Batches:
    """Batches of packed rows over `epochs` passes of `dataset`.

    The seed decides the order. A run that resumes needs nothing but its step, and a process builds only its own rows.
    """

    def __init__(
        self, dataset: datasets.Dataset, *, rows: int, tokens: int, epochs: int, seed: int | None, packed: bool
    ):
        """Plans the batches; nothing is built yet.

        rows, tokens: the shape of the global batch. seed: None for the order of the dataset. packed: True if a row of a
        batch may hold several rows of the dataset. Raises InputError if a row of the dataset is longer than `tokens`.
        """
        self.dataset, self.rows, self.tokens = dataset, rows, tokens
        self.epochs, self.seed, self.packed = epochs, seed, packed
        self.lengths = np.asarray(dataset["length"], np.int64)
        if len(self.lengths) and self.lengths.max() > tokens:
            raise InputError(
                f"batch.tokens is {tokens}, but the longest row has {self.lengths.max()} tokens; "
                "raise config.batch.tokens or lower config.data.max_tokens"
            )
        self._plan = lru_cache(maxsize=2)(self._make_plan)

    def _make_plan(self, epoch: int) -> list[list[int]]:
        """Returns the indices of the dataset's rows in each packed row of an epoch."""
        if self.seed is None:
            order = np.arange(len(self.lengths))
        else:
            order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.lengths))
        packed = pack(self.lengths[order], self.tokens) if self.packed else [[i] for i in range(len(order))]
        if self.seed is not None:
            # First fit fills its first rows best. Without a shuffle the last batches would have the most padding.
            packed = [packed[i] for i in np.random.default_rng([self.seed, 2, epoch]).permutation(len(packed))]
        return [[int(order[i]) for i in row] for row in packed]

    @cached_property
    def _ends(self) -> np.ndarray:
        """The number of steps up to the end of each epoch, int [epochs]. An epoch's last batch may have empty rows."""
        return np.cumsum([-(-len(self._plan(epoch)) // self.rows) for epoch in range(self.epochs)])

    @property
    def steps(self) -> int:
        """The number of batches in all epochs."""
        return int(self._ends[-1])

    @cached_property
    def max_targets(self) -> int:
        """The maximum number of positions with a weight in a packed row."""
        counts = np.asarray(self.dataset["weighted"], np.int64)
        return max(int(counts[row].sum()) for epoch in range(self.epochs) for row in self._plan(epoch))

    def epoch(self, step: int) -> float:
        """Returns the passes over the dataset that precede batch `step`, as a fraction."""
        if step >= self.steps:
            return float(self.epochs)
        epoch, batch = self._locate(step)
        return epoch + batch / -(-len(self._plan(epoch)) // self.rows)

    def _locate(self, step: int) -> tuple[int, int]:
        """Returns the epoch of batch `step`, and its number in the epoch, from 0."""
        epoch = int(np.searchsorted(self._ends, step, side="right"))
        return epoch, step - (int(self._ends[epoch - 1]) if epoch else 0)

    def build(self, step: int, rows: Sequence[int] | None = None) -> dict[str, np.ndarray]:
        """Returns the arrays of batch `step`, counted from 0, by the names in BATCH_ARRAYS, each [rows, tokens].

        rows: the indices of some rows of the global batch; None for all rows. Segments count from 1 within a row and
        are 0 on padding; positions begin at 0 in each segment.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"batch {step} does not exist; there are {self.steps}")
        rows = range(self.rows) if rows is None else rows
        epoch, number = self._locate(step)
        plan, first = self._plan(epoch), number * self.rows
        batch = {name: np.zeros((len(rows), self.tokens), dtype) for name, dtype in BATCH_ARRAYS.items()}
        for i, row in enumerate(rows):
            if first + row < len(plan):
                self._fill({name: array[i] for name, array in batch.items()}, plan[first + row])
        return batch

    def _fill(self, row: dict[str, np.ndarray], indices: list[int]) -> None:
        """Writes the dataset's rows `indices` one after the other into a row of a batch."""
        start = 0
        for segment, index in enumerate(indices, start=1):
            example = self.dataset[index]
            span = slice(start, start + len(example["tokens"]))
            for name in ROW_ARRAYS:
                row[name][span] = example[name]
            row["positions"][span] = np.arange(span.stop - span.start)
            row["segments"][span] = segment
            start = span.stop
