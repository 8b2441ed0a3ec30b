"""A save is an interruption if the store does not answer, and an error if the store refuses it."""

import errno
import os

import aiohttp
import pytest
import requests

from tests.training.states import abstract, committed, random_state
from tljax.core.command import run_or_exit
from tljax.core.errors import InputError, Interruption, StoreUnreachable
from tljax.storage import run_folder
from tljax.storage import unreachable as module
from tljax.training import resume
from tljax.training.checkpoint import Checkpoints


class HttpError(Exception):
    """An error as gcsfs raises it; the name of its module decides."""

    __module__ = "gcsfs.retry"

    def __init__(self, code):
        super().__init__(f"the store says {code}")
        self.code = code


AWAY = [
    aiohttp.ServerDisconnectedError(),
    aiohttp.ClientConnectionError("Cannot connect to host storage.googleapis.com:443"),
    requests.exceptions.ConnectionError("Max retries exceeded"),
    HttpError(503),
    HttpError(429),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    TimeoutError(),
    ValueError("UNAVAILABLE: Error writing object: CURL error Couldn't connect to server"),
    ValueError("DEADLINE_EXCEEDED: no answer"),
    OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN)),  # gcsfuse has died
    OSError(errno.EIO, os.strerror(errno.EIO)),
    ValueError("UNKNOWN: write [os_error_code='116']"),  # ESTALE, of NFS
]
REFUSED = [
    HttpError(403),
    OSError("Forbidden: no storage.objects.create"),
    PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    ValueError("PERMISSION_DENIED: no storage.objects.create"),
    ValueError("INTERNAL: write [os_error_code='28']"),
]


def names(errors):
    return [f"{type(error).__name__} {error}"[:40] for error in errors]


@pytest.fixture
def fail(tmp_path, monkeypatch):
    """fail(error) -> the error of a save in which Orbax raises it; step 1 is saved before."""

    def save(error):
        state = random_state(abstract((1, 1, 1)), seed=1)
        with Checkpoints(tmp_path, keep=2) as checkpoints:
            checkpoints.save(1, state, {})
            checkpoints.wait()
            with monkeypatch.context() as patch, pytest.raises(InputError) as caught:
                patch.setattr(checkpoints._manager, "save", lambda *_, **__: (_ for _ in ()).throw(error))
                checkpoints.save(2, state, {})
        assert committed(tmp_path) == ["1"] and "\n" not in str(caught.value)
        return caught.value

    return save


@pytest.mark.parametrize("error", AWAY, ids=names(AWAY))
def test_a_save_that_gets_no_answer_is_an_interruption(error, fail, capsys):
    raised = fail(error)
    assert isinstance(raised, Interruption) and "--config.resume=auto" in str(raised)

    def again():
        raise raised

    with pytest.raises(SystemExit) as stop:
        run_or_exit(again)
    assert stop.value.code == 75 and capsys.readouterr().err.startswith("interrupted: ")


@pytest.mark.parametrize("error", REFUSED, ids=names(REFUSED))
def test_a_save_that_is_refused_is_final(error, fail):
    raised = fail(error)
    assert not isinstance(raised, Interruption | StoreUnreachable) and "last good one is of step 1" in str(raised)


@pytest.mark.parametrize(("failures", "calls"), [(0, 1), (2, 3), (9, 4)])
def test_uploads_are_tried_again_a_few_times(failures, calls, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.0, 0.0, 0.0))
    tried = []

    def upload(files, field, growing):
        tried.append(list(files))
        if len(tried) <= failures:
            raise StoreUnreachable("config.out gs://bucket/run: could not be reached")

    monkeypatch.setattr(run_folder.remote, "upload", upload)
    (tmp_path / "metrics.jsonl").write_text("{}")
    folder = run_folder.RunFolder(tmp_path, "gs://bucket/run")
    if failures < 4:
        folder.upload()
    else:
        with pytest.raises(Interruption, match=r"could not be reached; start the same command again with"):
            folder.upload()
    assert tried == [["gs://bucket/run/metrics.jsonl"]] * calls


def test_a_store_that_goes_away_in_a_run_is_an_interruption_and_before_it_an_error(tmp_path):
    from ml_collections import ConfigDict

    config = ConfigDict({"run": "sft", "out": str(tmp_path / "run"), "resume": "never"})
    away = StoreUnreachable("export to gs://bucket/run/hf: could not be reached")
    folder = resume.choose_run_folder(config.out, "x", config.resume)
    with (
        pytest.raises(Interruption, match="could not be reached; start the same"),
        resume.lock_run_folder(folder, config),
    ):
        raise away
    assert not isinstance(away, Interruption)


@pytest.mark.slow
@pytest.mark.parametrize("answer", [503, None])
def test_a_store_that_answers_no_more_interrupts_the_save(store, answer, monkeypatch):
    """The save goes through Orbax, gcsfs and TensorStore. With None, each connection is closed."""
    import socketserver

    from gcp_storage_emulator import server

    def unavailable(request, response, storage, *_, **__):
        assert request.data is None or request.data  # read, so that the connection can go on
        response.status = answer

    state = random_state(abstract((1, 1, 1)), seed=1)
    checkpoints = Checkpoints(f"gs://bucket/away{answer}", keep=2)
    checkpoints.save(1, state, {})
    checkpoints.wait()
    with monkeypatch.context() as patch:
        if answer is None:
            patch.setattr(socketserver.BaseServer, "finish_request", lambda self, request, _: request.close())
        else:
            away = tuple((path, dict.fromkeys(methods, unavailable)) for path, methods in server.HANDLERS)
            patch.setattr(server, "HANDLERS", away)
        with pytest.raises(Interruption, match="could not be written"):
            checkpoints.save(2, state, {})
            checkpoints.wait()
    checkpoints.close()
    with Checkpoints(f"gs://bucket/away{answer}", read_only=True) as again:
        assert again.steps() == [1]
