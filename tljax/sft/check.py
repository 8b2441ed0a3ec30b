"""Checks an SFT config before any device work."""

from typing import Any

from tljax.core import config as checks
from tljax.core.errors import InputError
from tljax.data.check import check_data
from tljax.distributed.mesh import check_initialized, check_row_length, check_rows, mesh_platform
from tljax.model import cost, llama, lora, memory
from tljax.model.attention import IMPLEMENTATIONS, choose_implementation
from tljax.model.hf.config import DTYPES
from tljax.model.remat import REMATS
from tljax.training import model_source, resume
from tljax.training.metrics import check_installed
from tljax.training.optimizer import SCHEDULES


def check(config: Any) -> None:
    """Raises InputError for a field whose value is not allowed or needs a library that is not installed."""
    check_data(config.data)
    check_installed(config.log.wandb)
    choices = {
        "resume": resume.RESUME,
        "model.compute_dtype": llama.COMPUTE_DTYPES,
        "model.remat": REMATS,
        "model.attention": IMPLEMENTATIONS,
        "optim.schedule": SCHEDULES,
        "export.dtype": ("auto", *DTYPES),
    }
    checks.check_choices(config, choices)
    own = {
        "batch.rows": 1,
        "batch.tokens": 0,
        "batch.accumulate": 1,
        "optim.epochs": 1,
        "optim.max_steps": 0,
        "eval.samples": 0,
    }
    checks.check_minimums(config, checks.TRAINING_MINIMUMS | own)
    checks.check_range("export.max_shard_bytes", config.export.max_shard_bytes, 1, 1e15)
    if lora.LoraOptions.from_config(config.lora) is not None and config.model.path == model_source.SCRATCH:
        raise InputError(
            f"config.lora.rank is {config.lora.rank}, but config.model.path is {model_source.SCRATCH!r}: an adapter "
            "needs a model to belong to; give one, or lora.rank = 0"
        )
    if config.batch.rows % config.batch.accumulate:
        raise InputError(
            f"config.batch.rows is {config.batch.rows}, which does not divide into batch.accumulate = "
            f"{config.batch.accumulate} parts; use a multiple of {config.batch.accumulate}"
        )
    if config.batch.tokens and config.batch.tokens < config.data.max_tokens:
        raise InputError(
            f"config.batch.tokens is {config.batch.tokens}, less than data.max_tokens = {config.data.max_tokens}: "
            "a step could be longer than its row; raise the first or lower the second"
        )


def check_devices(config: Any, c: llama.LlamaConfig) -> None:
    """Raises InputError if model, rows or attention do not fit the current mesh, or steps do not fit the model."""
    llama.check_mesh(c)
    llama.check_length(c, config.data.max_tokens)
    check_rows(config.batch.rows // config.batch.accumulate, "batch.rows / batch.accumulate")
    check_row_length(config.batch.tokens)  # 0, where the data decides, always divides
    if config.eval.sets:
        check_rows(config.eval.rows, "eval.rows")
    check_state_fits(config, c)
    choose_implementation(config.model.attention, config.model.compute_dtype, c.head_dim, mesh_platform())
    check_initialized()


def check_state_fits(config: Any, c: llama.LlamaConfig) -> None:
    """Raises InputError if weights, gradients and moments alone exceed a device of the mesh."""
    adapter = lora.LoraOptions.from_config(config.lora)
    num_weights = cost.count_weights(c)
    num_trained, num_frozen = (num_weights, 0) if adapter is None else (cost.count_adapter(c, adapter), num_weights)
    use_adapter = ", train an adapter alone (config.lora.rank)" if adapter is None else ""
    memory.check_state_fits(
        memory.state_bytes(num_trained, num_frozen, config.model.compute_dtype).total,
        f"the model has {num_weights / 1e9:.1f} billion weights; with gradients and moments they take",
        f"split it over more devices (config.mesh.fsdp, mesh.sequence, mesh.tensor){use_adapter} or take a smaller "
        "model",
    )
