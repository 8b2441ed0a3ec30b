r"""PPO, GRPO and RLOO over whole dialogues (rollout.turns = multi): the agent loop as the rollout.

    python launch/train.py --config configs/ppo.py:tiny,multi          # tasks of the toolbox, whose tools run
    python launch/train.py --config configs/ppo.py:7b,multi,rloo \
        --config.model.path=runs/sft-7b --config.data.source=tasks.jsonl --config.tools=mytools.py

A dialogue begins with a task. The model replies with a call, the call is run, the model reads the output, and so on,
until it calls `finish` or a limit ends the dialogue (rollout.max_turns, max_dialogue_tokens, max_repeats). A row of an
update is a whole dialogue. Its tokens are those that were sampled and read: nothing is tokenized twice. The outputs of
tools are context and have no loss. GAE runs over the sampled tokens of all turns: the token after a call is the first
one that is sampled after its output. GRPO, Dr. GRPO and RLOO compare the sums of a dialogue's rewards.

Tasks and tools. data.source = toolbox has both. Otherwise it is a JSONL file with a task in each line, {"id", "query"}
or {"id", "messages"}, and if every line has an "answer", it decides which dialogues are solved. The tools are

    config.tools = mytools.py          the functions of a file, in a process for each dialogue
    config.tools = mytools.py:MyClass  the methods of a class, which keeps a state for each dialogue, as TRL's
                                       environment_factory takes it: `reset(**row)` may return a text that the model
                                       reads behind the query, and `get_reward()`, or else the attribute `reward`, is
                                       what the end is worth
    config.tools = ""                  the "tools" that each line lists; a mock checks their calls and runs nothing

A call that takes longer than tool_seconds, raises, or ends its process gives an error as its output, and the run goes
on. A class whose `reset` fails ends its dialogue before the first reply (end_environment), and nothing is learned from
it. An async method is refused.

Rewards. reward.rule = table gives each turn a value by `step_rewards`, and the last turn what the end is worth
(`rewards`). reward.rule = module:function is called as fn(dialogue) with `rewards.user_view`, and returns a number,
which the last turn gets, or a list with one for each turn. rollout.mae keeps turns without a call, or with an error as
their output, out of the policy's loss.

Where tools are deterministic, a run that was killed and resumes has the metrics of one that was not. One process
trains; launch/plan.py does not know dialogues. BFCL's multi-turn categories are no environment yet.

checks.py         checks the fields of configs/ppo.py that dialogues have, before any device work
tasks.py          a config's source and tools -> the tasks that dialogues begin with, to train on and held out
step_rewards.py   a turn without a golden call -> reward and kind; the success of the task at the end
rewards.py        the rewards of dialogues, by the steps and the success
rollout.py        tasks -> sampled dialogues with their rewards; their file
batch.py          sampled dialogues -> RolloutBatch, one row each
metrics.py        the metrics of a rollout
held_out.py       greedy dialogues of held-out tasks; solved tasks, DE and CE before and after
samples.py        sampled dialogues, for people
multi_turn.py     what a run does in this mode: an update, an evaluation, the tables at the end
"""
