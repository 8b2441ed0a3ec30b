r"""PPO with IRM rewards, on top of SFT; GRPO and RLOO behind the same pieces.

    python launch/train.py --config configs/ppo.py        the quickstart's model (trained first where absent), on a CPU
    python launch/train.py --config configs/ppo.py:7b \
        --config.model.path=runs/sft-7b --config.data.source=raw_data.json

Options after the colon, separated by commas: a size (tiny, 7b, 13b, 34b, 70b), `lora` to train adapters on one frozen
trunk, `rloo` to compare groups of replies instead of asking a critic, and `release` for the arithmetic of the released
run (arXiv 2412.15495, code/irm/RL_run.sh). Every field can be set: --config.optim.lr=5e-7.
"""

from ml_collections import ConfigDict

from tljax.core.config import data_block, lora_block, mesh_block, parse_options, processes_block, toolbox_block


def get_config(arg: str = "") -> ConfigDict:
    size, flags = parse_options(
        arg, sizes=("tiny", "7b", "13b", "34b", "70b"), flags=("lora", "rloo", "release"), default="tiny"
    )

    config = ConfigDict()
    config.run = "ppo"  # which stage launch/train.py starts
    config.name = f"ppo-{size}"
    config.seed = 0  # of the held-out split, the order of prompts and what is sampled
    # Run folder, or an address, gs://BUCKET/RUN; "" is runs/NAME, or the first free runs/NAME-2, ... Every path below
    # that is read may be an address too.
    config.out = ""
    config.resume = "never"  # "auto" continues the run in `out` from its last checkpoint
    config.algorithm = "ppo"  # ppo | grpo | rloo; the last two have no critic and need rollout.group above 1

    config.data = data_block()  # every step that MAE keeps is a prompt with its golden call; or rows of irm_data.json
    config.toolbox = toolbox_block()
    config.lora = lora_block(rank=64 if "lora" in flags else 0)  # above 0: actor, critic and reference share one trunk

    model = config.model = ConfigDict()
    # The SFT model, from which actor, critic and reference start: a run's folder, an HF folder, a hub id; or
    # "quickstart": runs/sft-tiny, trained first by configs/sft.py where it is absent.
    model.path = ""
    model.preset = size  # shape that launch/plan.py plans with where model.path is no folder
    model.compute_dtype = "bfloat16"  # of activations, matrix products and frozen weights; what learns stays float32
    model.remat = "full"  # activations kept for the backward pass: none | dots | attention | full (none kept)
    model.attention = "auto"  # auto | reference | splash (TPU) | cudnn (GPU)
    model.loss_chunk = 128  # reply tokens a row that pass the head together; logits are [rows, loss_chunk, words]

    config.processes = processes_block()

    config.mesh = mesh_block()

    rollout = config.rollout = ConfigDict()
    rollout.prompts = 64  # of one update
    rollout.group = 1  # replies to each prompt
    rollout.rows = 64  # replies sampled side by side, over all devices
    rollout.max_new_tokens = 512  # longest reply (released value)
    rollout.max_prompt_tokens = 7680  # longer prompts are left out (8192 with the reply)
    rollout.temperature = 1.0  # 0: greedy; scores and samples share it
    rollout.top_k = 0  # 0: off
    rollout.top_p = 1.0  # 1: off
    rollout.round_to = 64  # widths of padded rows are multiples of it; more of them compile more programs

    reward = config.reward = ConfigDict()
    reward.rule = "table"  # table | release | module:function, called as irm.reward(prediction, golden, tools)
    reward.clip = 5.0  # rewards lie within +- clip (released value); 0: no limit
    reward.timeout = 10.0  # seconds that one call of your own function may take
    reward.workers = 4  # processes that your own function runs in
    reward.no_end = 0.0  # added to the reward of a reply that did not end within max_new_tokens

    kl = config.kl = ConfigDict()
    kl.coef = 0.3  # of the KL to the reference (released run: 0.4)
    kl.place = "reward"  # reward: on every token, as released | loss: a k3 term in the policy's loss, as in GRPO
    kl.target = 0.0  # nats a reply that an adaptive coef steers to (Ziegler et al. 2019); 0: coef is fixed
    kl.horizon = 10_000.0  # replies over which an adaptive coef moves

    ppo = config.ppo = ConfigDict()
    ppo.epochs = 1  # passes over one rollout
    ppo.minibatches = 1  # optimizer steps of one pass
    ppo.accumulate = 1  # parts a minibatch is computed in, one after the other
    ppo.clip = 0.2  # of the ratio (released value)
    ppo.value_clip = 0.2  # of the value's change (released value)
    ppo.gamma = 1.0  # discount of a token (released value)
    ppo.lam = 0.95  # of GAE (released value)
    ppo.whiten = False  # advantages to mean 0, deviation 1 over the rollout
    ppo.entropy_coef = 0.0  # bonus on the policy's entropy, nats
    ppo.prompt_epochs = 3.0  # passes over all prompts (released value)
    ppo.updates = 0  # rollouts in all, whatever prompt_epochs says; 0: that counts

    optim = config.optim = ConfigDict()  # AdamW of the actor, and of the critic but for its lr
    optim.lr = 2e-7  # released value
    optim.b1 = 0.9
    optim.b2 = 0.95
    optim.eps = 1e-8
    optim.weight_decay = 0.0  # released value
    optim.decay_norms = False
    optim.clip_norm = 1.0  # largest global gradient norm; 0 does not clip
    optim.schedule = "cosine"  # after warm-up: cosine | constant
    optim.warmup_fraction = 0.1  # share of all optimizer steps
    optim.warmup_steps = 0  # optimizer steps (released: 100, more than a small file's run has); 0: the fraction counts
    optim.final_lr_fraction = 0.0

    critic = config.critic = ConfigDict()
    critic.lr = 1e-7  # released value
    critic.warmup = 0  # first rollouts, from which the critic alone learns

    eval = config.eval = ConfigDict()
    eval.every = 50  # updates between evaluations; 0: only before, after, and at checkpoints while keep_best is set
    # What is answered greedily, for TS, PI and CF and a mean reward, separated by commas: held_out (prompts held out),
    # toolbox (its two held-out splits), files or folders of benchmarks. "": nothing
    eval.sets = "held_out"
    eval.queries = 256  # at most so many of each set
    eval.new_tokens = 128  # longest answer
    eval.rows = 64  # answered side by side, over all devices
    eval.best = "reward"  # what keep_best goes by: reward (of held_out), or a score of a set, such as held_out_CF

    checkpoint = config.checkpoint = ConfigDict()
    checkpoint.every = 50  # updates between checkpoints; 0: at the end only
    checkpoint.keep = 2  # newest ones kept
    checkpoint.keep_best = 1  # kept besides: the best ones by eval.best

    log = config.log = ConfigDict()
    log.every = 10  # updates between lines on the screen and samples; metrics.jsonl has every update
    log.samples = 4  # replies of an update written to samples.jsonl and TensorBoard
    log.tensorboard = True
    log.wandb = False

    export = config.export = ConfigDict()
    export.at_end = True  # write OUT/hf when training is done
    export.dtype = "auto"  # auto (that of model.path) | float32 | bfloat16 | float16
    export.max_shard_bytes = 5_000_000_000

    if size == "tiny":
        config.update_from_flattened_dict(TINY)
    if "rloo" in flags:
        config.update_from_flattened_dict(RLOO | (RLOO_TINY if size == "tiny" else {}))
    if "lora" in flags:
        config.update_from_flattened_dict(LORA_TINY if size == "tiny" else LORA)
    if "release" in flags:
        config.update_from_flattened_dict(RELEASE)
    return config


# A CPU's share: the quickstart's model, a few minutes. It shows the mechanics; a gain was not seen yet.
TINY = {
    "model.path": "quickstart",
    "data.max_tokens": 4096,
    "toolbox.trajectories": 1500,
    "toolbox.seed": 2,  # other trajectories than SFT saw, of the same tools
    "model.compute_dtype": "float32",
    "model.remat": "none",
    "rollout.prompts": 32,
    "rollout.max_new_tokens": 64,
    "rollout.max_prompt_tokens": 448,
    "rollout.temperature": 0.5,  # at 1 a model this small learns to leave out parameters that it would garble
    "ppo.minibatches": 2,
    "ppo.whiten": True,
    "ppo.lam": 1.0,
    "ppo.updates": 25,
    "kl.coef": 0.01,
    "optim.lr": 1e-4,
    "critic.lr": 1e-3,
    "critic.warmup": 5,
    "eval.sets": "held_out,toolbox",
    "eval.queries": 200,
    "eval.new_tokens": 64,
    "export.dtype": "float32",
}

# As many replies to fewer prompts, each judged by the others to its prompt; half the work of an update with a critic.
RLOO = {"algorithm": "rloo", "rollout.prompts": 16, "rollout.group": 4, "critic.warmup": 0}
# Half an hour on one core. Long prompts cost most of an update, and short ones teach as much.
RLOO_TINY = {
    "toolbox.trajectories": 3000,
    "data.eval_fraction": 0.1,
    "rollout.max_prompt_tokens": 320,
    "rollout.temperature": 0.7,
    "ppo.minibatches": 1,
    "ppo.updates": 150,
    "optim.lr": 2e-4,
    "eval.queries": 500,
}

# Adapters take larger steps than weights; the released run has none. The rows let 7B fit one device of 80 GB.
LORA = {"optim.lr": 1e-5, "critic.lr": 1e-5, "rollout.rows": 8, "eval.rows": 8, "ppo.accumulate": 16}
LORA_TINY = {"lora.rank": 16, "optim.lr": 3e-4, "critic.lr": 3e-3}

# The released run: 8 GPUs with one prompt each, greedy replies, one update a rollout, KL 0.4.
RELEASE = {
    "data.mae": "release",
    "data.eval_fraction": 0.0,
    "eval.sets": "",  # no prompt is held out
    "reward.rule": "release",
    "kl.coef": 0.4,
    "rollout.prompts": 8,
    "rollout.rows": 8,
    "rollout.temperature": 0.0,
    "kl.place": "reward",
    "ppo.epochs": 1,
    "ppo.minibatches": 1,
    "ppo.accumulate": 1,
    "ppo.whiten": False,
    "optim.warmup_steps": 100,
    "optim.decay_norms": True,
}
