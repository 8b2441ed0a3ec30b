"""Sizes of a mesh's axes as numbers alone: what is asked for, and the nearest that fits the devices there are."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from tljax.core.errors import InputError

Shape = dict[str, int]


def resolve_axes(asked: Mapping[str, int], slices: int, devices: int, counted: bool) -> tuple[int, Shape]:
    """The number of slices, and the size of every axis within a slice.

    asked: sizes of the axes, at most one of them -1, which takes the devices that remain. slices: 0 takes what there
    is, which is `counted` where the devices themselves say so. Raises InputError where no such mesh is possible.
    """
    wanted = {"slices": slices, **asked}
    free = [axis for axis, size in asked.items() if size == -1]
    if slices < 0 or any(size < 1 and size != -1 for size in asked.values()) or len(free) > 1:
        raise InputError(
            f"mesh {format_shape(wanted)}: every axis is a positive number, and at most one is -1 (takes what "
            "remains); slices is a positive number, or 0 (what the devices say)"
        )
    given = slices * math.prod(size for size in asked.values() if size != -1)
    shape = {axis: max(1, devices // given) if size == -1 else size for axis, size in asked.items()}
    if slices * math.prod(shape.values()) != devices:
        possible = nearest_shape(wanted, devices, lambda found: not counted or found["slices"] == slices)
        assert possible is not None
        raise InputError(
            f"mesh {format_shape(wanted)} does not fit {devices} device{'s' * (devices > 1)}: the axes must multiply "
            f"to {devices}; the nearest possible mesh is {format_shape(possible, wanted)}"
        )
    return slices, shape


def nearest_shape(wanted: Mapping[str, int], devices: int, fits: Callable[[Shape], bool]) -> Shape | None:
    """The mesh of `devices` places that fits and whose axes differ from the wanted ones by the smallest factors.

    An axis of -1 may be anything.
    """
    found = (dict(zip(wanted, sizes, strict=True)) for sizes in _shapes(devices, len(wanted)))

    def distance(shape: Shape) -> tuple[float, float]:
        factors = {axis: abs(math.log(shape[axis] / size)) for axis, size in wanted.items() if size != -1}
        # Of equals the one that leaves rows as they are split.
        return round(sum(factors.values()), 9), factors.get("sequence", 0.0)

    return min(filter(fits, found), key=distance, default=None)


def format_shape(shape: Mapping[str, int], beside: Mapping[str, int] | None = None) -> str:
    """A shape as config fields; axes of 1 are left out, but for those that `beside` names otherwise."""
    kept = [axis for axis, size in shape.items() if size != 1 or (beside or {}).get(axis, 1) != 1]
    return ", ".join(f"{axis}={shape[axis]}" for axis in kept or ("fsdp",))


@lru_cache
def _divisors(number: int) -> tuple[int, ...]:
    return tuple(n for n in range(1, number + 1) if number % n == 0)


def _shapes(devices: int, axes: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `devices` as a product of so many numbers."""
    if axes == 1:
        yield (devices,)
        return
    for first in _divisors(devices):
        for rest in _shapes(devices // first, axes - 1):
            yield (first, *rest)
