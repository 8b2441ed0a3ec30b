"""The devices of a side that runs JAX: their name, their memory, and the bandwidth that bounds decoding."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from tljax.bench import machine
from tljax.bench.measurement import Measurement
from tljax.core.errors import InputError
from tljax.plan.topology import GPUS, TPUS, Chip
from tljax.training.mfu import TPU_GENERATIONS, peak_flops

PROBE_BYTES = 2**28  # more than any cache of a processor holds


def describe() -> str:
    """Returns a text such as "1 x NVIDIA H200" about the devices of the current mesh."""
    local = jax.devices()
    return f"{len(local)} x {local[0].device_kind}"


def peak_memory() -> dict[str, Measurement]:
    """Returns the peaks so far: of the host's memory, and of the devices' own, which a CPU does not have."""
    host = {"peak host memory": Measurement("bytes", [machine.peak_host_bytes()])}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [stat["peak_bytes_in_use"] for stat in stats if "peak_bytes_in_use" in stat]
    return host | ({"peak device memory": Measurement("bytes", [max(peaks)])} if peaks else {})


def memory_bandwidth() -> tuple[float, str]:
    """Returns the bytes per second that one device reads from its memory, and "published" or "measured"."""
    device = jax.devices()[0]
    chip = _published(device)
    if chip is not None:
        return chip.memory_bandwidth, "published"
    # The fastest of three ways to pass over an array that fits no cache.
    vector = jnp.ones((PROBE_BYTES // 4,), jnp.float32)
    rows = vector.reshape(-1, 4096)
    row = jnp.ones((4096,), jnp.float32)
    seconds = (
        _fastest(lambda: jax.jit(lambda x: x + 1)(vector)) / 2,  # it writes as much as it reads
        _fastest(lambda: jax.jit(jnp.sum)(vector)),
        _fastest(lambda: jax.jit(jnp.matmul)(rows, row)),
    )
    return PROBE_BYTES / min(seconds), "measured"


def _fastest(function: Callable[[], jax.Array]) -> float:
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        function().block_until_ready()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _published(device: Any) -> Chip | None:
    """Returns the published peaks of a device; None for a CPU and for a device that is not known."""
    if device.device_kind in TPU_GENERATIONS:
        return TPUS[TPU_GENERATIONS[device.device_kind]]
    if peak_flops(device) is None:
        return None
    return next((chip for chip in GPUS.values() if chip.name in device.device_kind), None)


@contextlib.contextmanager
def name_block(block: str) -> Iterator[None]:
    """Names the fields in messages as the benchmark's config does: config.batch.rows is config.sft.batch.rows."""
    try:
        yield
    except InputError as error:
        text = str(error).replace("config.", f"config.{block}.")
        text = text.replace(f"config.{block}.model.path", "config.model.path")
        raise type(error)(text) from None
