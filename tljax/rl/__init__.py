"""IRM reward -> rollout -> advantages -> PPO step; GRPO and RLOO use the same functions.

check.py            checks configs/ppo.py before any device work
irm.py              a reply and its golden call -> reward and kind of error
call_matching.py    all calls of a reply matched to the golden ones -> rewards of other papers
reward.py           replies of a batch -> rewards, by a rule or a user's function
reward_workers.py   a user's function in child processes, with a time limit
state.py            PPOState, RolloutBatch, Experience: the arrays that the files below pass to each other
models.py           trained and frozen weights -> actor, critic and reference
rollout.py          the prompts of an update; replies and rewards -> RolloutBatch
priorities.py       the tokens of a sampled reply -> their weights by PKT
gae.py              token rewards, generalized advantage estimation, whitening
advantage.py        rewards of tokens -> advantages of tokens, by algorithm
loss.py             PPO's clipped terms and KL estimates, as sums
options.py          the fields of a config that shape the compiled programs
reply_scores.py     a model and a RolloutBatch -> hidden states, log-probabilities and entropies of the replies
minibatches.py      the rows of every minibatch, spread over the devices
experience.py       RolloutBatch -> Experience and metrics, jitted
ppo.py              Experience -> new state and metrics, jitted
optimizers.py       the number of updates; the optimizers of actor and critic
memory.py           the memory that a run will take on each device
train_iteration.py  one update: rollout, rewards, experience, update
alarms.py           signs that a run goes wrong, with the fields to look at
held_out.py         rewards on held-out prompts
samples.py          sampled replies, for people
single_turn.py      what a run does with single replies: an update, an evaluation, the tables at the end
dialogues           the same with whole dialogues, whose tools run (rollout.turns = multi)
run.py              configs/ppo.py -> a run's folder
"""
