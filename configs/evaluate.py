"""Scores of a model on tools it was not trained on: the toolbox's, or benchmarks' own files.

python launch/evaluate.py --config configs/evaluate.py --config.model.path=runs/sft-tiny
python launch/evaluate.py --config configs/evaluate.py --config.model.path=HF_DIR \
    --config.data=RoTBench/Data --config.out=report.json
python launch/evaluate.py --config configs/evaluate.py --config.predictions=F.jsonl --config.data=RoTBench/Data
"""

from ml_collections import ConfigDict

from tljax.core.config import processes_block


def get_config() -> ConfigDict:
    config = ConfigDict()
    # "toolbox": its splits `composition` (known words, new tools) and `domain` (new words, new tools); or a file of
    # RoTBench, ToolAlpaca, BFCL v3 or ToolEyes as its repository has it, or a folder of them, each file a set.
    config.data = "toolbox"
    config.queries = 1000  # of each split of the toolbox, one call each, the same for every model
    config.dialect = "mae"  # how tools and calls are written: mae | readme, as in training
    config.tokenizer = ""  # folder or hub id; "" is the model's own
    config.new_tokens = 128  # longest answer
    config.rows = 64  # queries answered side by side, over all devices
    # New file. Of the toolbox JSONL answers, a query a line: golden, prediction, level, kind; "" writes none. Of a
    # benchmark a JSON report; the replies go beside it, to NAME.predictions.jsonl, and a stopped run goes on from them.
    config.out = ""

    # For benchmarks.
    config.predictions = ""  # JSONL {"index", "prediction", "set"}: these are scored, and no model is asked
    config.noise = ""  # slight | medium | heavy | union, or several with commas: each set also under noise in names
    config.noise_seed = 0
    config.compare = ""  # another report.json on the same sets: the differences, by a paired bootstrap
    config.bfcl_out = ""  # new folder for replies to BFCL's sets as its own checker reads them

    model = config.model = ConfigDict()
    model.path = ""  # folder (HF, peft, a run's), hub id, or "base", the small one that ships
    model.compute_dtype = "float32"  # float32 | bfloat16
    model.attention = "auto"  # auto | reference | splash (TPU) | cudnn (GPU)

    config.processes = processes_block()
    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})  # devices along each axis, -1 takes what remains

    # turns = "multi" holds dialogues. They begin with the toolbox's tasks; a benchmark's rows, whose calls are mocked;
    # or rows of a JSONL file, {"id", "query"} or {"id", "messages"}: either with "tools", for the mock, or with the
    # functions of config.tools, which are run. config.out is the report; NAME.dialogues.jsonl and .txt lie beside it.
    config.turns = "single"  # single: one call a query; multi: dialogues in which calls are run, up to `finish`
    # Python file whose functions are the tools for config.data = queries.jsonl; "": mocked. Each dialogue has a process
    # of its own, with what the file imports: as many at once as config.rows.
    config.tools = ""
    config.tool_seconds = 10.0  # longest call of such a function
    config.tool_calls = 8  # calls of such functions side by side
    config.finish = "finish"  # tool that ends a dialogue, added where not listed; "": a reply without a call does
    config.max_turns = 10  # most replies of a dialogue
    config.max_tokens = 0  # most tokens of a dialogue; 0: as many as the model can read
    config.max_repeats = 3  # the same call with the same feedback so often is a loop, which ends a dialogue
    return config
