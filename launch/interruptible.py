"""Runs a script for a scheduler that restarts interrupted jobs.

    python launch/interruptible.py [--forward] launch/train.py --config=... --config.out=RUN --config.resume=auto

A training run that gets SIGTERM saves and returns 0, which a scheduler takes for done. Here the code becomes 75, also
if only another process of the run, or only the script, got the signal.
--forward passes SIGTERM on to the script: in a container only the first process gets it. SLURM and a machine that shuts
down signal every process; there a second SIGTERM would end the run before it has saved.
Exit codes: 75 means interrupted, start it again. Others are those of the script (0 done, 2 bad input, 1 stopped by
NaN), or 128 plus the number of the signal that ended it.
"""

import os
import signal
import subprocess
import sys
from types import FrameType

INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h


def main(argv: list[str]) -> int:
    forward = argv[:1] == ["--forward"]
    script = argv[1:] if forward else argv
    if not script:
        print(
            "error: no script given; usage: python launch/interruptible.py launch/train.py --config=...",
            file=sys.stderr,
        )
        return 2
    process: subprocess.Popen | None = None
    interrupted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        if forward and process is not None:
            process.send_signal(number)

    signal.signal(signal.SIGTERM, note)
    process = subprocess.Popen(["python", *script], env=os.environ | {"TLJAX_INTERRUPTED": str(INTERRUPTED)})
    if forward and interrupted:
        process.send_signal(signal.SIGTERM)
    # Ctrl-C reaches the script too, which then ends by itself.
    signal.signal(signal.SIGINT, lambda *_: None)
    code = process.wait()
    # Before the first update there is nothing to save, and the signal ends the script at once.
    if code == -signal.SIGTERM or (interrupted and code == 0):
        return INTERRUPTED
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
