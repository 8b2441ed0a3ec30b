"""The folder of a run: its path or address, the checks before the run writes into it, and the checks of a restart."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tljax.core.config import flatten_fields
from tljax.core.errors import InputError, interrupt_if_unreachable
from tljax.distributed import processes
from tljax.storage.atomic import write_json
from tljax.storage.remote import explain_store_errors, is_remote, remove_objects
from tljax.storage.run_folder import RunFolder, open_run_folder

# The fields that a restart may change, since they cannot change the result.
FREE_FIELDS = (
    *("out", "resume", "log", "checkpoint", "export", "mesh", "processes", "data.cache"),
    *("eval.every", "eval.samples", "eval.rows"),
    *("batch.accumulate", "model.remat", "model.attention", "model.loss_chunk"),
    *("ppo.accumulate", "rollout.rows", "reward.timeout", "reward.workers"),
)
FACTS_FILE = "begun.json"
# Facts of a run's first start: the name of each in messages, and the likely cause if a restart finds another value.
FIRST_FACTS = {
    "rows": ("training rows", "data.source, the tokenizer, a rule or tljax"),
    "updates": ("numbers of updates", "data.source, a rule or tljax"),
    "model": ("weights", "the model at model.path"),
}
# A restart may change these too, if they do not decide which checkpoint is the best.
SCORE_FIELDS = ("eval.sets", "eval.queries", "eval.new_tokens")
RESUME = ("never", "auto")
# The names of the files of a run.
RUN_FILES = {"config.json", "model", "lock", "checkpoints", "events", "metrics.jsonl", "samples.jsonl", "hf"}
RUN_FILES |= {"adapter", FACTS_FILE, "rollouts", "scores", "wandb", "wandb_id"}
# The names of files that a killed process left incomplete; the names after the first are those of older versions.
TEMPORARY_FILES = re.compile(r"\.[\w.]+\.(tmp|partial-\d+)|metrics\.jsonl\.tmp|samples\.jsonl\.tmp")


def choose_run_folder(out: str, name: str, resume: str) -> RunFolder:
    """Returns the folder that a run will use, the same on all its processes. Only for an address is a folder made now.

    out: the folder, or an address such as gs://BUCKET/RUN; "" for runs/NAME, or for the first of runs/NAME-2,
    runs/NAME-3, ... that does not exist; with resume "auto", for the last one that exists. Raises InputError for a
    folder that is in use (resume "never"), that is not a run's (resume "auto"), or that cannot be written.
    """
    return open_run_folder(processes.run_on_primary(lambda: str(_choose(out, name, resume))))


def _choose(out: str, name: str, resume: str) -> RunFolder:
    path = out if is_remote(out) else str(Path(out).expanduser() if out else _default_folder(name, resume))
    folder = open_run_folder(path)
    if folder.uri:
        folder.download()
    _check_usable(folder, resume)
    return folder


def _check_usable(folder: RunFolder, resume: str) -> None:
    if _is_used(folder):
        if resume == "never":
            raise InputError(
                f"config.out {folder} is not empty; give another folder, or --config.resume=auto to continue its run"
            )
        read_run_config(folder.local_dir)
    existing = next(p for p in (folder.local_dir, *folder.local_dir.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise InputError(f"config.out {folder}: {existing} is a file; give a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"config.out {folder}: {existing} cannot be written; give another folder")


def _is_used(folder: RunFolder) -> bool:
    """Returns True if a folder holds results of a run, or a user's files.

    A run that ended before its first update leaves neither.
    """
    with explain_store_errors(str(folder), "config.out"):
        if not folder.path.is_dir():
            return False
        results = [folder.path / "hf", folder.path / "adapter", *(folder.path / "checkpoints").glob("[0-9]*")]
        names = {path.name for path in folder.path.iterdir()}
        has_results = any(path.exists() for path in results) or _has_updates(folder / "metrics.jsonl")
    return has_results or any(name not in RUN_FILES and not TEMPORARY_FILES.fullmatch(name) for name in names)


def _has_updates(metrics: Path) -> bool:
    """Returns True if metrics.jsonl has a line of an update, or a foreign line; scores before update 1 do not count."""
    if not metrics.is_file():
        return False
    with open(metrics, encoding="utf-8", errors="replace") as lines:
        return any(not line.startswith('{"step": 0,') for line in lines)


@contextlib.contextmanager
def lock_run_folder(folder: RunFolder, config: Any) -> Iterator[bool]:
    """Creates and locks the folder, and writes config.json; yields True if the run has made updates before.

    Raises InputError if another run has locked the folder, if the folder has changed since `choose_run_folder`, if the
    disk refuses, or if a process of this run does not see the folder. Raises Interruption if a store does not answer
    while the body runs.
    """
    with contextlib.ExitStack() as stack:
        is_restart = processes.run_on_primary(lambda: stack.enter_context(_claim(folder, config)))
        if not folder.uri and not (folder / "config.json").is_file():
            raise InputError(
                f"config.out {folder}: this process does not find there what process 0 wrote; give a folder on a file "
                "system that all processes share, or an address such as gs://BUCKET/RUN"
            )
        with interrupt_if_unreachable():
            yield is_restart


@contextlib.contextmanager
def _claim(folder: RunFolder, config: Any) -> Iterator[bool]:
    with contextlib.ExitStack() as stack:
        # Lock the folder, then repeat the checks: another run may have used it meanwhile.
        try:
            folder.local_dir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(folder.lock())
        except OSError as error:
            raise InputError(f"config.out {folder} cannot be written ({error.strerror}); give another folder") from None
        _check_usable(folder, config.resume)
        _check_config(folder, config)
        # Remove the files of a run that ended before its first update.
        is_restart = _is_used(folder)
        if not is_restart:
            files, folders = (FACTS_FILE, "metrics.jsonl", "samples.jsonl"), ("scores", "events")
            for name in files:
                (folder / name).unlink(missing_ok=True)
            for name in (*folders, "rollouts"):
                shutil.rmtree(folder / name, ignore_errors=True)
            for name in (*files, *folders, "model") if folder.uri else ():
                remove_objects(f"{folder.uri}/{name}", "config.out")
        write_json(folder / "config.json", json.loads(config.to_json_best_effort()))
        try:
            yield is_restart
        except BaseException:
            with contextlib.suppress(InputError):
                folder.upload()
            raise
        folder.upload()


def _default_folder(name: str, resume: str) -> Path:
    """Returns runs/NAME-n: with resume "auto" the last one that exists, otherwise the one after it."""
    numbers = [0]
    for path in Path("runs").glob(f"{name}*"):
        tail = re.fullmatch(r"(?:-(\d+))?", path.name[len(name) :])
        if tail and path.is_dir():
            numbers.append(int(tail.group(1) or 1))
    number = max(numbers) if resume == "auto" and max(numbers) else max(numbers) + 1
    return Path("runs") / (name if number == 1 else f"{name}-{number}")


def check_same_config(folder: RunFolder, config: Any) -> None:
    """Raises InputError that names the first field in which a restart differs from the run in `folder`.

    Fields that cannot change the result may differ.
    """
    processes.run_on_primary(lambda: _check_config(folder, config))


def _check_config(folder: RunFolder, config: Any) -> None:
    if not _is_used(folder):
        return
    before = flatten_fields(read_run_config(folder.local_dir))
    now = flatten_fields(json.loads(config.to_json_best_effort()))
    free_fields = FREE_FIELDS + (SCORE_FIELDS if now.get("eval.best", "loss") == "loss" else ())
    for field, value in now.items():
        is_free = any(field == name or field.startswith(f"{name}.") for name in free_fields)
        # A run of an older version may lack the field.
        if not is_free and field in before and before[field] != value:
            raise InputError(
                f"config.{field} is {value!r}, but the run in {folder} began with {before[field]!r}; "
                "give that value, or another --config.out for a new run"
            )


def record_first_start(folder: RunFolder, facts: dict[str, str | int]) -> None:
    """Writes the facts that no restart may change, by their names in `FIRST_FACTS`, to OUT/begun.json.

    Raises InputError if a restart has other facts than that file.
    """
    processes.check_equal_on_all({FIRST_FACTS[name][0]: value for name, value in facts.items()})
    processes.run_on_primary(lambda: _record_facts(folder, facts))
    folder.broadcast()


def _record_facts(folder: RunFolder, facts: dict[str, str | int]) -> None:
    path = folder / FACTS_FILE
    recorded = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else facts
    for name, value in facts.items():
        if recorded.get(name) != value:
            description, cause = FIRST_FACTS[name]
            raise InputError(
                f"{folder}: the run began with other {description}; {cause} has changed: restore it, or give another "
                "--config.out for a new run"
            )
    write_json(path, facts)


def read_run_config(folder: Any) -> dict[str, Any]:
    """Returns the config of the run in `folder`, a Path or an epath.Path. Raises InputError if there is no run."""
    path = folder / "config.json"
    try:
        with explain_store_errors(str(folder), "run"):
            text = path.read_text() if path.exists() else None
        if text is None:
            raise FileNotFoundError(path)
        config = json.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder} is not a run: it has no config.json; give the folder of a training run") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); it was edited or cut short") from None
    if "run" not in config:
        raise InputError(
            f"{folder} is a model, not a run; give the folder of the training run, such as {folder.parent}"
        )
    return config
