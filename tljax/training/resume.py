"""A run's folder: where it lies, what may be written into it, and whether a restart continues the same run."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tljax.core.config import flatten_fields
from tljax.core.errors import InputError
from tljax.distributed import processes
from tljax.storage.atomic import write_json
from tljax.storage.remote import explain_store_errors as remote_told
from tljax.storage.remote import is_remote, remove_objects
from tljax.storage.run_folder import RunFolder, open_run_folder

# What a restarted run may change without becoming another run.
FREE_FIELDS = (
    *("out", "resume", "log", "checkpoint", "export", "mesh", "processes", "data.cache"),
    *("eval.every", "eval.samples", "eval.rows"),
    *("batch.accumulate", "model.remat", "model.attention", "model.loss_chunk"),
    *("ppo.accumulate", "rollout.rows", "reward.timeout", "reward.workers"),
)
BEGUN = "begun.json"
# What a run keeps of its beginning: its name for people, and what may have changed where it differs.
BEGINS_WITH = {
    "rows": ("training rows", "data.source, the tokenizer, a rule or tljax"),
    "updates": ("numbers of updates", "data.source, a rule or tljax"),
    "model": ("weights", "what lies at model.path"),
}
# What it may change where these do not decide which checkpoint is the best.
ASKED_FIELDS = ("eval.sets", "eval.queries", "eval.new_tokens")
RESUME = ("never", "auto")
# Names that a run gives to its files.
OWN = {"config.json", "model", "lock", "checkpoints", "events", "metrics.jsonl", "samples.jsonl", "hf"}
OWN |= {"adapter", BEGUN, "rollouts", "scores", "wandb", "wandb_id"}
# Names that a killed process leaves of a file it was writing; those after the first are of older versions.
TEMPORARY = re.compile(r"\.[\w.]+\.(tmp|partial-\d+)|metrics\.jsonl\.tmp|samples\.jsonl\.tmp")


def choose_run_folder(out: str, name: str, resume: str) -> RunFolder:
    """The folder a run will use, the same on all its processes; nothing is made, but for the desk of an address.

    out: the folder, or an address such as gs://BUCKET/RUN; "" for runs/NAME, or the first free of runs/NAME-2, ...;
    with resume "auto" the last of those. Raises InputError for a folder that is in use (resume "never"), is no run's
    (resume "auto"), or cannot be written.
    """
    return open_run_folder(processes.run_on_primary(lambda: str(_choose(out, name, resume))))


def _choose(out: str, name: str, resume: str) -> RunFolder:
    place = out if is_remote(out) else str(Path(out).expanduser() if out else _default_folder(name, resume))
    folder = open_run_folder(place)
    if folder.uri:
        folder.download()
    _check_free(folder, resume)
    return folder


def _check_free(folder: RunFolder, resume: str) -> None:
    if _used(folder):
        if resume == "never":
            raise InputError(
                f"config.out {folder} is not empty; give another folder, or --config.resume=auto to continue its run"
            )
        read_run_config(folder.local_dir)
    there = next(p for p in (folder.local_dir, *folder.local_dir.absolute().parents) if p.exists())
    if not there.is_dir():
        raise InputError(f"config.out {folder}: {there} is a file; give a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"config.out {folder}: {there} cannot be written; give another folder")


def _used(folder: RunFolder) -> bool:
    """Whether a folder holds more than a run leaves that ended before its first update: results, or a user's files."""
    with remote_told(str(folder), "config.out"):
        if not folder.path.is_dir():
            return False
        results = [folder.path / "hf", folder.path / "adapter", *(folder.path / "checkpoints").glob("[0-9]*")]
        names = {path.name for path in folder.path.iterdir()}
        written = any(path.exists() for path in results) or _updated(folder / "metrics.jsonl")
    return written or any(name not in OWN and not TEMPORARY.fullmatch(name) for name in names)


def _updated(metrics: Path) -> bool:
    """Whether metrics.jsonl has a line of an update, or one that is none of ours; scores before the first are not."""
    if not metrics.is_file():
        return False
    with open(metrics, encoding="utf-8", errors="replace") as lines:
        return any(not line.startswith('{"step": 0,') for line in lines)


@contextlib.contextmanager
def lock_run_folder(folder: RunFolder, config: Any) -> Iterator[bool]:
    """Makes the folder, holds it for this run, and writes config.json; yields whether the run has begun before.

    Raises InputError where another run holds it, where it has changed since `choose`, where the disk refuses, or where
    a process of this run does not see it.
    """
    with contextlib.ExitStack() as held:
        begun = processes.run_on_primary(lambda: held.enter_context(_claim(folder, config)))
        if not folder.uri and not (folder / "config.json").is_file():
            raise InputError(
                f"config.out {folder}: this process does not find there what process 0 wrote; give a folder on a file "
                "system that all processes share, or an address such as gs://BUCKET/RUN"
            )
        yield begun


@contextlib.contextmanager
def _claim(folder: RunFolder, config: Any) -> Iterator[bool]:
    with contextlib.ExitStack() as held:
        try:
            folder.local_dir.mkdir(parents=True, exist_ok=True)
            held.enter_context(folder.lock())
        except OSError as error:
            raise InputError(f"config.out {folder} cannot be written ({error.strerror}); give another folder") from None
        _check_free(folder, config.resume)
        _check_config(folder, config)
        begun = _used(folder)
        if not begun:  # what a run left that ended before its first update
            files, folders = (BEGUN, "metrics.jsonl", "samples.jsonl"), ("scores", "events")
            for name in files:
                (folder / name).unlink(missing_ok=True)
            for name in (*folders, "rollouts"):
                shutil.rmtree(folder / name, ignore_errors=True)
            for name in (*files, *folders, "model") if folder.uri else ():
                remove_objects(f"{folder.uri}/{name}", "config.out")
        write_json(folder / "config.json", json.loads(config.to_json_best_effort()))
        try:
            yield begun
        except BaseException:
            with contextlib.suppress(InputError):
                folder.upload()
            raise
        folder.upload()


def _default_folder(name: str, resume: str) -> Path:
    """runs/NAME-n: the last one there is to resume, else the one after it."""
    numbers = [0]
    for path in Path("runs").glob(f"{name}*"):
        tail = re.fullmatch(r"(?:-(\d+))?", path.name[len(name) :])
        if tail and path.is_dir():
            numbers.append(int(tail.group(1) or 1))
    number = max(numbers) if resume == "auto" and max(numbers) else max(numbers) + 1
    return Path("runs") / (name if number == 1 else f"{name}-{number}")


def check_same_config(folder: RunFolder, config: Any) -> None:
    """Raises InputError naming the first field in which a restart differs from the run in `folder`.

    Fields that cannot change the result may differ.
    """
    processes.run_on_primary(lambda: _check_config(folder, config))


def _check_config(folder: RunFolder, config: Any) -> None:
    if not _used(folder):
        return
    begun, given = (
        flatten_fields(read_run_config(folder.local_dir)),
        flatten_fields(json.loads(config.to_json_best_effort())),
    )
    names = FREE_FIELDS + (ASKED_FIELDS if given.get("eval.best", "loss") == "loss" else ())
    for field, value in given.items():
        free = any(field == name or field.startswith(f"{name}.") for name in names)
        # A field that an older version did not have says nothing of that run.
        if not free and field in begun and begun[field] != value:
            raise InputError(
                f"config.{field} is {value!r}, but the run in {folder} began with {begun.get(field)!r}; "
                "give that value, or another --config.out for a new run"
            )


def record_first_start(folder: RunFolder, facts: dict[str, str | int]) -> None:
    """Keeps in OUT/begun.json what a run begins with and no restart may change, by the names in `BEGINS_WITH`.

    Raises InputError where a restart finds something else there.
    """
    processes.check_equal_on_all({BEGINS_WITH[name][0]: value for name, value in facts.items()})
    processes.run_on_primary(lambda: _begin_once(folder, facts))
    folder.broadcast()


def _begin_once(folder: RunFolder, facts: dict[str, str | int]) -> None:
    path = folder / BEGUN
    begun = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else facts
    for name, value in facts.items():
        if begun.get(name) != value:
            what, cause = BEGINS_WITH[name]
            raise InputError(
                f"{folder}: the run began with other {what}; {cause} has changed since: bring it back, or give another "
                "--config.out for a new run"
            )
    write_json(path, facts)


def read_run_config(folder: Any) -> dict[str, Any]:
    """The config of the run in `folder`, a Path or one of gs://. Raises InputError where there is none."""
    path = folder / "config.json"
    try:
        with remote_told(str(folder), "run"):
            text = path.read_text() if path.exists() else None
        if text is None:
            raise FileNotFoundError(path)
        config = json.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder} is not a run: it has no config.json; give the folder of a training run") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); it was edited or cut off") from None
    if "run" not in config:
        raise InputError(
            f"{folder} is a model, not a run; give the folder of the training run, such as {folder.parent}"
        )
    return config
