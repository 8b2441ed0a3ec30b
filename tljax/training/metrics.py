"""Writes a run's metrics to metrics.jsonl, TensorBoard and Weights & Biases, and shows its progress."""

import contextlib
import dataclasses
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

# A run stops if one of these is not finite. A gradient that is not finite has already spoilt the weights, although the
# loss of its step was finite.
FATAL_FIELDS = ("loss", "grad_norm", "value_loss", "critic_grad_norm")


def check_installed(wandb: bool) -> None:
    """Raises InputError if `wandb` is true and Weights & Biases is not installed."""
    if wandb and importlib.util.find_spec("wandb") is None:
        raise InputError("config.log.wandb is set but wandb is not installed; run: pip install 'tljax[wandb]'")


def should_run(period: int, step: int) -> bool:
    """Returns True if an action that runs every `period` steps runs after `step`; with period 0 it never runs."""
    return period > 0 and step % period == 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Options of MetricsLogger: where metrics go besides metrics.jsonl, and what progress lines show."""

    tensorboard: bool
    wandb: bool
    every: int  # steps between progress lines, if there is no terminal for a bar
    shown: Sequence[str] = ("loss",)  # the metrics in progress lines
    flops_per_token: float | None = None  # adds the metric `mfu` if the devices' peak is known

    @classmethod
    def from_config(
        cls, log: Any, shown: Sequence[str] = ("loss",), flops_per_token: float | None = None
    ) -> "LogOptions":
        """Returns the options of a config; log: its block `log`."""
        return cls(
            tensorboard=log.tensorboard, wandb=log.wandb, every=log.every, shown=shown, flops_per_token=flops_per_token
        )


class MetricsLogger:
    """Writes the metrics of each step one step late, so that the devices never wait for the host to read a number.

    folder: the run's folder, which gets metrics.jsonl and events/. resume_step: the number of updates made so far;
    later lines of metrics.jsonl are removed. Only process 0 writes and prints; all processes check for values that are
    not finite.

    Call flush() before saving a checkpoint: it writes the line of the last step and checks that its loss is finite.

    Raises InputError if the folder cannot be written, or if wandb is set and not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        options: LogOptions,
        *,
        resume_step: int,
        total_steps: int,
    ):
        self._options, self._total = options, total_steps
        self._pending: tuple[int, Mapping[str, Any], Mapping[str, Any]] | None = None
        self._durations: deque[float] = deque(maxlen=20)
        self._file = self._events = self._wandb = self._bar = None
        self._unsynced = False
        check_installed(options.wandb)
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
                self._wandb = _open_wandb(folder, name) if options.wandb else None
                self._events = _open_events(folder, resume_step) if options.tensorboard else None
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
        """Takes the metrics of update `step` (from 1), which the devices may still compute; writes the previous step.

        device_metrics: replicated scalars. host_metrics: numbers. If either has "tokens", tokens_per_second is added.

        Raises FloatingPointError as flush does, for the previous step.
        """
        for value in device_metrics.values():
            value.copy_to_host_async()
        before, self._pending = self._pending, (step, device_metrics, host_metrics)
        if before is not None:
            self._finish(*before)

    def has_step(self, step: int) -> bool:
        """Returns True if metrics.jsonl has a line for `step`; the same answer on all processes."""

        def search() -> bool:
            with open(self._path, encoding="utf-8") as lines:
                return any(json.loads(line)["step"] == step for line in lines)

        return processes.run_on_primary(search)

    def flush(self) -> None:
        """Waits for the last pushed step, writes its line, and syncs all lines to the disk.

        Raises FloatingPointError that names the step if one of FATAL_FIELDS is not finite; the line is written first.
        """
        before, self._pending = self._pending, None
        if before is not None:
            self._finish(*before)
        if self._file is not None and self._unsynced:
            # Without fsync, a machine that stops after the checkpoint loses lines of updates that a resumed run skips.
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise self._refused(error) from error
            self._unsynced = False

    def log_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes a separate line, for evaluations; the next step's time does not include the evaluation's."""
        self.flush()
        self._write(step, {name: _plain(value) for name, value in metrics.items()} | {"time": round(time.time(), 3)})
        self._mark = time.perf_counter()

    def log_text(self, step: int, name: str, markdown: str) -> None:
        """Shows a text in TensorBoard."""
        if self._events is not None:
            self._events.add_text(name, markdown, step)

    def log_message(self, text: str) -> None:
        """Prints a line on process 0 and keeps the progress bar intact."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif processes.is_primary():
            print(text, flush=True)

    def close(self) -> None:
        """Writes the pending step and closes all files."""
        try:
            self.flush()
        finally:
            for output in (self._file, self._bar):
                if output is not None:
                    output.close()
            # metrics.jsonl has every number, and an earlier error has already reported a full disk.
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
            not_finite = ", ".join(f"{name} = {values[name]}" for name in bad)
            raise FloatingPointError(
                f"step {step}: {not_finite}; checkpoints saved so far are kept, the last may be near the break "
                "already: lower config.optim.lr or mend the data"
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
            if self._options.flops_per_token is not None:
                share = mfu(timing["tokens_per_second"], self._options.flops_per_token, jax.devices())
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
        parts = [f"{name} {values[name]:.4f}" for name in self._options.shown if name in values]
        if "tokens_per_second" in values:
            parts.append(f"{values['tokens_per_second']:,.0f} tokens/s")
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(parts), refresh=False)
            self._bar.update(step - self._bar.n)
        elif step % max(1, self._options.every) == 0 or step == self._total:
            left = "?"
            if self._durations:
                left = tqdm.format_interval((self._total - step) * sum(self._durations) / len(self._durations))
            self.log_message("  ".join((f"step {step}/{self._total}", *parts, f"ETA {left}")))


def truncate_after(path: Path, step: int) -> None:
    """Removes the lines after `step` from a JSONL file, and a last line that a kill has cut short.

    Raises InputError for any other line that is not a JSON object with a "step".
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
    # tensorboardX imports torch where it is installed, which takes two seconds and serves only tensors of torch.
    hidden = {"torch": None} if "torch" not in sys.modules else {}
    sys.modules.update(hidden)  # pyright: ignore[reportArgumentType, reportCallIssue]
    try:
        from tensorboardX import SummaryWriter
    finally:
        for name in hidden:
            del sys.modules[name]

    # purge_step makes TensorBoard hide what an earlier process wrote after the checkpoint, or before the first. The
    # suffix tells apart files of two processes that start within one second: the second would overwrite the first.
    suffix = f".{resume_step}.{os.getpid()}"
    return SummaryWriter(str(folder / "events"), purge_step=resume_step + 1, filename_suffix=suffix)


def _open_wandb(folder: Path, name: str):
    import wandb  # pyright: ignore[reportMissingImports]

    path = folder / "wandb_id"
    run_id = path.read_text() if path.exists() else ""
    if not run_id:
        run_id = secrets.token_hex(8)
        write_texts(path, [run_id])
    try:
        run = wandb.init(project="tljax", name=name, dir=str(folder), id=run_id, resume="allow")
    # Errors of wandb have no common class: they concern the login, the network or the arguments.
    except Exception as error:
        message = f"W&B does not start ({one_line(error)[:160]}); run wandb login, or set WANDB_MODE=offline"
        raise InputError(f"config.log.wandb: {message}") from error
    # W&B's own step counter refuses steps that a resumed run writes again.
    run.define_metric("*", step_metric="step")
    return run


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _plain(value: Any) -> Any:
    """Returns a value that JSON can hold; a float32 gets the fewest digits that give the same float32 back."""
    if isinstance(value, str | bool | int | float | None):
        return value
    value = np.asarray(value)
    if value.ndim == 0 and np.issubdtype(value.dtype, np.integer):
        return int(value)
    return float(str(np.float32(value)))
