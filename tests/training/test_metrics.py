"""The metrics of a run: metrics.jsonl after steps, kills, NaNs and restarts; progress lines, events and speed."""

import json
import math
import os
import resource
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tljax.core.errors import InputError
from tljax.distributed import processes
from tljax.training import metrics
from tljax.training.metrics import TIMING_FIELDS, LogOptions, MetricsLogger
from tljax.training.mfu import mfu, peak_flops


def open_logger(folder, resume_step=0, total_steps=100, every=10, **more) -> MetricsLogger:
    defaults = {"tensorboard": False, "wandb": False}
    options = LogOptions(every=every, **(defaults | more))
    return MetricsLogger(folder, options, resume_step=resume_step, total_steps=total_steps)


def lines(folder) -> list[dict]:
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def untimed(folder) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in TIMING_FIELDS} for line in lines(folder)]


def loss(step) -> dict:
    return {"loss": jnp.float32(1 / step), "tokens": jnp.int32(1000 + step)}


def test_lines_are_plain_numbers_step_first(tmp_path):
    with open_logger(tmp_path) as logger:
        logger.push(1, {"loss": jnp.float32(0.1), "lr": jnp.bfloat16(0.5)}, {"tokens": np.int64(7), "note": "x"})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text.startswith('{"step": 1, ') and text.endswith("}\n") and '"loss": 0.1,' in text
    (line,) = lines(tmp_path)
    assert (line["lr"], line["tokens"], line["note"]) == (0.5, 7, "x")
    assert line["seconds"] > 0 and line["tokens_per_second"] == pytest.approx(7 / line["seconds"], rel=1e-3)
    assert {"seconds", "time", "tokens_per_second"} <= set(line) & set(TIMING_FIELDS)


def test_lines_are_on_the_disk_before_a_checkpoint_follows_them(tmp_path, monkeypatch):
    """A machine that stops would otherwise lose lines of updates that a resumed run does not repeat."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    with open_logger(tmp_path) as logger:
        logger.push(1, loss(1), {})
        logger.flush()
        logger.log_metrics(1, {"eval_loss": 0.25})
        logger.flush()
        assert synced[-1] == (tmp_path / "metrics.jsonl").stat().st_size > synced[0] > 0


def test_float32_values_survive_exactly(tmp_path):
    values = np.random.default_rng(0).normal(size=200).astype(np.float32) * np.float32(10.0) ** np.arange(-20, 20, 0.2)
    values = values.astype(np.float32)
    with open_logger(tmp_path) as logger:
        for step, value in enumerate(values, 1):
            logger.push(step, {"loss": jnp.asarray(value)}, {})
    np.testing.assert_array_equal(np.array([line["loss"] for line in lines(tmp_path)], np.float32), values)


def test_one_step_stays_pending(tmp_path):
    logger = open_logger(tmp_path)
    logger.push(1, loss(1), {})
    assert lines(tmp_path) == []
    logger.push(2, loss(2), {})
    assert [line["step"] for line in lines(tmp_path)] == [1]
    logger.flush()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    logger.push(3, loss(3), {})
    logger.log_metrics(3, {"eval_loss": 0.25})
    assert untimed(tmp_path)[2:] == [{"step": 3, "loss": 0.33333334, "tokens": 1003}, {"step": 3, "eval_loss": 0.25}]
    logger.push(4, loss(4), {})
    logger.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 3, 4]


def test_resume_continues_as_if_never_killed(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder, steps in [(whole, range(1, 9)), (killed, range(1, 7))]:
        with open_logger(folder) as logger:
            for step in steps:
                logger.push(step, loss(step), {})
    with open(killed / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "lo')
    with open_logger(killed, resume_step=4) as logger:
        assert [line["step"] for line in lines(killed)] == [1, 2, 3, 4]
        for step in range(5, 9):
            logger.push(step, loss(step), {})
    assert untimed(killed) == untimed(whole)
    assert sorted(path.name for path in killed.iterdir()) == ["metrics.jsonl"]


def test_a_half_written_line_within_the_resumed_steps_is_dropped(tmp_path):
    """This includes a line that lacks only its newline: the next line must not be appended to it."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}')
    with open_logger(tmp_path, resume_step=5):
        assert lines(tmp_path) == [{"step": 1}]


@pytest.mark.parametrize("bad", ["not json", "[1]", '{"loss": 1}', '{"step": "x"}'])
def test_a_foreign_line_is_refused_and_the_file_stays(tmp_path, bad):
    text = '{"step": 1}\n' + bad + '\n{"step": 2}\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: [^\n]*$"):
        open_logger(tmp_path, resume_step=2)
    assert (tmp_path / "metrics.jsonl").read_text() == text


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_stops_the_run_and_is_written_as_null(tmp_path, name, value):
    logger = open_logger(tmp_path, tensorboard=True)
    logger.push(1, {"loss": jnp.float32(1)}, {})
    logger.push(2, {"loss": jnp.float32(2), name: jnp.float32(value), "share": jnp.float32(jnp.nan)}, {})
    with pytest.raises(FloatingPointError) as caught:
        logger.push(3, {"loss": jnp.float32(jnp.nan)}, {})
    text = str(caught.value)
    assert "\n" not in text and text.startswith("step 2: ") and f"{name} = {value}" in text and "share = nan" in text
    logger.close()
    written = untimed(tmp_path)
    assert len(written) == 2 and written[1][name] is None and written[1]["share"] is None


def test_other_metrics_may_be_nan(tmp_path):
    with open_logger(tmp_path) as logger:
        logger.push(1, {"loss": jnp.float32(1), "name_accuracy": jnp.float32(jnp.nan)}, {})
    assert untimed(tmp_path) == [{"step": 1, "loss": 1.0, "name_accuracy": None}]


def test_progress_lines_appear_without_a_terminal(tmp_path, capsys):
    with open_logger(tmp_path, total_steps=25, every=10) as logger:
        for step in range(1, 26):
            logger.push(step, {"loss": jnp.float32(step / 7)}, {"tokens": 123})
        logger.log_message("saved")
    out, err = capsys.readouterr()
    shown = out.splitlines()
    assert [line.split()[1] for line in shown if line.startswith("step")] == ["10/25", "20/25", "25/25"]
    assert "loss 1.4286" in shown[0] and "tokens/s" in shown[0] and "ETA 00:00" in shown[0] and err == ""
    assert "saved" in shown


def test_a_bar_appears_on_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: 2, raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((80, 24)))
    with open_logger(tmp_path, total_steps=8, resume_step=4) as logger:
        for step in range(5, 9):
            logger.push(step, loss(step), {})
        logger.log_message("saved")
    out, err = capsys.readouterr()
    assert out == "" and "8/8" in err and "loss 0.1250" in err and "tokens/s" in err and "saved\n" in err


def test_progress_lines_appear_on_a_terminal_without_a_width(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: 2, raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((0, 0)))
    with open_logger(tmp_path, total_steps=1) as logger:
        logger.push(1, loss(1), {})
    out, err = capsys.readouterr()
    assert err == "" and "step 1/1" in out


def events_in(folder):
    """The events of each file, oldest first, read by tensorboardX's own protocol buffers."""
    from tensorboardX.proto.event_pb2 import Event

    read = []
    for file in folder.iterdir():
        data, events = file.read_bytes(), []
        while data:  # TFRecord: length uint64, its checksum, bytes, their checksum
            size = int.from_bytes(data[:8], "little")
            events.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
        read.append(events)
    return sorted(read, key=lambda events: events[0].wall_time)


def test_tensorboard_takes_no_seconds_for_torch(tmp_path):
    """In a new process, since torch is a module of this one; where torch is absent, a stand-in that fails."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    code = "from tljax.training.metrics import _open_events; from pathlib import Path; import sys; "
    code += f"_open_events(Path({str(tmp_path)!r}), 0).close(); assert 'torch' not in sys.modules"
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "events").iterdir())


def hidden_from(events):
    """The steps from which TensorBoard hides events of earlier files."""
    return [e.step for e in events if e.session_log.status == e.session_log.START]


def test_events_of_a_resumed_run_hide_what_was_redone(tmp_path):
    for resume, steps in [(0, range(1, 6)), (3, range(4, 7))]:
        with open_logger(tmp_path, resume_step=resume, tensorboard=True) as logger:
            for step in steps:
                logger.push(step, loss(step), {})
    read = events_in(tmp_path / "events")
    losses = [{e.step: v.simple_value for e in es for v in e.summary.value if v.tag == "loss"} for es in read]
    assert losses == [
        {step: pytest.approx(1 / step) for step in range(1, 6)},
        {step: pytest.approx(1 / step) for step in range(4, 7)},
    ]
    assert [hidden_from(events) for events in read] == [[1], [4]]


def test_events_of_a_run_killed_before_its_first_checkpoint_are_hidden_too(tmp_path, monkeypatch):
    for pid in (1, 2):
        monkeypatch.setattr(metrics.os, "getpid", lambda pid=pid: pid)
        with open_logger(tmp_path, resume_step=0, tensorboard=True) as logger:
            logger.push(1, loss(1), {})
    assert [hidden_from(events) for events in events_in(tmp_path / "events")] == [[1], [1]]


def test_wandb_that_does_not_start_is_one_line(tmp_path, monkeypatch):
    def init(**_):
        raise ConnectionError("api_key not configured\n(no-tty)")  # as wandb.errors.UsageError, of no common class

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, __spec__=object()))
    with pytest.raises(InputError, match=r"^config\.log\.wandb: [^\n]*api_key not configured[^\n]*wandb login[^\n]*$"):
        open_logger(tmp_path, wandb=True)


def test_wandb_that_is_not_installed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^[^\n]*pip install [^\n]*wandb[^\n]*$"):
        open_logger(tmp_path / "new", wandb=True)
    assert not (tmp_path / "new").exists()


def test_wandb_gets_the_same_run_after_a_resume(tmp_path, monkeypatch):
    calls = []

    class Run:
        def define_metric(self, name, step_metric):
            calls.append(("define", name, step_metric))

        def log(self, values):
            calls.append(("log", values["step"], values["loss"]))

        def finish(self):
            calls.append(("finish",))

    def init(**arguments):
        calls.append(("init", arguments["id"], arguments["resume"]))
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, __spec__=object()))
    for resume, step in [(0, 1), (1, 2)]:
        with open_logger(tmp_path, resume_step=resume, wandb=True) as logger:
            logger.push(step, loss(step), {})
    (_, first, how), (_, second, _) = (call for call in calls if call[0] == "init")
    assert first == second and len(first) >= 8 and how == "allow"
    assert [call for call in calls if call[0] == "log"] == [("log", 1, 1.0), ("log", 2, 0.5)]
    assert calls.count(("finish",)) == 2 and ("define", "*", "step") in calls


def test_only_process_0_writes_and_all_check(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "is_primary", lambda: False)
    logger = open_logger(tmp_path / "run", tensorboard=True, every=1)
    logger.push(1, loss(1), {})
    logger.push(2, {"loss": jnp.float32(jnp.nan)}, {})
    logger.log_message("hello")
    with pytest.raises(FloatingPointError, match="step 2"):
        logger.flush()
    logger.close()
    assert not (tmp_path / "run").exists() and capsys.readouterr() == ("", "")


def test_an_unusable_folder_and_a_full_disk_are_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"metrics\.jsonl: cannot be written[^\n]*$"):
        open_logger(tmp_path / "file" / "run")
    logger = open_logger(tmp_path)
    logger._file.close()
    logger._file = open("/dev/full", "ab", buffering=0)
    logger.push(1, loss(1), {})
    with pytest.raises(InputError, match=r"metrics\.jsonl: cannot be written \(No space left[^\n]*$"):
        logger.flush()
    logger.close()


def test_half_a_line_on_a_full_disk_is_refused_in_one_line(tmp_path):
    logger = open_logger(tmp_path)
    logger.log_metrics(1, {"loss": 1.0})
    size = (tmp_path / "metrics.jsonl").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, hard))
        with pytest.raises(InputError, match=r"metrics\.jsonl: cannot be written"):
            logger.log_metrics(2, {"loss": 2.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    logger.close()
    with open_logger(tmp_path, resume_step=2):
        assert untimed(tmp_path) == [{"step": 1, "loss": 1.0}]


@pytest.mark.parametrize(
    "kind,peak",
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("TPU v2", None),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA B200", 2250e12),
        ("cpu", None),
    ],
)
def test_peak_flops_are_known_by_the_kind_of_device(kind, peak):
    assert peak_flops(types.SimpleNamespace(device_kind=kind)) == peak


def test_mfu_is_the_share_of_the_peak_of_all_devices(tmp_path, monkeypatch):
    v5e, cpu = types.SimpleNamespace(device_kind="TPU v5 lite"), jax.devices()[0]
    # 1000 tokens/s of 6 * 7e9 FLOP on 4 devices of 197e12 FLOP/s.
    assert mfu(1000, 42e9, [v5e] * 4) == pytest.approx(42e12 / 788e12)
    assert mfu(1000, 42e9, [v5e, cpu]) is None and mfu(1000, 42e9, []) is None
    with open_logger(tmp_path, flops_per_token=42e9) as logger:
        logger.push(1, loss(1), {})
        logger.flush()
        monkeypatch.setattr(jax, "devices", lambda: [v5e] * 4)
        logger.push(2, loss(2), {})
    first, second = lines(tmp_path)
    assert "mfu" not in first
    assert second["mfu"] == pytest.approx(second["tokens_per_second"] * 42e9 / 788e12, rel=1e-3, abs=1e-6)
