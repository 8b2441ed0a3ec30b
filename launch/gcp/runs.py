"""Installs tljax on the workers of a slice, starts a run on all of them, reads its status and fetches its results."""

import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gcloud import SSH_FAILED, Gcloud, Result, error_kind, error_line, log, refusal
from params import Failure, Params
from slices import Slice, ready_slice

REPO = Path(__file__).resolve().parents[2]
SHIPPED = ("tljax", "configs", "launch", "pyproject.toml", "README.md", "LICENSE")
FOLDER = "tljax"  # the copied repository, in the home folder of every worker
WORKER = f"{FOLDER}/launch/gcp/worker.sh"
ANSWER = re.compile(r"^tljax worker=(\d+) (?!says: )(.*)$", re.MULTILINE)
SAYS = re.compile(r"^tljax worker=(\d+) says: (.*)$", re.MULTILINE)

# Patterns in the last lines of a failed run -> the cause and what to do.
KNOWN = (
    (
        r"does not find there what process 0 wrote",
        "the workers have a disk each, and a run one folder: set bucket, which all of them mount",
    ),
    (
        r"did not come together",
        "not all workers took part, or a firewall rule of the network keeps them apart: launch/gcp/tpu.py run",
    ),
    (
        r"TPU is already in use|libtpu multi-process lockfile|lock file is stale",
        "another process has the TPU, or left its lock: launch/gcp/tpu.py stop, then run, which clears a stale lock",
    ),
    (r"No space left on device", "the disk is full: a VM's own has 100 GB; set disk or bucket"),
    (
        r"ModuleNotFoundError|No such file or directory: '?launch/",
        "launch/gcp/tpu.py install, with what is missing in copy",
    ),
)


# --- install ---------------------------------------------------------------------------------------------------------


def pack(params: Params, target: Path) -> None:
    """Writes a tar file with the repository, the files named in `copy` and the variables named in `env`."""
    with tarfile.open(target, "w") as archive:
        for name in SHIPPED:
            archive.add(REPO / name, f"{FOLDER}/{name}", filter=without_caches)
        for name in params.copy:
            path = Path(name).expanduser().resolve()
            if not path.exists():
                raise Failure(2, f"copy names {name}, which does not exist")
            if path.name in SHIPPED:
                raise Failure(2, f"copy names {name}, and {path.name} is tljax's own; give it another name")
            archive.add(path, f"{FOLDER}/{path.name}")
        missing = [name for name in params.env if name not in os.environ]
        if missing:
            raise Failure(2, f"env names {', '.join(missing)}, which are not set in this shell; export them")
        long = [name for name in params.env if "\n" in os.environ[name]]
        if long:
            raise Failure(2, f"env names {', '.join(long)}, of several lines; copy it as a file and name that instead")
        # The variables are sent in a file, since every user of a machine can read command lines.
        secrets = target.with_name("run-env")
        secrets.touch(mode=0o600)
        secrets.write_text("".join(f"{name}={os.environ[name]}\n" for name in params.env), encoding="utf-8")
        archive.add(secrets, f"{FOLDER}/.run-env")


def without_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in member.name else member


def install(gcloud: Gcloud, params: Params) -> None:
    found = ready_slice(gcloud, params)
    if not gcloud.dry_run and run_status(gcloud, found)[0] == "running":
        raise Failure(7, "a run is going, whose code would be replaced; launch/gcp/tpu.py stop first")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "tljax.tar"
        pack(params, archive)
        log(f"copies tljax, {archive.stat().st_size / 1e6:.1f} MB, to {count_workers(found.workers)} and installs it")
        copied = gcloud.scp(str(archive), f"{params.name}:tljax.tar", worker="all")
    if copied.code != 0:
        raise unreachable(copied, params, "tljax cannot be copied to every worker")
    unpack = f"rm -rf {FOLDER}/tljax && tar -xf tljax.tar && rm tljax.tar"
    script = f"{unpack} && bash {WORKER} install {params.extras} {params.store}"
    result = gcloud.ssh("bash", "-c", script, stream=True)
    if gcloud.dry_run:
        return
    done = parse_replies(result.out, state="installed")
    missing = sorted(set(range(found.workers)) - set(done))
    if missing:
        raise Failure(
            5, f"not installed on worker {join_numbers(missing)} of {found.workers}: {worker_error(result)}; try again"
        )
    log(f"installed on {count_workers(found.workers)}, jax {done[0].get('jax', '?')}")


# --- run -------------------------------------------------------------------------------------------------------------


def run(gcloud: Gcloud, params: Params, command: Sequence[str]) -> None:
    """Starts the command on all workers at once, in the background."""
    found = ready_slice(gcloud, params)
    words = [*command]
    if words[0] == "launch/train.py":
        words += [f"--config.out={params.folder}", "--config.resume=auto"]
    result = gcloud.ssh("bash", WORKER, "start", params.store, *words)
    if gcloud.dry_run:
        return
    log_messages(result)
    if "No such file" in result.out + result.err and not ANSWER.search(result.out):
        raise Failure(5, f"tljax is not on {params.name}; launch/gcp/tpu.py install")
    replies = parse_replies(result.out)
    # If the connection breaks, gcloud tries again by itself and finds the run that its first try has started.
    started = sorted({int(w) for w, words in ANSWER.findall(result.out) if re.match(r"state=running pid=\d+$", words)})
    if len(started) == found.workers:
        log(f"started on {count_workers(found.workers)}: python {' '.join(words)}")
        return
    going = [w for w, reply in replies.items() if "already" in reply and w not in started]
    busy = [w for w, reply in replies.items() if reply["state"] == "busy"]
    if started:
        # The workers that were started wait for the others, and keep their TPUs in use.
        gcloud.ssh("bash", WORKER, "stop", "20", "again", worker=",".join(map(str, started)))
        log(
            f"stopped again on worker {join_numbers(started)}: on a part of its workers a run only waits for the others"
        )
    if going:
        raise Failure(7, f"a run is going on worker {join_numbers(going)}; launch/gcp/tpu.py logs, or stop first")
    if busy:
        raise Failure(
            7, f"the TPU is in use on worker {join_numbers(busy)} by a process that tpu.py did not start; end that"
        )
    missing = sorted(set(range(found.workers)) - set(replies))
    raise unreachable(result, params, f"worker {join_numbers(missing)} of {found.workers} could not start the run")


# --- status ----------------------------------------------------------------------------------------------------------


def run_status(gcloud: Gcloud, found: Slice) -> tuple[str, str]:
    """Returns the verdict on a run, and a line about it.

    Verdicts: none; running; done; stopped (by `stop`); again (interrupted, so start it again); crashed (start it again
    a few times); failed (do not start it again); ending (it has ended on some workers); part (it runs on some workers
    only); foreign (another process has the TPU); silent (a worker does not answer).
    """
    result = gcloud.ssh("bash", WORKER, "status")
    if gcloud.dry_run:
        return "running", ""
    if "No such file" in result.out + result.err and not ANSWER.search(result.out):
        return "none", "tljax is not installed"
    replies = parse_replies(result.out)
    missing = sorted(set(range(found.workers)) - set(replies))
    if missing:
        return "silent", f"worker {join_numbers(missing)} of {found.workers} does not answer: {worker_error(result)}"
    by_state: dict[str, list[int]] = {}
    for worker, reply in sorted(replies.items()):
        by_state.setdefault(reply["state"], []).append(worker)
    log_messages(result)
    states = set(by_state)
    ended = sorted(w for state in ("failed", "lost", "interrupted") for w in by_state.get(state, []))
    if "running" in states and ended:
        return "ending", f"it ended on worker {join_numbers(ended)}, and the others follow within a minute"
    if "failed" in states:
        return failure_status(by_state["failed"], replies, result.out)
    if "stopped" in states:
        return "stopped", "it was stopped by launch/gcp/tpu.py stop; run goes on with it"
    if states == {"done"}:
        return "done", f"done on {count_workers(found.workers)}"
    if states <= {"running", "done"}:
        return "running", f"running on {count_workers(len(by_state['running']))}"
    if "running" in states:
        there = by_state["running"]
        why = "JAX waits until it runs on all workers"
        return "part", f"it runs on worker {join_numbers(there)} only, of {found.workers}: {why}; tpu.py stop, then run"
    held = [w for w, reply in replies.items() if reply.get("held")]
    if states == {"none"} and held:
        text = (
            f"worker {join_numbers(held)} of {found.workers}: the TPU is in use by process {replies[held[0]]['held']}"
        )
        alone = ", on one worker alone it waits for the others for ever" if len(held) < found.workers else ""
        return "foreign", f"{text}, which tpu.py did not start{alone}; end it there, then tpu.py run"
    if states == {"none"}:
        return "none", "no run was started"
    if "lost" in states:
        return (
            "crashed",
            f"it ended without a message on worker {join_numbers(by_state['lost'])} (killed, or the VM was restarted)",
        )
    return "again", f"it was interrupted on worker {join_numbers(ended)}"


def failure_status(workers: list[int], replies: dict[int, dict[str, str]], out: str) -> tuple[str, str]:
    code = int(replies[workers[0]].get("code") or 1)
    text = f"it failed with code {code} on worker {join_numbers(workers)}"
    known = next((meaning for pattern, meaning in KNOWN if re.search(pattern, out)), "")
    # Codes from 128 are signals, such as the abort of libtpu when another worker is gone; the run returns lower ones.
    return "crashed" if code >= 128 else "failed", f"{text}: {known}" if known else text


def stop(gcloud: Gcloud, params: Params, seconds: int = 900, *again: str) -> None:
    """Sends SIGTERM to the run on all workers, so that it saves; "again" means that tpu.py will start it again."""
    ready_slice(gcloud, params)
    result = gcloud.ssh("bash", WORKER, "stop", str(seconds), *again, stream=True)
    if not gcloud.dry_run and result.code != 0:
        raise unreachable(result, params, "it cannot be stopped on every worker")


def logs(gcloud: Gcloud, params: Params, worker: str, lines: int) -> int:
    """Follows a worker's log to the end of its run. Returns the exit code of gcloud."""
    ready_slice(gcloud, params)
    return gcloud.ssh("bash", WORKER, "logs", str(lines), worker=worker, stream=True).code


# --- results ---------------------------------------------------------------------------------------------------------


def fetch(gcloud: Gcloud, params: Params, target: Path, everything: bool) -> None:
    """Copies the run's folder from the bucket or worker 0 to a new folder; `everything` includes checkpoints."""
    if target.exists():
        raise Failure(2, f"{target} exists; give another folder (--to=FOLDER), or remove it")
    partial = target.with_name(f".{target.name}.partial")
    if not gcloud.dry_run:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    if params.bucket:
        left = [] if everything else ["--exclude=^checkpoints/.*"]
        source = f"gs://{params.bucket}/{params.out}"
        results = [
            gcloud.call("storage", "rsync", "--recursive", source, str(partial), *left, *gcloud.project(), seconds=None)
        ]
    else:
        ready_slice(gcloud, params)
        listing = gcloud.ssh("bash", WORKER, "list", params.folder, worker="0")
        names = re.findall(r"^tljax worker=\d+ file=(.*)$", listing.out, re.MULTILINE)
        if not names and not gcloud.dry_run:
            raise unreachable(listing, params, "there is nothing to fetch")
        results = []
        for name in names or ["..."]:
            if everything or name != "checkpoints":
                source = f"{params.name}:{FOLDER}/{params.folder}/{name}"
                results.append(gcloud.scp(source, str(partial / name), worker="0", recurse=True))
    for result in results:
        if result.code != 0:
            raise unreachable(result, params, f"{params.out} cannot be fetched completely")
    if not gcloud.dry_run:
        partial.rename(target)
        log(f"fetched {target}: {', '.join(sorted(path.name for path in target.iterdir()))}")


# --- replies ---------------------------------------------------------------------------------------------------------


def parse_replies(text: str, state: str = "") -> dict[int, dict[str, str]]:
    """Returns the fields of each worker's last answer, or of its last one with this state."""
    replies = {}
    for worker, fields in ANSWER.findall(text):
        reply = dict(re.findall(r"(\w+)=(\S*)", fields))
        if reply.get("state") and state in ("", reply["state"]):
            replies[int(worker)] = reply
    return replies


def log_messages(result: Result) -> None:
    for worker, text in SAYS.findall(result.out):
        log(f"worker {worker}: {text}")


def worker_error(result: Result) -> str:
    """Returns the error that a worker reports, or else that of gcloud."""
    errors = [f"worker {worker}: {text}" for worker, text in SAYS.findall(result.out) if text.startswith("error: ")]
    return errors[0] if errors else error_line(result)


def unreachable(result: Result, params: Params, problem: str) -> Failure:
    if error_kind(result.err) in ("login", "project", "permission"):
        return refusal(result, problem)
    hint = ""
    if result.code == SSH_FAILED or "connect" in result.err:
        hint = "; a worker that stays away is best replaced: launch/gcp/tpu.py delete, then create"
        if "ssh-add" in result.err:
            hint += "; where all do, the key may be missing: ssh-add ~/.ssh/google_compute_engine"
    return Failure(5, f"{problem}: {worker_error(result)}{hint}")


def count_workers(workers: int) -> str:
    return "1 worker" if workers == 1 else f"{workers} workers"


def join_numbers(workers: Sequence[int]) -> str:
    return ", ".join(str(worker) for worker in sorted(workers))
