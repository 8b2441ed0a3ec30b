"""Sees a run to its end: creates, installs, starts, and after a preemption does all of it again."""

import time
from collections.abc import Sequence

import runs
from gcloud import Gcloud, say
from params import Failure, Params, Unanswered
from slices import create, look

SILENT_LOOKS = 10  # looks in a row at which a worker may fail to answer; a new VM takes a while to
ENDING_LOOKS = 10  # at which some workers may still run where others have ended; a run ends them itself


def watch(gcloud: Gcloud, params: Params, command: Sequence[str]) -> None:
    """Returns when the run is done; raises Failure where starting it again cannot help."""
    if params.spot and params.store == "none":
        raise Failure(2, "spot is set and neither disk nor bucket: a preemption takes the run's folder along; set one")
    if gcloud.dry_run:
        found = create(gcloud)
        attend(gcloud, params, command, "none")
        runs.status_of(gcloud, found)
        return
    crashes = silent = ending = 0
    seen = False  # there is a run to lose
    before = ""
    answered = time.monotonic()
    while True:
        try:
            found = look(gcloud)
            answered = time.monotonic()
        except Unanswered as failure:  # the run goes on meanwhile, and the slice costs
            if time.monotonic() - answered > 3600 * params.wait_hours:
                raise
            if str(failure) != before:
                say(f"{failure}; looks again")
            before = str(failure)
            gcloud.wait(params.poll_seconds)
            continue
        if found is None or not found.ready:
            if seen and params.store == "none" and (found is None or found.gone):
                state = found.state if found else "deleted"
                raise Failure(5, f"the slice is {state}, and the run's folder went with it; set disk or bucket")
            create(gcloud)
            continue
        try:
            verdict, text = runs.status_of(gcloud, found)
            if text != before:
                say(text)
            before = text
            ending = ending + 1 if verdict == "ending" else 0
            verdict = "part" if ending > ENDING_LOOKS else verdict
            crashes += verdict == "crashed"
            if verdict == "done":
                return
            if verdict in ("failed", "stopped") or crashes > params.restarts:
                raise Failure(6, f"{text}; launch/gcp/tpu.py logs shows more")
            if verdict == "foreign":
                raise Failure(7, text)
            attend(gcloud, params, command, verdict)
            seen = seen or verdict != "silent"
        except Failure as failure:
            # A preemption in the middle of a copy is one of these; the next look tells.
            if failure.code != 5 and not isinstance(failure, Unanswered):
                raise
            verdict, text = "silent", str(failure)
            say(text)
        silent = silent + 1 if verdict == "silent" else 0
        if silent > SILENT_LOOKS:
            raise Failure(5, f"{text}; launch/gcp/tpu.py delete, then watch, replaces the slice")
        gcloud.wait(params.poll_seconds)


def attend(gcloud: Gcloud, params: Params, command: Sequence[str], verdict: str) -> None:
    """Does what the verdict about the run on a ready slice asks for."""
    if verdict == "part":
        runs.stop(gcloud, params, 60, "again")
    if verdict == "none":
        runs.install(gcloud, params)
    if verdict in ("none", "part", "again", "crashed"):
        runs.run(gcloud, params, command)
