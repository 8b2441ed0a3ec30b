"""Where a run's files lie: in one folder, or at an address such as gs://BUCKET/RUN with a working folder here."""

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

from tljax.core.errors import InputError, explain_disk_errors
from tljax.distributed import processes
from tljax.storage import remote

# What a restart needs and what people look at, small; checkpoints and exports are written to the address at once.
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
    """A run's folder, `folder / "metrics.jsonl"` a file in it.

    desk: folder of this machine, in which files grow and are renamed. address: where they are kept, "" for the desk
    itself. Of several processes each has a desk of its own where there is an address, and the first one's is kept.
    """

    desk: Path
    address: str = ""
    _put: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    _lock: Any = dataclasses.field(default_factory=threading.Lock, compare=False, repr=False)

    def __truediv__(self, name: str) -> Path:
        return self.desk / name

    def __fspath__(self) -> str:
        return str(self.desk)

    def __str__(self) -> str:
        return self.address or str(self.desk)

    @property
    def name(self) -> str:
        return self.kept.name

    @property
    def kept(self) -> Any:
        """Where checkpoints and exports lie, a Path or one of gs://."""
        return epath.Path(self.address) if self.address else self.desk

    def mirror(self) -> None:
        """Puts the small files of the desk that are new or have changed at the address; process 0 alone does it.

        A checkpoint is committed only after that, so that what it needs is there. Files may grow meanwhile: a restart
        cuts off what came after its checkpoint. Raises InputError where the address cannot be written.
        """
        if not self.address or not processes.is_primary():
            return
        with self._lock:
            found = {}
            for pattern in MIRRORED_FILES:
                for path in self.desk.glob(pattern):
                    if path.is_file() and not path.name.startswith("."):
                        stat = path.stat()
                        found[path.relative_to(self.desk).as_posix()] = (stat.st_size, stat.st_mtime_ns)
            new = [name for name, stamp in found.items() if self._put.get(name) != stamp]
            remote.upload({f"{self.address}/{name}": self.desk / name for name in new}, FIELD, growing=True)
            self._put.update({name: found[name] for name in new})

    def fetch(self) -> None:
        """Makes the desk what is at the address, whatever a run has left there.

        Raises InputError where another process works at the desk, or the address cannot be read.
        """
        with contextlib.ExitStack() as held, explain_disk_errors(self.desk, remote.CACHE_FULL):
            self.desk.mkdir(parents=True, exist_ok=True)
            held.enter_context(self.lock())
            for path in self.desk.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != "lock":
                    path.unlink()
            remote.download(self.address, self.desk, MIRRORED_FILES, FIELD)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the desk for this process. Raises InputError where another one does.

        An address is held by nobody: two machines that train into one would spoil each other's run.
        """
        lock = filelock.FileLock(self.desk / "lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            told = "another process is training there; wait for it, or give another --config.out"
            raise InputError(f"config.out {self}: {told}") from None
        try:
            yield
        finally:
            (self.desk / "lock").unlink(missing_ok=True)
            lock.release()

    def share(self) -> None:
        """Gives what process 0 has written so far to the others, where each has a desk of its own."""
        if self.address:
            processes.run_on_primary(self.mirror)
            if not processes.is_primary():
                self.fetch()


def open_run_folder(place: str) -> RunFolder:
    """The run folder at a path of this machine or at an address."""
    if not remote.is_remote(place):
        return RunFolder(Path(place))
    address = place.rstrip("/")
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    return RunFolder(remote.cache_folder() / "runs" / key / str(processes.process_index()), address)
