"""Kills runs at seeded random moments, lets them go on, and compares what they leave with a run that nothing disturbed.

    python tests/kill_points.py FOLDER --points=200 --seed=0 [--full]

With --full the disk is full from that moment on instead, a tmpfs that is mounted on FOLDER/disk: run it by
`unshare -rm`. The run must say so in one line and end with code 2, and go on when there is room again.

A moment is the n-th time that a run opens, renames or removes something in its folder, at once or up to DELAY seconds
after it, or a share of the run's seconds. Every run is a fork of this process, which has imported what runs import and
never touches a device; compiled programs come from a cache on disk.
"""

import argparse
import contextlib
import functools
import json
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "1"  # as a user's machine has it
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import orbax.checkpoint as ocp
import tensorboardX  # noqa: F401 -- loaded before the forks, each of which would take seconds for it

from tljax.toolbox import trajectories
from tljax.training.checkpoint import Checkpoints
from tljax.training.metrics import TIMING_FIELDS

REPO = Path(__file__).parents[1]
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.listdir", "os.scandir", "os.truncate"}
DELAY = 0.08
VERBOSE = "KILL_POINTS_VERBOSE" in os.environ
KINDS = ("sft", "ppo", "lora", "export")
SHARES = {"sft": 0.5, "ppo": 0.35, "lora": 0.05, "export": 0.1}


def commands(home: Path) -> dict[str, list[str]]:
    """What is run, by kind; the run's folder is added."""
    common = [f"--config.data.source={home / 'raw.json'}", f"--config.data.cache={home / 'cache'}"]
    common += ["--config.checkpoint.every=2", "--config.checkpoint.keep=1", "--config.checkpoint.keep_best=0"]
    common += ["--config.eval.every=0", "--config.eval.sets=", "--config.log.every=1", "--config.data.max_tokens=512"]
    sft = [f"--config={REPO / 'configs' / 'sft.py'}", *common, "--config.optim.max_steps=5", "--config.batch.rows=1"]
    sft += ["--config.batch.pack=False", "--config.data.eval_fraction=0.0"]
    scored = ["--config.data.eval_fraction=0.2", "--config.eval.every=2", "--config.eval.samples=2"]
    scored += ["--config.eval.sets=held_out", "--config.eval.queries=2", "--config.eval.rows=2"]
    scored += ["--config.eval.new_tokens=4", "--config.checkpoint.keep_best=1"]
    ppo = [f"--config={REPO / 'configs' / 'ppo.py'}", *common, f"--config.model.path={home / 'sft'}"]
    ppo += [
        "--config.rollout.prompts=2",
        "--config.rollout.group=1",
        "--config.rollout.rows=2",
        "--config.rollout.max_new_tokens=4",
    ]
    ppo += ["--config.rollout.max_prompt_tokens=512", "--config.ppo.updates=5", "--config.ppo.minibatches=1"]
    ppo += ["--config.critic.warmup=0", "--config.rollout.round_to=512", "--config.log.samples=2"]
    ppo += ["--config.data.eval_fraction=0.0"]
    lora = [*sft, *scored, "--config.lora.rank=2"]
    export = [f"--config={REPO / 'configs' / 'export.py'}", f"--config.run={home / 'sft'}"]
    return {"sft": sft, "ppo": ppo, "lora": lora, "export": [*export, "--config.max_shard_bytes=1000000"]}


def fork(body: Callable[[], int], log: Path) -> int:
    """Runs `body` in a fork, its output in `log`; the exit code, minus the signal's number where one ended it."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            with open(log, "ab", buffering=0) as out:
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
            code = body()
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill(disk: Path) -> None:
    """Leaves no room on the file system of `disk`."""
    with open(disk / "ballast", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**20))
    with open(disk / "ballast", "ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**10))


def launch(
    kind: str, flags: list[str], folder: Path, events: Path, moment: tuple[float, float] | None, strike: Callable
) -> int:
    """One run in this process, struck at `moment`: (n-th event, seconds after it), or (0, seconds of the run)."""
    log = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    count, struck = 0, False
    nth, seconds = moment or (-1, 0.0)

    def hit() -> None:
        nonlocal struck
        struck = True
        strike()

    def watch(event: str, arguments: tuple) -> None:
        nonlocal count
        if event not in EVENTS or not arguments or not isinstance(arguments[0], str | Path):
            return
        path = str(arguments[0])
        if path.startswith(str(folder)) or f"/.{folder.name}.tmp" in path:
            count += 1
            if not struck:
                os.write(log, f"{event} {path}\n".encode())
            if count == nth:
                threading.Timer(seconds, hit).start() if seconds else hit()

    if nth == 0:
        timer = threading.Timer(seconds, hit)
        timer.daemon = True
        timer.start()
    sys.addaudithook(watch)
    script = "export_hf" if kind == "export" else "train"
    resume = [] if kind == "export" else ["--config.resume=auto"]
    sys.argv = [f"launch/{script}.py", *flags, f"--config.out={folder}", *resume]
    try:
        runpy.run_path(str(REPO / "launch" / f"{script}.py"), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def lines_of(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timing = (*TIMING_FIELDS, "seconds_rollout", "seconds_reward", "seconds_update")
    return [{k: v for k, v in line.items() if k.removeprefix("eval_") not in timing} for line in lines]


def files_of(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def compare_bytes(found: Path, wanted: Path) -> None:
    ours, theirs = files_of(found), files_of(wanted)
    assert ours.keys() == theirs.keys(), f"{found}: {sorted(ours.keys() ^ theirs.keys())}"
    for name, path in ours.items():
        assert path.read_bytes() == theirs[name].read_bytes(), f"{found}/{name} differs"


def check_broken(kind: str, folder: Path, whole: Path) -> list[int]:
    """What holds at every moment: exports are whole or not there; returns the steps of the committed checkpoints."""
    if kind == "export":
        if folder.exists():
            compare_bytes(folder, whole)
        return []
    for name in ("hf", "adapter", "model"):
        if (folder / name).exists():
            compare_bytes(folder / name, whole / name)
    checkpoints = folder / "checkpoints"
    return sorted(int(path.name) for path in checkpoints.glob("*") if path.name.isdigit())


def check_end(kind: str, folder: Path, whole: Path) -> None:
    """What holds when a run is done: everything is as in a run that nothing disturbed, and nothing else is there."""
    left = [path.name for path in folder.parent.iterdir() if path.name.startswith(f".{folder.name}.")]
    assert not left, f"left beside the folder: {left}"
    steps = check_broken(kind, folder, whole)
    if kind == "export":
        compare_bytes(folder, whole)
        return
    assert steps == check_broken(kind, whole, whole), f"checkpoints of {steps}"
    assert lines_of(folder) == lines_of(whole), "metrics.jsonl differs"
    ours, theirs = (
        {n: path for n, path in files_of(place).items() if not n.startswith(("events/", "checkpoints/"))}
        for place in (folder, whole)
    )
    assert ours.keys() == theirs.keys(), f"other files: {sorted(ours.keys() ^ theirs.keys())}"
    for name, path in ours.items():
        same = name in ("metrics.jsonl", "config.json") or path.read_bytes() == theirs[name].read_bytes()
        assert same, f"{name} differs"
    left = [path.name for path in (folder / "checkpoints").iterdir() if not path.name.isdigit()]
    assert not left, f"checkpoints: {left} is left"


def read_last(folder: Path) -> int:
    """Reads the checkpoints of a finished run, which no restart has read; touches devices."""
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        for step in checkpoints.steps():
            assert checkpoints.metadata(step)["step"] == step
            ocp.PyTreeCheckpointer().restore(folder / "checkpoints" / str(step) / "state")
    return 0


def where(event: str) -> str:
    """What a run is at when it touches a file of its own."""
    known = {"checkpoints": "save", "rollouts": "rollout", "hf": "export", "adapter": "export", "scores": "evaluation"}
    known |= {"metrics.jsonl": "step", "samples.jsonl": "step", "events": "step"}
    return next((told for name, told in known.items() if f"/{name}" in event or f"/.{name}" in event), "start")


class Session:
    """References of every kind, and runs that are killed."""

    def __init__(self, home: Path, full: bool):
        self.home, self.full, self.commands = home, full, commands(home)
        self.events: dict[str, dict[str, list[int]]] = {}  # of a kind, the numbers of events by what the run is at
        self.seconds: dict[str, float] = {}
        self.disk = home / "disk"
        self.disk.mkdir(parents=True, exist_ok=True)
        if full:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(self.disk)], check=True)
        trajectories.write_trajectories(home / "raw.json", seed=5, n=20, error_share=0.0, split="train")
        jax.config.update("jax_compilation_cache_dir", str(home / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

    def whole(self, kind: str) -> Path:
        """The folder of a run that nothing disturbs, made once."""
        folder = self.home / kind
        if kind not in self.events:
            if kind in ("ppo", "export"):
                self.whole("sft")
            begun = time.perf_counter()
            self.run(kind, folder, None)
            self.seconds[kind] = (time.perf_counter() - begun) / 2  # the next ones find compiled programs
            self.events[kind] = {}
            for number, event in enumerate((self.home / "events").read_text().splitlines(), 1):
                self.events[kind].setdefault(where(event.removeprefix(str(folder))), []).append(number)
        return folder

    def run(self, kind: str, folder: Path, moment: tuple[float, float] | None) -> str | None:
        """A run; what it was at when it was struck, None where it ended well. Raises AssertionError where it failed."""
        log, events = self.home / "log", self.home / "events"
        log.write_text("")
        strike = functools.partial(fill, self.disk) if self.full else die
        code = fork(lambda: launch(kind, self.commands[kind], folder, events, moment, strike), log)
        (self.disk / "ballast").unlink(missing_ok=True)
        said = log.read_text()
        assert code in (0, -signal.SIGKILL if moment and not self.full else 2), f"exit code {code}: {said[-3000:]}"
        if code == 0:
            return None
        if code == 2:
            told = [line for line in said.splitlines() if line.startswith("error: ")]
            assert moment and len(told) == 1 and "No space left on device" in told[0], said[-3000:]
            assert "Traceback" not in said, said[-3000:]
            if VERBOSE:
                print(told[0])
        return where((events.read_text().splitlines() or [""])[-1].replace(str(folder), ""))

    def resume(self, kind: str, folder: Path, moment: tuple[float, float] | None) -> str | None:
        """A run that goes on from the newest checkpoint there is, if any, and from no other; what `run` returns."""
        steps = check_broken(kind, folder, self.home / kind)
        found = self.run(kind, folder, moment)
        log = (self.home / "log").read_text()
        told = re.search(r"resumed at update (\d+) of", log)
        if steps and (re.search(r"^step \d", log, re.M) or found is None):
            assert told and int(told[1]) == steps[-1], f"checkpoints of {steps}, but: {log}"
        return found

    def point(self, kind: str, folder: Path, rng: random.Random) -> list[str]:
        """Kills a run once or twice, resumes it to its end and checks; what it was at when it was killed."""
        self.whole(kind)
        hits = []
        for _ in range(rng.choice((1, 1, 1, 2))):
            nth = rng.choice(self.events[kind][rng.choice(sorted(self.events[kind]))])
            delay = rng.choice((0.0, rng.uniform(0, DELAY)))
            moment = (nth, delay) if rng.random() < 0.8 else (0, rng.uniform(0, self.seconds[kind]))
            hit = self.resume(kind, folder, moment)
            if hit is None:
                break
            hits.append(hit)
        if kind != "export" or not folder.exists():
            self.resume(kind, folder, None)
        check_end(kind, folder, self.home / kind)
        if kind != "export" and rng.random() < 0.1:
            assert fork(lambda: read_last(folder), self.home / "log") == 0, (self.home / "log").read_text()[-2000:]
        return hits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    session = Session(options.folder.absolute(), options.full)
    rng = random.Random(options.seed)
    kinds = options.kinds.split(",")
    told: Counter[str] = Counter()
    wrong = 0
    for number in range(options.points):
        kind = rng.choices(kinds, [SHARES[kind] for kind in kinds])[0]
        own = random.Random(f"{options.seed} {number}")
        folder = session.disk / f"point-{number}"
        begun = time.perf_counter()
        try:
            hits = session.point(kind, folder, own)
            told.update(f"{kind}: {hit}" for hit in hits or ["ended before"])
            shutil.rmtree(folder, ignore_errors=True)
            print(f"{number} {kind} {hits} {time.perf_counter() - begun:.1f} s", flush=True)
        except AssertionError as error:
            wrong += 1
            if session.full:
                shutil.rmtree(folder, ignore_errors=True)
            print(f"{number} {kind} WRONG, see {folder}: {error}", flush=True)
    print(f"{options.points} points, seed {options.seed}, {wrong} wrong; killed at: {dict(sorted(told.items()))}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
