"""launch/gcp/worker.sh beyond the tests of tpu.py: the disks that it mounts and formats, and the Python it takes."""

import subprocess

import pytest

from tests.launch.conftest import script

NOTES = 'echo "$(basename "$0") $*" >>"$FAKE_GCLOUD/vm-calls"'
BARE = {
    "mountpoint": '[ -e "$HOME/mounted" ]',
    "mount": f'{NOTES}; touch "$HOME/mounted"',
    "gcsfuse": f'{NOTES}; touch "$HOME/mounted"',
    "findmnt": "echo /dev/sda1",
    "lsblk": 'case $* in *PKNAME*) echo /dev/sda ;; *) cat "$FAKE_GCLOUD/disks" ;; esac',
    "blkid": 'exit "$(cat "$FAKE_GCLOUD/blkid")"',
    "mkfs.ext4": NOTES,
    "chown": NOTES,
}


@pytest.fixture
def vm(cloud):
    """worker.sh install with a store -> its process; the VM has a boot disk /dev/sda, and what `disks` says."""
    for name, body in BARE.items():
        script(cloud.folder / "vm-bin" / name, body)
    cloud.ready()
    (cloud.folder / "disks").write_text("/dev/sda disk\n/dev/loop0 loop\n/dev/nvme0n2 disk\n")
    (cloud.folder / "blkid").write_text("0")
    environment = {"HOME": str(cloud.home()), "FAKE_GCLOUD": str(cloud.folder), "FAKE_WORKER": "3"}

    def install(store, path=f"{cloud.folder / 'vm-bin'}:/usr/bin:/bin"):
        command = ["bash", "tljax/launch/gcp/worker.sh", "install", "tpu", store]
        done = subprocess.run(
            command, cwd=cloud.home(), env=environment | {"PATH": path}, capture_output=True, text=True, check=False
        )
        calls = cloud.folder / "vm-calls"
        return done, calls.read_text().splitlines() if calls.exists() else []

    return install


def test_a_disk_with_something_on_it_is_mounted_as_it_is(vm, cloud):
    done, calls = vm("disk")
    assert done.returncode == 0, done.stdout
    assert calls[0] == f"mount -o discard,defaults /dev/nvme0n2 {cloud.home()}/tljax-store"
    assert not [call for call in calls if call.startswith("mkfs")]
    # Mounted, it is left alone.
    assert vm("disk")[1] == calls


@pytest.mark.parametrize(("found", "formatted"), [("2", True), ("4", False), ("0", False)])
def test_only_a_blank_disk_is_formatted(vm, cloud, found, formatted):
    (cloud.folder / "blkid").write_text(found)
    _, calls = vm("disk")
    assert (calls[0] == "mkfs.ext4 -q /dev/nvme0n2") is formatted


@pytest.mark.parametrize("disks", ["/dev/sda disk\n", "/dev/sda disk\n/dev/sdb disk\n/dev/sdc disk\n"])
def test_without_the_one_disk_nothing_is_touched(vm, cloud, disks):
    (cloud.folder / "disks").write_text(disks)
    done, calls = vm("disk")
    assert done.returncode == 1 and "error: besides the boot disk there should be one disk" in done.stdout
    assert not calls


def test_a_bucket_is_mounted_so_that_folders_can_be_renamed(vm, cloud):
    done, calls = vm("gs://my-bucket")
    assert done.returncode == 0 and "tljax worker=3 state=installed jax=0.10.2" in done.stdout
    flags = "--implicit-dirs --rename-dir-limit=1000000"
    assert calls == [f"gcsfuse {flags} my-bucket {cloud.home()}/tljax-store"]


def test_a_store_that_cannot_be_mounted_ends_the_install(vm, cloud):
    script(cloud.folder / "vm-bin" / "gcsfuse", "exit 0")
    done, _ = vm("gs://my-bucket")
    assert done.returncode == 1 and "error: gs://my-bucket could not be mounted" in done.stdout
    assert "state=installed" not in done.stdout


def test_an_image_with_an_old_python_gets_a_newer_one(vm, cloud):
    for name in ("python3.11", "python3.12", "python3.13"):
        script(cloud.folder / "vm-bin" / name, "exit 1")
    made = f'{NOTES}; case $* in *venv*) mkdir -p "$HOME/tljax-venv/bin"; cp "{cloud.folder}/vm-bin/venv-python"'
    script(cloud.folder / "vm-bin" / "python3", f'{made} "$HOME/tljax-venv/bin/python" ;; esac')
    (cloud.home() / "tljax-venv" / "bin" / "python").unlink()
    done, calls = vm("none")
    assert done.returncode == 0 and "uv fetches one" in done.stdout
    venv = cloud.home() / "tljax-venv"
    assert calls == [
        "python3 -m pip install --quiet --user uv",
        f"python3 -m uv venv --quiet --seed --python 3.12 {venv}",
    ]


def test_an_unknown_command_is_refused_with_the_allowed_ones(cloud):
    cloud.ready()
    done = cloud.tpu("ssh", "--", "bash tljax/launch/gcp/worker.sh strat")
    assert done.returncode == 1 and "'strat' is not a command; allowed: install, start" in done.stdout
