"""Checkpoints of a run: written in the background, committed by rename, restored onto any mesh."""

import contextlib
import json
import logging
import math
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from tljax.core.errors import RESTART, InputError, Interruption, StoreUnreachable, one_line
from tljax.distributed import processes
from tljax.storage.remote import is_remote
from tljax.training.checkpoint_errors import STORE_REFUSALS, damage, store_failure
from tljax.training.checkpoint_handlers import MetadataHandler, StateHandler

STATE, METADATA = "state", "metadata"
SAVE_TIMEOUT = 86_400  # seconds for one save


class Checkpoints:
    """The checkpoints in one folder: the newest `keep`, and also the `keep_best` of lowest selection loss.

    folder: local path or gs:// address. read_only leaves the folder as it is and needs it to exist; without it the
    folder is made, and what a killed save left behind is deleted. before_commit: called beside each save, in a thread;
    the checkpoint counts once it has returned. Every process of a run makes the same calls.

    Raises InputError if the folder is missing (read_only) or cannot be made.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int = 1,
        keep_best: int = 1,
        read_only: bool = False,
        before_commit: Callable[[], None] = lambda: None,
    ):
        _silence_orbax()
        self.folder = epath.Path(folder) if is_remote(folder) else epath.Path(os.path.abspath(folder))
        if keep < 1 or keep_best < 0:
            raise InputError(
                f"{self.folder}: keep is {keep} and keep_best {keep_best}; allowed are 1 or more, 0 or more"
            )
        if read_only and not self.folder.is_dir():
            raise InputError(f"{self.folder}: there is no such folder of checkpoints; give the folder of a run")
        best = policies.BestN(get_metric_fn=_selection_loss, reverse=True, n=keep_best)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            # Orbax writes metrics only where it has a best_fn; without them a resumed run would forget its best.
            best_fn=_selection_loss,
            best_mode="min",
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            # A save of hundreds of GB to a slow disk takes longer than Orbax's limit of 20 minutes. A stuck process is
            # found by distributed/process_group.py.
            async_options=ocp.AsyncOptions(timeout_secs=SAVE_TIMEOUT),
        )
        handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
        tree = StateHandler(self._report_failure)
        handlers.add(STATE, ocp.args.PyTreeSave, tree)
        handlers.add(STATE, ocp.args.PyTreeRestore, tree)
        text = MetadataHandler(before_commit, self._report_failure)
        handlers.add(METADATA, ocp.args.JsonSave, text)
        handlers.add(METADATA, ocp.args.JsonRestore, text)
        try:
            self._manager = ocp.CheckpointManager(self.folder, options=options, handler_registry=handlers)
        except Exception as error:
            raise self._explain_opening(error) from error
        if not read_only:
            # A process that was killed while Orbax removed a checkpoint may have left a part of it.
            for step in processes.run_on_primary(lambda: self._replaced(keep, keep_best)):
                self._explain_write_errors(lambda step=step: self._manager.delete(step))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(self, step: int, state: Any, metadata: dict[str, Any], selection_loss: float | None = None) -> None:
        """Copies the state from the devices and returns; writing goes on in the background.

        metadata: values that JSON can hold. selection_loss: the value that best-checkpoint selection minimizes. A step
        that has a checkpoint already is left as it is.

        Raises InputError if this or the previous save could not be written, and its subclass Interruption if the store
        did not answer; older checkpoints remain.
        """
        json.dumps(metadata)
        items = ocp.args.Composite(**{STATE: ocp.args.PyTreeSave(state), METADATA: ocp.args.JsonSave(metadata)})
        metrics = {} if selection_loss is None or math.isnan(selection_loss) else {"badness": float(selection_loss)}
        self._explain_write_errors(
            lambda: step in self.steps() or self._manager.save(step, args=items, metrics=metrics, force=True)
        )

    def wait(self) -> None:
        """Returns when the save under way is committed; raises InputError if it could not be written."""
        self._explain_write_errors(self._manager.wait_until_finished)

    def close(self) -> None:
        """Waits for the save under way and ends the threads; raises InputError if it could not be written."""
        try:
            self._explain_write_errors(self._manager.close)
        except InputError:
            # An error ends Orbax's close() half way, and each part that failed raises it once.
            with contextlib.suppress(Exception):
                self._manager.close()
            raise

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints, ascending, including the one that is being written."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, or None."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """Returns the step of lowest selection loss (the newest of equal ones), or None if no checkpoint has one."""
        losses = {step: self._selection_loss_of(step) for step in self.steps()}
        finite = (step for step in losses if math.isfinite(losses[step]))
        return min(finite, key=lambda step: (losses[step], -step), default=None)

    def metadata(self, step: int) -> dict[str, Any]:
        """Returns the metadata that save() was called with."""
        self._check_exists(step)
        args = ocp.args.Composite(**{METADATA: ocp.args.JsonRestore()})
        return self._explain_read_errors(step, lambda: self._manager.restore(step, args=args)[METADATA])

    def restore(self, step: int, abstract_state: Any) -> Any:
        """Returns the state of `step`, bit for bit, laid out by the shardings of `abstract_state` (ShapeDtypeStructs).

        Raises InputError if there is no such checkpoint, and one that names the first leaf that differs from it.
        """
        self._compare(step, abstract_state, partial=False)
        return self._restore(step, abstract_state)

    def restore_params(self, step: int, abstract_params: Any) -> Any:
        """Returns the params, in the dtypes and shardings of `abstract_params`; reads no moments of the optimizer.

        Raises InputError as restore does.
        """
        self._compare(step, {"params": abstract_params}, partial=True)
        return self._restore(step, {"params": abstract_params})["params"]

    def _replaced(self, keep: int, keep_best: int) -> list[int]:
        """Returns the steps of checkpoints that newer or better ones replace."""
        losses = {step: self._selection_loss_of(step) for step in self.steps()}
        finite = (step for step in losses if math.isfinite(losses[step]))
        best = sorted(finite, key=lambda step: (losses[step], -step))[:keep_best]
        return [step for step in sorted(losses)[:-keep] if step not in best]

    def _selection_loss_of(self, step: int) -> float:
        try:
            return _selection_loss(self._manager.metrics(step) or {})
        except (FileNotFoundError, ValueError, KeyError):  # a killed process removed a part of it
            return math.inf

    def _restore(self, step: int, abstract: Any) -> Any:
        args = ocp.args.PyTreeRestore(
            item=abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=True,
        )
        composite = ocp.args.Composite(**{STATE: args})
        return self._explain_read_errors(step, lambda: self._manager.restore(step, args=composite)[STATE])

    def _explain_read_errors(self, step: int, read: Callable[[], Any]) -> Any:
        """Returns `read()`. Raises InputError for damaged files, with the name of an older checkpoint to go on from."""
        try:
            return read()
        except Exception as error:  # Orbax wraps what it reads in bare Exceptions
            failure = store_failure(error) if is_remote(self.folder) and "NOT_FOUND" not in str(error) else None
            if failure is not None and (failure.unreachable or STORE_REFUSALS.search(str(error))):
                kind = StoreUnreachable if failure.unreachable else InputError
                raise kind(
                    f"{self.folder}/{step}: could not be read ({failure.reason}); check the address and the network, "
                    "then try again"
                ) from error
            reason = damage(error)
            if reason is None:
                raise
            earlier = [s for s in self.steps() if s < step]
            remedy = f"remove it to go on from step {earlier[-1]}" if earlier else "there is no earlier one"
            raise InputError(f"{self.folder}/{step}: the checkpoint cannot be read ({reason}); {remedy}") from error

    def _check_exists(self, step: int) -> None:
        self.wait()
        steps = self.steps()
        if step not in steps:
            existing = f"steps {', '.join(map(str, steps))} are there" if steps else "the folder has none"
            raise InputError(f"{self.folder}: there is no checkpoint of step {step}; {existing}")

    def _compare(self, step: int, abstract: Any, partial: bool) -> None:
        """Raises InputError for a leaf that differs: Orbax casts dtypes silently, and names no leaf of other shape."""
        self._check_exists(step)
        saved = self._explain_read_errors(step, lambda: self._saved_leaves(step))
        wanted = _leaves(abstract)
        path = f"{self.folder}/{step}"
        for name in sorted(wanted.keys() | saved.keys()):
            if name not in saved:
                raise InputError(f"{path}: {name} is missing; the config describes another model or optimizer")
            if name not in wanted:
                if partial and not name.startswith("params."):
                    continue
                raise InputError(f"{path}: {name} is not in this run; the config describes another model or optimizer")
            leaf, want = saved[name], wanted[name]
            if tuple(leaf.shape) != tuple(want.shape):
                raise InputError(f"{path}: {name} has shape {tuple(leaf.shape)}, this run needs {tuple(want.shape)}")
            if leaf.dtype != want.dtype and not partial:
                raise InputError(f"{path}: {name} is {leaf.dtype}, this run needs {want.dtype}")

    def _saved_leaves(self, step: int) -> dict[str, Any]:
        metadata = self._manager.item_metadata(step)[STATE]
        if metadata is None:
            raise FileNotFoundError(f"the shapes of its arrays are missing in {STATE}/_METADATA")
        return _leaves(metadata.tree)

    def _explain_opening(self, error: Exception) -> Exception:
        """Returns an InputError for a folder that cannot be opened, or `error` itself if it is a defect."""
        # Orbax reads the metrics of all checkpoints at first.
        for file in self.folder.glob("*/metrics/metrics") if isinstance(error, ValueError) else ():
            try:
                json.loads(file.read_text())
            except ValueError as damaged:
                return InputError(
                    f"{file}: cannot be read ({one_line(damaged)[:160]}); remove this file: its checkpoint then counts "
                    "as one without a value of eval.best"
                )
        failure = store_failure(error)
        if failure is None:
            return error
        kind = StoreUnreachable if failure.unreachable else InputError
        return kind(f"{self.folder}: cannot be used for checkpoints ({failure.reason}); give another folder")

    def _explain_write_errors(self, act) -> None:
        """Runs `act`. Raises InputError if the disk refuses, and Interruption if a store does not answer."""
        try:
            act()
        except Exception as error:
            explained = self._write_error(error)
            if explained is None:
                raise
            raise explained from error

    def _write_error(self, error: Exception) -> InputError | None:
        """Returns an InputError for a file system that refused a write, or None if the error has another cause.

        After a refusal it reads the list of checkpoints from the disk again.
        """
        failure = None if isinstance(error, InputError) else store_failure(error)
        if failure is None:
            return None
        if failure.unreachable:
            # gcsfs has tried 6 times by now, and TensorStore 32 times. A list of checkpoints cannot be read either.
            return Interruption(
                f"{self.folder}: a checkpoint could not be written ({failure.reason}), and the earlier ones remain; "
                f"{RESTART}"
            )
        self._manager.reload()
        last = self.latest_step()
        good = f"the last good one is of step {last}" if last is not None else "there is no earlier one"
        return InputError(
            f"{self.folder}: a checkpoint could not be written ({failure.reason}); {good}; make room or give another "
            "folder"
        )

    def _report_failure(self, error: Exception) -> None:
        """Ends the run's other processes too: Orbax waits for them before it raises the error in this one."""
        if processes.is_multiprocess():
            processes.abort_all(self._write_error(error) or error)


def _selection_loss(metrics: dict[str, float]) -> float:
    return metrics.get("badness", math.inf)


def _leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves by name, such as "params.layers.q"; Orbax stores a struct as dicts and lists."""

    def part(key):
        return str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key))))

    return {".".join(map(part, path)): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _silence_orbax() -> None:
    """Drops what Orbax logs: save(), wait() and close() raise every error of a save.

    Orbax logs each step, and a trace of each error. After a failed write, TensorStore's other writes report to an event
    loop that is closed already, which Python prints as a dozen ignored exceptions.
    """
    logging.getLogger("absl").addFilter(_not_orbax)
    previous = sys.unraisablehook
    if getattr(previous, "__module__", None) == __name__:
        return

    def hook(unraisable) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    sys.unraisablehook = hook


def _not_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname
