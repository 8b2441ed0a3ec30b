"""The sizes of a mesh's axes as numbers: the requested ones, and the nearest ones that fit the devices."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from tljax.core.errors import InputError

Shape = dict[str, int]


def resolve_axes(requested: Mapping[str, int], slices: int, devices: int, are_fixed: bool) -> tuple[int, Shape]:
    """Returns the number of slices, and the size of every axis within a slice.

    requested: sizes of the axes; at most one is -1, and takes the devices that remain. are_fixed: the devices report
    `slices`, so that no other number is possible. Raises InputError if no such mesh is possible.
    """
    wanted = {"slices": slices, **requested}
    free = [axis for axis, size in requested.items() if size == -1]
    if slices < 0 or any(size < 1 and size != -1 for size in requested.values()) or len(free) > 1:
        raise InputError(
            f"mesh {format_shape(wanted)}: every axis is a positive number, and at most one is -1 (takes what "
            "remains); slices is a positive number, or 0 (the number that the devices report)"
        )
    taken = slices * math.prod(size for size in requested.values() if size != -1)
    shape = {axis: max(1, devices // taken) if size == -1 else size for axis, size in requested.items()}
    if slices * math.prod(shape.values()) != devices:
        nearest = nearest_shape(wanted, devices, lambda candidate: not are_fixed or candidate["slices"] == slices)
        assert nearest is not None
        raise InputError(
            f"mesh {format_shape(wanted)} does not fit {devices} device{'s' * (devices > 1)}: the axes must multiply "
            f"to {devices}; the nearest possible mesh is {format_shape(nearest, wanted)}"
        )
    return slices, shape


def nearest_shape(wanted: Mapping[str, int], devices: int, fits: Callable[[Shape], bool]) -> Shape | None:
    """Returns the shape of `devices` devices that fits and differs from the wanted one by the smallest factors.

    A wanted size of -1 matches any size.
    """
    candidates = (dict(zip(wanted, sizes, strict=True)) for sizes in _shapes(devices, len(wanted)))

    def distance(shape: Shape) -> tuple[float, float]:
        factors = {axis: abs(math.log(shape[axis] / size)) for axis, size in wanted.items() if size != -1}
        # Among equals, the shape that splits rows as before wins.
        return round(sum(factors.values()), 9), factors.get("sequence", 0.0)

    return min(filter(fits, candidates), key=distance, default=None)


def format_shape(shape: Mapping[str, int], reference: Mapping[str, int] | None = None) -> str:
    """Returns a shape as config fields; an axis of 1 is left out, unless it has another size in `reference`."""
    shown = [axis for axis, size in shape.items() if size != 1 or (reference or {}).get(axis, 1) != 1]
    return ", ".join(f"{axis}={shape[axis]}" for axis in shown or ("fsdp",))


@lru_cache
def _divisors(number: int) -> tuple[int, ...]:
    return tuple(n for n in range(1, number + 1) if number % n == 0)


def _shapes(devices: int, axes: int) -> Iterator[tuple[int, ...]]:
    """Yields all ways to write `devices` as a product of `axes` numbers."""
    if axes == 1:
        yield (devices,)
        return
    for first in _divisors(devices):
        for rest in _shapes(devices // first, axes - 1):
            yield (first, *rest)
