"""Some of the moments at which tests/kill_points.py kills runs or fills their disk; by hand it is asked for more."""

import subprocess
import sys

import pytest


def points(repo, folder, *flags, before=()):
    command = [*before, sys.executable, str(repo / "tests" / "kill_points.py"), str(folder), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.splitlines()[-1]


@pytest.mark.whole_run
def test_killed_runs_leave_what_one_run_leaves(repo, tmp_path):
    """Of SFT and exports; tests/rl/test_run.py has a kill at a rollout, whose programs take long to compile."""
    flags = ("--points=10", "--seed=7", "--kinds=sft,export")
    assert "10 points, seed 7, 0 wrong" in points(repo, tmp_path / "kills", *flags)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_no_loss(repo, tmp_path):
    try:
        subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system of its own can be mounted here ({error})")
    flags = ("--points=20", "--seed=2", "--full")
    assert "20 points, seed 2, 0 wrong" in points(repo, tmp_path / "full", *flags, before=("unshare", "-rm"))
