"""Watches a run until it is done: creates, installs, starts, and does all of it again after a preemption."""

import time
from collections.abc import Sequence

import runs
from gcloud import Gcloud, log
from params import Failure, Params, TransientFailure
from slices import create, find_slice

MAX_SILENT_CHECKS = 10  # checks in a row without an answer of a worker; a new VM needs some
MAX_ENDING_CHECKS = 10  # checks in a row in which some workers still run after others ended; they end by themselves


def watch(gcloud: Gcloud, params: Params, command: Sequence[str]) -> None:
    """Returns when the run is done. Raises Failure if another start cannot help."""
    if params.spot and params.store == "none":
        raise Failure(2, "spot is set and neither disk nor bucket: a preemption takes the run's folder along; set one")
    if gcloud.dry_run:
        found = create(gcloud)
        continue_run(gcloud, params, command, "none")
        runs.run_status(gcloud, found)
        return
    crashes = silent = ending = 0
    # Check the slice and its run again and again, and do what is needed.
    seen = False  # True once a run could be lost with the slice
    last_message = ""
    answered = time.monotonic()
    while True:
        try:
            found = find_slice(gcloud)
            answered = time.monotonic()
        except TransientFailure as failure:  # The run goes on meanwhile, and so do the costs.
            if time.monotonic() - answered > 3600 * params.wait_hours:
                raise
            if str(failure) != last_message:
                log(f"{failure}; looks again")
            last_message = str(failure)
            gcloud.wait(params.poll_seconds)
            continue
        if found is None or not found.ready:
            if seen and params.store == "none" and (found is None or found.gone):
                state = found.state if found else "deleted"
                raise Failure(5, f"the slice is {state}, and the run's folder went with it; set disk or bucket")
            create(gcloud)
            continue
        try:
            verdict, text = runs.run_status(gcloud, found)
            if text != last_message:
                log(text)
            last_message = text
            ending = ending + 1 if verdict == "ending" else 0
            verdict = "part" if ending > MAX_ENDING_CHECKS else verdict
            crashes += verdict == "crashed"
            if verdict == "done":
                return
            if verdict in ("failed", "stopped") or crashes > params.restarts:
                raise Failure(6, f"{text}; launch/gcp/tpu.py logs shows more")
            if verdict == "foreign":
                raise Failure(7, text)
            continue_run(gcloud, params, command, verdict)
            seen = seen or verdict != "silent"
        except Failure as failure:
            # A preemption during a copy is one of these; the next check shows it.
            if failure.code != 5 and not isinstance(failure, TransientFailure):
                raise
            verdict, text = "silent", str(failure)
            log(text)
        silent = silent + 1 if verdict == "silent" else 0
        if silent > MAX_SILENT_CHECKS:
            raise Failure(5, f"{text}; launch/gcp/tpu.py delete, then watch, replaces the slice")
        gcloud.wait(params.poll_seconds)


def continue_run(gcloud: Gcloud, params: Params, command: Sequence[str], verdict: str) -> None:
    """Stops, installs or starts the run on a ready slice, as its verdict requires."""
    if verdict == "part":
        runs.stop(gcloud, params, 60, "again")
    if verdict == "none":
        runs.install(gcloud, params)
    if verdict in ("none", "part", "again", "crashed"):
        runs.run(gcloud, params, command)
