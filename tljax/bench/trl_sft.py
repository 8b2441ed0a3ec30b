"""The peer of SFT for a whole data set: TRL's SFTTrainer on a row for each reply, padded, in float32.

A row of ours holds every reply of a trajectory, and several trajectories. TRL reads the history once for each reply.
Its loss is a mean without PKT's weights, so the rates of replies are compared, and no losses.
"""

import time
from pathlib import Path
from typing import Any

import datasets
import torch  # pyright: ignore[reportMissingImports]  # of the extra `peers`, which need not be installed
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer  # pyright: ignore  # of the same extra; it exports its names lazily

from tljax.bench import peer_files, torch_device
from tljax.bench.measurement import rate


class _Clock(TrainerCallback):
    """The seconds of each update."""

    def __init__(self):
        self.seconds: list[float] = []
        self._begin = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._begin = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds.append(time.perf_counter() - self._begin)


def measure(config: Any, work: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Makes config.warmup + config.repeats updates of sft.batch.rows replies, and returns the measurements."""
    device, optim, folder = torch_device.choose(), config.sft.optim, peer_files.read_model(work)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows, clock = config.sft.batch.rows, _Clock()
    arguments = SFTConfig(
        output_dir=str(work / "trl"),
        per_device_train_batch_size=rows,
        max_steps=config.warmup + config.repeats,
        learning_rate=optim.lr,
        adam_beta1=optim.b1,
        adam_beta2=optim.b2,
        adam_epsilon=optim.eps,
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.clip_norm,
        max_length=None,
        completion_only_loss=True,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=device.type == "cpu",
        save_strategy="no",
        report_to="none",
        seed=config.sft.seed,
        disable_tqdm=True,
    )
    replies = datasets.Dataset.from_list(peer_files.read_replies(work))
    SFTTrainer(
        model=model, args=arguments, train_dataset=replies, processing_class=tokenizer, callbacks=[clock]
    ).train()
    seconds = clock.seconds[config.warmup :]
    return {
        "device": torch_device.describe(device),
        "measurements": {
            "replies per second": rate("replies/s", [float(rows)] * len(seconds), seconds),
            **torch_device.peak_memory(device),
        },
    }
