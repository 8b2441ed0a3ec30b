"""The device mesh, and the processes of a run.

mesh_shape.py     the sizes of a mesh's axes that are asked for -> sizes that fit the devices
mesh.py           devices -> mesh; logical axes -> shardings; a process's rows <-> global arrays
initialize.py     flags, a TPU pod or SLURM -> the process group of the run
process_group.py  heartbeats, barriers and exchanges of processes; a dead or stuck one ends the others
processes.py      the same for one process or many: run on the primary, compare, abort
log.py            lines for people, printed by process 0
"""
