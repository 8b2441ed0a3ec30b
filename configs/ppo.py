r"""The config of PPO with IRM rewards, which continues from SFT; GRPO and RLOO are algorithms of the same run.

    python launch/train.py --config configs/ppo.py        # the quickstart's model, trained first if absent
    python launch/train.py --config configs/ppo.py:7b \
        --config.model.path=runs/sft-7b --config.data.source=raw_data.json
    python launch/train.py --config configs/ppo.py:smollm2,lora   # after configs/sft.py:smollm2, which runs first
    python launch/train.py --config configs/ppo.py:tiny,multi     # whole dialogues, in which the toolbox's tools run

The options after the colon are separated by commas. They are a size (tiny, smollm2, 7b, 13b, 34b, 70b), `lora`, which
trains adapters on one frozen trunk, `rloo`, which compares the replies to a prompt with each other and has no critic,
`multi`, which trains on whole dialogues, in which the tools run, and `release`, which sets the arithmetic of the
released run (arXiv 2412.15495, code/irm/RL_run.sh). Every field can be set on the command line: --config.optim.lr=5e-7.
"""

from ml_collections import ConfigDict

from tljax.core.config import data_block, lora_block, mesh_block, parse_options, processes_block, toolbox_block


def get_config(arg: str = "") -> ConfigDict:
    size, flags = parse_options(
        arg,
        sizes=("tiny", "smollm2", "7b", "13b", "34b", "70b"),
        flags=("lora", "rloo", "multi", "release"),
        default="tiny",
    )

    config = ConfigDict()
    config.run = "ppo"  # the stage that launch/train.py starts
    config.name = f"ppo-{size}"
    config.seed = 0  # decides the held-out split, the order of prompts and the sampled tokens
    # The run's folder, or an address gs://BUCKET/RUN. "" means runs/NAME, or the first free one of runs/NAME-2, ...
    # Every path below that is read may be an address too.
    config.out = ""
    config.resume = "never"  # "auto" continues the run in `out` from its last checkpoint
    # ppo | grpo | dr_grpo | rloo; the last three have no critic and need rollout.group above 1.
    config.algorithm = "ppo"

    config.data = data_block()  # the prompts are the steps that MAE keeps, or rows of irm_data.json
    config.toolbox = toolbox_block()
    config.lora = lora_block(rank=64 if "lora" in flags else 0)  # with a rank above 0 the models share one trunk

    model = config.model = ConfigDict()
    # The SFT model, from which actor, critic and reference start: a run's folder, an HF folder, a hub id, or
    # "quickstart", which means runs/sft-tiny and trains it first by configs/sft.py if it is absent; for the size
    # smollm2 it means runs/sft-smollm2 and configs/sft.py:smollm2.
    model.path = ""
    model.preset = size  # the size that launch/plan.py plans for if model.path is not a local folder
    model.compute_dtype = "bfloat16"  # the dtype of activations, products and frozen weights; trained ones stay float32
    model.remat = "full"  # recomputed in the backward pass, in rising order: none | dots | attention | full
    model.attention = "auto"  # auto | reference | blocked | splash (TPU) | cudnn (GPU)
    model.loss_chunk = 128  # reply tokens of a row whose logits exist at a time, as [rows, loss_chunk, vocabulary]

    config.processes = processes_block()

    config.mesh = mesh_block()

    rollout = config.rollout = ConfigDict()
    rollout.prompts = 64  # the number of prompts of one update
    rollout.group = 1  # the number of replies to each prompt
    # Computes a prompt once for its replies, in the rollout and in the update, whose minibatches then have whole
    # groups. Of a group that does not divide over the devices and parts, fewer replies share a computation.
    rollout.share_prompts = True
    rollout.rows = 64  # the number of replies that are sampled at a time, over all devices
    rollout.max_new_tokens = 512  # the maximum number of tokens of a reply (released value)
    rollout.max_prompt_tokens = 7680  # longer prompts are left out; 8192 tokens with the reply
    rollout.temperature = 1.0  # 0 is greedy; samples and their log-probabilities share it
    rollout.top_k = 0  # samples from the k likeliest tokens; 0 does not limit them
    rollout.top_p = 1.0  # samples from the likeliest tokens with probability p together; 1 does not limit them
    rollout.round_to = 64  # padded lengths are multiples of it; a smaller number compiles more programs
    # The maximum number of rounds in which groups whose rewards are all equal, and so teach nothing, are replaced by
    # groups of other prompts, as in DAPO (arXiv 2503.14476, section 3.2); 0 keeps them.
    rollout.resample = 0
    # single: one reply to each prompt, which is compared with its golden call | multi: a whole dialogue from each task.
    # The model calls, the call is run, the model reads the output, until it calls `finish` or a limit ends it. The
    # fields above that speak of replies then count the replies of dialogues: prompts x group dialogues are an update,
    # and each has a row of its own, so share_prompts has no effect.
    rollout.turns = "single"
    # The next fields are for rollout.turns = multi.
    rollout.max_turns = 10  # the maximum number of replies of a dialogue
    rollout.max_dialogue_tokens = 0  # the maximum number of tokens of a dialogue; 0: as many as the model can read
    rollout.max_repeats = 3  # a dialogue ends when the same call has got the same feedback so many times
    # MAE inside RL: the turns that the policy does not learn from. They stay in the context, count in the rewards, and
    # the critic learns from them. off | void (no call can be read) | failed (the feedback is an error) | void_or_failed
    rollout.mae = "off"

    reward = config.reward = ConfigDict()
    # table (IRM's) | release (IRM's as released) | binary (Tool-N1's, 1 or 0) | toolrl (ToolRL's, -3 to 4, in parts) |
    # module:function, called as irm.reward(prediction, golden, tools).
    reward.rule = "table"
    reward.clip = 5.0  # limits rewards to -clip ... clip (released value); 0 does not limit them
    reward.timeout = 10.0  # the maximum of seconds for one call of your own function
    reward.workers = 4  # the number of processes in which your own function runs
    # Is added to the reward of a reply that did not end within max_new_tokens, in training alone: the metric `reward`
    # and the samples contain it, `eval_reward` does not.
    reward.no_end = 0.0
    # With rollout.turns = multi the rule table stands for the next fields, since a dialogue has no golden calls: each
    # turn gets the value of the first kind of error that it shows, and the last turn that of the solved task.
    # module:function is then called as fn(dialogue), and gives a number or one for each turn
    # (tljax/rl/dialogues/rewards.py).
    steps = reward.steps = ConfigDict()
    # Multiplies the fields of this block. IRM's values are those of one reply; a dialogue can make an error in every
    # turn. With 1 and a success of 1 a policy learns within 15 updates to call `finish` at once, which is no error.
    steps.scale = 0.2
    steps.format = -2.0  # no call can be read in the reply (IRM's value, as the four that follow)
    steps.unknown_tool = -2.0  # the tool list has no such tool
    steps.hallucinated_and_missing = -1.3  # both of the next two
    steps.hallucinated = -0.8  # a parameter that the documentation lacks
    steps.missing = -0.5  # a required parameter that the call leaves out
    steps.call_error = -0.25  # the call is as documented, and its feedback is an error (IRM's value of wrong content)
    steps.neutral = 0.0  # none of these
    reward.success = 5.0  # is added to the last turn if the task is solved; reward.clip limits the sum
    reward.failure = 0.0  # is added to it if not

    # The tools of dialogues (rollout.turns = multi). data.source = toolbox brings its own tasks and tools. Otherwise
    # data.source is a JSONL file of tasks, {"id", "query"} or {"id", "messages"}, and maybe "answer", the right one.
    # FILE.py, whose functions are the tools, or FILE.py:CLASS, whose methods are, as TRL's environment_factory takes it
    # (tljax/agent/worker.py). "": each task lists its "tools", and a mock answers.
    config.tools = ""
    config.tool_seconds = 10.0  # the maximum of seconds for one call of such a function
    config.tool_calls = 8  # the number of such calls that run at a time
    config.finish = "finish"  # the tool that ends a dialogue, added if not listed; "": a reply without a call ends it

    kl = config.kl = ConfigDict()
    kl.coef = 0.3  # the coefficient of the KL to the reference (released run: 0.4)
    kl.place = "reward"  # reward: subtracts it from every token's reward, as released | loss: a k3 term, as in GRPO
    kl.target = 0.0  # the nats per reply that an adaptive coef aims at (Ziegler et al. 2019); 0 fixes coef
    kl.horizon = 10_000.0  # the number of replies over which an adaptive coef changes

    ppo = config.ppo = ConfigDict()
    ppo.epochs = 1  # the number of passes over one rollout
    ppo.minibatches = 1  # the number of optimizer steps of one pass
    ppo.accumulate = 1  # the number of parts in which a minibatch is computed, one after the other
    ppo.clip = 0.2  # limits the ratio to 1 - clip ... 1 + clip (released value)
    ppo.clip_high = 0.0  # limits the ratio to 1 + clip_high instead, as DAPO does with 0.28; 0 means clip
    # The policy's loss is the mean over all reply tokens of a minibatch | reply: over replies of the means over their
    # tokens, as in GRPO | constant: the sum over replies and max_new_tokens, as in Dr. GRPO.
    ppo.loss_mean = "token"
    # none | pkt: weighs the tokens of sampled replies in the policy's loss by data.pkt = paper and data.w_max, as SFT
    # weighs those of golden replies
    ppo.token_weights = "none"
    # Multiplies a token's loss by the ratio of its probability as the update scores it to that with which it was
    # sampled, which differ by rounding, and by at most this number (TRL and verl: 2); 0 does not multiply.
    ppo.importance_cap = 0.0
    ppo.value_clip = 0.2  # limits the change of a value (released value)
    ppo.gamma = 1.0  # the discount per token (released value)
    ppo.lam = 0.95  # the lambda of GAE (released value)
    # Subtracts from the advantages of a reply what the other replies to its prompt show that the critic misjudged. It
    # belongs to algorithm = ppo, and changes nothing without a group.
    ppo.group_baseline = False
    ppo.whiten = False  # scales advantages to mean 0 and deviation 1 over the rollout
    ppo.entropy_coef = 0.0  # the coefficient of a bonus on the policy's entropy in nats
    ppo.prompt_epochs = 3.0  # the number of passes over all prompts (released value)
    ppo.updates = 0  # the number of rollouts of the run; 0 uses prompt_epochs

    optim = config.optim = ConfigDict()  # AdamW of the actor, and of the critic except for its lr
    optim.lr = 2e-7  # released value
    optim.b1 = 0.9
    optim.b2 = 0.95
    optim.eps = 1e-8
    optim.weight_decay = 0.0  # released value
    optim.decay_norms = False
    optim.clip_norm = 1.0  # the maximum of the global gradient norm; 0 does not clip
    optim.schedule = "cosine"  # the learning rate after the warm-up: cosine | constant
    optim.warmup_fraction = 0.1  # the fraction of all optimizer steps that warm up the learning rate
    optim.warmup_steps = 0  # the optimizer steps of the warm-up (released: 100); 0 uses warmup_fraction
    optim.final_lr_fraction = 0.0

    critic = config.critic = ConfigDict()
    critic.lr = 1e-7  # released value
    critic.warmup = 0  # the number of first rollouts from which only the critic learns
    critic.epochs = 0  # the critic's passes over one rollout; 0 makes as many as ppo.epochs
    critic.minibatches = 0  # the critic's optimizer steps of one pass; 0 makes as many as ppo.minibatches
    critic.lam = 0.95  # the lambda of the returns that the critic learns (released: that of ppo.lam)

    eval = config.eval = ConfigDict()
    eval.every = 50  # the updates between evaluations; 0: before and after, and with checkpoints if keep_best > 0
    # The sets whose queries are answered greedily, and scored by TS, PI, CF and the mean reward. They are separated by
    # commas: held_out (prompts held out), toolbox (its two held-out splits), and files or folders of benchmarks or of
    # rows that training reads, of which data.mae chooses the queries. "" answers none.
    eval.sets = "held_out"
    eval.queries = 256  # the maximum number of queries of each set
    eval.new_tokens = 128  # the maximum number of tokens of a reply
    eval.rows = 64  # the number of queries that are answered at a time, over all devices
    eval.best = "reward"  # ranks checkpoints: reward (of held_out), or a score of a set, such as held_out_CF

    checkpoint = config.checkpoint = ConfigDict()
    checkpoint.every = 50  # the number of updates between checkpoints; 0 writes one at the end only
    checkpoint.keep = 2  # the number of newest checkpoints that are kept
    checkpoint.keep_best = 1  # the number of best checkpoints, by eval.best, that are kept besides

    log = config.log = ConfigDict()
    log.every = 10  # the updates between lines on the screen and samples; metrics.jsonl has every update
    log.samples = 4  # the number of replies of an update that samples.jsonl and TensorBoard show
    log.tensorboard = True
    log.wandb = False

    export = config.export = ConfigDict()
    export.at_end = True  # writes OUT/hf at the end of training
    # The end of a run tells which share of the change this dtype keeps; sets are scored with the weights in it.
    export.dtype = "auto"  # auto (that of model.path) | float32 | bfloat16 | float16
    export.max_shard_bytes = 5_000_000_000

    if size == "tiny":
        config.update_from_flattened_dict(TINY)
    if size == "smollm2":
        config.update_from_flattened_dict(SMOLLM2)
    if "rloo" in flags:
        config.update_from_flattened_dict(RLOO | (RLOO_TINY if size == "tiny" else {}))
    if "multi" in flags:
        config.update_from_flattened_dict(MULTI)
        if size == "tiny":
            config.update_from_flattened_dict(MULTI_TINY | (MULTI_RLOO_TINY if "rloo" in flags else MULTI_PPO_TINY))
    if "lora" in flags:
        config.update_from_flattened_dict({"tiny": LORA_TINY, "smollm2": LORA_SMOLLM2}.get(size, LORA))
    if "release" in flags:
        config.update_from_flattened_dict(RELEASE)
    return config


# The quickstart's model on a CPU. The run gains; configs/README.md has the table of what was tried.
TINY = {
    "model.path": "quickstart",
    "data.max_tokens": 4096,
    "data.eval_fraction": 0.1,
    "toolbox.trajectories": 3000,
    "toolbox.seed": 2,  # generates other trajectories than those of SFT, with the same tools
    "model.compute_dtype": "float32",
    "model.remat": "none",
    "rollout.prompts": 16,
    "rollout.group": 4,
    "rollout.max_new_tokens": 64,
    "rollout.max_prompt_tokens": 320,  # longer prompts take most of an update, and shorter ones teach as much
    "rollout.temperature": 0.7,  # at 1 so small a model learns to leave out the parameters that it would write wrongly
    "ppo.group_baseline": True,
    "ppo.updates": 140,
    "kl.coef": 0.01,
    "optim.lr": 1e-4,
    "critic.lr": 1e-3,
    "critic.warmup": 10,  # with the group baseline 50 gain no more, and leave the policy fewer of the rollouts
    "critic.epochs": 2,
    "critic.minibatches": 2,
    "critic.lam": 1.0,
    "eval.sets": "held_out,toolbox",
    "eval.queries": 500,
    "eval.new_tokens": 64,
    "export.dtype": "float32",
}

# SmolLM2-135M-Instruct on two CPU cores. None of these values has been measured: they are those of TINY where nothing
# speaks against it, with the learning rates between those of a million and of 7 billion weights.
SMOLLM2 = {
    "model.path": "quickstart",
    "data.max_tokens": 1024,
    "toolbox.trajectories": 400,
    "toolbox.seed": 2,  # generates other trajectories than those of SFT, with the same tools
    "model.compute_dtype": "float32",
    "model.remat": "attention",
    "rollout.prompts": 4,
    "rollout.group": 4,
    "rollout.rows": 8,
    "rollout.max_new_tokens": 64,
    "rollout.max_prompt_tokens": 512,
    "rollout.temperature": 0.7,
    "ppo.accumulate": 8,
    "ppo.group_baseline": True,
    "ppo.updates": 20,
    "kl.coef": 0.02,
    "optim.lr": 5e-6,
    "critic.lr": 2e-5,
    "critic.warmup": 3,
    "critic.epochs": 2,
    "critic.lam": 1.0,
    "eval.every": 0,
    "eval.sets": "held_out,toolbox",
    "eval.queries": 24,
    "eval.new_tokens": 64,
    "eval.rows": 8,
    "checkpoint.every": 0,
    "checkpoint.keep": 1,
    "checkpoint.keep_best": 0,
    "log.every": 1,
    "export.dtype": "float32",
}

# The other replies to the prompt are the baseline of each, which halves the work of an update with a critic.
RLOO = {"algorithm": "rloo", "rollout.prompts": 16, "rollout.group": 4, "critic.warmup": 0}
RLOO_TINY = {"ppo.updates": 150, "ppo.whiten": True, "optim.lr": 2e-4}

MULTI = {"rollout.turns": "multi", "eval.best": "reward"}
# Tasks of the toolbox take up to four calls and `finish`. Only those with short prompts are trained on, which makes
# updates fast; configs/README.md has what was measured.
MULTI_TINY = {
    "name": "ppo-tiny-multi",
    "toolbox.trajectories": 12_000,  # 7 % of them have such short prompts
    "rollout.prompts": 8,
    "rollout.group": 4,
    "rollout.rows": 32,
    "rollout.max_turns": 6,
    "rollout.max_dialogue_tokens": 768,
    "rollout.max_new_tokens": 40,
    "rollout.max_prompt_tokens": 200,
    "rollout.max_repeats": 2,
    "ppo.accumulate": 4,  # parts of 8 dialogues take less time on a CPU than all at once
    "ppo.updates": 80,
    "optim.lr": 2.5e-4,
    "eval.every": 0,
    "eval.new_tokens": 40,
    "eval.queries": 300,
    "checkpoint.every": 25,
    "checkpoint.keep": 1,
    "checkpoint.keep_best": 0,
    "log.every": 5,
}
MULTI_PPO_TINY = {"critic.warmup": 10}
MULTI_RLOO_TINY = {"ppo.updates": 100, "optim.lr": 1.5e-4}

# Adapters need a larger learning rate than weights; the released run has none. With these rows 7B fits one device of
# 80 GB.
LORA = {"optim.lr": 1e-5, "critic.lr": 1e-5, "rollout.rows": 8, "eval.rows": 8, "ppo.accumulate": 16}
LORA_TINY = {"lora.rank": 16, "optim.lr": 3e-4, "critic.lr": 3e-3}
LORA_SMOLLM2 = {"lora.rank": 16, "optim.lr": 5e-5, "critic.lr": 5e-4}  # not measured

# The released run uses 8 GPUs with one prompt each, greedy replies, one update per rollout, and a KL coefficient of
# 0.4.
RELEASE = {
    "data.mae": "release",
    "data.eval_fraction": 0.0,
    "eval.sets": "",  # no prompt is held out
    "reward.rule": "release",
    "kl.coef": 0.4,
    "rollout.prompts": 8,
    "rollout.group": 1,
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
