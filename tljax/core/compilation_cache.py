"""The folder of compiled programs on the disk, so that a command that is started again does not compile them again."""

import contextlib
import hashlib
import os
import platform
import time
from pathlib import Path

FOLDER_VARIABLE = "JAX_COMPILATION_CACHE_DIR"  # JAX's own; another folder or address
SWITCH_VARIABLE = "JAX_ENABLE_COMPILATION_CACHE"  # JAX's own; false uses no folder
# JAX stores no program that compiles in less than a second. A start compiles dozens of them.
MIN_SECONDS_VARIABLE = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
MAX_AGE = 30 * 86_400.0  # seconds


def default_folder() -> Path:
    """Returns the folder of this machine's programs in the user's cache.

    Processors differ in their instructions, and a home may be shared by machines: each kind has its own folder.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "tljax" / "programs" / f"{platform.machine()}-{_processor_hash()}"


def use_compilation_cache() -> None:
    """Makes JAX store compiled programs in `default_folder`, unless an environment variable of JAX says otherwise.

    JAX reads the variables when it is imported, so this is called before. Programs of more than 30 days ago are
    removed: JAX's own limit of the folder's size looks at every file before each write, and after a kill at the wrong
    moment never works again. Without a folder that can be written, JAX compiles as ever.
    """
    if os.environ.get(FOLDER_VARIABLE) or os.environ.get(SWITCH_VARIABLE, "").lower() in ("0", "false", "off", "no"):
        return
    folder = default_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        entries = list(folder.iterdir())
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    oldest = time.time() - MAX_AGE
    for entry in entries:
        # Another process may remove it at the same time.
        with contextlib.suppress(OSError):
            if entry.stat().st_mtime < oldest:
                entry.unlink()
    os.environ[FOLDER_VARIABLE] = str(folder)
    os.environ.setdefault(MIN_SECONDS_VARIABLE, "0")


def _processor_hash() -> str:
    """Returns a hash of the processor's instruction sets, as Linux lists them; elsewhere of its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    listed = [line for line in lines if line.lower().startswith(("flags", "features"))]
    features = listed[0] if listed else platform.processor()
    return hashlib.sha256(features.encode()).hexdigest()[:8]
