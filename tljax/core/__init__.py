"""Errors, configs and the command line. This room imports nothing of ours.

errors.py             InputError for bad input; the exit code and the line for every error that a user can fix
units.py              bytes and seconds -> text
json_fields.py        fields of JSON objects, read with errors that name the field
config.py             the blocks and checks that configs share
command.py            a command line -> config -> run(config) -> exit code
user_function.py      module:function -> a user's function
sandbox.py            a user's code in a child process, with a time limit for each of its answers
gpu_memory.py         the fraction of a GPU's memory that JAX reserves
compilation_cache.py  the folder of compiled programs that later starts find
"""
