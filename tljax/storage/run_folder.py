"""The folder of a run: a local folder, or an address such as gs://BUCKET/RUN with a local working folder."""

import contextlib
import dataclasses
import hashlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
from etils import epath

from tljax.core.errors import InputError, explain_disk_errors, interrupt_if_unreachable
from tljax.distributed import processes
from tljax.storage import remote
from tljax.storage.unreachable import retry_unreachable

# The small files that a restart needs and that people read. Checkpoints and exports go to the address directly.
MIRRORED_FILES = (
    "config.json",
    "begun.json",
    "metrics.jsonl",
    "samples.jsonl",
    "wandb_id",
    "model/*",
    "scores/*",
    "events/*",
)
FIELD = "config.out"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A run's folder; `folder / "metrics.jsonl"` is the local path of a file in it.

    local_dir: the local folder, in which files grow and are renamed. uri: the address to which they are uploaded, or ""
    if the run stays in local_dir. With an address, each process has its own local_dir, and only that of process 0 is
    uploaded.
    """

    local_dir: Path
    uri: str = ""
    _uploaded: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    _lock: Any = dataclasses.field(default_factory=threading.Lock, compare=False, repr=False)

    def __truediv__(self, name: str) -> Path:
        return self.local_dir / name

    def __fspath__(self) -> str:
        return str(self.local_dir)

    def __str__(self) -> str:
        return self.uri or str(self.local_dir)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def path(self) -> Any:
        """The folder of checkpoints and exports: a Path, or an epath.Path of the address."""
        return epath.Path(self.uri) if self.uri else self.local_dir

    def upload(self) -> None:
        """Uploads the small files of local_dir that are new or have changed; only process 0 does it.

        A checkpoint is committed only after this upload, so that a restart from it finds the files that it needs. Files
        may grow meanwhile, because a restart removes the lines that came after its checkpoint. Raises InputError if the
        address cannot be written, and Interruption if the store does not answer for some minutes.
        """
        if not self.uri or not processes.is_primary():
            return
        with self._lock:
            stamps = {}
            for pattern in MIRRORED_FILES:
                for path in self.local_dir.glob(pattern):
                    if path.is_file() and not path.name.startswith("."):
                        stat = path.stat()
                        stamps[path.relative_to(self.local_dir).as_posix()] = (stat.st_size, stat.st_mtime_ns)
            new = [name for name, stamp in stamps.items() if self._uploaded.get(name) != stamp]
            files = {f"{self.uri}/{name}": self.local_dir / name for name in new}
            with interrupt_if_unreachable():
                retry_unreachable(lambda: remote.upload(files, FIELD, growing=True))
            self._uploaded.update({name: stamps[name] for name in new})

    def download(self) -> None:
        """Replaces the files of local_dir by those at the address.

        Raises InputError if another process has locked local_dir, or if the address cannot be read.
        """
        with contextlib.ExitStack() as stack, explain_disk_errors(self.local_dir, remote.CACHE_FULL):
            self.local_dir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(self.lock())
            for path in self.local_dir.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != "lock":
                    path.unlink()
            remote.download(self.uri, self.local_dir, MIRRORED_FILES, FIELD)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Locks local_dir for this process. Raises InputError if another process has locked it.

        An address cannot be locked: two machines that train into the same one would damage each other's run.
        """
        lock = filelock.FileLock(self.local_dir / "lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            message = "another process is training there; wait for it, or give another --config.out"
            raise InputError(f"config.out {self}: {message}") from None
        try:
            yield
        finally:
            (self.local_dir / "lock").unlink(missing_ok=True)
            lock.release()

    def broadcast(self) -> None:
        """Copies the small files of process 0 to the other processes, if each has its own local_dir."""
        if self.uri:
            processes.run_on_primary(self.upload)
            if not processes.is_primary():
                self.download()


def open_run_folder(path: str) -> RunFolder:
    """Returns the run folder at a local path or at an address."""
    if not remote.is_remote(path):
        return RunFolder(Path(path))
    address = path.rstrip("/")
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    return RunFolder(remote.cache_folder() / "runs" / key / str(processes.process_index()), address)
