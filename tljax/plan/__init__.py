"""A training config and a topology -> does the run fit, what do devices send each other, how fast can it be.

topology.py      "v5e:4x4" or "gpu:8x80GB" -> the devices to plan for
rows.py          a config -> the nearest one whose rows divide over the mesh
programs.py      the programs of a run, and the arrays that stay on the devices while it lasts
sft_programs.py  a config of configs/sft.py -> its programs
ppo_programs.py  a config of configs/ppo.py -> its programs
hlo.py           the text of a compiled program -> its instructions, and how often each runs
collectives.py   instructions -> the bytes that devices send each other
compiled.py      a program -> its memory, collectives and warnings, from the compiler
roofline.py      operations and bytes -> the shortest possible time
estimate.py      a program -> its memory and bytes by arithmetic, without compiling
measure.py       a config on a topology -> its plan
search.py        meshes, remat and rows -> the fastest config that fits
report.py        a plan -> text
run.py           a training config -> its plan, printed
"""
