"""What supervised fine-tuning compiles: its step."""

from typing import Any

import jax.numpy as jnp

from tljax.data.batch_arrays import BATCH_ARRAYS
from tljax.distributed.mesh import check_row_length, check_rows
from tljax.model import cost, llama, lora
from tljax.plan.estimate import sft_tokens
from tljax.plan.programs import UPDATES, Program, Work, array, recomputed, state_of
from tljax.sft.step import StepOptions, make_sft_step
from tljax.training.optimizer import make_optimizer, make_schedule


def sft_work(config: Any, c: llama.LlamaConfig) -> Work:
    """Supervised fine-tuning: the step. Every position counts as a target, the most that data can ask for.

    Raises InputError where model and rows do not fit the mesh.
    """
    llama.check_mesh(c)
    llama.check_length(c, config.data.max_tokens)
    tokens = sft_tokens(config)
    rows = config.batch.rows // config.batch.accumulate
    check_rows(rows, "batch.rows / batch.accumulate")
    check_row_length(tokens)
    adapter = lora.LoraOptions.from_config(config.lora)
    dtype = jnp.dtype(config.model.compute_dtype)
    trunk = None if adapter is None else llama.abstract_params(c, dtype)
    params = llama.abstract_params(c, jnp.float32) if adapter is None else lora.abstract_adapter(c, adapter)
    tx = make_optimizer(config.optim, UPDATES + config.optim.warmup_steps)
    state = state_of(params, tx)
    shape = (config.batch.accumulate, rows, tokens)
    batch = {name: array(shape, dtype, None, "batch", None) for name, dtype in BATCH_ARRAYS.items()}
    options = StepOptions.from_config(config, max_targets=tokens)
    step = make_sft_step(c, tx, make_schedule(config.optim, UPDATES + config.optim.warmup_steps), options)
    count, context = config.batch.rows * tokens, float(min(tokens, config.data.max_tokens))
    flops = count * cost.flops_per_token(c, context, adapter)
    takes = (state, batch) if trunk is None else (state, batch, trunk)
    again = count * recomputed(c, context, config.model.remat)
    program = Program("step", lambda: step.lower(*takes), flops, again, (params,), batch)
    kept = {"weights": params, "optimizer": state.opt_state} | ({} if trunk is None else {"frozen weights": trunk})
    parts = f" in {config.batch.accumulate} parts" if config.batch.accumulate > 1 else ""
    return Work((program,), kept, f"{config.batch.rows} rows x {tokens} tokens{parts}, remat {config.model.remat}")
