"""The files that start a run again: launch/interruptible.py, launch/slurm/train.sbatch, launch/gcp/jobset.yaml."""

import contextlib
import os
import runpy
import shlex
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.launch.conftest import script

SAVES = """
trap 'echo saved >>"$PWD/told"; exit 0' TERM
touch up
sleep 1000 &
wait
"""


@pytest.fixture
def place(tmp_path, repo):
    """A repository with an environment whose python runs the shell script `train`."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "interruptible.py").symlink_to(repo / "launch" / "interruptible.py")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    body = f'[ "$1" = launch/interruptible.py ] && exec {sys.executable} -SE "$@"; exec bash {tmp_path}/train "$@"'
    script(tmp_path / ".venv" / "bin" / "python", body)
    yield tmp_path
    for process in tmp_path.glob("*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(process.stem), signal.SIGKILL)


def environment(place, **more):
    return os.environ | {"PATH": f"{place / '.venv' / 'bin'}:/usr/bin:/bin"} | more


def interruptible(place, *argv):
    command = [sys.executable, "-SE", str(place / "launch" / "interruptible.py"), *argv]
    process = subprocess.Popen(command, cwd=place, env=environment(place), start_new_session=True)
    (place / f"{process.pid}.pid").touch()
    return process


def until(path):
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end, f"no {path} in 20 s"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("flags", "send", "code"), [([], os.killpg, 75), (["--forward"], os.kill, 75)], ids=["all processes", "the first"]
)
def test_an_interrupted_run_saves_once_and_is_told_apart(place, flags, send, code):
    (place / "train").write_text(SAVES)
    process = interruptible(place, *flags, "launch/train.py")
    until(place / "up")
    send(process.pid, signal.SIGTERM)
    assert process.wait(20) == code and (place / "told").read_text() == "saved\n"


def test_without_forward_the_run_gets_no_second_signal(place):
    """The run has its own signal if every process gets one. A second one would end tljax before it has saved."""
    (place / "train").write_text("trap 'touch told' TERM; touch up; until [ -e end ]; do sleep 0.05; done; exit 0")
    process = interruptible(place, "launch/train.py")
    until(place / "up")
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.3)
    (place / "end").touch()
    assert process.wait(20) == 75 and not (place / "told").exists()


@pytest.mark.parametrize(
    ("body", "code"), [("exit 0", 0), ("exit 2", 2), ("kill -ABRT $$", 134), ("kill -KILL $$", 137)]
)
def test_every_other_end_is_the_scripts_own(place, body, code):
    (place / "train").write_text(body)
    assert interruptible(place, "launch/train.py").wait(20) == code


@pytest.mark.parametrize("body", ['exit "${TLJAX_INTERRUPTED:-0}"', "kill -TERM $$"])
def test_a_signal_that_another_process_got_is_an_interruption(place, body):
    """Cloud TPU signals the process that has the TPU, on one host. The run then stops on all hosts."""
    (place / "train").write_text(body)
    assert interruptible(place, "launch/train.py").wait(20) == 75


def test_interrupted_before_there_was_anything_to_save(place):
    (place / "train").write_text("touch up; sleep 1000")
    process = interruptible(place, "launch/train.py")
    until(place / "up")
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(20) == 75


# --- SLURM -----------------------------------------------------------------------------------------------------------


def sbatch(place, repo, *argv, srun="", **variables):
    """Runs the job script as slurmd does: a copy of it, from elsewhere. srun: a body for it."""
    folder = place / "slurm"
    folder.mkdir(exist_ok=True)
    one = f'echo "srun $*" >>{folder}/calls; while [[ $1 = -* ]]; do shift; done; exec "$@"'
    script(folder / "srun", srun or one)
    script(folder / "scontrol", f'echo "scontrol $*" >>{folder}/calls')
    job = folder / "slurm_script"
    job.write_text((repo / "launch" / "slurm" / "train.sbatch").read_text())
    path = f"{folder}:/usr/bin:/bin"
    variables = {"SLURM_JOB_ID": "42", "SLURM_SUBMIT_DIR": str(place), "PATH": path} | variables
    done = subprocess.run(
        ["bash", str(job), *argv], cwd=folder, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    calls = folder / "calls"
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_a_slurm_job_runs_and_ends(place, repo):
    (place / "train").write_text('printf "%s\\n" "$@" "$SRUN_CPUS_PER_TASK" >words')
    several = {"SLURM_NTASKS": "4", "SLURM_CPUS_PER_TASK": "32"}
    done, calls = sbatch(place, repo, "runs/a b", "--config=configs/sft.py:7b,lora", **several)
    assert done.returncode == 0, done.stderr
    words = ["launch/train.py", "--config=configs/sft.py:7b,lora", "--config.out=runs/a b", "--config.resume=auto"]
    assert (place / "words").read_text().splitlines() == [*words, "32"]
    assert len(calls) == 1 and calls[0].startswith("srun ")


def test_an_interrupted_slurm_job_goes_back_into_the_queue(place, repo):
    (place / "train").write_text('trap "exit 0" TERM; kill -TERM $PPID; kill -TERM $$; sleep 1000')
    done, calls = sbatch(place, repo, "run", "--config=x")
    assert done.returncode == 75 and calls[1:] == ["scontrol requeue 42"]


def test_a_killed_process_of_several_sends_the_slurm_job_back(place, repo):
    """srun returns the highest exit code: that of the killed process, and not the code that asks for a restart."""
    (place / "train").write_text("[ -e one ] && exit 75; touch one; kill -KILL $$")
    srun = (
        'while [[ $1 = -* ]]; do shift; done; code=0; for _ in 1 2; do "$@" || { [ $? -gt $code ] && code=$?; }; done'
    )
    done, calls = sbatch(place, repo, "run", "--config=x", srun=f"{srun}; exit 137")
    assert done.returncode == 137 and calls == ["scontrol requeue 42"], done.stderr
    assert not list(place.glob(".tljax-codes*"))


def test_a_slurm_job_that_failed_stays_out_of_the_queue(place, repo):
    (place / "train").write_text("exit 2")
    done, calls = sbatch(place, repo, "run", "--config=x")
    assert done.returncode == 2 and len(calls) == 1


@pytest.mark.parametrize(
    ("argv", "variables", "told"),
    [
        (["run"], {}, "give the run's folder and a config"),
        (["--config=x", "run"], {}, "'--config=x' comes first"),
        (["run", "--config=x"], {"SLURM_JOB_ID": ""}, "this is no SLURM job; submit it"),
        (["run", "--config=x"], {"SLURM_SUBMIT_DIR": "/tmp"}, "/tmp is not the repository"),
        (["run", "--config=x"], {"VENV": "other"}, "there is no other/bin/python"),
    ],
)
def test_a_slurm_job_that_cannot_run_says_why(place, repo, argv, variables, told):
    done, calls = sbatch(place, repo, *argv, **variables)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and told in done.stderr
    assert done.stderr.count("\n") == 1 and not calls


def test_slurm_lets_the_run_save_before_the_time_is_up(repo):
    text = (repo / "launch" / "slurm" / "train.sbatch").read_text()
    flags = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
    # Without B: the steps are signalled, which the run is; with it the shell alone would be.
    assert {"--signal=TERM@300", "--requeue", "--nodes=1", "--ntasks-per-node=1"} <= set(flags)


# --- GKE -------------------------------------------------------------------------------------------------------------


def test_the_jobset_starts_a_run_that_saves_and_resumes(repo):
    text = (repo / "launch" / "gcp" / "jobset.yaml").read_text()
    claim, jobset = yaml.safe_load_all(text)
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    words = container["command"] + container["args"]
    assert words[:4] == ["python", "launch/interruptible.py", "--forward", "launch/train.py"]
    assert (repo / words[1]).exists() and (repo / words[3]).exists()
    flags = dict(word[2:].split("=") for word in words[4:])
    config = runpy.run_path(str(repo / flags["config"]))["get_config"]()
    assert flags["config.resume"] == "auto" and "out" in config and "resume" in config
    # Where the run writes is the claim, which outlives the pod.
    (mount,) = container["volumeMounts"]
    (volume,) = pod["volumes"]
    assert flags["config.out"].startswith(mount["mountPath"] + "/") and mount["name"] == volume["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    # Bad input ends the job; anything else, an interruption before all, starts it again.
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [1, 2] and pod["restartPolicy"] == "Never"
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] >= 10
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = int.__mul__(*map(int, topology.split("x")))
    assert container["resources"]["limits"]["google.com/tpu"] * job["parallelism"] == chips
    # The same command for xpk, in the comment.
    paragraph = next(part for part in text.split("\n#\n") if "xpk workload" in part)
    lines = paragraph[paragraph.index("xpk workload") :].splitlines()
    *flags, command = shlex.split(" ".join(line.lstrip("# ").rstrip("\\") for line in lines))
    bucket = [word.replace("/store/", "gs://BUCKET/") for word in words]  # xpk mounts no claim
    assert command.removeprefix("--command=exec ").split() == bucket
    # xpk ends a workload for good at any other code.
    assert "--restart-on-exit-codes=75" in flags and "--termination-grace-period-seconds=300" in flags


def test_the_image_holds_what_the_commands_need(repo):
    lines = (repo / "launch" / "gcp" / "Dockerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]}
    assert {"tljax", "configs", "launch", "pyproject.toml", "README.md", "LICENSE"} == copied
    assert all((repo / name).exists() for name in copied)
