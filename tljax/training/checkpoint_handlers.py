"""Orbax handlers for the parts of a checkpoint, which report an error before Orbax waits for the other processes."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orbax.checkpoint as ocp


class StateHandler(ocp.PyTreeCheckpointHandler):
    """Writes the arrays of a state, and calls `on_error` at once with an error."""

    def __init__(self, on_error: Callable[[Exception], None]):
        super().__init__()
        self._on_error = on_error

    async def async_save(self, *args: Any, **more: Any) -> list[Any]:
        return [_SavePart(part, self._on_error) for part in await super().async_save(*args, **more) or ()]

    def finalize(self, directory: Any) -> None:
        try:
            super().finalize(directory)
        except Exception as error:
            self._on_error(error)
            raise


class MetadataHandler(ocp.JsonCheckpointHandler):
    """Writes the metadata and delays the commit until `before_commit` has returned; calls `on_error` with an error."""

    def __init__(self, before_commit: Callable[[], None], on_error: Callable[[Exception], None]):
        super().__init__()
        self._before_commit, self._on_error = before_commit, on_error
        self._thread = ThreadPoolExecutor(max_workers=1)

    async def async_save(self, directory: Any, item: Any = None, args: Any = None) -> list[Any]:
        written = await super().async_save(directory, item, args) or ()
        return [_SavePart(part, self._on_error) for part in (*written, self._thread.submit(self._before_commit))]

    def close(self) -> None:
        super().close()
        self._thread.shutdown()


class _SavePart:
    """The future of one part of a save, on which Orbax waits; calls `on_error` with its error."""

    def __init__(self, part: Any, on_error: Callable[[Exception], None]):
        self._part, self._on_error = part, on_error

    def result(self, timeout: float | None = None) -> Any:
        try:
            return self._part.result(timeout=timeout)
        except Exception as error:
            self._on_error(error)
            raise

    def cancel(self) -> bool | None:
        return self._part.cancel()
