"""The sides of each benchmark: tljax, and its peers."""

from collections.abc import Callable
from typing import Any

from tljax.bench.side import Side

OURS = "tljax"  # the side that the peers are compared with
COLD = "tljax, cold"  # a start of which the next side finds the compiled programs and the prepared data
TORCH = ("torch", "transformers")


def _sft(config: Any) -> list[Side]:
    updates = config.warmup + config.repeats
    return [Side(COLD, "sft", {"steps": 1}), Side(OURS, "sft", {"steps": updates, "peer": config.peer})]


def _sft_peers(config: Any) -> list[Side]:
    torch = [Side(f"torch {dtype}", "torch_sft", {"dtype": dtype}, TORCH) for dtype in ("float32", "bfloat16")]
    return [*torch, Side("TRL float32", "trl_sft", {}, (*TORCH, "trl"))]


def _one(module: str) -> Callable[[Any], list[Side]]:
    return lambda config: [Side(OURS, module, {"peer": config.peer})]


def _transformers(module: str) -> Callable[[Any], list[Side]]:
    return lambda config: [Side("transformers", module, {}, TORCH)]


# The values of config.what -> the sides of tljax.
SIDES: dict[str, Callable[[Any], list[Side]]] = {
    "sft": _sft,
    "generate": _one("generate"),
    "ppo": _one("ppo"),
    "data": _one("data"),
    "hf": _one("hf"),
}
# The values of config.what that peers do in the same way -> the sides of the peers.
PEERS: dict[str, Callable[[Any], list[Side]]] = {
    "sft": _sft_peers,
    "generate": _transformers("torch_generate"),
    "hf": _transformers("torch_hf"),
}


def list_sides(config: Any) -> list[Side]:
    """Returns the sides to measure, in order."""
    return SIDES[config.what](config) + (PEERS[config.what](config) if config.peer else [])
