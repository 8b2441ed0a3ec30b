"""launch/gcp/tpu.py on a fake slice: every ssh command really runs, in a home folder per worker."""

import os
import re

import pytest

from tests.launch.conftest import error_of

START = "worker.sh start"


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
    cloud.ready(workers=2, installed=False)
    done = cloud.tpu("install", "--copy=rows.json", "--env=HF_TOKEN", HF_TOKEN="s e$cret")
    assert done.returncode == 0 and "installed on 2 workers, jax 0.10.2" in done.stdout
    for worker in range(2):
        copied = cloud.home(worker) / "tljax"
        shipped = {"tljax", "configs", "launch", "pyproject.toml", "README.md", "LICENSE", "rows.json", ".run-env"}
        assert {path.name for path in copied.iterdir()} == shipped
        assert not list(copied.rglob("__pycache__"))
        assert (copied / ".run-env").stat().st_mode & 0o077 == 0
    assert not cloud.calls("cret")
    cloud.train('echo "$HF_TOKEN" >token')
    assert cloud.tpu("run").returncode == 0
    cloud.until(lambda: (cloud.home(1) / "tljax" / "token").exists() and not cloud.running(1))
    assert (cloud.home(1) / "tljax" / "token").read_text() == "s e$cret\n"


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--copy=none.json", "copy names none.json, which does not exist"),
        ("--env=NOT_SET_HERE", "env names NOT_SET_HERE"),
        ("--copy=configs", "tljax's own"),
    ],
)
def test_files_that_cannot_be_copied_are_named_before_any_copy(cloud, flag, told):
    (cloud.folder / "configs").mkdir()
    cloud.ready(installed=False)
    done = cloud.tpu("install", flag)
    assert done.returncode == 2 and told in error_of(done) and not cloud.calls("scp")


def test_a_variable_of_several_lines_is_refused(cloud):
    """Its first line alone would be taken; the second would end the run and stand in its log."""
    cloud.ready(installed=False)
    done = cloud.tpu("install", "--env=KEY", KEY="-----BEGIN-----\nsecret\n")
    assert done.returncode == 2 and "KEY, of several lines" in error_of(done) and "secret" not in done.stderr


def test_an_install_that_misses_a_worker_names_it(cloud):
    cloud.ready(workers=2, installed=False)
    cloud.set(down=[1])
    done = cloud.tpu("install")
    assert done.returncode == 5 and "worker 1" in error_of(done)
    cloud.set(down=[])
    cloud.at_call(1, "worker.sh install", down=[1])
    done = cloud.tpu("install")
    assert done.returncode == 5 and "not installed on worker 1 of 2" in error_of(done)


def test_run_starts_another_command_and_logs_prints_its_output(cloud):
    cloud.ready()
    cloud.train('echo "got $*"; echo and more')
    assert cloud.tpu("run", "--", "launch/evaluate.py", "--config.model.path=a b").returncode == 0
    cloud.until(lambda: not cloud.running())
    done = cloud.tpu("logs")
    assert done.returncode == 0 and "got launch/evaluate.py --config.model.path=a b\nand more\n" in done.stdout
    assert "state=done code=0" in done.stdout
    assert cloud.tpu("ssh", "--", "echo $HOME | tr a-z A-Z").stdout == f"{cloud.home()}\n".upper()


@pytest.mark.parametrize("verb", ["install", "status", "fetch"])
def test_without_a_slice_every_command_says_what_to_do(cloud, verb):
    done = cloud.tpu(verb)
    assert done.returncode == 5 and "tpu.py create" in error_of(done)
    cloud.set(node="PREEMPTED")
    done = cloud.tpu(verb)
    assert done.returncode == 5 and "was preempted" in error_of(done)


def test_a_run_before_the_install_is_refused(cloud):
    cloud.ready(installed=False)
    done = cloud.tpu("run")
    assert done.returncode == 5 and "tpu.py install" in error_of(done)


# --- all workers or none ---------------------------------------------------------------------------------------------


def test_a_run_that_cannot_start_on_one_worker_is_stopped_on_the_others(cloud):
    cloud.ready(workers=3)
    cloud.set(down=[1])
    done = cloud.tpu("run")
    line = error_of(done)
    assert done.returncode == 5 and "worker 1 of 3 could not start" in line and "tpu.py delete, then create" in line
    assert "stopped again on worker 0, 2" in done.stdout
    assert not cloud.running(0) and not cloud.running(2)
    cloud.set(down=[])
    assert cloud.tpu("run").returncode == 0 and cloud.running(1)


def test_a_start_that_gcloud_made_twice_is_one(cloud):
    cloud.ready(workers=2)
    cloud.set(twice=START)
    done = cloud.tpu("run")
    assert done.returncode == 0 and "started on 2 workers" in done.stdout and cloud.running(0) and cloud.running(1)


def test_a_launch_on_a_single_worker_is_detected_and_explained(cloud):
    cloud.ready(workers=2)
    by_hand = "bash tljax/launch/gcp/worker.sh start none launch/train.py --config.out=x"
    assert cloud.tpu("ssh", "--worker=0", "--", by_hand).returncode == 0
    done = cloud.tpu("status")
    assert done.returncode == 7 and "runs on worker 0 only, of 2: JAX waits until it runs on all workers" in done.stdout
    done = cloud.tpu("run")
    assert done.returncode == 7 and "a run is going on worker 0" in error_of(done)
    assert not cloud.running(1) and cloud.running(0)
    assert cloud.tpu("stop").returncode == 0
    assert cloud.tpu("run").returncode == 0 and cloud.tpu("status").returncode == 0


def test_a_process_of_someone_else_is_named(cloud):
    cloud.ready(workers=2)
    (cloud.home(0) / "held").write_text(f"{os.getpid()}\n{os.getpid()}\n")
    done = cloud.tpu("status")
    assert done.returncode == 7 and f"in use by process {os.getpid()}, which tpu.py did not start" in done.stdout
    assert "on one worker alone it waits for the others" in done.stdout
    done = cloud.tpu("run")
    assert done.returncode == 7 and "in use on worker 0" in error_of(done)
    assert re.search(rf"process {os.getpid()} \(\S*python", done.stdout) and not cloud.running(1)


def test_a_stale_lock_is_removed_and_explained(cloud):
    cloud.ready()
    lock = cloud.home() / "libtpu_lockfile"
    lock.touch()
    done = cloud.tpu("run")
    assert done.returncode == 0 and "is a stale lock of libtpu" in done.stdout and not lock.exists()
    # While the run has the TPU, its lock stays.
    lock.touch()
    (cloud.home() / "held").write_text("1\n")
    assert cloud.tpu("run").returncode == 7 and lock.exists()


def test_a_second_run_and_a_second_install_are_refused(cloud):
    cloud.ready()
    assert cloud.tpu("run").returncode == 0
    done = cloud.tpu("run")
    assert done.returncode == 7 and "a run is going on worker 0" in error_of(done) and cloud.running()
    copies = len(cloud.calls("scp"))
    done = cloud.tpu("install")
    assert done.returncode == 7 and "stop first" in error_of(done) and len(cloud.calls("scp")) == copies


def test_stop_saves_and_run_goes_on(cloud):
    cloud.ready(workers=2)
    assert cloud.tpu("run").returncode == 0
    cloud.until(lambda: cloud.started(0) and cloud.started(1))
    done = cloud.tpu("stop")
    assert done.returncode == 0 and done.stdout.count("state=stopped code=75") == 2
    assert "stopped by SIGTERM after update 3 of 9, saved" in (cloud.home(1) / "tljax-run" / "log").read_text()
    done = cloud.tpu("status")
    assert done.returncode == 6 and "stopped by launch/gcp/tpu.py stop" in done.stdout
    assert cloud.tpu("watch").returncode == 6
    (cloud.folder / "finish").touch()
    assert cloud.tpu("run").returncode == 0
    assert cloud.tpu("watch").returncode == 0


def test_a_run_that_does_not_end_is_killed(cloud):
    cloud.train("trap '' TERM; touch up; sleep 1000")
    cloud.ready()
    assert cloud.tpu("run").returncode == 0
    cloud.until((cloud.home() / "tljax" / "up").exists)
    command = "bash tljax/launch/gcp/worker.sh stop 1"
    done = cloud.tpu("ssh", "--", command)
    assert "no end within 1 s of SIGTERM: killed" in done.stdout and not cloud.running()


# --- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", [[], ["--bucket=b"]])
def test_fetch_leaves_checkpoints_and_never_overwrites(cloud, store):
    cloud.ready()
    (cloud.folder / "finish").touch()
    assert cloud.tpu("run", *store).returncode == 0
    cloud.until(lambda: not cloud.running())
    done = cloud.tpu("fetch", *store)
    assert done.returncode == 0, done.stderr
    fetched = cloud.folder / "fetched" / "tljax"
    assert sorted(path.name for path in fetched.iterdir()) == ["hf", "starts"]
    done = cloud.tpu("fetch", *store)
    assert done.returncode == 2 and "exists; give another folder" in error_of(done)
    assert cloud.tpu("fetch", "--all", "--to=all", *store).returncode == 0
    assert (cloud.folder / "all" / "checkpoints").is_dir()
    cloud.fail("storage rsync" if store else "tpu-vm scp", "ERROR: (x) broken pipe", times=9)
    done = cloud.tpu("fetch", "--to=third", *store)
    assert done.returncode == 5 and "cannot be fetched completely: broken pipe" in error_of(done)
    assert not (cloud.folder / "third").exists()


def test_fetch_without_results_is_refused(cloud):
    cloud.ready()
    done = cloud.tpu("fetch")
    assert done.returncode == 5 and "there is no folder runs/tpu" in error_of(done)


def test_an_interrupt_leaves_everything_as_it_is(cloud, tpu_script, monkeypatch):
    cloud.set(queue="ACCEPTED")

    def interrupt(gcloud, seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(tpu_script.Gcloud, "wait", interrupt)
    done = cloud.tpu("create")
    assert done.returncode == 130 and "goes on" in done.stderr and cloud.state()["queue"] == "ACCEPTED"
