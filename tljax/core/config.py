"""The parts of configs: the blocks that they share, option strings, and checks of single values."""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from tljax.core.errors import InputError

MAX_INT32 = 2**31 - 1  # step numbers and seeds are int32 on the devices

# Fields of every training config, and the minimum of each.
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
    """Returns the `data` block, the same in every config: the way from raw trajectories to weighted tokens."""
    data = ConfigDict()
    data.source = (
        "toolbox"  # toolbox | invented (both are generated), a file or a folder of them, or the name of a HF dataset
    )
    # Format of the rows: auto (the shape of each row decides) | tl_training | openai | responses | anthropic |
    # sharegpt | toolbench | glaive | xlam | seal_tools
    data.format = "auto"
    # The model whose tokenizer is used, named as in model.path; "" is that of the model, or the toolbox's without one.
    data.tokenizer = ""
    # default | release | release_no_filter | none | ["regex", ...] | FILE.txt | FILE.jsonl (verdicts) | module:function
    data.mae = "default"
    data.pkt = "paper"  # weights of key tokens: paper | release | none
    data.w_max = 9.0  # maximal weight of a key token (released code: 9)
    data.prompt_weight = 0.0  # weight of tokens outside replies; above 0, a row has one mean loss (pretraining)
    # The text of tools and calls: mae (released training data) | readme (released model card) | full (mae with allowed
    # values, defaults and nested properties) | template (the tokenizer's own chat template).
    data.dialect = "mae"
    # For the dialect template, another template than the tokenizer's: FILE.jinja | hermes (ours, with Hermes' tags).
    data.chat_template = ""
    # Fraction of the training trajectories whose tools get new names, half of them with new names of parameters too, so
    # that the model copies names from its prompt instead of guessing them (function masking, arXiv 2410.04587).
    data.new_names = 0.0
    data.rows = (
        "trajectory"  # one row per trajectory, or per "step": equal gradients, but a step's row repeats its history
    )
    data.max_tokens = 8192  # maximal tokens of a step: prompt, reply and end token together (released value)
    data.on_bad_row = "refuse"  # a malformed row stops the run; "skip" leaves it out, counts it and lists it
    data.eval_fraction = 0.05  # fraction of trajectories held out for the eval loss
    data.cache = ""  # folder for prepared rows; "" is the cache folder of the datasets library
    return data


def toolbox_block() -> ConfigDict:
    """Returns the `toolbox` block, which is read only if data.source is "toolbox" or "invented"."""
    toolbox = ConfigDict()
    toolbox.trajectories = 2000  # number of trajectories
    toolbox.copied = 0  # number of rows before them that copy a line; for "invented" only
    toolbox.error_share = 0.17  # fraction of tool calls that fail (the paper counts over 17 % in RoTLLaMA's data)
    toolbox.noise = ""  # RoTBench-style name noise: "" | slight | medium | heavy | union
    toolbox.seed = 0
    return toolbox


def lora_block(rank: int) -> ConfigDict:
    """Returns the `lora` block: a low-rank adapter trained in place of the weights. Defaults of arXiv 2305.14314."""
    lora = ConfigDict()
    lora.rank = rank  # inner dimension of the adapters; 0 trains the weights themselves
    lora.alpha = 16.0  # the adapter's output is multiplied by alpha / rank
    lora.rslora = False  # True multiplies it by alpha / sqrt(rank) instead (rsLoRA, arXiv 2312.03732)
    lora.targets = (
        "q,k,v,o,gate,up,down"  # weights with an adapter; with fewer of them LoRA scores lower (QLoRA, figure 2)
    )
    return lora


def processes_block() -> ConfigDict:
    """Returns the `processes` block: the processes of a run, which TPU pods and SLURM's srun set by themselves."""
    processes = ConfigDict()
    processes.coordinator = ""  # HOST:PORT of process 0, the same on all processes
    processes.count = 0  # number of processes; 1 with a coordinator and id 0 runs this one alone, also under SLURM
    processes.id = -1  # index of this process, from 0
    # Seconds that processes wait for one that is stuck before the run ends; four times as many if all are stuck. The
    # others also wait while process 0 prepares the data.
    processes.timeout = 1800.0
    return processes


def mesh_block() -> ConfigDict:
    """Returns the `mesh` block: devices along each axis within a slice. One axis may be -1, for all that remain."""
    mesh = ConfigDict()
    mesh.data = 1  # splits the rows of a batch; each index holds all weights
    mesh.fsdp = -1  # splits rows, and weights, gradients and moments (ZeRO 3, arXiv 1910.02054)
    mesh.tensor = 1  # splits heads, feed-forward and vocabulary
    mesh.sequence = 1  # splits the tokens of each row, and weights as fsdp does: for rows of 16k tokens and more
    mesh.slices = 0  # number of TPU slices, each with such a mesh and all weights; 0: as the devices report
    return mesh


def parse_options(arg: str, sizes: Iterable[str], flags: Iterable[str], default: str) -> tuple[str, set[str]]:
    """Returns the size and the flags of an option string such as "7b,release"; `default` is the size if it names none.

    Raises InputError for an unknown option or two sizes.
    """
    sizes, flags = list(sizes), list(flags)
    words = [word.strip() for word in arg.split(",") if word.strip()]
    unknown = [word for word in words if word not in sizes and word not in flags]
    if unknown:
        raise InputError(f"config option {unknown[0]!r} is unknown; allowed: {', '.join(sizes + flags)}")
    chosen = [word for word in words if word in sizes]
    if len(chosen) > 1:
        raise InputError(f"config options {' and '.join(chosen)} are both sizes; give one of {', '.join(sizes)}")
    return (chosen[0] if chosen else default), set(words) - set(chosen)


def check_choice(field: str, value: str, allowed: Iterable[str]) -> None:
    """Raises InputError unless `value` is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise InputError(f"config.{field} is {value!r}; allowed: {', '.join(repr(a) for a in allowed)}")


def check_range(field: str, value: float, minimum: float, maximum: float = MAX_INT32) -> None:
    """Raises InputError unless `minimum` <= `value` <= `maximum`."""
    if not minimum <= value <= maximum:
        raise InputError(f"config.{field} is {value}; allowed: {minimum} to {maximum:,}")


def check_minimums(config: Any, minimums: Mapping[str, float]) -> None:
    """Raises InputError for the first field, "block.field", that is below its minimum."""
    for name, minimum in minimums.items():
        check_range(name, get_field(config, name), minimum)


def get_field(config: Any, name: str) -> Any:
    """Returns the value of the field "block.field"."""
    for part in name.split("."):
        config = config[part]
    return config


def flatten_fields(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the fields of nested blocks as {"block.field": value}."""
    fields: dict[str, Any] = {}
    for key, item in value.items():
        fields |= flatten_fields(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return fields


def check_choices(config: Any, choices: Mapping[str, Iterable[Any]]) -> None:
    """Raises InputError for the first field, "block.field", whose value is not among the allowed ones."""
    for name, allowed in choices.items():
        check_choice(name, get_field(config, name), allowed)
