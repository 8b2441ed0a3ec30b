"""Computes model FLOPs utilization: a run's speed as a share of the devices' peak."""

import re
from collections.abc import Sequence
from typing import Any

# Dense bf16 FLOP/s of one JAX device, from the makers' data sheets. A device is half a chip of v2, v3 and tpu7x.
TPU_PEAKS = {
    "v2": 22.5e12,
    "v3": 61.5e12,
    "v4": 275e12,
    "v5e": 197e12,
    "v5p": 459e12,
    "v6e": 918e12,
    "tpu7x": 1153e12,
}
GPU_PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12}
# The generations by the names that JAX gives their devices; one generation has several names.
TPU_GENERATIONS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}


def peak_flops(device: Any) -> float | None:
    """Returns the dense bf16 FLOP/s of a jax.Device, or None if it is unknown."""
    kind = device.device_kind
    if kind in TPU_GENERATIONS:
        return TPU_PEAKS[TPU_GENERATIONS[kind]]
    # H100 and H200 cards for PCIe slots carry the name of the SXM module but run at lower clocks.
    if re.search(r"H[12]00.*(PCIe|NVL)", kind):
        return None
    return next((peak for name, peak in GPU_PEAKS.items() if name in kind), None)


def mfu(tokens_per_second: float, flops_per_token: float, devices: Sequence[Any]) -> float | None:
    """Returns model FLOPs utilization (Chowdhery et al. 2022, appendix B), from 0 to 1; None if a peak is unknown.

    tokens_per_second: of all `devices` together. flops_per_token: forward and backward, without recomputation.
    """
    peaks = [peak_flops(device) for device in devices]
    known = [peak for peak in peaks if peak is not None]
    return tokens_per_second * flops_per_token / sum(known) if peaks and len(known) == len(peaks) else None
