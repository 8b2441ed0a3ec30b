"""A model's replies to a file of prompts.

python launch/generate.py --config configs/generate.py --config.model.path=runs/sft-tiny \
    --config.prompts=prompts.jsonl --config.out=replies.jsonl

A row in: {"id", "prompt"}, the text as the model is to read it, or {"id", "tools", "messages"} as OpenAI's API has
them, written as in training, up to "Assistant:". A row out: {"id", "completion", "tokens", "logprob", "ended"}: the
reply's text without the blank before it, its tokens without the end token, the sum of the log-probabilities of all
tokens sampled, the end token's included, and whether it ended before max_new_tokens; with samples above 1 also
"sample", from 0.
"""

from ml_collections import ConfigDict

from tljax.core.config import processes_block


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.prompts = ""  # JSONL, a row a line, or a JSON array; a row without an id gets its number, from 1
    config.out = ""  # new JSONL file, in the order of the prompts; the same command continues after a stop or a crash
    config.dialect = "mae"  # how tools and messages are written: mae | readme, as in training
    config.tokenizer = ""  # folder or hub id; "" is the model's own
    config.samples = 1  # replies to each prompt
    config.rows = 64  # replies generated side by side, over all devices
    config.on_long = "refuse"  # a prompt too long for the model with max_new_tokens stops the run, or "skip" lists it
    config.seed = 0  # a reply depends on it and on its row's number alone

    sample = config.sample = ConfigDict()
    sample.max_new_tokens = 256  # longest reply, end token included
    sample.temperature = 0.0  # 0: greedy, whatever the next two are
    sample.top_k = 0  # only the k likeliest tokens; 0: off
    sample.top_p = 1.0  # only the likeliest tokens that have p together; 1: off

    model = config.model = ConfigDict()
    model.path = ""  # HF folder, a run's folder, hub id, or "base", the small one that ships
    model.compute_dtype = "float32"  # float32 | bfloat16, which takes half the memory; weights are held in it
    model.attention = "auto"  # auto | reference | splash (TPU) | cudnn (GPU)

    config.processes = processes_block()
    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})  # devices along each axis, -1 takes what remains
    return config
