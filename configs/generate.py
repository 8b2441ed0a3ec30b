"""The config of a model's replies to a file of prompts.

python launch/generate.py --config configs/generate.py --config.model.path=runs/sft-tiny \
    --config.prompts=prompts.jsonl --config.out=replies.jsonl

An input row is {"id", "prompt"}, the text that the model reads, or {"id", "tools", "messages"} in the format of
OpenAI's API, which is written as in training, up to "Assistant:". An output row has the fields

    id          that of the input row
    completion  the text of the reply, without the blank before it
    tokens      the tokens of the reply, without the end token
    logprob     the sum of the log-probabilities of all sampled tokens, the end token included
    ended       true if the reply ended before max_new_tokens
    sample      the number of the reply to its prompt, from 0; only if config.samples is above 1
"""

from ml_collections import ConfigDict

from tljax.core.config import mesh_block, processes_block


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.prompts = ""  # a JSONL file or a JSON array; a row without an id gets its number, from 1
    config.out = ""  # a new JSONL file in the order of the prompts; the same command continues after a stop
    # True reads text in `prompt` that spells a special token, such as <|im_start|>, as that token, as a chat template
    # means it; the text of `messages` never is, as in training.
    config.special_tokens = False
    config.dialect = "mae"  # the text of tools and messages: mae | readme | full | template, as in training
    config.chat_template = ""  # for the dialect template: FILE.jinja | hermes; "" is the tokenizer's own template
    config.tokenizer = ""  # the model whose tokenizer is used, named as in model.path; "" means that of the model
    config.samples = 1  # the number of replies to each prompt
    config.rows = 64  # the number of replies that are generated at a time, over all devices
    config.on_long = "refuse"  # a prompt too long for the model stops the run; "skip" lists it and goes on
    config.seed = 0  # a reply depends only on it and on the number of its row

    sample = config.sample = ConfigDict()
    sample.max_new_tokens = 256  # the maximum number of tokens of a reply, end token included
    sample.temperature = 0.0  # 0 is greedy, and the next two fields have no effect
    sample.top_k = 0  # samples from the k likeliest tokens; 0 does not limit them
    sample.top_p = 1.0  # samples from the likeliest tokens with probability p together; 1 does not limit them

    model = config.model = ConfigDict()
    model.path = ""  # a folder (HF or a run's), a GGUF file, a hub id, "smollm2", or "base", which ships
    model.compute_dtype = "float32"  # float32 | bfloat16, also of the weights; bfloat16 takes half the memory
    model.attention = "auto"  # auto | reference | blocked | splash (TPU) | cudnn (GPU)

    config.processes = processes_block()
    config.mesh = mesh_block()
    return config
