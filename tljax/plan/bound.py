"""How fast a program could run at best: by its operations, its memory and the links between devices."""

import dataclasses
from collections.abc import Iterable

from tljax.plan.collectives import Transfer
from tljax.plan.topology import Chip


@dataclasses.dataclass(frozen=True, slots=True)
class Bound:
    """Seconds that a program takes at least, by each of its limits, were it held up by that one alone.

    links: between the devices of a slice; network: between slices.
    """

    compute: float
    memory: float
    links: float
    network: float = 0.0

    @property
    def seconds(self) -> float:
        return max(dataclasses.astuple(self))

    @property
    def by(self) -> str:
        named = dataclasses.asdict(self)
        return max(named, key=lambda name: named[name])


def received(transfers: Iterable[Transfer], network: bool = False) -> float:
    """Bytes that one device receives from others in one run of a program; within its slice, or from other slices."""
    return sum(transfer.received * transfer.times for transfer in transfers if transfer.network == network)


def bound(flops: float, traffic: float, moved: float, chip: Chip, devices: int, links: int, far: float = 0.0) -> Bound:
    """The bound of a program of `flops` operations over all devices, recomputed ones included.

    traffic: bytes that one device reads and writes in its memory; moved: bytes that one receives, over `links` links;
    far: bytes that one receives from other slices. A chip whose peaks are not known gives 0.
    """

    def over(work: float, rate: float) -> float:
        return work / rate if rate else 0.0

    return Bound(
        compute=over(flops, chip.flops * devices),
        memory=over(traffic, chip.memory_rate),
        links=over(moved, chip.link_rate * links),
        network=over(far, chip.network_rate),
    )
