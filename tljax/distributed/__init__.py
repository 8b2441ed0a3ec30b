"""The device mesh, and the processes of a run.

mesh_shape.py     the requested sizes of a mesh's axes -> sizes that fit the devices
mesh.py           devices -> mesh; logical axes -> shardings; a process's rows <-> global arrays
exit.py           the exit codes of a process, and the ways in which it ends
initialize.py     flags, a TPU pod or SLURM -> the process group of the run
process_group.py  heartbeats, barriers and exchanges of processes; a dead or stuck one ends the others
processes.py      what the rest calls, for one process or many: run on the primary, compare, abort
log.py            lines for the user, printed by process 0
"""
