"""launch/gcp/tpu.py watch: the cases in which it starts a run again, and those in which it ends."""

import pytest

from tests.launch.conftest import error_of

START = "worker.sh start"
STATUS = "worker.sh status"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("echo 'error: config.data.source: no such file' >&2; exit 2", "it failed with code 2 on worker 0"),
        ("echo 'error: the processes did not come together; start as many'; exit 2", "not all workers took part"),
        ("echo 'ABORTED: The TPU is already in use by process with pid 7.'; exit 1", "which clears a stale lock"),
        ("echo 'OSError: [Errno 28] No space left on device'; exit 1", "set disk or bucket"),
    ],
)
def test_a_run_that_failed_is_shown_and_not_started_again(cloud, body, told):
    cloud.train(body)
    done = cloud.tpu("watch")
    assert done.returncode == 6 and told in error_of(done) and len(cloud.calls(START)) == 1
    assert body.split("'")[1] in done.stdout
    status = cloud.tpu("status")
    assert status.returncode == 6 and told in status.stdout


def test_a_crashed_run_is_started_again_a_limited_number_of_times(cloud):
    cloud.train("exit 134")
    done = cloud.tpu("watch", "--restarts=2")
    assert done.returncode == 6 and "code 134" in error_of(done) and len(cloud.calls(START)) == 3


def test_a_process_that_was_killed_is_started_again(cloud):
    cloud.ready()
    assert cloud.tpu("run").returncode == 0
    cloud.until(lambda: cloud.started(0))
    cloud.end(0)
    assert "ended without a message on worker 0" in cloud.tpu("status").stdout
    (cloud.folder / "finish").touch()
    assert cloud.tpu("watch").returncode == 0


# --- preemption ------------------------------------------------------------------------------------------------------

AFTER_PREEMPTION = '[ -e "$FAKE_GCLOUD/preempted" ] || sleep 1000'


@pytest.mark.parametrize(("store", "queue"), [("bucket=b", "SUSPENDED"), ("disk=projects/p/zones/z/disks/d", "ACTIVE")])
def test_watch_goes_on_after_a_preemption(cloud, store, queue):
    cloud.train(AFTER_PREEMPTION)
    cloud.at_call(3, STATUS, node="PREEMPTED", queue=queue)
    done = cloud.tpu("watch", "--spot=true", f"--{store}")
    assert done.returncode == 0, done.stderr
    assert len(cloud.calls(" create ")) == len(cloud.calls("worker.sh install")) == len(cloud.calls(START)) == 2
    assert all("--config.out=../tljax-store/runs/tpu --config.resume=auto" in call for call in cloud.calls(START))
    assert "deleted, to ask anew" in done.stdout


@pytest.mark.parametrize("at", [pytest.param("tpu-vm scp", marks=pytest.mark.extended), START])
def test_a_preemption_during_the_start_leads_to_a_second_slice(cloud, at):
    (cloud.folder / "finish").touch()
    cloud.at_call(1, at, node="PREEMPTED", queue="SUSPENDED")
    done = cloud.tpu("watch", "--spot=true", "--bucket=b")
    assert done.returncode == 0 and len(cloud.calls(" create ")) == 2, done.stderr


def test_without_a_store_a_preemption_ends_the_watch(cloud):
    cloud.train(AFTER_PREEMPTION)
    cloud.at_call(3, STATUS, node="TERMINATED", queue="SUSPENDED")
    done = cloud.tpu("watch")
    assert done.returncode == 5 and "the run's folder went with it" in error_of(done)
    assert len(cloud.calls(" create ")) == 1


def test_an_interrupted_run_is_started_again(cloud):
    """In maintenance, every process of the VM gets SIGTERM, and the VM stays."""
    stop_itself = (
        'trap "exit 0" TERM; [ -e "$FAKE_GCLOUD/one" ] || { touch "$FAKE_GCLOUD/one"; kill -TERM 0; sleep 5; }'
    )
    cloud.train(stop_itself)
    done = cloud.tpu("watch")
    assert done.returncode == 0 and len(cloud.calls(START)) == 2, done.stderr
    assert "it was interrupted on worker 0" in done.stdout, done.stdout


@pytest.mark.extended
def test_a_run_on_some_workers_only_is_started_anew(cloud):
    cloud.ready(workers=3)
    assert cloud.tpu("run").returncode == 0
    cloud.until(lambda: all(map(cloud.started, range(3))))
    cloud.end(2)
    (cloud.folder / "train").write_text("exit 0")
    done = cloud.tpu("watch")
    assert done.returncode == 0 and "it ended on worker 2, and the others follow" in done.stdout, done.stderr
    assert len(cloud.calls("worker.sh stop")) == 1


def test_watch_waits_for_the_other_workers_of_one_that_failed(cloud, tpu_script, monkeypatch):
    """If one process of a run is killed, all the others end within a minute."""
    cloud.ready(workers=2)
    assert cloud.tpu("run").returncode == 0
    cloud.until(lambda: cloud.started(0) and cloud.started(1))
    cloud.end(1)
    (cloud.folder / "finish").touch()
    others = iter([0])
    monkeypatch.setattr(tpu_script.Gcloud, "wait", lambda *_: [cloud.end(worker) for worker in others])
    assert cloud.tpu("status").returncode == 6
    done = cloud.tpu("watch")
    assert done.returncode == 0 and not cloud.calls("worker.sh stop"), done.stderr
    assert len(cloud.calls(START)) == 2


# What gcloud says where the machine it runs on is offline: it cannot renew its token, or not connect with one.
OFFLINE = (
    "ERROR: (gcloud.compute.tpus.tpu-vm.describe) There was a problem refreshing your current auth tokens: "
    "HTTPSConnectionPool(host='oauth2.googleapis.com', port=443): Max retries exceeded with url: /token (Caused by "
    "NameResolutionError(\"Failed to resolve 'oauth2.googleapis.com' ([Errno -3] Temporary failure)\"))\n"
    "Please run:\n\n  $ gcloud auth login\n\nto obtain new credentials.",
    "ERROR: gcloud crashed (ConnectionError): HTTPSConnectionPool(host='tpu.googleapis.com', port=443): Max retries "
    "exceeded with url: /v2 (Caused by NewConnectionError('[Errno 101] Network is unreachable'))",
    "ERROR: (gcloud.compute.tpus.tpu-vm.describe) UNAVAILABLE: The service is currently unavailable.",
)


@pytest.mark.parametrize("error", [OFFLINE[0], *(pytest.param(e, marks=pytest.mark.extended) for e in OFFLINE[1:])])
@pytest.mark.parametrize("match", ["describe", pytest.param("queued-resources delete", marks=pytest.mark.extended)])
def test_an_outage_does_not_end_the_watch(cloud, error, match):
    """A machine that watches for days is offline at times. The slice costs money then, and only watch restarts runs."""
    cloud.train(AFTER_PREEMPTION)
    cloud.at_call(3, STATUS, node="PREEMPTED", queue="SUSPENDED")
    cloud.fail(match, error, times=11)
    done = cloud.tpu("watch", "--spot=true", "--bucket=b")
    assert done.returncode == 0 and len(cloud.calls(START)) == 2, done.stderr


def test_an_outage_that_lasts_ends_the_watch(cloud):
    cloud.ready()
    cloud.fail("describe", OFFLINE[0], times=99)
    done = cloud.tpu("watch", "--wait-hours=0")
    assert done.returncode == 1 and "cannot be looked up: There was a problem refreshing" in error_of(done)


@pytest.mark.extended
def test_a_start_that_one_worker_missed_is_repeated(cloud):
    """The run was stopped because another worker did not answer, and not by the user."""
    cloud.ready(workers=3)
    cloud.at_call(1, START, down=[1])
    cloud.at_call(1, "worker.sh stop", down=[])
    second = f'[ "$(grep -c "{START}" "$FAKE_GCLOUD/calls")" -ge 2 ]'
    cloud.train(f'{second} && exit 0; trap "exit 0" TERM; sleep 1000 & wait')
    done = cloud.tpu("watch")
    assert done.returncode == 0 and len(cloud.calls(START)) == 2, done.stderr
    assert "could not start the run" in done.stdout


def test_a_worker_that_is_silent_for_a_while_does_not_end_the_watch(cloud):
    (cloud.folder / "finish").touch()
    cloud.at_call(1, "ssh", down=[0])
    cloud.at_call(4, "ssh", down=[])
    done = cloud.tpu("watch")
    assert done.returncode == 0 and "worker 0 of 1 does not answer" in done.stdout, done.stderr


def test_a_worker_that_stays_silent_ends_the_watch(cloud):
    cloud.set(node="READY", down=[0])
    done = cloud.tpu("watch")
    assert done.returncode == 5 and "delete, then watch, replaces the slice" in error_of(done)
    assert len(cloud.calls(STATUS)) == 11
