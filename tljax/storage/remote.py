"""Downloads and uploads of files and folders at addresses such as gs://BUCKET/NAME, through fsspec.

An object store can neither append to an object nor rename it: an object is complete or absent, and a folder is a common
prefix of names. Local copies are under $HF_HOME/tljax, ordered by address, and are renewed only if the objects changed.
"""

# The caches of fsspec cannot be used here (tried with 2026.9): filecache names a file by a hash, or by the last part of
# its path, so that two config.json collide and a model's folder cannot be opened; a failed download leaves half a file.

import contextlib
import fnmatch
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from tljax.core.errors import InputError, StoreUnreachable, explain_disk_errors, one_line
from tljax.core.units import format_bytes
from tljax.distributed import processes
from tljax.storage.atomic import atomic_path
from tljax.storage.unreachable import is_unreachable

# The fields of an object's listing that change with its content; each store has its own.
STAMPS = ("size", "generation", "etag", "ETag", "md5Hash", "mtime", "LastModified", "created")
EXTRAS = {"gs": "gcs", "gcs": "gcs"}  # scheme -> the extra of tljax that it needs
CACHE_FULL = "make room, or set HF_HOME to a folder on a larger disk"
MIN_LOGGED_BYTES = 2**28  # a copy of at least this size is announced in a line
ALL_FILES = ("**",)  # the patterns that match all files, also those in subfolders


def is_remote(path: object) -> bool:
    """Returns True if a path is an address, such as gs://BUCKET/NAME."""
    return "://" in str(path)


def cache_folder() -> Path:
    """Returns the local folder that holds copies and the working folders of runs."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME).expanduser() / "tljax"


def cache_path(address: str, kind: str) -> Path:
    """Returns the path in the cache that belongs to an address; kind: the subfolder of the cache."""
    scheme, _, rest = address.partition("://")
    return cache_folder() / kind / scheme / rest.strip("/")


def local_path(path: str, field: str, patterns: Sequence[str] = ("*",)) -> Path:
    """Returns `path` itself if it is local, or a local copy of the file or folder at that address.

    field: the setting that holds the path, for messages. patterns: the files of a folder that are needed, such as
    "*.json". Raises InputError if the address is empty or cannot be read, or if the cache cannot be written. A local
    path is not checked.
    """
    return fetch(path, field, patterns) if is_remote(path) else Path(path).expanduser()


def fetch(address: str, field: str, patterns: Sequence[str] = ("*",)) -> Path:
    """Returns the local copy of a file or folder, renewed if the content has changed. Each file is complete."""
    target = cache_path(address, "copies")
    with explain_store_errors(address, field):
        objects = list_objects(address, ALL_FILES)
        wanted = {name: s for name, s in objects.items() if name == "" or any(_matches(name, p) for p in patterns)}
        if not wanted:
            raise FileNotFoundError(address)
    with explain_disk_errors(target, CACHE_FULL):
        target.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(target.with_name(f".{target.name}.lock")):
            _copy(address, field, wanted, objects, target)
    return target


def list_objects(address: str, patterns: Sequence[str] = ("*",)) -> dict[str, dict[str, Any]]:
    """Returns {name below the address: {field of STAMPS: value}}; an object at the address itself has the name "".

    Raises the errors of the store's library, so call it inside `explain_store_errors`.
    """
    fs, root = _open(address)
    fs.invalidate_cache()
    root = root.rstrip("/")
    infos = fs.find(root, detail=True)
    objects = {name[len(root) :].strip("/"): info for name, info in infos.items() if info["type"] == "file"}
    if "" in objects:
        objects = {"": objects[""]}
    wanted = {name: info for name, info in objects.items() if name == "" or any(_matches(name, p) for p in patterns)}
    return {name: {word: str(info[word]) for word in STAMPS if word in info} for name, info in wanted.items()}


def _matches(name: str, pattern: str) -> bool:
    """Returns True if a file's name below its folder matches a pattern, where "*" matches no "/"."""
    return pattern == "**" or (name.count("/") == pattern.count("/") and fnmatch.fnmatch(name, pattern))


def _copy(
    address: str, field: str, wanted: Mapping[str, dict[str, str]], objects: Mapping[str, dict[str, str]], target: Path
) -> None:
    """Makes `target` a copy of the `wanted` among all `objects`; a file beside it records what was copied."""
    record = target.with_name(f".{target.name}.copied")
    copied = json.loads(record.read_text()) if record.is_file() and target.exists() else {}
    if copied.items() >= wanted.items() and copied.keys() <= objects.keys():
        return
    # Remove a file that has become a folder or the reverse, and files whose objects are gone.
    if target.is_dir() == ("" in wanted):
        copied = {}
        shutil.rmtree(target, ignore_errors=True)
        target.unlink(missing_ok=True)
    record.unlink(missing_ok=True)
    for path in target.rglob("*"):
        if path.is_file() and not path.name.startswith(".") and path.relative_to(target).as_posix() not in objects:
            path.unlink()
    # Copy what is new or has changed. The record is absent meanwhile, so a kill leads to a complete new copy.
    missing = [name for name, stamp in wanted.items() if copied.get(name) != stamp]
    size = sum(int(wanted[name].get("size", 0)) for name in missing)
    if size >= MIN_LOGGED_BYTES:
        print(f"copying {address}, {format_bytes(size, 1, 'GB')}, to {target}", file=sys.stderr, flush=True)
    _get(address, {name: target / name if name else target for name in missing}, field)
    record.write_text(json.dumps({name: stamp for name, stamp in copied.items() if name in objects} | dict(wanted)))


def download(address: str, target: Path, patterns: Sequence[str], field: str) -> None:
    """Copies the objects at an address that match the patterns into a folder. An empty address is no error."""
    with explain_store_errors(address, field):
        names = list_objects(address, patterns)
    _get(address, {name: target / name for name in names}, field)


def object_sizes(address: str, field: str) -> dict[str, int]:
    """Returns the size in bytes of every object at an address, by its name below it."""
    with explain_store_errors(address, field):
        return {name: int(stamp["size"]) for name, stamp in list_objects(address, ALL_FILES).items()}


def read_blocks(address: str, starts: Sequence[int], length: int, field: str) -> list[bytes]:
    """Returns `length` bytes of an object from each start, read concurrently."""
    if not length:
        return [b""] * len(starts)
    with explain_store_errors(address, field):
        fs, path = _open(address)
        return fs.cat_ranges([path] * len(starts), list(starts), [start + length for start in starts], on_error="raise")


def _get(address: str, paths: Mapping[str, Path], field: str) -> None:
    """Downloads objects, {name below the address: local path}, concurrently; each file is complete or absent."""
    fs, root = _open(address)
    with contextlib.ExitStack() as stack, explain_store_errors(address, field):
        temporary = [stack.enter_context(atomic_path(path)) for path in paths.values()]
        for path in temporary:
            path.parent.mkdir(parents=True, exist_ok=True)
        fs.get([f"{root.rstrip('/')}/{name}".rstrip("/") for name in paths], [str(path) for path in temporary])


def upload(files: Mapping[str, Path], field: str, *, growing: bool = False) -> None:
    """Writes local files, {address: path}, to their addresses, concurrently; each object is complete or absent.

    growing: the files are small and may grow meanwhile; each is read once and uploaded as it was then. Raises
    InputError if one cannot be written.
    """
    if not files:
        return
    first = next(iter(files))
    with explain_store_errors(first, field):
        fs, _ = _open(first)
        objects = {fs._strip_protocol(address): path for address, path in files.items()}
        if growing:
            fs.pipe({name: path.read_bytes() for name, path in objects.items()})
        else:
            fs.put([str(path) for path in objects.values()], list(objects))


def remove_objects(address: str, field: str) -> None:
    """Removes the file or folder at an address; it is no error if there is none."""
    with explain_store_errors(address, field):
        fs, root = _open(address)
        fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            fs.rm(root, recursive=True)


def remove_other_objects(address: str, name: str) -> None:
    """Removes all objects at an address except `name`. Raises the errors of the store's library."""
    fs, root = _open(address)
    others = [f"{root.rstrip('/')}/{other}" for other in list_objects(address, ALL_FILES) if other != name]
    if others:
        fs.rm(others)


@contextlib.contextmanager
def explain_store_errors(address: str, field: str) -> Iterator[None]:
    """Raises InputError, in one line, for the errors of stores and their libraries in the body.

    For a local path, errors pass unchanged.
    """
    if not is_remote(address):
        yield
        return
    try:
        yield
    except InputError:
        raise
    # Every store has its own exceptions, and the libraries also raise those of HTTP and of credentials.
    except Exception as error:
        kind = StoreUnreachable if is_unreachable(error) else InputError
        raise kind(f"{field} {address}: {_explain(address, error)}") from error


def _explain(address: str, error: Exception) -> str:
    scheme = address.partition("://")[0]
    text = one_line(error)[:200]
    if isinstance(error, ImportError):
        extra = EXTRAS.get(scheme)
        remedy = f"pip install 'tljax[{extra}]'" if extra else "install the package that it names"
        return f"addresses of {scheme}:// need a package that is not installed ({text}); {remedy}"
    if isinstance(error, FileNotFoundError):
        return "there is no such bucket, folder or file, or you may not see it; check the address and gcloud auth list"
    code = str(getattr(error, "code", "") or getattr(error, "status", ""))
    refused = ("forbidden", "permission", "unauthorized", "anonymous caller", "invalid credentials", "credentials were")
    if isinstance(error, PermissionError) or code in ("401", "403") or any(word in text.lower() for word in refused):
        return (
            f"no permission ({text}); run gcloud auth application-default login, or give the machine's service account "
            "the role Storage Object User on the bucket"
        )
    if "protocol not known" in text.lower():
        return f"addresses of {scheme}:// are not known; give gs://BUCKET/NAME or a local path"
    return f"could not be reached ({type(error).__name__}: {text}); check the address and the network, then try again"


def _open(address: str) -> tuple[Any, str]:
    """Returns the file system of an address, and the path in it."""
    from fsspec.core import url_to_fs

    # gcsfs logs a trace of 60 lines for errors that it also raises.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    return url_to_fs(address)


@contextlib.contextmanager
def with_local_paths(config: Any, *, reads: Sequence[str], writes: Sequence[str] = ()) -> Iterator[None]:
    """Replaces addresses in fields of the config by local paths, as long as the body runs.

    reads: fields whose addresses are copied to this machine first. writes: fields that name output files. Each of them
    is written into a separate local folder, and at the end process 0 uploads all files of that folder to the parent of
    the address. Files that end in .partial are not uploaded: the same command continues from them on this machine.
    Raises InputError, before the body runs, if an address to read cannot be read, or if one to write exists already.
    """
    for field in reads:
        block, name = _block(config, field)
        if is_remote(block.get(name, "")):
            block[name] = str(fetch(block[name], f"config.{field}", ALL_FILES))
    wanted = [(field, config[field]) for field in writes if is_remote(config[field])]
    for field, address in wanted:
        if processes.run_on_primary(lambda field=field, address=address: _exists(address, f"config.{field}")):
            raise InputError(f"config.{field} {address} is there already; name another, or remove it")
        path = _output_path(address)
        processes.run_on_primary(
            lambda field=field, address=address: _upload_earlier_output(address, f"config.{field}")
        )
        with explain_disk_errors(path, CACHE_FULL):
            path.parent.mkdir(parents=True, exist_ok=True)
        config[field] = str(path)
    yield
    for field, address in wanted if processes.is_primary() else ():
        _upload_output(address, f"config.{field}")


def _exists(address: str, field: str) -> bool:
    with explain_store_errors(address, field):
        return bool(list_objects(address, ALL_FILES))


def _upload_earlier_output(address: str, field: str) -> None:
    """Uploads the output of an earlier command whose upload failed. Raises InputError to report that it did so."""
    path = _output_path(address)
    if path.exists() and not any(path.parent.glob("*.partial")):
        _upload_output(address, field)
        raise InputError(
            f"{field} {address}: an earlier command wrote it here but could not upload it; it has been uploaded now: "
            "give another name for another output"
        )


def _upload_output(address: str, field: str) -> None:
    """Uploads the output for an address, after the files beside it. An equal object that exists already is kept."""
    folder, parent = _output_path(address).parent, address.rstrip("/").rpartition("/")[0]
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {f"{parent}/{name}": folder / name for name in names if name[0] != "." and name[-8:] != ".partial"}
    for target, path in list(files.items()):
        sizes = object_sizes(target, field)
        if sizes == {"": path.stat().st_size}:
            del files[target]
        elif sizes:
            raise InputError(f"{field} {target} is there already; the new files lie in {folder}: copy them by hand")
    # The object at the address itself comes last: its presence shows that the upload is complete.
    last = {target: files.pop(target) for target in list(files) if f"{target}/".startswith(f"{address.rstrip('/')}/")}
    upload(files, field)
    upload(last, field)
    print(f"written       {address}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)


def _block(config: Any, field: str) -> tuple[Any, str]:
    """Returns the block of a config that has a dotted field, and the field's name in that block."""
    *blocks, name = field.split(".")
    for block in blocks:
        config = config.get(block, {})
    return config, name


def _output_path(address: str) -> Path:
    """Returns the local path at which the output for an address is written, in a folder used for nothing else."""
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    return cache_folder() / "made" / key / address.rstrip("/").rpartition("/")[2]
