"""tljax: TL-Training (arXiv 2412.15495) in JAX. The pipeline, an arrow a line, with the file that is the arrow.

raw trajectories   -> Trajectory            data/reader.py, data/trajectory.py
Trajectory         -> kept, blocked steps   data/mae.py       mitigate adverse effects
kept steps         -> text                  data/prompt.py    the text of tools and calls, in a dialect
text               -> tokens                data/tokenizer.py
tokens             -> token weights         data/pkt.py       prioritize key tokens
weighted steps     -> rows                  data/rows.py      one forward pass per trajectory
rows               -> batch of step n       data/batch.py
HF checkpoint      -> parameters            model/hf/load.py
batch, parameters  -> SFT step              sft/step.py
prompts            -> replies               generate/decode.py, rl/rollout.py
reply, golden call -> reward                rl/irm.py         introduce a reward mechanism
rewards, values    -> advantages            rl/gae.py, rl/advantage.py
replies            -> PPO step              rl/ppo.py
replies            -> scores                evaluate/score.py, evaluate/benchmarks
calls              -> dialogues             agent/loop.py
parameters         -> HF checkpoint         model/hf/export.py
"""
