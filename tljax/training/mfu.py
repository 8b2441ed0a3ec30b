"""Computes model FLOPs utilization: a run's speed as a share of the devices' peak."""

import re
from collections.abc import Sequence
from typing import Any

# Dense bf16 FLOP/s of one device, from the makers' data sheets.
TPU_PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
}
GPU_PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12}


def peak_flops(device: Any) -> float | None:
    """Returns the dense bf16 FLOP/s of a jax.Device, or None if it is unknown."""
    kind = device.device_kind
    # H100 and H200 cards for PCIe slots carry the name of the SXM module but run at lower clocks.
    if kind in TPU_PEAKS or re.search(r"H[12]00.*(PCIe|NVL)", kind):
        return TPU_PEAKS.get(kind)
    return next((peak for name, peak in GPU_PEAKS.items() if name in kind), None)


def mfu(tokens_per_second: float, flops_per_token: float, devices: Sequence[Any]) -> float | None:
    """Returns model FLOPs utilization (Chowdhery et al. 2022, appendix B), from 0 to 1; None if a peak is unknown.

    tokens_per_second: of all `devices` together. flops_per_token: forward and backward, without recomputation.
    """
    peaks = [peak_flops(device) for device in devices]
    known = [peak for peak in peaks if peak is not None]
    return tokens_per_second * flops_per_token / sum(known) if peaks and len(known) == len(peaks) else None
