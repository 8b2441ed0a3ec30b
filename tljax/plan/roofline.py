"""Bounds the time of a program by its operations, its memory traffic and what devices send each other: a roofline."""

import dataclasses

from tljax.plan.topology import Topology


@dataclasses.dataclass(frozen=True, slots=True)
class Traffic:
    """The bytes that one device moves in one run of a program.

    memory: read from and written to its own memory. links: received from other devices of its slice. network: received
    from other slices.
    """

    memory: float
    links: float
    network: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Roofline:
    """The shortest possible seconds of one run of a program under each limit alone; 0 if a peak is unknown."""

    compute: float
    memory: float
    links: float
    network: float = 0.0

    @property
    def seconds(self) -> float:
        """The shortest possible time under all limits, if computing and all transfers overlap."""
        return max(dataclasses.astuple(self))

    @property
    def bottleneck(self) -> str:
        """The name of the limit that takes longest."""
        seconds = dataclasses.asdict(self)
        return max(seconds, key=lambda name: seconds[name])


def roofline(flops: float, traffic: Traffic, topology: Topology) -> Roofline:
    """Returns the roofline of a program on a topology.

    flops: floating-point operations of one run on all devices together, recomputed ones included.
    """

    def seconds(amount: float, rate: float) -> float:
        return amount / rate if rate else 0.0

    chip = topology.chip
    return Roofline(
        compute=seconds(flops, chip.flops * len(topology.devices)),
        memory=seconds(traffic.memory, chip.memory_bandwidth),
        links=seconds(traffic.links, chip.link_bandwidth * topology.num_links),
        network=seconds(traffic.network, chip.network_bandwidth),
    )
