"""Scores of a model on tools it was not trained on.

python launch/evaluate.py --config configs/evaluate.py --config.model.path=runs/sft-tiny
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data = "toolbox"  # its splits `composition` (known words, new tools) and `domain` (new words, new tools)
    config.queries = 1000  # of each split, one call each, the same for every model
    config.dialect = "mae"  # how tools and calls are written: mae | readme, as in training
    config.tokenizer = ""  # folder or hub id; "" is the model's own
    config.new_tokens = 128  # longest answer
    config.rows = 64  # queries answered side by side, over all devices
    config.out = ""  # new JSONL file for the answers, a query a line: golden, prediction, level, kind; "" writes none

    model = config.model = ConfigDict()
    model.path = ""  # folder (HF, peft, a run's), hub id, or "base", the small one that ships
    model.compute_dtype = "float32"  # float32 | bfloat16
    model.attention = "auto"  # auto | reference | splash (TPU) | cudnn (GPU)

    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})  # devices along each axis, -1 takes what remains

    config.turns = "single"  # single: one call a query; multi: dialogues in which calls are run, up to `finish`
    config.tools = ""  # Python file whose functions are the tools for config.data = queries.jsonl; "": mocked
    config.tool_seconds = 10.0  # longest call of such a function; each dialogue has a process of its own
    config.tool_calls = 8  # calls of such functions side by side
    config.finish = "finish"  # tool that ends a dialogue, added where not listed; "": a reply without a call does
    config.max_turns = 10  # most replies of a dialogue
    config.max_tokens = 0  # most tokens of a dialogue; 0: as many as the model can read
    config.max_repeats = 3  # the same call with the same feedback so often is a loop, which ends a dialogue
    return config
