#!/usr/bin/env bash
# Runs `python SCRIPT ARG ...` for a scheduler that starts again what was interrupted.
#   bash launch/interruptible.sh [--forward] launch/train.py --config=... --config.out=RUN --config.resume=auto
# A training run that SIGTERM ended has saved and returns 0, which a scheduler takes for done; here it becomes 75.
# --forward: pass SIGTERM on to python. For containers, where the first process alone is signalled; SLURM and a machine
# that shuts down signal every process, and a second SIGTERM would end python before it has saved.
# Exit codes: 75 interrupted, start it again; else python's own (0 done, 2 bad input, 1 stopped by NaN).
set -euo pipefail

forward=no
if [ "${1:-}" = --forward ]; then
    forward=yes
    shift
fi
if [ $# -eq 0 ]; then
    echo "error: no script given; usage: bash launch/interruptible.sh [--forward] launch/train.py --config=..." >&2
    exit 2
fi

interrupted=no
child=
trap 'interrupted=yes; if [ "$forward" = yes ] && [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null || true; fi' TERM

python "$@" &
child=$!
code=0
wait "$child" || code=$?
# A trapped signal ends `wait` at once, with python still saving.
while kill -0 "$child" 2>/dev/null; do
    code=0
    wait "$child" || code=$?
done
if [ "$interrupted" = yes ] && [ "$code" -eq 0 ]; then
    code=75
fi
exit "$code"
