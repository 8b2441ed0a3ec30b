"""Numbers of a run: metrics.jsonl, TensorBoard, Weights & Biases, a progress line; speed as a share of the peak."""

import contextlib
import importlib.util
import json
import math
import os
import secrets
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from tljax.core.errors import InputError, explain_disk_errors, one_line
from tljax.distributed import processes
from tljax.distributed.log import has_terminal
from tljax.storage.atomic import atomic_file, write_texts
from tljax.storage.run_folder import RunFolder
from tljax.training.mfu import mfu

# Fields that differ between two runs of the same config.
TIMING_FIELDS = ("seconds", "tokens_per_second", "mfu", "time")

# A step whose gradient is not finite has spoilt the weights already, although its loss came before it.
FATAL_FIELDS = ("loss", "grad_norm", "value_loss", "critic_grad_norm")


def check_installed(wandb: bool) -> None:
    """Raises InputError where Weights & Biases is asked for but not installed."""
    if wandb and importlib.util.find_spec("wandb") is None:
        raise InputError("config.log.wandb is set but wandb is not installed; run: pip install 'tljax[wandb]'")


def should_run(period: int, step: int) -> bool:
    """Whether something that happens every `period` steps, 0: never, happens after `step`."""
    return period > 0 and step % period == 0


class MetricsLogger:
    """Writes what a run measures, one step late, so that reading a number never holds up the devices.

    folder: of the run; metrics.jsonl and events/ lie in it. resume_step: updates made so far; later lines of
    metrics.jsonl are removed. every: steps between progress lines where there is no terminal for a bar. shown: the
    metrics of these lines. flops_per_token: for `mfu`, where the devices' peak is known. Only process 0 writes and
    prints, all of them check.

    Call flush() before a checkpoint is saved: its step's line then exists, and its loss is known to be finite.

    Raises InputError where the folder cannot be written or wandb is asked for but not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        resume_step: int,
        tensorboard: bool,
        wandb: bool,
        total_steps: int,
        every: int,
        shown: Sequence[str] = ("loss",),
        flops_per_token: float | None = None,
    ):
        self._total, self._every, self._flops_per_token = total_steps, max(1, every), flops_per_token
        self._shown = tuple(shown)
        self._pending: tuple[int, Mapping[str, Any], Mapping[str, Any]] | None = None
        self._durations: deque[float] = deque(maxlen=20)
        self._file = self._events = self._wandb = self._bar = None
        self._unsynced = False
        check_installed(wandb)
        if processes.is_primary():
            name, folder = (folder.name if isinstance(folder, RunFolder) else Path(folder).name), Path(folder)
            self._path = folder / "metrics.jsonl"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                truncate_after(self._path, resume_step)
                self._file = open(self._path, "ab", buffering=0)
            except OSError as error:
                raise InputError(f"{self._path}: cannot be written ({error.strerror}); give another folder") from error
            try:
                self._wandb = _open_wandb(folder, name) if wandb else None
                self._events = _open_events(folder, resume_step) if tensorboard else None
            except BaseException:
                self._file.close()
                raise
            if has_terminal():
                self._bar = tqdm(total=total_steps, initial=resume_step, unit="step", dynamic_ncols=True)
        self._mark, self._first = time.perf_counter(), True

    def __enter__(self) -> "MetricsLogger":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def push(self, step: int, device_metrics: Mapping[str, jax.Array], host_metrics: Mapping[str, Any]) -> None:
        """Takes the metrics of update `step` (from 1) as soon as it is dispatched, and writes those of the one before.

        device_metrics: scalars, replicated. host_metrics: numbers. "tokens" in either gives tokens_per_second.

        Raises FloatingPointError as flush does, for the step before.
        """
        for value in device_metrics.values():
            value.copy_to_host_async()
        before, self._pending = self._pending, (step, device_metrics, host_metrics)
        if before is not None:
            self._finish(*before)

    def has_step(self, step: int) -> bool:
        """Whether metrics.jsonl has a line of `step`."""

        def search() -> bool:
            with open(self._path, encoding="utf-8") as lines:
                return any(json.loads(line)["step"] == step for line in lines)

        return processes.run_on_primary(search)

    def flush(self) -> None:
        """Waits for the last pushed step and writes it; all lines so far are then safe on the disk.

        Raises FloatingPointError, naming the step, where its loss or gradient norm is not finite; the line is written.
        """
        before, self._pending = self._pending, None
        if before is not None:
            self._finish(*before)
        if self._file is not None and self._unsynced:
            # A machine that stops after the checkpoint would lose the lines of updates that are not made again.
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise self._refused(error) from error
            self._unsynced = False

    def log_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes a line of its own, for evaluations; the time since flush() counts for no step."""
        self.flush()
        self._write(step, {name: _plain(value) for name, value in metrics.items()} | {"time": round(time.time(), 3)})
        self._mark = time.perf_counter()

    def log_text(self, step: int, name: str, markdown: str) -> None:
        """Shows a text in TensorBoard."""
        if self._events is not None:
            self._events.add_text(name, markdown, step)

    def log_message(self, text: str) -> None:
        """Prints a line without breaking the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif processes.is_primary():
            print(text, flush=True)

    def close(self) -> None:
        """Writes what is pending and closes everything."""
        try:
            self.flush()
        finally:
            for thing in (self._file, self._bar):
                if thing is not None:
                    thing.close()
            # metrics.jsonl has every number; a disk that refuses has been told of.
            with contextlib.suppress(OSError):
                if self._events is not None:
                    self._events.close()
            if self._wandb is not None:
                self._wandb.finish()
            self._file = self._events = self._wandb = self._bar = None

    def _finish(self, step: int, device_metrics: Mapping[str, Any], host_metrics: Mapping[str, Any]) -> None:
        values = {k: _plain(v) for k, v in {**jax.device_get(dict(device_metrics)), **host_metrics}.items()}
        values = self._timing(values) | values
        self._write(step, values)
        bad = [name for name, value in values.items() if not _finite(value)]
        if set(bad) & set(FATAL_FIELDS):
            self._pending = None
            told = ", ".join(f"{name} = {values[name]}" for name in bad)
            raise FloatingPointError(
                f"step {step}: {told}; checkpoints saved so far are kept, the last may be near the break already: "
                "lower config.optim.lr or mend the data"
            )
        self._progress(step, values)

    def _timing(self, values: Mapping[str, Any]) -> dict[str, Any]:
        now = time.perf_counter()
        seconds, self._mark = now - self._mark, now
        if not self._first:  # the first step of a process holds its compilation
            self._durations.append(seconds)
        self._first = False
        timing: dict[str, Any] = {"seconds": round(seconds, 6), "time": round(time.time(), 3)}
        if "tokens" in values:
            timing["tokens_per_second"] = round(values["tokens"] / max(seconds, 1e-9), 3)
            if self._flops_per_token is not None:
                share = mfu(timing["tokens_per_second"], self._flops_per_token, jax.devices())
                if share is not None:
                    timing["mfu"] = round(share, 6)
        return timing

    def _write(self, step: int, values: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        line = {"step": step} | {name: value if _finite(value) else None for name, value in values.items()}
        data = (json.dumps(line, allow_nan=False) + "\n").encode()
        try:
            if self._file.write(data) != len(data):
                raise OSError(28, "No space left on device")
        except OSError as error:
            raise self._refused(error) from error
        self._unsynced = True
        numbers = {k: v for k, v in line.items() if isinstance(v, int | float) and k not in ("step", "time")}
        if self._events is not None:
            with explain_disk_errors(self._path.with_name("events")):
                for name, value in numbers.items():
                    self._events.add_scalar(name, value, step)
                self._events.flush()
        if self._wandb is not None:
            self._wandb.log({"step": step, **numbers})

    def _refused(self, error: OSError) -> InputError:
        return InputError(f"{self._path}: cannot be written ({error.strerror}); make room and resume")

    def _progress(self, step: int, values: Mapping[str, Any]) -> None:
        told = [f"{name} {values[name]:.4f}" for name in self._shown if name in values]
        if "tokens_per_second" in values:
            told.append(f"{values['tokens_per_second']:,.0f} tokens/s")
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(told), refresh=False)
            self._bar.update(step - self._bar.n)
        elif step % self._every == 0 or step == self._total:
            left = "?"
            if self._durations:
                left = tqdm.format_interval((self._total - step) * sum(self._durations) / len(self._durations))
            self.log_message("  ".join((f"step {step}/{self._total}", *told, f"ETA {left}")))


def truncate_after(path: Path, step: int) -> None:
    """Removes the lines after `step` from a JSONL file whose rows have one, and a last line that a kill cut short.

    Raises InputError for any other line that is no such row.
    """
    if not path.exists():
        return
    old = open(path, encoding="utf-8", errors="replace")
    with explain_disk_errors(path), old, atomic_file(path) as new:
        for number, line in enumerate(old, 1):
            try:
                keep = json.loads(line)["step"] <= step and line.endswith("\n")
            except (ValueError, TypeError, KeyError) as error:
                if not line.endswith("\n"):
                    break
                raise InputError(
                    f"{path}, line {number}: not a metrics object; mend the line or move the file away"
                ) from error
            if keep:
                new.write(line)


def _open_events(folder: Path, resume_step: int):
    from tensorboardX import SummaryWriter

    # purge_step makes TensorBoard hide what an earlier process wrote after the checkpoint, or before the first. The
    # suffix tells apart files of two processes that start within one second: the second would overwrite the first.
    suffix = f".{resume_step}.{os.getpid()}"
    return SummaryWriter(str(folder / "events"), purge_step=resume_step + 1, filename_suffix=suffix)


def _open_wandb(folder: Path, name: str):
    import wandb  # pyright: ignore[reportMissingImports]

    place = folder / "wandb_id"
    own = place.read_text() if place.exists() else ""
    if not own:
        own = secrets.token_hex(8)
        write_texts(place, [own])
    try:
        run = wandb.init(project="tljax", name=name, dir=str(folder), id=own, resume="allow")
    # Its errors have no common class; they are of logins, of the network, and of what it was given.
    except Exception as error:
        told = f"W&B does not start ({one_line(error)[:160]}); run wandb login, or set WANDB_MODE=offline"
        raise InputError(f"config.log.wandb: {told}") from error
    # Its own counter refuses steps that a resumed run writes again.
    run.define_metric("*", step_metric="step")
    return run


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _plain(value: Any) -> Any:
    """A number as JSON has it; float32 in the shortest digits that give the same float32 back."""
    if isinstance(value, str | bool | int | float | None):
        return value
    value = np.asarray(value)
    if value.ndim == 0 and np.issubdtype(value.dtype, np.integer):
        return int(value)
    return float(str(np.float32(value)))
