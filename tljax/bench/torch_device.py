"""The device of a side that runs torch: a GPU if torch sees one, else all processors that this process may use."""

from typing import Any

import torch  # pyright: ignore[reportMissingImports]  # of the extra `peers`, which need not be installed

from tljax.bench import machine
from tljax.bench.measurement import Measurement


def choose() -> torch.device:
    """Returns the device, and lets torch use every processor, as XLA does."""
    torch.set_num_threads(len(machine.usable_processors()))
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"1 x {torch.cuda.get_device_name(device)}"
    return f"cpu, {torch.get_num_threads()} threads"


def wait(device: torch.device) -> None:
    """Waits until the device has computed what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> dict[str, Any]:
    """Returns the peaks so far: of the host's memory, and of a GPU's."""
    host = {"peak host memory": Measurement("bytes", [machine.peak_host_bytes()])}
    if device.type != "cuda":
        return host
    return host | {"peak device memory": Measurement("bytes", [torch.cuda.max_memory_allocated(device)])}
