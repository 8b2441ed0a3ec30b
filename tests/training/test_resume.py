"""Run folders: no two runs share one, no run continues another by mistake, and no file of a user is overwritten."""

import json
import resource
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from tljax.core.errors import InputError
from tljax.storage import atomic
from tljax.storage.run_folder import RunFolder
from tljax.training import resume
from tljax.training.metrics import truncate_after


def config(**fields):
    return ConfigDict(
        {"run": "sft", "seed": 0, "out": "", "resume": "never", "optim": {"lr": 1.0}, "log": {"every": 1}} | fields
    )


def begun(folder, **fields):
    """A folder in which a run has written something."""
    with resume.lock_run_folder(RunFolder(folder), config(**fields)):
        (folder / "metrics.jsonl").write_text("{}\n")
    return folder


def test_default_folders_are_numbered_and_the_last_is_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(3):
        folder = resume.choose_run_folder("", "sft-tiny", "never")
        names.append(folder.name)
        begun(folder.local_dir)
    assert names == ["sft-tiny", "sft-tiny-2", "sft-tiny-3"]
    begun(tmp_path / "runs" / "sft-tiny-big")
    assert resume.choose_run_folder("", "sft-tiny", "auto").name == "sft-tiny-3"
    assert resume.choose_run_folder("", "sft-7b", "auto").name == "sft-7b"


def test_a_folder_in_use_is_refused(tmp_path):
    folder = begun(tmp_path / "run")
    with pytest.raises(InputError, match=r"not empty.*resume=auto"):
        resume.choose_run_folder(str(folder), "x", "never")
    assert resume.choose_run_folder(str(folder), "x", "auto").local_dir == folder


def test_a_run_that_never_began_can_be_started_again_with_another_config(tmp_path):
    folder = tmp_path / "run"
    with resume.lock_run_folder(RunFolder(folder), config()):
        (folder / "model").mkdir()
        (folder / "checkpoints").mkdir()
        (folder / "metrics.jsonl").write_text("")
    for when in resume.RESUME:
        assert resume.choose_run_folder(str(folder), "x", when).local_dir == folder
        resume.check_same_config(RunFolder(folder), config(optim={"lr": 2.0}))


def test_a_folder_with_nothing_but_a_half_written_file_is_free(tmp_path):
    """The folder holds nothing but the temporary file of the first file that a run writes."""
    older = (".hf.partial-12", "metrics.jsonl.tmp")
    for name in (".config.json.tmp", ".hf.tmp", ".metrics.jsonl.tmp", ".model.tmp", *older):
        (tmp_path / name).write_text("{")
    assert resume.choose_run_folder(str(tmp_path), "x", "auto").local_dir == tmp_path
    assert resume.choose_run_folder(str(tmp_path), "x", "never").local_dir == tmp_path
    (tmp_path / ".thesis.tex").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        resume.choose_run_folder(str(tmp_path), "x", "never")


def test_a_folder_of_other_files_is_no_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="not a run"):
        resume.choose_run_folder(str(tmp_path), "x", "auto")


def test_a_restart_may_change_only_what_cannot_change_the_result(tmp_path):
    folder = begun(tmp_path / "run")
    resume.check_same_config(RunFolder(folder), config())
    resume.check_same_config(RunFolder(folder), config(out="elsewhere", log={"every": 5}))
    with pytest.raises(InputError, match=r"optim.lr is 2.0.*began with 1.0"):
        resume.check_same_config(RunFolder(folder), config(optim={"lr": 2.0}))
    with pytest.raises(InputError, match=r"config.seed is 1"):
        resume.check_same_config(RunFolder(folder), config(seed=1))


def test_a_models_folder_is_no_run(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": []}')
    (tmp_path / "model.safetensors").write_text("x")
    with pytest.raises(InputError, match="is a model, not a run"):
        resume.choose_run_folder(str(tmp_path), "x", "auto")


def test_a_second_process_in_a_run_folder_is_refused(tmp_path):
    code = f"""
from pathlib import Path
from ml_collections import ConfigDict
from tljax.storage.run_folder import RunFolder
from tljax.training.resume import lock_run_folder
with lock_run_folder(RunFolder(Path({str(tmp_path)!r})), ConfigDict({{"run": "sft", "resume": "never"}})): pass
"""

    def other():
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr

    with resume.lock_run_folder(RunFolder(tmp_path), config()) as begun:
        assert not begun and "another process is training there" in other()
        (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert "not empty" in other()
    with resume.lock_run_folder(RunFolder(tmp_path), config(resume="auto")) as begun:
        assert begun
    assert not (tmp_path / "lock").exists()


def test_a_folder_that_cannot_hold_a_run_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    for place in (file, file / "run"):
        with pytest.raises(InputError, match="is a file"):
            resume.choose_run_folder(str(place), "x", "never")
    with (
        pytest.raises(InputError, match="cannot be written"),
        resume.lock_run_folder(RunFolder(file / "run"), config()),
    ):
        pass


def test_a_restart_begins_with_what_the_run_began_with(tmp_path):
    facts: dict[str, str | int] = {"rows": "a", "updates": 3}
    with resume.lock_run_folder(RunFolder(tmp_path), config()):
        resume.record_first_start(RunFolder(tmp_path), facts)
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with resume.lock_run_folder(RunFolder(tmp_path), config(resume="auto")):
        resume.record_first_start(RunFolder(tmp_path), facts)
        for name, told in (("rows", "other training rows"), ("updates", "other numbers of updates")):
            with pytest.raises(InputError, match=told):
                resume.record_first_start(RunFolder(tmp_path), facts | {name: "b"})


def test_a_run_that_ended_before_its_first_update_does_not_bind_the_next(tmp_path):
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / "0.jsonl").write_text("{}\n")
    with resume.lock_run_folder(RunFolder(tmp_path), config()):
        resume.record_first_start(RunFolder(tmp_path), {"rows": "a"})
    with resume.lock_run_folder(RunFolder(tmp_path), config()):
        resume.record_first_start(RunFolder(tmp_path), {"rows": "b"})
    assert json.loads((tmp_path / "begun.json").read_text()) == {"rows": "b"}
    assert not (tmp_path / "rollouts").exists()
    # Nor do the scores before it.
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "eval_domain_TS": 50.0}\n')
    with resume.lock_run_folder(RunFolder(tmp_path), config(seed=1)):
        assert not (tmp_path / "metrics.jsonl").exists()


def test_the_queries_may_change_while_no_checkpoint_is_chosen_by_them(tmp_path):
    def asking(best, queries, **more):
        return config(eval={"best": best, "queries": queries}, **more)

    folder = begun(tmp_path / "run")  # by a version that had no eval.best
    resume.check_same_config(RunFolder(folder), asking("loss", 3))
    for best in ("loss", "domain_CF"):
        folder = tmp_path / best
        with resume.lock_run_folder(RunFolder(folder), asking(best, 3)):
            (folder / "metrics.jsonl").write_text('{"step": 1}\n')
        if best == "loss":
            resume.check_same_config(RunFolder(folder), asking(best, 4, resume="auto"))
        else:
            with pytest.raises(InputError, match=r"eval.queries is 4.*began with 3"):
                resume.check_same_config(RunFolder(folder), asking(best, 4, resume="auto"))


def test_json_is_written_whole_or_not_at_all(tmp_path):
    atomic.write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        atomic.write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    with pytest.raises(InputError, match=r"a.json|config.json"):
        resume.read_run_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        resume.read_run_config(tmp_path)


def test_a_full_disk_is_one_line_and_keeps_what_was_there(tmp_path):
    """Writes beyond a few bytes fail, as on a full disk. A restart removes a line that was cut short."""
    place, log = tmp_path / "a.json", tmp_path / "log.jsonl"
    atomic.write_json(place, {"a": 1})
    atomic.append_jsonl(log, [{"step": 1}])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
        with pytest.raises(InputError, match=rf"^{place}: cannot be written \(File too large\); make room") as caught:
            atomic.write_json(place, {"a": "x" * 100})
        assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match=rf"^{log}: cannot be written \(File too large\); make room"):
            atomic.append_jsonl(log, [{"step": 2, "text": "x" * 100}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "log.jsonl"]
    assert json.loads(place.read_text()) == {"a": 1}
    assert log.read_text() != '{"step": 1}\n'
    truncate_after(log, 2)
    assert atomic.read_jsonl(log) == [{"step": 1}]
