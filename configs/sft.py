r"""Supervised fine-tuning with MAE and PKT.

    python launch/train.py --config configs/sft.py        the small base that ships, on the toolbox, on a CPU
    python launch/train.py --config configs/sft.py:7b \
        --config.model.path=CodeLlama-7b-hf --config.data.source=raw_data.json

Options after the colon, separated by commas: a size (tiny, 7b, 13b, 34b, 70b), `lora` to train a low-rank adapter on
frozen weights, and `release` for the arithmetic of the released run (arXiv 2412.15495, code/pkt/finetune.sh). Every
field can be set: --config.optim.lr=2e-6.
"""

from ml_collections import ConfigDict

from tljax.core.config import data_block, lora_block, mesh_block, parse_options, processes_block, toolbox_block


def get_config(arg: str = "") -> ConfigDict:
    size, flags = parse_options(
        arg, sizes=("tiny", "7b", "13b", "34b", "70b"), flags=("lora", "release"), default="tiny"
    )

    config = ConfigDict()
    config.run = "sft"  # which stage launch/train.py starts
    config.name = f"sft-{size}"
    config.seed = 0  # of the held-out split, the order of rows and the first weights
    # Run folder, or an address, gs://BUCKET/RUN; "" is runs/NAME, or the first free runs/NAME-2, ... Every path below
    # that is read may be an address too.
    config.out = ""
    config.resume = "never"  # "auto" continues the run in `out` from its last checkpoint

    config.data = data_block()
    config.toolbox = toolbox_block()
    config.lora = lora_block(rank=64 if "lora" in flags else 0)

    model = config.model = ConfigDict()
    model.path = ""  # folder (HF, peft, a run's), hub id, or "base"; "scratch": random weights in the shape of `preset`
    model.preset = size  # shape of a model from scratch: tiny | 7b | 13b | 34b | 70b
    model.compute_dtype = "bfloat16"  # of activations and matrix products; weights and moments stay float32
    model.remat = "full"  # activations kept for the backward pass: none | dots | attention | full (none kept)
    model.attention = "auto"  # auto | reference | splash (TPU) | cudnn (GPU)
    model.loss_chunk = 1024  # positions a row that pass the head together; logits are [rows, loss_chunk, words]

    config.processes = processes_block()

    config.mesh = mesh_block()

    batch = config.batch = ConfigDict()
    batch.rows = 8  # packed rows of one update, over all devices
    batch.tokens = 8192  # length of a packed row; 0: the longest row, rounded up to a multiple of 128
    batch.accumulate = 1  # parts an update's rows are computed in, one after the other
    batch.pack = True  # several trajectories in one row
    batch.shuffle = True  # false keeps the order of the source, which then is the curriculum

    optim = config.optim = ConfigDict()  # AdamW; values of the released run where none other is named
    optim.lr = 1e-6
    optim.b1 = 0.9
    optim.b2 = 0.95
    optim.eps = 1e-8
    optim.weight_decay = 0.01
    optim.decay_norms = False  # decay norm scales and biases too
    optim.clip_norm = 1.0  # largest global gradient norm; 0 does not clip
    optim.schedule = "cosine"  # after warm-up: cosine | constant
    optim.warmup_fraction = 0.01  # share of all updates
    optim.warmup_steps = 0  # updates; 0: warmup_fraction counts
    optim.final_lr_fraction = 0.0  # share of lr at the end of the cosine
    optim.epochs = 1
    optim.max_steps = 0  # updates in all, whatever `epochs` says; 0: `epochs` counts

    eval = config.eval = ConfigDict()
    eval.every = 100  # updates between evaluations on held-out rows; besides, at checkpoints while keep_best is set
    eval.samples = 8  # held-out replies written to samples.jsonl at each evaluation, token by token
    # What is answered greedily for TS, PI and CF before training and at every evaluation, separated by commas:
    # held_out (rows held out), toolbox (its two held-out splits), files or folders of benchmarks. "": nothing
    eval.sets = ""
    eval.queries = 256  # at most so many of each set
    eval.new_tokens = 128  # longest answer
    eval.rows = 64  # queries answered side by side, over all devices
    eval.best = "loss"  # what keep_best goes by: loss (held-out), or a score of a set, such as toolbox's domain_CF

    checkpoint = config.checkpoint = ConfigDict()
    checkpoint.every = 100  # updates between checkpoints; 0: at the end only
    checkpoint.keep = 2  # newest ones kept
    checkpoint.keep_best = 1  # kept besides: the best ones by eval.best

    log = config.log = ConfigDict()
    log.every = 10  # updates between lines on the screen; metrics.jsonl has every update
    log.tensorboard = True
    log.wandb = False

    export = config.export = ConfigDict()
    export.at_end = True  # write OUT/hf when training is done
    export.dtype = "auto"  # auto (that of model.path, float32 from scratch) | float32 | bfloat16 | float16
    export.max_shard_bytes = 5_000_000_000

    if size == "tiny":
        config.update_from_flattened_dict(TINY)
    if "release" in flags:
        config.update_from_flattened_dict(RELEASE)
    if "lora" in flags:
        config.update_from_flattened_dict(LORA_TINY if size == "tiny" else LORA)
    return config


# A CPU's share: everything runs as in the large, in minutes.
TINY = {
    "model.path": "base",
    "data.max_tokens": 4096,
    "toolbox.trajectories": 1500,
    "batch.tokens": 0,
    "model.compute_dtype": "float32",
    "model.remat": "none",
    "model.loss_chunk": 256,
    "optim.lr": 3e-4,  # for a million weights; the released 1e-6 fits 7 billion
    "optim.warmup_fraction": 0.05,
    "eval.every": 50,
    "eval.sets": "toolbox",
    "eval.queries": 200,
    "eval.new_tokens": 64,
    "checkpoint.every": 50,
    "export.dtype": "float32",
}

# Of QLoRA's runs with 7 and 13 billion weights; it halves the rate for larger ones.
LORA = {"optim.lr": 2e-4}
LORA_TINY = {"lora.rank": 16, "optim.lr": 3e-3}

# The released run: its MAE and PKT scripts, 4 GPUs with one sample each, a sample for every step.
RELEASE = {
    "data.max_tokens": 8192,
    "data.w_max": 9.0,
    "data.eval_fraction": 0.0,
    "optim.lr": 1e-6,
    "optim.warmup_fraction": 0.01,  # linear here; DeepSpeed's WarmupLR rises with the logarithm of the step
    "data.mae": "release",
    "data.pkt": "release",
    "data.rows": "step",
    "batch.rows": 4,
    "batch.pack": False,
    "optim.schedule": "constant",  # its DeepSpeed file names WarmupLR, which replaces the cosine on the command line
    "optim.decay_norms": True,  # DeepSpeed gets all weights in one group
}
