"""Rows -> batches: packed to one length; the batch of step n is a function of (seed, n) alone."""

from collections.abc import Sequence
from functools import cached_property, lru_cache

import datasets
import numpy as np

from tljax.core.errors import InputError
from tljax.data.batch_arrays import BATCH_ARRAYS, ROW_ARRAYS

OPEN_BINS = 64  # rows a packing keeps open; more packs tighter and costs time in proportion


def pack(lengths: np.ndarray, room: int) -> list[list[int]]:
    """First-fit packing in the given order: which sequences share a packed row.

    lengths: int [R], each at most `room` tokens. Returns indices into `lengths`, every one once.
    """
    packed: list[list[int]] = []
    free: dict[int, int] = {}  # packed row -> tokens left, oldest first
    for index, length in enumerate(lengths.tolist()):
        home = next((row for row, left in free.items() if left >= length), None)
        if home is None:
            home = len(packed)
            packed.append([])
            free[home] = room
            if len(free) > OPEN_BINS:
                del free[min(free, key=lambda row: free[row])]
        packed[home].append(index)
        free[home] -= length
    return packed


class Batches:
    """Batches of packed rows over `epochs` passes of `dataset`, in an order that (seed, step) decides.

    Nothing but `step` is needed to go on after a restart, and a process builds only the rows it asks for.
    """

    def __init__(
        self, dataset: datasets.Dataset, *, rows: int, tokens: int, epochs: int, seed: int | None, packed: bool
    ):
        """rows, tokens: of the global batch. seed: None keeps the data's order. packed: several a row.

        Raises InputError when a row is longer than `tokens`.
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
        if self.seed is None:
            order = np.arange(len(self.lengths))
        else:
            order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.lengths))
        packed = pack(self.lengths[order], self.tokens) if self.packed else [[i] for i in range(len(order))]
        if self.seed is not None:
            # First-fit fills its first rows best; without a shuffle the last batches would hold the short rest.
            packed = [packed[i] for i in np.random.default_rng([self.seed, 2, epoch]).permutation(len(packed))]
        return [[int(order[i]) for i in row] for row in packed]

    @cached_property
    def _ends(self) -> np.ndarray:
        """First step of the epoch after each epoch, int [epochs]; the last batch of an epoch may hold empty rows."""
        return np.cumsum([-(-len(self._plan(epoch)) // self.rows) for epoch in range(self.epochs)])

    @property
    def steps(self) -> int:
        """Batches in all."""
        return int(self._ends[-1])

    @cached_property
    def max_targets(self) -> int:
        """Most positions that carry a weight in any packed row: the room a loss needs."""
        counts = np.asarray(self.dataset["weighted"], np.int64)
        return max(int(counts[row].sum()) for epoch in range(self.epochs) for row in self._plan(epoch))

    def epoch(self, step: int) -> float:
        """How many passes lie before batch `step`."""
        if step >= self.steps:
            return float(self.epochs)
        epoch, place = self._locate(step)
        return epoch + place / -(-len(self._plan(epoch)) // self.rows)

    def _locate(self, step: int) -> tuple[int, int]:
        """The epoch of batch `step` and its place in it."""
        epoch = int(np.searchsorted(self._ends, step, side="right"))
        return epoch, step - (int(self._ends[epoch - 1]) if epoch else 0)

    def build(self, step: int, rows: Sequence[int] | None = None) -> dict[str, np.ndarray]:
        """Rows of batch `step`, counted from 0: all, or those of the global batch that `rows` names.

        Returns the arrays of BATCH_ARRAYS, each [rows, tokens].
        Segments count from 1 within a row and are 0 on padding; positions begin at 0 in each segment.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"batch {step} is asked for; there are {self.steps}")
        rows = range(self.rows) if rows is None else rows
        epoch, place = self._locate(step)
        plan, first = self._plan(epoch), place * self.rows
        batch = {name: np.zeros((len(rows), self.tokens), dtype) for name, dtype in BATCH_ARRAYS.items()}
        for i, row in enumerate(rows):
            if first + row < len(plan):
                self._fill({name: array[i] for name, array in batch.items()}, plan[first + row])
        return batch

    def _fill(self, row: dict[str, np.ndarray], members: list[int]) -> None:
        start = 0
        for segment, member in enumerate(members, start=1):
            source = self.dataset[member]
            span = slice(start, start + len(source["tokens"]))
            for name in ROW_ARRAYS:
                row[name][span] = source[name]
            row["positions"][span] = np.arange(span.stop - span.start)
            row["segments"][span] = segment
            start = span.stop
