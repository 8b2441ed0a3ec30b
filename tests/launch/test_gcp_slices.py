"""launch/gcp/tpu.py create and delete, against a gcloud that fails on demand."""

import shlex
import subprocess
import sys

import pytest

from tests.launch.conftest import error_of

FULL = (
    'ERROR: (gcloud.compute.tpus.tpu-vm.create) {"code": 8, "message": "There is no more capacity in the zone '
    '\\"us-central1-a\\"; you can try in another zone where Cloud TPU Nodes are offered"}'
)
QUOTA = (
    "ERROR: (gcloud.compute.tpus.queued-resources.create) RESOURCE_EXHAUSTED: Quota limit "
    "'TPUV5sLitepodPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0 in zone us-central1-a."
)


def test_create_asks_the_queue_and_waits(cloud):
    cloud.at_call(1, "queued-resources describe", queue="WAITING_FOR_RESOURCES", node=None)
    cloud.at_call(2, "queued-resources describe", queue="PROVISIONING")
    cloud.at_call(6, "tpu-vm describe", queue="ACTIVE", node="READY")
    cloud.set(queue="ACCEPTED")
    done = cloud.tpu("create")
    assert done.returncode == 0, done.stderr
    states = [line.split(" ", 1)[1] for line in done.stdout.splitlines()]
    assert states == ["tljax: WAITING_FOR_RESOURCES", "tljax: PROVISIONING", "tljax is ready: v5litepod-8, 1 host"]
    assert not cloud.calls("create")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "queued-resources create tljax --node-id=tljax --runtime-version=v2-alpha-tpuv5-lite"),
        (["--type=v6e-8"], "--runtime-version=v2-alpha-tpuv6e"),
        (["--type=v5p-8"], "--runtime-version=v2-alpha-tpuv5 "),
        (["--type=v4-8", "--image=mine"], "--runtime-version=mine"),
        (["--wait-hours=3"], "--valid-until-duration=3h"),
        (["--queued=false", "--type=v4-8"], "tpu-vm create tljax --version=tpu-ubuntu2204-base"),
        (["--spot=true"], "--spot"),
        (["--reserved=true"], "--reserved"),
        (["--network=n", "--subnetwork=s", "--internal-ips=true"], "--network=n --subnetwork=s --internal-ips"),
        (["--service_account=a@b"], "--service-account=a@b"),
        (["--project=p", "--disk=d"], "--data-disk=source=projects/p/zones/us-central1-a/disks/d,mode=read-write"),
        (["--disk=projects/q/zones/z/disks/d"], "--data-disk=source=projects/q/zones/z/disks/d,mode=read-write"),
        (["--project=p"], "--zone=us-central1-a --project=p"),
    ],
)
def test_create_asks_for_what_the_parameters_say(cloud, flags, words):
    assert cloud.tpu("create", *flags).returncode == 0
    (call,) = cloud.calls("create")
    assert words in call and "--accelerator-type=" in call and call.endswith("--quiet")


def test_dry_run_prints_the_commands_and_calls_nothing(cloud):
    asked = cloud.tpu("watch", "--dry-run", "--spot=true", "--bucket=b")
    assert asked.returncode == 0 and not cloud.calls()
    printed = [shlex.split(line) for line in asked.stdout.splitlines() if line.startswith("gcloud ")]
    verbs = [" ".join(words[3:5]) for words in printed]
    assert verbs[0] == "queued-resources create" and verbs.count("tpu-vm ssh") >= 2 and "tpu-vm scp" in verbs
    assert cloud.tpu("create", "--spot=true").returncode == 0
    assert cloud.calls("create")[0].split() == printed[0][1:]
    for verb in ("create", "install", "run", "status", "logs", "stop", "fetch", "delete"):
        before = len(cloud.calls())
        done = cloud.tpu(verb, "--dry-run")
        assert done.returncode == 0 and "gcloud compute tpus" in done.stdout and len(cloud.calls()) == before, verb


def test_a_slice_that_is_there_is_kept(cloud):
    cloud.set(node="READY", queue="ACTIVE")
    done = cloud.tpu("create")
    assert done.returncode == 0 and "tljax is ready" in done.stdout and not cloud.calls("create")
    done = cloud.tpu("create", "--type=v6e-8")
    assert done.returncode == 2 and "exists as a v5litepod-8 and type is v6e-8" in error_of(done)


@pytest.mark.parametrize("queued", ["true", "false"])
def test_a_request_without_capacity_is_made_again(cloud, queued):
    cloud.fail(" create tljax", FULL, times=2)
    done = cloud.tpu("create", f"--queued={queued}")
    assert done.returncode == 0 and len(cloud.calls(" create ")) == 3
    assert done.stdout.count("There is no more capacity in the zone") == 1  # said once, asked again


def test_a_rate_limit_is_no_quota(cloud):
    cloud.fail(" create tljax", "ERROR: (x) RESOURCE_EXHAUSTED: Quota exceeded for CreateNode requests per minute")
    done = cloud.tpu("create")
    assert done.returncode == 0 and len(cloud.calls(" create ")) == 2


def test_waiting_ends_with_its_hours_and_leaves_nothing_behind(cloud):
    cloud.fail(" create tljax", FULL, times=99)
    done = cloud.tpu("create", "--wait-hours=0")
    assert done.returncode == 4 and "within 0 hours; nothing is left behind; try another zone" in error_of(done)


@pytest.mark.parametrize("queue", ["WAITING_FOR_RESOURCES", "SUSPENDED"])
def test_a_request_that_nobody_waits_for_is_withdrawn(cloud, queue):
    """Google could grant it at any later time, and bill for it."""
    cloud.set(queue=queue)
    cloud.fail(" create tljax", FULL, times=99)
    done = cloud.tpu("create", "--wait-hours=0")
    assert done.returncode == 4 and "nothing is left behind" in error_of(done), done.stdout
    assert cloud.state()["queue"] is None


def test_a_slice_that_a_run_may_lie_on_is_not_withdrawn(cloud):
    cloud.set(node="REPAIRING")
    done = cloud.tpu("create", "--wait-hours=0")
    assert done.returncode == 4 and "is left as it is, REPAIRING, and may cost" in error_of(done)
    assert cloud.state()["node"] == "REPAIRING"


def test_a_later_request_is_valid_for_the_time_that_is_left(cloud, tpu_script, monkeypatch):
    """A longer request would outlive the command that waits for it."""
    seconds = iter(range(0, 10**9, 3600))
    monkeypatch.setattr("slices.time.monotonic", lambda: next(seconds))
    cloud.fail(" create tljax", FULL, times=2)
    assert cloud.tpu("create", "--wait-hours=24").returncode == 0
    hours = [int(call.split("--valid-until-duration=")[1].split("h")[0]) for call in cloud.calls(" create ")]
    assert hours == sorted(hours, reverse=True) and hours[0] <= 24 and hours[-1] < hours[0]


@pytest.mark.parametrize(
    ("error", "code", "advice"),
    [
        (QUOTA, 3, "IAM & Admin > Quotas"),
        ("ERROR: (x) You do not currently have an active account selected.", 3, "gcloud auth login"),
        ("ERROR: (x) PERMISSION_DENIED: Permission 'tpu.nodes.create' denied", 3, "TPU Admin"),
        ("ERROR: (x) Cloud TPU API has not been used in project 5 before", 3, "services enable"),
        (
            "ERROR: (x) INVALID_ARGUMENT: the accelerator v9-8 was not found in the zonal accelerator configurations",
            2,
            "accelerator-types list",
        ),
        ("ERROR: (x) something new", 1, "something new"),
    ],
)
def test_a_request_that_google_refuses_is_not_made_again(cloud, error, code, advice):
    cloud.fail(" create tljax", f"Create request issued for: [tljax]\n{error}", times=99)
    done = cloud.tpu("create")
    line = error_of(done)
    assert done.returncode == code and advice in line and "ERROR" not in line
    assert len(cloud.calls(" create ")) == 1


@pytest.mark.parametrize(
    "gone",
    [
        {"node": "PREEMPTED", "queue": None},
        {"node": "PREEMPTED", "queue": "ACTIVE"},
        {"node": None, "queue": "SUSPENDED"},
        {"node": "TERMINATED", "queue": "SUSPENDED"},
        {"node": None, "queue": "FAILED", "detail": "There is no more capacity in the zone"},
    ],
)
def test_create_replaces_a_slice_that_is_gone(cloud, gone):
    cloud.set(**gone)
    done = cloud.tpu("create")
    assert done.returncode == 0 and "deleted, to ask anew" in done.stdout, done.stderr
    assert cloud.state()["node"] == "READY" and len(cloud.calls(" create ")) == 1


def test_a_request_that_failed_for_quota_ends_the_waiting(cloud):
    cloud.set(queue="FAILED", detail="Quota 'TPUV5sLitepodPerProjectPerZoneForTPUAPI' exhausted. Limit 0 in zone z")
    done = cloud.tpu("create")
    assert done.returncode == 3 and "Limit 0 in zone z" in error_of(done)
    assert cloud.state()["queue"] is None and not cloud.calls(" create ")


def test_a_passing_error_while_create_waits_is_ignored(cloud):
    cloud.set(node="READY")
    cloud.fail("describe", "ERROR: (x) UNAVAILABLE: The service is currently unavailable", times=2)
    assert cloud.tpu("create").returncode == 0
    cloud.fail("describe", "ERROR: (x) PERMISSION_DENIED: denied", times=99)
    assert cloud.tpu("create").returncode == 3


def test_delete_asks_and_says_what_is_lost(cloud):
    done = cloud.tpu("delete")
    assert done.returncode == 0 and "nothing to delete" in done.stdout
    cloud.set(node="READY", queue="ACTIVE")
    done = cloud.tpu("delete")
    assert done.returncode == 2 and "say --yes" in error_of(done) and not cloud.calls("delete")
    done = cloud.tpu("delete", "--yes")
    assert done.returncode == 0 and cloud.state()["node"] is None and cloud.state()["queue"] is None
    assert "queued-resources delete tljax --force" in cloud.calls("delete")[0]


def test_a_slice_created_directly_is_deleted_too(cloud):
    cloud.set(node="READY")
    assert cloud.tpu("delete", "--yes").returncode == 0 and cloud.state()["node"] is None
    cloud.set(node="READY")
    cloud.fail("tpu-vm delete", "ERROR: (x) INTERNAL: try again later", times=3)
    assert cloud.tpu("delete", "--yes").returncode == 0 and cloud.state()["node"] is None
    cloud.set(node="READY")
    cloud.fail("tpu-vm delete", "ERROR: (x) INTERNAL: try again later", times=9)
    done = cloud.tpu("delete", "--yes")
    assert done.returncode == 1 and "may go on costing" in error_of(done)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["create", "--zone"], "'--zone' is not understood"),
        (["create", "--zones=a"], "no such parameter; allowed: name, project, zone"),
        (["create", "--spot=yes"], "--spot is 'yes'; it must be true or false"),
        (["create", "--wait-hours=-1"], "it must be a whole number from 0"),
        (["create", "--type=v5e-8"], "GENERATION-SIZE of v2, v3, v4, v5litepod"),
        (["create", "--type=tpu7x-8"], "jobset.yaml"),
        (["create", "--name=My_TPU"], "small letters"),
        (["create", "--bucket=gs://b"], "its name alone"),
        (["create", "--bucket=b", "--disk=projects/p/zones/z/disks/d"], "disk and bucket"),
        (["create", "--disk=d"], "without project"),
        (["create", "--type=v5litepod-16", "--disk=projects/p/zones/z/disks/d"], "several hosts"),
        (["watch", "--type=v5litepod-16"], "has several hosts, which write one folder; set bucket"),
        (["create", "--spot=true", "--reserved=true"], "spot and reserved"),
        (["run", "--out=/runs"], "give a relative folder"),
        (["run", "--out=gs://b/runs"], "give a relative folder"),
        (["creat"], "invalid choice"),
        (["create", "--params=none.toml"], "none.toml: No such file"),
        (["watch", "--spot=true"], "neither disk nor bucket"),
        (["ssh"], "no command given"),
    ],
)
def test_bad_parameters_are_refused_before_any_call(cloud, argv, told):
    done = cloud.tpu(*argv)
    assert done.returncode == 2 and told in error_of(done) and not cloud.calls()


def test_a_file_of_parameters_needs_only_what_differs(cloud):
    mine = cloud.folder / "mine.toml"
    mine.write_text('name = "mine"\nspot = true\n')
    assert cloud.tpu("create", f"--params={mine}", "--zone=us-east5-b").returncode == 0
    (call,) = cloud.calls("create")
    assert "create mine --node-id=mine" in call and "--spot" in call and "--zone=us-east5-b" in call
    assert "autocheckpoint" not in call
    cloud.set(node=None, queue=None)
    assert cloud.tpu("create", "--autocheckpoint=true").returncode == 0
    call = cloud.calls("create")[-1]  # released gcloud does not know the flag
    assert call.startswith("alpha compute ") and "--autocheckpoint-enabled" in call
    mine.write_text("spot = 1\n")
    done = cloud.tpu("create", f"--params={mine}")
    assert done.returncode == 2 and "mine.toml, field spot is 1; it must be true or false" in error_of(done)


def test_python_alone_is_enough(repo):
    """The machine that calls gcloud needs neither jax nor any other package: -S leaves out site-packages."""
    argv = [sys.executable, "-SE", str(repo / "launch" / "gcp" / "tpu.py"), "create", "--dry-run"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "queued-resources create" in done.stdout, done.stderr


def test_help_names_every_command(tpu_script, capsys):
    assert tpu_script.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"\n    {verb} " in told for verb in tpu_script.COMMANDS)


def test_a_missing_gcloud_is_one_line(cloud):
    done = cloud.tpu("create", PATH="/nowhere")
    assert done.returncode == 2 and "gcloud is not on PATH; install it" in error_of(done)
