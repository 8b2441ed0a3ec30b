"""tljax on a slice's workers: install it, start a run on all of them, see what became of it, fetch its results."""

import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gcloud import SSH_FAILED, Gcloud, Result, kind_of, refused, say, told
from params import Failure, Params
from slices import Slice, ready

REPO = Path(__file__).resolve().parents[2]
SHIPPED = ("tljax", "configs", "launch", "pyproject.toml", "README.md", "LICENSE")
FOLDER = "tljax"  # the copied repository, in the home folder of every worker
WORKER = f"{FOLDER}/launch/gcp/worker.sh"
ANSWER = re.compile(r"^tljax worker=(\d+) (?!says: )(.*)$", re.MULTILINE)
SAYS = re.compile(r"^tljax worker=(\d+) says: (.*)$", re.MULTILINE)

# What a run's last lines say -> what it means and what to do.
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
    """The repository, what `copy` names and the variables that `env` names, as a tar file."""
    with tarfile.open(target, "w") as archive:
        for name in SHIPPED:
            archive.add(REPO / name, f"{FOLDER}/{name}", filter=without_caches)
        for name in params.copy:
            path = Path(name).expanduser().resolve()
            if not path.exists():
                raise Failure(2, f"copy names {name}, which is not there")
            if path.name in SHIPPED:
                raise Failure(2, f"copy names {name}, and {path.name} is tljax's own; give it another name")
            archive.add(path, f"{FOLDER}/{path.name}")
        missing = [name for name in params.env if name not in os.environ]
        if missing:
            raise Failure(2, f"env names {', '.join(missing)}, which this shell has not; export it")
        long = [name for name in params.env if "\n" in os.environ[name]]
        if long:
            raise Failure(2, f"env names {', '.join(long)}, of several lines; copy it as a file and name that instead")
        # As a file, since command lines can be read by every user of a machine.
        secrets = target.with_name("run-env")
        secrets.touch(mode=0o600)
        secrets.write_text("".join(f"{name}={os.environ[name]}\n" for name in params.env), encoding="utf-8")
        archive.add(secrets, f"{FOLDER}/.run-env")


def without_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in member.name else member


def install(gcloud: Gcloud, params: Params) -> None:
    found = ready(gcloud, params)
    if not gcloud.dry_run and status_of(gcloud, found)[0] == "running":
        raise Failure(7, "a run is going, and would find other code under it; launch/gcp/tpu.py stop first")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "tljax.tar"
        pack(params, archive)
        say(f"copies tljax ({archive.stat().st_size / 1e6:.1f} MB) to {plural(found.workers)} and installs it there")
        copied = gcloud.scp(str(archive), f"{params.name}:tljax.tar", worker="all")
    if copied.code != 0:
        raise unreachable(copied, params, "tljax cannot be copied to every worker")
    unpack = f"rm -rf {FOLDER}/tljax && tar -xf tljax.tar && rm tljax.tar"
    script = f"{unpack} && bash {WORKER} install {params.extras} {params.store}"
    result = gcloud.ssh("bash", "-c", script, stream=True)
    if gcloud.dry_run:
        return
    done = answers(result.out, state="installed")
    missing = sorted(set(range(found.workers)) - set(done))
    if missing:
        raise Failure(5, f"not installed on worker {listed(missing)} of {found.workers}: {told_by(result)}; try again")
    say(f"installed on {plural(found.workers)}, jax {done[0].get('jax', '?')}")


# --- run -------------------------------------------------------------------------------------------------------------


def run(gcloud: Gcloud, params: Params, command: Sequence[str]) -> None:
    """Starts the command on all workers at once, in the background."""
    found = ready(gcloud, params)
    words = [*command]
    if words[0] == "launch/train.py":
        words += [f"--config.out={params.folder}", "--config.resume=auto"]
    result = gcloud.ssh("bash", WORKER, "start", params.store, *words)
    if gcloud.dry_run:
        return
    report(result)
    if "No such file" in result.out + result.err and not ANSWER.search(result.out):
        raise Failure(5, f"tljax is not on {params.name}; launch/gcp/tpu.py install")
    replies = answers(result.out)
    # gcloud's own second try, where the connection broke, finds the run that the first one has started.
    started = sorted({int(w) for w, words in ANSWER.findall(result.out) if re.match(r"state=running pid=\d+$", words)})
    if len(started) == found.workers:
        say(f"started on {plural(found.workers)}: python {' '.join(words)}")
        return
    going = [w for w, reply in replies.items() if "already" in reply and w not in started]
    busy = [w for w, reply in replies.items() if reply["state"] == "busy"]
    if started:
        # Workers that were started wait for the others, and hold their TPUs meanwhile.
        gcloud.ssh("bash", WORKER, "stop", "20", "again", worker=",".join(map(str, started)))
        say(f"stopped again on worker {listed(started)}: on a part of its workers a run only waits for the others")
    if going:
        raise Failure(7, f"a run is going on worker {listed(going)}; launch/gcp/tpu.py logs, or stop first")
    if busy:
        raise Failure(7, f"the TPU is in use on worker {listed(busy)} by a process that tpu.py did not start; end that")
    missing = sorted(set(range(found.workers)) - set(replies))
    raise unreachable(result, params, f"worker {listed(missing)} of {found.workers} could not start the run")


# --- what became of it -----------------------------------------------------------------------------------------------


def status_of(gcloud: Gcloud, found: Slice) -> tuple[str, str]:
    """A verdict and a line about it.

    none, running, done, stopped (by `stop`), again (interrupted: start it again), crashed, failed (do not), ending (on
    some workers it has), part (on some workers only), foreign (a process that is not ours has the TPU), silent (a
    worker does not answer).
    """
    result = gcloud.ssh("bash", WORKER, "status")
    if gcloud.dry_run:
        return "running", ""
    if "No such file" in result.out + result.err and not ANSWER.search(result.out):
        return "none", "tljax is not installed"
    replies = answers(result.out)
    missing = sorted(set(range(found.workers)) - set(replies))
    if missing:
        return "silent", f"worker {listed(missing)} of {found.workers} does not answer: {told_by(result)}"
    by_state: dict[str, list[int]] = {}
    for worker, reply in sorted(replies.items()):
        by_state.setdefault(reply["state"], []).append(worker)
    report(result)
    states = set(by_state)
    ended = sorted(w for state in ("failed", "lost", "interrupted") for w in by_state.get(state, []))
    if "running" in states and ended:
        return "ending", f"it ended on worker {listed(ended)}, and the others follow within a minute"
    if "failed" in states:
        return failed(by_state["failed"], replies, result.out)
    if "stopped" in states:
        return "stopped", "it was stopped by launch/gcp/tpu.py stop; run goes on with it"
    if states == {"done"}:
        return "done", f"done on {plural(found.workers)}"
    if states <= {"running", "done"}:
        return "running", f"running on {plural(len(by_state['running']))}"
    if "running" in states:
        there = by_state["running"]
        why = "JAX waits until it runs on all workers"
        return "part", f"it runs on worker {listed(there)} only, of {found.workers}: {why}; tpu.py stop, then run"
    held = [w for w, reply in replies.items() if reply.get("held")]
    if states == {"none"} and held:
        text = f"worker {listed(held)} of {found.workers}: the TPU is in use by process {replies[held[0]]['held']}"
        alone = ", on one worker alone it waits for the others for ever" if len(held) < found.workers else ""
        return "foreign", f"{text}, which tpu.py did not start{alone}; end it there, then tpu.py run"
    if states == {"none"}:
        return "none", "no run was started"
    if "lost" in states:
        return (
            "crashed",
            f"it ended without a word on worker {listed(by_state['lost'])} (killed, or the VM was restarted)",
        )
    return "again", f"it was interrupted on worker {listed(ended)}"


def failed(workers: list[int], replies: dict[int, dict[str, str]], out: str) -> tuple[str, str]:
    code = int(replies[workers[0]].get("code") or 1)
    text = f"it failed with code {code} on worker {listed(workers)}"
    known = next((meaning for pattern, meaning in KNOWN if re.search(pattern, out)), "")
    # 128 and above: ended by a signal, such as libtpu's abort when a neighbour goes away; below, by itself.
    return "crashed" if code >= 128 else "failed", f"{text}: {known}" if known else text


def stop(gcloud: Gcloud, params: Params, seconds: int = 900, *again: str) -> None:
    """SIGTERM to the run on all workers, which saves it; "again" where it is to be started again."""
    ready(gcloud, params)
    result = gcloud.ssh("bash", WORKER, "stop", str(seconds), *again, stream=True)
    if not gcloud.dry_run and result.code != 0:
        raise unreachable(result, params, "it cannot be stopped on every worker")


def logs(gcloud: Gcloud, params: Params, worker: str, lines: int) -> int:
    """Follows a worker's log to the end of its run; gcloud's exit code."""
    ready(gcloud, params)
    return gcloud.ssh("bash", WORKER, "logs", str(lines), worker=worker, stream=True).code


# --- results ---------------------------------------------------------------------------------------------------------


def fetch(gcloud: Gcloud, params: Params, target: Path, everything: bool) -> None:
    """The run's folder without its checkpoints, or with `everything`, from the bucket or worker 0 to a new folder."""
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
        ready(gcloud, params)
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
            raise unreachable(result, params, f"{params.out} cannot be fetched whole")
    if not gcloud.dry_run:
        partial.rename(target)
        say(f"fetched {target}: {', '.join(sorted(path.name for path in target.iterdir()))}")


# --- answers ---------------------------------------------------------------------------------------------------------


def answers(text: str, state: str = "") -> dict[int, dict[str, str]]:
    """Each worker's last answer (with that state), as its fields."""
    found = {}
    for worker, fields in ANSWER.findall(text):
        reply = dict(re.findall(r"(\w+)=(\S*)", fields))
        if reply.get("state") and state in ("", reply["state"]):
            found[int(worker)] = reply
    return found


def report(result: Result) -> None:
    for worker, text in SAYS.findall(result.out):
        say(f"worker {worker}: {text}")


def told_by(result: Result) -> str:
    """The error that a worker told, or gcloud."""
    errors = [f"worker {worker}: {text}" for worker, text in SAYS.findall(result.out) if text.startswith("error: ")]
    return errors[0] if errors else told(result)


def unreachable(result: Result, params: Params, what: str) -> Failure:
    if kind_of(result.err) in ("login", "project", "permission"):
        return refused(result, what)
    hint = ""
    if result.code == SSH_FAILED or "connect" in result.err:
        hint = "; a worker that stays away is best replaced: launch/gcp/tpu.py delete, then create"
        if "ssh-add" in result.err:
            hint += "; where all do, the key may be missing: ssh-add ~/.ssh/google_compute_engine"
    return Failure(5, f"{what}: {told_by(result)}{hint}")


def plural(workers: int) -> str:
    return "1 worker" if workers == 1 else f"{workers} workers"


def listed(workers: Sequence[int]) -> str:
    return ", ".join(str(worker) for worker in sorted(workers))
