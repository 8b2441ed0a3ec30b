"""The program that supervised fine-tuning compiles: its step."""

from typing import Any

import jax.numpy as jnp

from tljax.data.batch_arrays import BATCH_ARRAYS
from tljax.distributed.mesh import check_row_length, check_rows
from tljax.model import cost, llama, lora
from tljax.plan.estimate import sft_row_length
from tljax.plan.programs import (
    NUM_UPDATES,
    Program,
    RunPrograms,
    abstract_array,
    abstract_train_state,
    recomputed_flops_per_token,
)
from tljax.sft.step import StepOptions, make_sft_step
from tljax.training.optimizer import make_optimizer, make_schedule


def make_sft_programs(config: Any, c: llama.LlamaConfig) -> RunPrograms:
    """Returns the step of supervised fine-tuning on the current mesh.

    Every position counts as a target, which is the maximum that data can need. Raises InputError if model or rows do
    not divide over the mesh.
    """
    llama.check_mesh(c)
    llama.check_length(c, config.data.max_tokens)
    tokens = sft_row_length(config)
    rows = config.batch.rows // config.batch.accumulate
    check_rows(rows, "batch.rows / batch.accumulate")
    check_row_length(tokens)

    # The weights and the state of the optimizer.
    adapter = lora.LoraOptions.from_config(config.lora)
    dtype = jnp.dtype(config.model.compute_dtype)
    frozen = None if adapter is None else llama.abstract_params(c, dtype)
    params = llama.abstract_params(c, jnp.float32) if adapter is None else lora.abstract_adapter(c, adapter)
    updates = NUM_UPDATES + config.optim.warmup_steps
    tx = make_optimizer(config.optim, updates)
    state = abstract_train_state(params, tx)
    resident = {"weights": params, "optimizer": state.opt_state}
    resident |= {} if frozen is None else {"frozen weights": frozen}

    # A batch: [accumulate, rows, tokens] of every array.
    shape = (config.batch.accumulate, rows, tokens)
    batch = {name: abstract_array(shape, dtype, None, "batch", None) for name, dtype in BATCH_ARRAYS.items()}

    # The step.
    options = StepOptions.from_config(config, max_targets=tokens)
    step = make_sft_step(c, tx, make_schedule(config.optim, updates), options)
    arguments = (state, batch) if frozen is None else (state, batch, frozen)
    num_tokens, context = config.batch.rows * tokens, float(min(tokens, config.data.max_tokens))
    program = Program(
        name="step",
        lower=lambda: step.lower(*arguments),
        flops=num_tokens * cost.flops_per_token(c, context, adapter),
        recomputed_flops=num_tokens * recomputed_flops_per_token(c, context, config.model.remat),
        trained_params=(params,),
        inputs=batch,
    )
    parts = f" in {config.batch.accumulate} parts" if config.batch.accumulate > 1 else ""
    description = f"{config.batch.rows} rows x {tokens} tokens{parts}, remat {config.model.remat}"
    return RunPrograms((program,), resident, description)
