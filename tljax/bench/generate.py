"""Measures generation: prefill and decoding apart, for several batch sizes, against the bandwidth of the memory."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from tljax.bench import devices, peer_files, peer_model
from tljax.bench.measurement import Measurement
from tljax.bench.reply_times import batch_sizes, measure_replies
from tljax.core.config import check_choice
from tljax.data.dialect import open_dialect
from tljax.data.prompt_table import load_prompts
from tljax.distributed.mesh import batch_shard_count, make_mesh
from tljax.generate.load import open_model_and_tokenizer
from tljax.generate.run import check_devices, read_prompts
from tljax.generate.sampler import Sampler
from tljax.generate.sampling import SampleOptions
from tljax.model import cost, llama
from tljax.model.attention import IMPLEMENTATIONS
from tljax.toolbox.embedded import resolve_source_file
from tljax.training import model_source


def measure(config: Any, work: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Answers prompts in batches of every size of config.batches, and returns the measurements.

    Every reply has generate.sample.max_new_tokens tokens: no end token ends it. options["peer"]: True to write the
    prompts for the peers.
    """
    block = config.generate
    with devices.name_block("generate"):
        block.model.path = config.sft.model.path = peer_model.resolve_scratch(config.sft, work)
        model_source.check_trained(block.model.path)
        check_choice("model.compute_dtype", block.model.compute_dtype, llama.COMPUTE_DTYPES)
        check_choice("model.attention", block.model.attention, IMPLEMENTATIONS)
        model, tokenizer = open_model_and_tokenizer(block.model.path, block.tokenizer)
        sample = SampleOptions.from_config(block.model, block.sample, tokenizer.eos_ids)
    sample = dataclasses.replace(sample, eos_ids=())
    with jax.set_mesh(make_mesh(**block.mesh)):
        with devices.name_block("generate"):
            check_devices(block, model.config)
        prompts = _load_prompts(config, model, tokenizer)
        params = model_source.load_with_adapter(model, jnp.dtype(sample.compute_dtype), seed=0)
        measurements: dict[str, Measurement] = {}
        replies: dict[str, list[list[int]]] = {}
        bounds: dict[int, float] = {}  # the bytes of a step by batch size
        for size in batch_sizes(config):
            batch = [prompts[i % len(prompts)] for i in range(size)]
            rows = -(-size // batch_shard_count()) * batch_shard_count()
            sampler = Sampler(params, model.config, sample, key=jax.random.key(block.seed), rows=rows)
            measurements |= measure_replies(
                lambda tokens, sampler=sampler, batch=batch: _with_new_tokens(sampler, tokens).generate(batch),
                batch,
                sample.max_new_tokens,
                max(config.warmup, 1),
                config.repeats,
            )
            replies[str(size)] = [reply.tokens for reply in sampler.generate(batch)]
            bounds[size] = decode_step_bytes(model.config, batch, sample)
        memory = devices.peak_memory()
        bandwidth, origin = devices.memory_bandwidth()
        for size, num_bytes in bounds.items():
            decode = measurements.get(f"decode, batch {size}")
            if decode is not None:
                bound = bandwidth * jax.device_count() / num_bytes * size
                shares = [100 * value / bound for value in decode.values]
                name = f"decode against bandwidth, batch {size}"
                measurements[name] = Measurement("%", shares, higher_is_better=True)
        if options["peer"]:
            peer_model.provide_hf_folder(work, model, str(tokenizer.folder))
            peer_files.write_prompts(work, {"prompts": prompts, "pad_id": sample.pad_id})
    return {
        "device": devices.describe(),
        "measurements": measurements | memory,
        "shapes": {
            "weights": cost.count_weights(model.config),
            "prompts": len(prompts),
            "longest prompt": max(map(len, prompts)),
            "new tokens": sample.max_new_tokens,
            "compute dtype": sample.compute_dtype,
            "bandwidth": f"{bandwidth / 1e9:.1f} GB/s a device, {origin}",
        },
        "replies": replies,
    }


def _with_new_tokens(sampler: Sampler, new_tokens: int) -> Sampler:
    return dataclasses.replace(sampler, options=dataclasses.replace(sampler.options, max_new_tokens=new_tokens))


def decode_step_bytes(c: llama.LlamaConfig, prompts: Sequence[Sequence[int]], sample: SampleOptions) -> float:
    """Returns the bytes that a step of decoding must read: every weight of a product once, and the cached tokens.

    The embedding's lookup reads a row of it for each prompt, which is not counted. A reply is half done on average.
    """
    itemsize = jnp.dtype(sample.compute_dtype).itemsize
    lookup = 0 if c.tie_embeddings else c.vocab_size * c.d_model
    cached = sum(len(prompt) + sample.max_new_tokens / 2 for prompt in prompts)
    cache = 2 * c.num_layers * c.num_kv_heads * c.head_dim * cached
    return itemsize * (cost.count_weights(c) - lookup + cache)


def _load_prompts(config: Any, model: model_source.ModelSource, tokenizer: Any) -> list[list[int]]:
    """Returns the prompts of generate.prompts, a file, or of sft.data, as many as the largest batch takes."""
    block, count = config.generate, max(batch_sizes(config))
    if block.prompts:
        with devices.name_block("generate"):
            dialect, tokenizer = open_dialect(block.dialect, block.chat_template, tokenizer, "chat_template")
            found = read_prompts(block, Path(block.prompts).expanduser(), model.config, tokenizer, dialect)
        return [list(tokens) for tokens in found.tokens[:count]]
    with devices.name_block("sft"):
        data = config.sft.data
        dialect, tokenizer = open_dialect(data.dialect, data.chat_template, tokenizer, "data.chat_template")
        file = resolve_source_file(data.source, config.sft.toolbox, data.cache)
        limit = min(data.max_tokens, model.config.max_tokens - block.sample.max_new_tokens)
        table = load_prompts(data, file, tokenizer, seed=config.sft.seed, max_prompt_tokens=limit, dialect=dialect)
    return [list(table.train[i].tokens) for i in range(min(count, len(table.train)))]
