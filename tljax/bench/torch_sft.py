"""The peer of SFT: a plain torch step on transformers' model, with the batches, weights and optimizer of ours.

Rows are packed as ours are: transformers separates the sequences of a row by their positions. The head computes logits
at the positions that have a loss alone, as ours does.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # of the extra `peers`, which need not be installed
from transformers import AutoModelForCausalLM

from tljax.bench import torch_device
from tljax.bench.measurement import rate
from tljax.bench.peer_files import read_arrays, read_model


def measure(config: Any, work: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Makes the updates that tljax has made before, and returns the measurements.

    options["dtype"]: "float32", or "bfloat16" for autocast over float32 weights.
    """
    ours = json.loads((work / "tljax.json").read_text(encoding="utf-8"))
    optim, device = config.sft.optim, torch_device.choose()
    model: Any = AutoModelForCausalLM.from_pretrained(read_model(work), dtype=torch.float32, attn_implementation="sdpa")
    model = model.train().to(device)
    optimizer = torch.optim.AdamW(
        _groups(model, optim), lr=optim.lr, betas=(optim.b1, optim.b2), eps=optim.eps, foreach=True
    )
    losses, seconds = [], []
    for n, learning_rate in enumerate(ours["learning_rates"]):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        arrays = read_arrays(work, n)
        torch_device.wait(device)
        begin = time.perf_counter()
        losses.append(_update(model, optimizer, arrays, config.sft, options["dtype"]))
        torch_device.wait(device)
        seconds.append(time.perf_counter() - begin)
    start = config.warmup if config.warmup < len(seconds) else 0
    return {
        "device": torch_device.describe(device),
        "measurements": {
            "tokens per second": rate("tokens/s", ours["tokens"][start:], seconds[start:]),
            **torch_device.peak_memory(device),
        },
        "losses": losses,
    }


def _groups(model: Any, optim: Any) -> list[dict[str, Any]]:
    """Returns the weights with and without weight decay; norm scales and biases have one axis."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    decay = optim.weight_decay
    return [
        {"params": matrices, "weight_decay": decay},
        {"params": vectors, "weight_decay": decay if optim.decay_norms else 0.0},
    ]


def _update(model: Any, optimizer: Any, arrays: dict[str, np.ndarray], sft: Any, dtype: str) -> float:
    """Makes one update and returns its loss: the mean of step losses, as sft.step.score_sums and mean_metrics."""
    steps = max(round(float(arrays["loss_weights"].sum(dtype=np.float64))), 1)
    total = 0.0
    for rows in np.array_split(np.arange(len(arrays["tokens"])), sft.batch.accumulate):
        part = {name: torch.from_numpy(array[rows]).to(model.device) for name, array in arrays.items()}
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            hidden = model.model(
                input_ids=part["tokens"].long(), position_ids=part["positions"].long(), use_cache=False
            ).last_hidden_state
            weighted = part["loss_weights"] > 0
            logits = model.lm_head(hidden[weighted]).float()
        nll = torch.nn.functional.cross_entropy(logits, part["targets"][weighted].long(), reduction="none")
        loss = (part["loss_weights"][weighted] * nll).sum() / steps
        loss.backward()
        total += float(loss.detach())
    if sft.optim.clip_norm:
        torch.nn.utils.clip_grad_norm_(model.parameters(), sft.optim.clip_norm)
    optimizer.step()
    optimizer.zero_grad()
    return total
