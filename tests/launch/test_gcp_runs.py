"""launch/gcp/tpu.py on a fake slice: every ssh command really runs, in a home folder per worker."""

import os
import signal
import time
from pathlib import Path

import pytest

START = "worker.sh start"
STATUS = "worker.sh status"


def ready(cloud, workers=1, install=True):
    """A slice with tljax on it."""
    cloud.set(node="READY", queue="ACTIVE", workers=workers, type="v5litepod-8" if workers == 1 else "v5litepod-16")
    if install:
        done = tpu(cloud, "install")
        assert done.returncode == 0, done.stderr


def tpu(cloud, *argv, **variables):
    cut = argv.index("--") if "--" in argv else len(argv)
    kind = f"--type={cloud.state()['type']}"
    return cloud.tpu(*argv[:cut], kind, *argv[cut:], **variables)


def running(cloud, worker=0):
    """Whether a worker's run is alive; of one that has ended and waits for its parent /proc has an empty line."""
    path = cloud.home(worker) / "tljax-run" / "pid"
    line = Path("/proc", path.read_text().strip(), "cmdline") if path.exists() else Path("absent")
    return line.exists() and bool(line.read_bytes())


def error(done):
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


def trainings(cloud, folder="store/runs/tpu"):
    """The command lines of every start so far."""
    path = cloud.folder / folder / "starts"
    return path.read_text().splitlines() if path.exists() else []


# --- from nothing to results -----------------------------------------------------------------------------------------


def test_watch_takes_a_run_from_nothing_to_results(cloud):
    (cloud.folder / "finish").touch()
    done = cloud.tpu("watch", "--finish", "--to=mine")
    assert done.returncode == 0, done.stderr
    mine = cloud.folder / "mine"
    assert (mine / "hf" / "model.safetensors").read_text() == "weights\n"
    assert sorted(path.name for path in mine.iterdir()) == ["hf", "starts"]
    expected = "launch/train.py --config=configs/sft.py --config.out=runs/tpu --config.resume=auto"
    assert (mine / "starts").read_text().splitlines() == [expected]
    assert cloud.state()["node"] is None and "tljax is deleted" in done.stdout
    assert all("--worker=all" in call for call in cloud.calls(START) + cloud.calls("worker.sh install"))


def test_install_copies_what_the_run_needs_and_no_more(cloud):
    (cloud.folder / "rows.json").write_text("[]")
    ready(cloud, workers=2, install=False)
    done = tpu(cloud, "install", "--copy=rows.json", "--env=HF_TOKEN", HF_TOKEN="s e$cret")
    assert done.returncode == 0 and "installed on 2 workers, jax 0.10.2" in done.stdout
    for worker in range(2):
        copied = cloud.home(worker) / "tljax"
        shipped = {"tljax", "configs", "launch", "pyproject.toml", "README.md", "LICENSE", "rows.json", ".run-env"}
        assert {path.name for path in copied.iterdir()} == shipped
        assert not list(copied.rglob("__pycache__"))
        assert (copied / ".run-env").stat().st_mode & 0o077 == 0
    assert not cloud.calls("cret")
    cloud.train('echo "$HF_TOKEN" >token')
    assert tpu(cloud, "run").returncode == 0
    cloud.until(lambda: (cloud.home(1) / "tljax" / "token").exists() and not running(cloud, 1))
    assert (cloud.home(1) / "tljax" / "token").read_text() == "s e$cret\n"


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--copy=none.json", "copy names none.json, which is not there"),
        ("--env=NOT_SET_HERE", "env names NOT_SET_HERE"),
        ("--copy=configs", "tljax's own"),
    ],
)
def test_what_cannot_be_copied_is_said_before_anything_is(cloud, flag, told):
    (cloud.folder / "configs").mkdir()
    ready(cloud, install=False)
    done = tpu(cloud, "install", flag)
    assert done.returncode == 2 and told in error(done) and not cloud.calls("scp")


def test_an_install_that_misses_a_worker_names_it(cloud):
    ready(cloud, workers=4, install=False)
    cloud.set(down=[2])
    done = tpu(cloud, "install")
    assert done.returncode == 5 and "worker 2" in error(done)
    cloud.set(down=[])
    cloud.at_call(1, "worker.sh install", down=[3])
    done = tpu(cloud, "install")
    assert done.returncode == 5 and "not installed on worker 3 of 4" in error(done)


def test_another_command_and_its_log(cloud):
    ready(cloud)
    cloud.train('echo "got $*"; echo and more')
    assert tpu(cloud, "run", "--", "launch/evaluate.py", "--config.model.path=a b").returncode == 0
    cloud.until(lambda: not running(cloud))
    done = tpu(cloud, "logs")
    assert done.returncode == 0 and "got launch/evaluate.py --config.model.path=a b\nand more\n" in done.stdout
    assert "state=done code=0" in done.stdout
    assert tpu(cloud, "ssh", "--", "echo $HOME | tr a-z A-Z").stdout == f"{cloud.home()}\n".upper()


@pytest.mark.parametrize("verb", ["install", "run", "status", "stop", "logs", "fetch"])
def test_without_a_slice_every_command_says_what_to_do(cloud, verb):
    done = cloud.tpu(verb)
    assert done.returncode == 5 and "tpu.py create" in error(done)
    cloud.set(node="PREEMPTED")
    done = cloud.tpu(verb)
    assert done.returncode == 5 and "was preempted" in error(done)


def test_a_run_before_the_install(cloud):
    ready(cloud, install=False)
    done = tpu(cloud, "run")
    assert done.returncode == 5 and "tpu.py install" in error(done)


# --- all workers or none ---------------------------------------------------------------------------------------------


def test_a_run_that_cannot_start_on_one_worker_is_stopped_on_the_others(cloud):
    ready(cloud, workers=3)
    cloud.set(down=[1])
    done = tpu(cloud, "run")
    line = error(done)
    assert done.returncode == 5 and "worker 1 of 3 could not start" in line and "tpu.py delete, then create" in line
    assert "stopped again on worker 0, 2" in done.stdout
    assert not running(cloud, 0) and not running(cloud, 2)
    cloud.set(down=[])
    assert tpu(cloud, "run").returncode == 0 and running(cloud, 1)


def test_a_launch_on_a_single_worker_is_detected_and_explained(cloud):
    ready(cloud, workers=4)
    by_hand = "bash tljax/launch/gcp/worker.sh start none launch/train.py --config.out=x"
    assert tpu(cloud, "ssh", "--worker=0", "--", by_hand).returncode == 0
    done = tpu(cloud, "status")
    assert done.returncode == 7 and "runs on worker 0 only, of 4: JAX waits until it runs on all workers" in done.stdout
    done = tpu(cloud, "run")
    assert done.returncode == 7 and "a run is going on worker 0" in error(done)
    assert not running(cloud, 1) and running(cloud, 0)
    assert tpu(cloud, "stop").returncode == 0
    assert tpu(cloud, "run").returncode == 0 and tpu(cloud, "status").returncode == 0


def test_a_process_of_someone_else_is_named(cloud):
    ready(cloud, workers=2)
    (cloud.home(0) / "held").write_text(f"{os.getpid()}\n{os.getpid()}\n")
    done = tpu(cloud, "status")
    assert done.returncode == 7 and f"in use by process {os.getpid()}, which tpu.py did not start" in done.stdout
    assert "on one worker alone it waits for the others" in done.stdout
    done = tpu(cloud, "run")
    assert done.returncode == 7 and "in use on worker 0" in error(done)
    assert "pytest" in done.stdout and not running(cloud, 1)


def test_a_stale_lock_is_removed_and_explained(cloud):
    ready(cloud)
    lock = cloud.home() / "libtpu_lockfile"
    lock.touch()
    done = tpu(cloud, "run")
    assert done.returncode == 0 and "is a stale lock of libtpu" in done.stdout and not lock.exists()
    # While the run has the TPU, its lock stays.
    lock.touch()
    (cloud.home() / "held").write_text("1\n")
    assert tpu(cloud, "run").returncode == 7 and lock.exists()


def test_a_second_run_and_a_second_install_are_refused(cloud):
    ready(cloud)
    assert tpu(cloud, "run").returncode == 0
    done = tpu(cloud, "run")
    assert done.returncode == 7 and "a run is going on worker 0" in error(done) and running(cloud)
    copies = len(cloud.calls("scp"))
    done = tpu(cloud, "install")
    assert done.returncode == 7 and "stop first" in error(done) and len(cloud.calls("scp")) == copies


def test_stop_saves_and_run_goes_on(cloud):
    ready(cloud, workers=2)
    assert tpu(cloud, "run").returncode == 0
    log = cloud.home(1) / "tljax" / "runs" / "tpu" / "starts"
    cloud.until(log.exists)
    done = tpu(cloud, "stop")
    assert done.returncode == 0 and done.stdout.count("state=stopped code=75") == 2
    assert "stopped by SIGTERM after update 3 of 9, saved" in (cloud.home(1) / "tljax-run" / "log").read_text()
    done = tpu(cloud, "status")
    assert done.returncode == 6 and "stopped by launch/gcp/tpu.py stop" in done.stdout
    assert tpu(cloud, "watch").returncode == 6
    (cloud.folder / "finish").touch()
    assert tpu(cloud, "run").returncode == 0
    assert tpu(cloud, "watch").returncode == 0


def test_a_run_that_does_not_end_is_killed(cloud):
    cloud.train("trap '' TERM; touch up; while :; do sleep 0.05; done")
    ready(cloud)
    assert tpu(cloud, "run").returncode == 0
    cloud.until((cloud.home() / "tljax" / "up").exists)
    command = "bash tljax/launch/gcp/worker.sh stop 1"
    done = tpu(cloud, "ssh", "--", command)
    assert "no end within 1 s of SIGTERM: killed" in done.stdout and not running(cloud)


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("echo 'error: config.data.source: no such file' >&2; exit 2", "it failed with code 2 on worker 0"),
        ("echo 'error: this run has several processes, and runs are of one'; exit 2", "take a type of one host"),
        ("echo 'ABORTED: The TPU is already in use by process with pid 7.'; exit 1", "which clears a stale lock"),
        ("echo 'OSError: [Errno 28] No space left on device'; exit 1", "set disk or bucket"),
    ],
)
def test_a_run_that_failed_is_shown_and_not_started_again(cloud, body, told):
    cloud.train(body)
    done = cloud.tpu("watch")
    assert done.returncode == 6 and told in error(done) and len(cloud.calls(START)) == 1
    assert body.split("'")[1] in done.stdout
    status = cloud.tpu("status")
    assert status.returncode == 6 and told in status.stdout


def test_crashes_are_started_again_so_often(cloud):
    cloud.train("exit 134")
    done = cloud.tpu("watch", "--restarts=2")
    assert done.returncode == 6 and "code 134" in error(done) and len(cloud.calls(START)) == 3


def test_a_process_that_was_killed_is_started_again(cloud):
    ready(cloud)
    assert tpu(cloud, "run").returncode == 0
    os.killpg(int((cloud.home() / "tljax-run" / "pid").read_text()), signal.SIGKILL)
    cloud.until(lambda: not running(cloud))
    assert "ended without a word on worker 0" in tpu(cloud, "status").stdout
    (cloud.folder / "finish").touch()
    assert tpu(cloud, "watch").returncode == 0


# --- preemption ------------------------------------------------------------------------------------------------------

SECOND_TIME = """
out=$(printf '%s\\n' "$@" | sed -n 's/^--config.out=//p')
mkdir -p "$out"
echo "$*" >>"$out/starts"
until [ "$(wc -l <"$out/starts")" -ge 2 ]; do sleep 0.02; done
"""


@pytest.mark.parametrize("store", ["--bucket=b", "--disk=projects/p/zones/z/disks/d"])
@pytest.mark.parametrize("queue", ["SUSPENDED", "ACTIVE"])
def test_watch_goes_on_after_a_preemption(cloud, store, queue):
    cloud.train(SECOND_TIME)
    cloud.at_call(3, STATUS, node="PREEMPTED", queue=queue)
    done = cloud.tpu("watch", "--spot=true", store)
    assert done.returncode == 0, done.stderr
    assert len(cloud.calls(" create ")) == len(cloud.calls("worker.sh install")) == len(cloud.calls(START)) == 2
    resumed = "--config.out=../tljax-store/runs/tpu --config.resume=auto"
    assert [resumed in line for line in trainings(cloud)] == [True, True]
    assert "deleted, to ask anew" in done.stdout


@pytest.mark.parametrize("at", ["tpu-vm scp", "worker.sh install", START])
def test_a_preemption_in_the_middle_of_the_beginning(cloud, at):
    (cloud.folder / "finish").touch()
    cloud.at_call(1, at, node="PREEMPTED", queue="SUSPENDED")
    done = cloud.tpu("watch", "--spot=true", "--bucket=b")
    assert done.returncode == 0 and len(cloud.calls(" create ")) == 2, done.stderr


def test_without_a_store_a_preemption_ends_the_watch(cloud):
    cloud.train(SECOND_TIME)
    cloud.at_call(3, STATUS, node="TERMINATED", queue="SUSPENDED")
    done = cloud.tpu("watch")
    assert done.returncode == 5 and "the run's folder went with it" in error(done)
    assert len(cloud.calls(" create ")) == 1


def test_an_interrupted_run_is_started_again(cloud):
    """SIGTERM to every process of the VM, which then stays: maintenance."""
    stop_itself = (
        'trap "exit 0" TERM; [ -e "$FAKE_GCLOUD/one" ] || { touch "$FAKE_GCLOUD/one"; kill -TERM 0; sleep 5; }'
    )
    cloud.train(stop_itself)
    done = cloud.tpu("watch")
    assert done.returncode == 0 and len(cloud.calls(START)) == 2, done.stderr
    assert "it was interrupted on worker 0" in done.stdout


def test_a_run_on_some_workers_only_is_started_anew(cloud):
    ready(cloud, workers=3)
    assert tpu(cloud, "run").returncode == 0
    os.killpg(int((cloud.home(2) / "tljax-run" / "pid").read_text()), signal.SIGKILL)
    cloud.until(lambda: not running(cloud, 2))
    cloud.at_call(2, START, workers=3)
    (cloud.folder / "train").write_text("exit 0")
    done = tpu(cloud, "watch")
    assert done.returncode == 0 and "runs on worker 0, 1 only, of 3" in done.stdout, done.stderr


def test_a_worker_that_is_silent_for_a_while(cloud):
    (cloud.folder / "finish").touch()
    cloud.at_call(1, "ssh", down=[0])
    cloud.at_call(4, "ssh", down=[])
    done = cloud.tpu("watch")
    assert done.returncode == 0 and "worker 0 of 1 does not answer" in done.stdout, done.stderr


def test_a_worker_that_stays_silent(cloud):
    cloud.set(node="READY", down=[0])
    done = cloud.tpu("watch")
    assert done.returncode == 5 and "delete, then watch, replaces the slice" in error(done)
    assert len(cloud.calls(STATUS)) == 11


# --- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", [[], ["--bucket=b"]])
def test_fetch_leaves_checkpoints_and_never_overwrites(cloud, store):
    ready(cloud)
    (cloud.folder / "finish").touch()
    assert tpu(cloud, "run", *store).returncode == 0
    cloud.until(lambda: not running(cloud))
    done = tpu(cloud, "fetch", *store)
    assert done.returncode == 0, done.stderr
    fetched = cloud.folder / "fetched" / "tljax"
    assert sorted(path.name for path in fetched.iterdir()) == ["hf", "starts"]
    done = tpu(cloud, "fetch", *store)
    assert done.returncode == 2 and "exists; give another folder" in error(done)
    assert tpu(cloud, "fetch", "--all", "--to=all", *store).returncode == 0
    assert (cloud.folder / "all" / "checkpoints").is_dir()
    cloud.fail("storage rsync" if store else "tpu-vm scp", "ERROR: (x) broken pipe", times=9)
    done = tpu(cloud, "fetch", "--to=third", *store)
    assert done.returncode == 5 and "cannot be fetched whole: broken pipe" in error(done)
    assert not (cloud.folder / "third").exists()


def test_nothing_to_fetch(cloud):
    ready(cloud)
    done = tpu(cloud, "fetch")
    assert done.returncode == 5 and "there is no folder runs/tpu" in error(done)


def test_an_interrupt_leaves_everything_as_it_is(cloud, monkeypatch):
    cloud.set(queue="ACCEPTED")

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    done = cloud.tpu("create")
    assert done.returncode == 130 and "goes on" in done.stderr and cloud.state()["queue"] == "ACCEPTED"
