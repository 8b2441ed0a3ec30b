"""A fake Google Cloud: gcloud and the programs of a TPU VM, on PATH."""

import contextlib
import importlib
import io
import marshal
import os
import signal
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

REPO = Path(__file__).parents[2]

# What a VM has, as far as worker.sh uses it.
VM = {
    "curl": 'echo "$FAKE_WORKER"',
    "sudo": '[ "$1" = -n ] && shift; exec "$@"',
    "lsof": 'cat "$HOME/held" 2>/dev/null',
    "mountpoint": "exit 0",
    "python3.13": 'if [ "$1" = -m ]; then mkdir -p "$3/bin"; cp "$FAKE_GCLOUD/vm-bin/venv-python" "$3/bin/python"; fi',
    "venv-python": f"""case $1 in
        -m) echo "pip $*" ;;
        -c) echo 0.10.2 ;;
        launch/interruptible.py) exec {sys.executable} -SE "$@" ;;
        *) exec bash "$FAKE_GCLOUD/train" "$@" ;;
    esac""",
}

# A run that saves on SIGTERM, and is done at once where the file `finish` is there.
TRAIN = """
trap 'echo "stopped by SIGTERM after update 3 of 9, saved"; exit 0' TERM
out=$(printf '%s\\n' "$@" | sed -n 's/^--config.out=//p')
mkdir -p "$out/checkpoints" "$out/hf"
echo "$*" >>"$out/starts"
touch started
[ -e "$FAKE_GCLOUD/finish" ] || { sleep 1000 & wait; }
echo weights >"$out/hf/model.safetensors"
echo all updates are done
"""


def script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def error_of(done: SimpleNamespace) -> str:
    """The error, which is one line without a trace."""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


class Cloud:
    """The fake, and launch/gcp/tpu.py in front of it."""

    def __init__(self, folder: Path, tpu: ModuleType):
        self.folder, self._tpu = folder, tpu
        for name in ("bin", "vm-bin", "store"):
            (folder / name).mkdir()
        fake = Path(__file__).with_name("fake_gcloud.py")
        gcloud = folder / "bin" / "gcloud"
        gcloud.write_text(f"#!{sys.executable} -SE\n{fake.read_text()}")
        gcloud.chmod(0o755)
        for name, body in VM.items():
            script(folder / "vm-bin" / name, body)
        self.train(TRAIN)
        (folder / "calls").touch()
        state = {
            "node": None,
            "queue": None,
            "type": "v5litepod-8",
            "workers": 1,
            "down": [],
            "detail": "",
            "twice": "",
        }
        self.set(**state, fail=[], events=[])

    def set(self, **changes) -> None:
        path = self.folder / "state"
        path.write_bytes(marshal.dumps((self.state() if path.exists() else {}) | changes))

    def state(self) -> dict:
        return marshal.loads((self.folder / "state").read_bytes())

    def train(self, body: str) -> None:
        (self.folder / "train").write_text(body)

    def fail(self, match: str, error: str, times: int = 1, code: int = 1) -> None:
        failure = {"match": match, "error": error, "times": times, "code": code}
        self.set(fail=[*self.state()["fail"], failure])

    def at_call(self, number: int, match: str, **changes) -> None:
        self.set(events=[*self.state()["events"], {"match": match, "left": number, "changes": changes}])

    def calls(self, match: str = "") -> list[str]:
        return [line for line in (self.folder / "calls").read_text().splitlines() if match in line]

    def home(self, worker: int = 0) -> Path:
        return self.folder / f"worker-{worker}"

    def ready(self, workers: int = 1, installed: bool = True) -> None:
        """A slice that was created, with what install leaves on it."""
        self.set(node="READY", queue="ACTIVE", workers=workers, type="v5litepod-8" if workers == 1 else "v5litepod-16")
        for home in map(self.home, range(workers) if installed else ()):
            (home / "tljax-venv" / "bin").mkdir(parents=True)
            (home / "tljax").mkdir()
            (home / "tljax-store").symlink_to(self.folder / "store")
            (home / "tljax" / "launch").symlink_to(REPO / "launch")
            (home / "tljax-venv" / "bin" / "python").symlink_to(self.folder / "vm-bin" / "venv-python")

    def tpu(self, *argv: str, **variables: str) -> SimpleNamespace:
        """Runs the command in this process, in the fake's folder."""
        cut = argv.index("--") if "--" in argv else len(argv)
        bucket = ["--bucket=b"] if self.state()["workers"] > 1 else []
        words = [argv[0], f"--type={self.state()['type']}", "--poll-seconds=0", *bucket, *argv[1:cut], *argv[cut:]]
        environment = {"PATH": f"{self.folder / 'bin'}:/usr/bin:/bin", "FAKE_GCLOUD": str(self.folder)} | variables
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.chdir(self.folder)
            for name, value in environment.items():
                patch.setenv(name, value)
            code = self._tpu.main(words)
        return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())

    def running(self, worker: int = 0) -> bool:
        """Whether a worker's run is alive; of one that has ended and waits for its parent /proc has an empty line."""
        path = self.home(worker) / "tljax-run" / "pid"
        line = Path("/proc", path.read_text().strip(), "cmdline") if path.exists() else Path("absent")
        return line.exists() and bool(line.read_bytes())

    def started(self, worker: int) -> bool:
        return (self.home(worker) / "tljax" / "started").exists()

    def end(self, worker: int) -> None:
        """kill -9 of a worker's run."""
        os.killpg(int((self.home(worker) / "tljax-run" / "pid").read_text()), signal.SIGKILL)
        self.until(lambda: not self.running(worker))

    def until(self, holds) -> None:
        end = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < end, "waited for 20 s"
            time.sleep(0.02)

    def close(self) -> None:
        for pid in self.folder.glob("worker-*/tljax-run/pid"):
            try:
                os.killpg(int(pid.read_text()), signal.SIGKILL)
            except (OSError, ValueError):
                pass


@pytest.fixture(scope="session")
def tpu_script(repo) -> ModuleType:
    """launch/gcp/tpu.py, which finds its neighbours as a script does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repo / "launch" / "gcp"))
        return importlib.import_module("tpu")


@pytest.fixture
def cloud(tmp_path, tpu_script):
    fake = Cloud(tmp_path, tpu_script)
    yield fake
    fake.close()
