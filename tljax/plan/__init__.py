"""A training config and a topology -> will it fit, what moves, how fast can it be; without the devices.

topology.py      "v5e:4x4" or "gpu:8x80GB" -> devices to plan for
fitting.py       a config -> the nearest one whose rows divide over the mesh
programs.py      the programs of a run and what it keeps; sft_programs.py and ppo_programs.py make them
compiled.py      a program -> its memory, kernels and warnings, by the compiler
hlo.py           the text of a compiled program -> its instructions and how often each runs
collectives.py   instructions -> the bytes that devices send each other
estimate.py      the same by arithmetic, where nothing is compiled
bound.py         operations, bytes and links -> the best possible time
measure.py       a config on a topology -> its plan
search.py        meshes, remat and rows -> the fastest config that fits
report.py        a plan -> text
run.py           a training config -> its plan, printed
"""
