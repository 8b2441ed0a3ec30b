"""What configs are made of: blocks they share, option strings, checks of single values."""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from tljax.core.errors import InputError

MAX_INT32 = 2**31 - 1  # numbers of steps and seeds become int32 on the devices

# Fields of every training config, and the least each may be.
TRAINING_MINIMUMS = {
    "seed": 0,
    "toolbox.trajectories": 1,
    "toolbox.copied": 0,
    "lora.rank": 0,
    "model.loss_chunk": 1,
    "eval.every": 0,
    "eval.queries": 1,
    "eval.new_tokens": 1,
    "eval.rows": 1,
    "checkpoint.every": 0,
    "checkpoint.keep": 1,
    "checkpoint.keep_best": 0,
    "log.every": 1,
}


def data_block() -> ConfigDict:
    """The `data` fields, the same in every config: from raw trajectories to weighted tokens."""
    data = ConfigDict()
    data.source = "toolbox"  # toolbox | invented (both made here), a JSON or JSONL file, or the name of a HF dataset
    data.tokenizer = ""  # folder or hub id; "" is the model's own, and the toolbox's where there is no model
    data.mae = "default"  # default | release | release_no_filter | none | ["regex", ...] | FILE.txt | module:function
    data.pkt = "paper"  # weights of key tokens: paper | release | none
    data.w_max = 9.0  # largest weight of a key token (released code: 9)
    data.prompt_weight = 0.0  # of a token outside the replies, beside 1 within; above 0 a row is one loss (pretraining)
    data.dialect = "mae"  # how tools and calls are written: mae (the release's training data) | readme (its model card)
    data.rows = "trajectory"  # one row per trajectory, or per "step"; equal gradients, the first reads the history once
    data.max_tokens = 8192  # longest step in tokens, prompt, reply and end token together (released value)
    data.on_bad_row = "refuse"  # a malformed row stops the run, or "skip" counts and lists it
    data.eval_fraction = 0.05  # share of trajectories held out for the eval loss
    data.cache = ""  # folder of prepared rows; "" is the cache of the datasets library
    return data


def toolbox_block() -> ConfigDict:
    """What data.source = "toolbox" or "invented" generates; read for these two only."""
    toolbox = ConfigDict()
    toolbox.trajectories = 2000  # how many
    toolbox.copied = 0  # lines to be said again that come first; of "invented" alone
    toolbox.error_share = 0.17  # share of failing tool calls (the paper counts over 17 % in RoTLLaMA's data)
    toolbox.noise = ""  # RoTBench-style name noise: "" | slight | medium | heavy | union
    toolbox.seed = 0
    return toolbox


def lora_block(rank: int) -> ConfigDict:
    """The `lora` fields: a low-rank adapter, trained in place of the weights; values of QLoRA (arXiv 2305.14314)."""
    lora = ConfigDict()
    lora.rank = rank  # numbers between input and output of a weight's adapter; 0 trains the weights themselves
    lora.alpha = 16.0  # the adapter's part is multiplied by alpha / rank
    lora.targets = "q,k,v,o,gate,up,down"  # weights that have one; with fewer LoRA falls behind (QLoRA, figure 2)
    return lora


def processes_block() -> ConfigDict:
    """The `processes` fields: where a run's other processes are; found by itself on TPU pods and under SLURM's srun."""
    processes = ConfigDict()
    processes.coordinator = ""  # HOST:PORT of process 0, the same on all
    processes.count = 0  # how many there are; 1, with any coordinator and id 0: this one alone, whatever SLURM says
    processes.id = -1  # which one this is, from 0
    # Seconds after which one that the others wait for is called stuck, and ends the run; four times as many where none
    # goes on. Process 0 prepares the data first, while the others wait.
    processes.timeout = 1800.0
    return processes


def mesh_block() -> ConfigDict:
    """The `mesh` fields: devices along each axis within a slice; one may be -1 and takes what remains."""
    mesh = ConfigDict()
    mesh.data = 1  # rows are split over it, weights are not: each place holds all of them
    mesh.fsdp = -1  # rows are split over it, and weights, gradients and moments (ZeRO 3, arXiv 1910.02054)
    mesh.tensor = 1  # heads, feed-forward and vocabulary are split over it
    mesh.sequence = 1  # the tokens of each row are split over it, and weights as over fsdp: for rows of 16k and more
    mesh.slices = 0  # TPU slices, each with a mesh as above and all weights; 0: as many as the devices say
    return mesh


def parse_options(arg: str, sizes: Iterable[str], flags_: Iterable[str], default: str) -> tuple[str, set[str]]:
    """The size and the flags in "7b,release".

    Raises InputError for an unknown word or two sizes.
    """
    sizes, flags_ = list(sizes), list(flags_)
    words = [word.strip() for word in arg.split(",") if word.strip()]
    unknown = [word for word in words if word not in sizes and word not in flags_]
    if unknown:
        raise InputError(f"config option {unknown[0]!r} is unknown; allowed: {', '.join(sizes + flags_)}")
    chosen = [word for word in words if word in sizes]
    if len(chosen) > 1:
        raise InputError(f"config options {' and '.join(chosen)} are both sizes; give one of {', '.join(sizes)}")
    return (chosen[0] if chosen else default), set(words) - set(chosen)


def check_choice(field: str, value: str, allowed: Iterable[str]) -> None:
    """Raises InputError unless `value` is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise InputError(f"config.{field} is {value!r}; allowed: {', '.join(repr(a) for a in allowed)}")


def check_range(field: str, value: float, least: float, most: float = MAX_INT32) -> None:
    """Raises InputError unless `value` lies between `least` and `most`, both allowed."""
    if not least <= value <= most:
        raise InputError(f"config.{field} is {value}; allowed: {least} to {most:,}")


def check_minimums(config: Any, least: Mapping[str, float]) -> None:
    """Raises InputError for the first field, "block.field", that is below the least it may be."""
    for name, value in least.items():
        check_range(name, get_field(config, name), value)


def get_field(config: Any, name: str) -> Any:
    """The value of "block.field"."""
    for part in name.split("."):
        config = config[part]
    return config


def flatten_fields(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields as {"block.field": value}."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= flatten_fields(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return found


def check_choices(config: Any, choices: Mapping[str, Iterable[Any]]) -> None:
    """Raises InputError for the first field, "block.field", whose value is not among those allowed."""
    for name, allowed in choices.items():
        check_choice(name, get_field(config, name), allowed)
