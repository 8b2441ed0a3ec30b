"""A local emulator of Google Cloud Storage, as gcsfs and TensorStore need it."""

import contextlib
import http
import importlib.util
import os
import socket
import threading
from pathlib import Path

import pytest


def emulator_with_generations(patch):
    """The emulator's module, made to tell an object's generation and to refuse to replace another one.

    TensorStore's commits stand on both; without them what several processes wrote is lost.
    """
    from gcp_storage_emulator import server
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import objects

    download, upload_, lock = objects.download, objects._media_upload, threading.Lock()

    def generation(request, storage, name):
        try:
            return storage.get_file_obj(request.params["bucket_name"], name)["generation"]
        except NotFound:
            return "0"

    def told(request, response, storage, *rest, **more):
        response["x-goog-generation"] = generation(request, storage, request.params["object_id"])
        return download(request, response, storage, *rest, **more)

    def conditional(request, response, storage):
        with lock:
            wanted = request.query.get("ifGenerationMatch")
            if wanted and wanted[0] != generation(request, storage, request.query["name"][0]):
                assert request.data is not None  # read, so that the connection can go on
                response.status = http.HTTPStatus.PRECONDITION_FAILED
                return None
            return upload_(request, response, storage)

    def replaced(methods):
        return {method: told if call is download else call for method, call in methods.items()}

    patch.setattr(objects, "download", told)
    patch.setattr(objects, "_media_upload", conditional)
    patch.setattr(server, "HANDLERS", tuple((pattern, replaced(methods)) for pattern, methods in server.HANDLERS))
    return server


@contextlib.contextmanager
def emulator(home: Path):
    """A server with one empty bucket, and the variables by which the libraries find it; objects by name.

    home: a folder for the copies that are made of objects.
    """
    for name in ("gcsfs", "gcp_storage_emulator"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed; pip install 'tljax[test]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        address = f"http://127.0.0.1:{port}"
        patch.setenv("STORAGE_EMULATOR_HOST", address)  # gcsfs and google-cloud-storage
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        patch.setenv("GOOGLE_CLOUD_PROJECT", "tljax")
        patch.setenv("HF_HOME", str(home))
        patch.setattr("huggingface_hub.constants.HF_HOME", os.environ["HF_HOME"])
        # Connections side by side that wait for it; beyond 5 the emulator's server forgets some, and both sides wait.
        patch.setattr("http.server.HTTPServer.request_queue_size", 128)
        import gcsfs

        # A client that has all it needs closes the connection; the server's trace would reach whatever test runs then.
        patch.setattr("socketserver.BaseServer.handle_error", lambda *_: None)
        server = emulator_with_generations(patch).create_server(
            "127.0.0.1", port, in_memory=True, default_bucket="bucket"
        )
        server.start()
        yield gcsfs.GCSFileSystem(token="anon")
        server.stop()
        # They keep the address of this server.
        gcsfs.GCSFileSystem.clear_instance_cache()
