"""The peer of generation: transformers' generate on the same prompts, padded at the left, greedy."""

from pathlib import Path
from typing import Any

import torch  # pyright: ignore[reportMissingImports]  # of the extra `peers`, which need not be installed
from transformers import AutoModelForCausalLM

from tljax.bench import torch_device
from tljax.bench.measurement import Measurement
from tljax.bench.peer_files import read_model, read_prompts
from tljax.bench.reply_times import batch_sizes, measure_replies


def measure(config: Any, work: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Answers the prompts that tljax has answered, in the same batches, and returns the measurements."""
    device, block = torch_device.choose(), config.generate
    dtype = getattr(torch, block.model.compute_dtype)
    model: Any = AutoModelForCausalLM.from_pretrained(read_model(work), dtype=dtype, attn_implementation="sdpa")
    model = model.eval().to(device)
    prompts, new_tokens = read_prompts(work), block.sample.max_new_tokens
    measurements: dict[str, Measurement] = {}
    replies: dict[str, list[list[int]]] = {}
    for size in batch_sizes(config):
        batch = [prompts["prompts"][i % len(prompts["prompts"])] for i in range(size)]
        inputs = _pad_left(batch, prompts["pad_id"], device)
        measurements |= measure_replies(
            lambda tokens, inputs=inputs: _generate(model, inputs, tokens, prompts["pad_id"]),
            batch,
            new_tokens,
            max(config.warmup, 1),
            config.repeats,
        )
        replies[str(size)] = _generate(model, inputs, new_tokens, prompts["pad_id"])
    return {
        "device": torch_device.describe(device),
        "measurements": measurements | torch_device.peak_memory(device),
        "replies": replies,
    }


def _pad_left(batch: list[list[int]], pad_id: int, device: torch.device) -> dict[str, torch.Tensor]:
    length = max(map(len, batch))
    tokens = torch.tensor([[pad_id] * (length - len(row)) + row for row in batch])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in batch])
    return {"input_ids": tokens.to(device), "attention_mask": mask.to(device)}


def _generate(model: Any, inputs: dict[str, torch.Tensor], new_tokens: int, pad_id: int) -> list[list[int]]:
    """Returns the tokens of the replies. No end token ends a reply, as with ours."""
    with torch.inference_mode():
        output = model.generate(
            **inputs, max_new_tokens=new_tokens, do_sample=False, eos_token_id=None, pad_token_id=pad_id
        )
    return output[:, inputs["input_ids"].shape[1] :].tolist()
