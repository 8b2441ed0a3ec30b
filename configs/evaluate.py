"""The config that scores a model on tools it was not trained on: of the toolbox, of benchmarks, or of your own rows.

python launch/evaluate.py --config configs/evaluate.py --config.model.path=runs/sft-tiny
python launch/evaluate.py --config configs/evaluate.py --config.model.path=HF_DIR \
    --config.data=RoTBench/Data --config.out=report.json
python launch/evaluate.py --config configs/evaluate.py --config.predictions=F.jsonl --config.data=RoTBench/Data
python launch/evaluate.py --config configs/evaluate.py --config.model.path=HF_DIR --config.data=mine.jsonl \
    --config.out=report.json
python launch/evaluate.py --config configs/evaluate.py:smollm2        # SmolLM2-135M-Instruct before any training

The option `smollm2` after the colon sets values for that model, or a run of it, on two CPU cores.
"""

from ml_collections import ConfigDict

from tljax.core.config import mesh_block, parse_options, processes_block


def get_config(arg: str = "") -> ConfigDict:
    size, _ = parse_options(arg, sizes=("smollm2",), flags=(), default="")

    config = ConfigDict()
    # "toolbox" means its splits `composition` (new tools of known words) and `domain` (new tools of new words). Other
    # values are a file of RoTBench, ToolAlpaca, BFCL v3 or ToolEyes as in its repository, a file of rows in any format
    # that training reads, or a folder of such files, each of which is a set.
    config.data = "toolbox"
    config.queries = 1000  # the number of queries of each split of the toolbox, the same for every model
    config.dialect = "mae"  # the text of tools and calls: mae | readme | full | template, as in training
    config.chat_template = ""  # for the dialect template: FILE.jinja | hermes; "" is the tokenizer's own template
    config.tokenizer = ""  # the model whose tokenizer is used, named as in model.path; "" means that of the model
    config.new_tokens = 128  # the maximum number of tokens of a reply
    config.rows = 64  # the number of queries that are answered at a time, over all devices
    # A new file; "" writes none. For the toolbox it is JSONL with a line per query: golden, prediction, level, kind.
    # For benchmarks it is a JSON report, and NAME.predictions.jsonl beside it has the replies, from which a stopped
    # run continues.
    config.out = ""

    # The next fields are for your own rows. Every message of the assistant whose calls `mae` keeps is a query, and its
    # calls are the golden list. `index` numbers the messages of the assistant through the file, from 0: it counts those
    # too that are not scored, because they are blocked or make no call, so it is the same under every rule.
    config.format = "auto"  # auto (by the shape of each row), or the name of a format as in data.format of training
    config.mae = "default"  # which messages are queries: a rule as in data.mae of training; none keeps all with a call
    config.on_bad_row = "refuse"  # refuse | skip: leave malformed rows out and list them
    config.cache = ""  # a folder for the rows as they were read; "" means the cache of `datasets`

    # The next fields are for benchmarks and your own rows.
    config.predictions = ""  # a JSONL file {"index", "prediction", "set"} that is scored instead of a model
    config.noise = ""  # also scores each set under noise in names: slight, medium, heavy and union, with commas
    config.noise_seed = 0
    config.compare = ""  # another report.json on the same sets, to compare with by a paired bootstrap
    config.bfcl_out = ""  # a new folder for the replies to BFCL's sets, in the format of its own checker

    model = config.model = ConfigDict()
    # A folder (HF, peft, a run's), a GGUF file, a hub id, "smollm2", or "base", the small model that ships.
    model.path = ""
    model.compute_dtype = "float32"  # float32 | bfloat16
    model.attention = "auto"  # auto | reference | blocked | splash (TPU) | cudnn (GPU)

    config.processes = processes_block()
    config.mesh = mesh_block()

    # turns = "multi" holds dialogues. They begin with tasks of the toolbox, with rows of a benchmark, whose calls a
    # mock answers, or with rows of a JSONL file, {"id", "query"} or {"id", "messages"}. The mock answers the calls of
    # the latter if the row has "tools"; otherwise the functions of config.tools do. config.out is the report;
    # NAME.dialogues.jsonl and NAME.dialogues.txt are written beside it.
    config.turns = "single"  # single: one call per query | multi: dialogues in which calls are run, until `finish`
    # A Python file whose functions are the tools for config.data = queries.jsonl, or FILE.py:CLASS, whose methods are;
    # "" mocks them. Each dialogue has its own process, which imports the file; at most config.rows exist at a time.
    config.tools = ""
    config.tool_seconds = 10.0  # the maximum of seconds for one call of such a function
    config.tool_calls = 8  # the number of such calls that run at a time
    config.finish = "finish"  # the tool that ends a dialogue, added if not listed; "": a reply without a call ends it
    config.max_turns = 10  # the maximum number of replies of a dialogue
    config.max_tokens = 0  # the maximum number of tokens of a dialogue; 0 means as many as the model can read
    config.max_repeats = 3  # a dialogue ends when the same call has got the same feedback so many times

    if size == "smollm2":
        config.update_from_flattened_dict(SMOLLM2)
    return config


# Decoding eight prompts at a time keeps the cache of the keys small; more rows were not measured.
SMOLLM2 = {"model.path": "smollm2", "queries": 100, "new_tokens": 64, "rows": 8}
