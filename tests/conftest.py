"""One place for what every test stands on: eight CPU devices, strict shapes, the shared folder of golden facts."""

import os
import runpy
import shutil
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import filelock
import pytest

REPO = Path(__file__).parents[1]
SHARED = REPO.parent / "shared"

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Read when gcsfs is imported, which datasets does: else it asks an emulator for the kind of a bucket by gRPC, for ever.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
# Tests compile far more than they run: without LLVM's optimizations they take little more than half of the processor's
# time (196 s against 110 s for the steps of SFT and PPO), and without the newer way to compile fusions to half of that
# (42 s against 21 s). That way is the only one from jax 0.12 on, where its flag is unknown and would end the process.
# Scripts that a test starts take the flags over.
JAX_0_10 = version("jax").startswith("0.10.")
os.environ["XLA_FLAGS"] = " ".join(
    [
        *filter(None, [os.environ.get("XLA_FLAGS")]),
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",  # each worker has one core: parts of a program cost it 14 % more
        *(["--xla_cpu_use_fusion_emitters=false"] if JAX_0_10 else []),
    ]
)

# One thread for torch and for NumPy's products: two workers with two threads each would wait for each other most of the
# time on two cores (a test against torch takes 1 s in place of 10).
os.environ["OMP_NUM_THREADS"] = "1"

# JAX reads these when it is imported, here and in the scripts that tests start. Folders whose tests need no JAX do not
# wait for its import.
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# One cache of compiled programs for all tests and the scripts that they start, since many compile the same ones. It is
# kept for the next time; JAX's keys tell versions, flags and programs apart. JAX's own limit of its size would look at
# every file before each write. From jax 0.12 on, programs that XLA's CPU backend loads from a cache may run their
# collectives in another order on each device: PPO's runs then wait for each other and abort after 40 s.
COMPILED = REPO / ".pytest_cache" / "compiled"
if JAX_0_10:
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
else:
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

# Fixtures that tests of several folders use.
pytest_plugins = ("tests.model_checkpoints", "tests.benchmark_files")


def pytest_addoption(parser):
    parser.addoption(
        "--sample",
        metavar="N:SEED",
        default="1:",
        help="of the tests marked extended or whole_run, run one in N, which the text SEED chooses",
    )


def pytest_collection_modifyitems(config, items):
    """Deselects the tests that --sample leaves out, and puts the tests of a finished run first.

    The same seed chooses the same tests on every machine. The training run that those tests start is the longest
    preparation: at the end, where pytest collects them, it would leave the other worker without work for half a minute.
    """
    items.sort(key=lambda item: item.path != REPO / "tests" / "test_pipeline.py")
    n, _, seed = config.getoption("sample").partition(":")
    if not n.isdecimal() or int(n) < 1:
        raise pytest.UsageError(f"--sample={config.getoption('sample')}: allowed: N:SEED with N from 1, as in 2:abc")
    left_out: set[pytest.Item] = set()
    for marker in ("extended", "whole_run"):
        marked = [item for item in items if item.get_closest_marker(marker)]
        marked.sort(key=lambda item: zlib.crc32(f"{seed} {item.nodeid}".encode()))
        left_out.update(marked[-(-len(marked) // int(n)) :])
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def pytest_sessionstart(session):
    """Removes programs of more than a week ago from our own cache, so that it does not grow for ever."""
    if "PYTEST_XDIST_WORKER" not in os.environ and COMPILED.is_dir():
        for file in COMPILED.iterdir():
            if file.stat().st_mtime < time.time() - 7 * 86_400:
                file.unlink(missing_ok=True)


@pytest.fixture(scope="module", autouse=True)
def released_memory():
    """Compiled programs of a module are released after it: all of them together take gigabytes."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden facts and real data beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent: golden facts and real data lie there")
    return SHARED


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """once(name, make) -> a folder that `make(folder)`, which returns 0, has made for this worker and all others."""
    base = tmp_path_factory.getbasetemp()
    session = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def run(name: str, make: Callable[[Path], int]) -> Path:
        folder, done = session / f"once-{name}" / "run", session / f"once-{name}" / "done"
        with filelock.FileLock(session / f"once-{name}.lock"):
            if not done.exists():
                folder.parent.mkdir()
                assert make(folder) == 0
                done.touch()
        return folder

    return run


def pytest_xdist_auto_num_workers(config) -> int:
    """A whole run of the tests takes two workers, each of up to 2 GB; a folder or a file needs none."""
    return 2 if config.args == config.getini("testpaths") and (os.cpu_count() or 1) > 1 else 0


@pytest.fixture
def compiled_programs():
    """The names of the programs that JAX compiles during a test, such as "jit(generate)", one for each compilation."""
    from jax import monitoring

    names: list[str] = []

    def listen(event: str, seconds: float, **fields) -> None:
        if event.endswith("/backend_compile_duration"):
            names.append(str(fields["fun_name"]))

    monitoring.register_event_duration_secs_listener(listen)
    yield names
    monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def without_program_cache():
    """Compiles each program of a test anew: one from JAX's cache on disk repeats no warning of XLA."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()  # else JAX remembers that it uses one
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", enabled)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A local emulator of Google Cloud Storage with one bucket, as a file system."""
    from tests import google_storage

    with google_storage.emulator(tmp_path_factory.mktemp("home")) as file_system:
        yield file_system


@pytest.fixture(scope="session")
def launch(repo):
    """Runs a launch script in this process: launch("train", "--config=...") -> exit code."""

    def run(script: str, *argv: str) -> int:
        before = sys.argv
        sys.argv = [f"launch/{script}.py", *argv]
        try:
            runpy.run_path(str(repo / "launch" / f"{script}.py"), run_name="__main__")
        except SystemExit as stop:
            return int(stop.code or 0)
        finally:
            sys.argv = before
        return 0

    return run


@pytest.fixture
def start_several(repo, tmp_path):
    """Starts processes of one run, start_several(count, devices, command...) -> [(process, its log file)].

    Each gets config.processes as its last arguments and its own fake CPU devices; none outlives the test.
    """
    started = []

    def start(count: int, devices: int, *command: str) -> list[tuple[subprocess.Popen, Path]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = f"127.0.0.1:{free.getsockname()[1]}"
        paths = [str(repo), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": os.pathsep.join(paths)}
        found = []
        for k in range(count):
            flags = {"coordinator": place, "count": count, "id": k}
            own = [f"--config.processes.{name}={value}" for name, value in flags.items()]
            log = tmp_path / f"{len(started)}.log"
            with open(log, "wb") as file:
                process = subprocess.Popen(
                    [sys.executable, *command, *own], stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=repo
                )
            started.append(process)
            found.append((process, log))
        return found

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def quick(repo, tmp_path_factory) -> list[str]:
    """Flags of a training run of seconds: a little toolbox data, a few updates, its own cache."""
    cache = tmp_path_factory.mktemp("cache")
    return [
        f"--config={repo / 'configs' / 'sft.py'}",
        f"--config.data.cache={cache}",
        "--config.toolbox.trajectories=48",
        "--config.data.max_tokens=512",  # at 896, the longest row, a run would take 1.6 times as long
        "--config.optim.max_steps=6",
        "--config.checkpoint.every=2",
        "--config.eval.every=4",
        "--config.log.every=1",
        "--config.eval.sets=held_out,toolbox",
        "--config.eval.best=held_out_TS",
        "--config.eval.queries=2",  # of three sets, which makes one batch of eval.rows
        "--config.eval.new_tokens=16",
        "--config.eval.rows=8",
    ]


@pytest.fixture(scope="session")
def first_trained(launch, quick, once) -> Path:
    """The folder of one finished run of the quick config, made once for all workers; tests read it, no more."""
    return once("trained", lambda folder: launch("train", *quick, f"--config.out={folder}"))


@pytest.fixture(scope="session")
def trained(first_trained, tmp_path_factory) -> Path:
    """A finished run of the quick config: this worker's copy, which tests may run again."""
    return Path(shutil.copytree(first_trained, tmp_path_factory.mktemp("trained") / "run"))


@pytest.fixture(scope="session")
def ppo_of_base(repo, tmp_path_factory) -> list[str]:
    """Flags of a PPO run of four updates with eight prompts each, which starts from the base model."""
    return [
        f"--config={repo / 'configs' / 'ppo.py'}",
        "--config.model.path=base",
        f"--config.data.cache={tmp_path_factory.mktemp('cache')}",
        "--config.toolbox.trajectories=40",
        "--config.rollout.prompts=8",
        "--config.rollout.group=1",
        "--config.rollout.rows=8",
        "--config.rollout.max_new_tokens=12",
        "--config.rollout.max_prompt_tokens=256",
        "--config.rollout.temperature=1.0",
        "--config.ppo.updates=4",
        "--config.ppo.minibatches=1",
        "--config.critic.warmup=0",
        "--config.critic.minibatches=1",
        "--config.eval.queries=3",
        "--config.eval.rows=8",
        "--config.eval.new_tokens=16",
        "--config.eval.every=2",
        "--config.checkpoint.every=2",
        "--config.log.every=2",
    ]


@pytest.fixture(scope="session")
def quick_ppo(ppo_of_base, first_trained) -> list[str]:
    """Flags of the same run, which starts from a model after a few updates of SFT."""
    return [*ppo_of_base, f"--config.model.path={first_trained}"]


@pytest.fixture(scope="session")
def learned(launch, quick_ppo, once, tmp_path_factory) -> Path:
    """A finished run of the quick PPO config: this worker's copy of what one of them has made."""
    first = once("learned", lambda folder: launch("train", *quick_ppo, f"--config.out={folder}"))
    return Path(shutil.copytree(first, tmp_path_factory.mktemp("learned") / "run"))
