"""Files and folders at addresses such as gs://BUCKET/NAME, through fsspec: copied here to be read, put there when made.

A store of objects can neither append nor rename: an object is there whole or not at all, and a folder is what some
names begin with. Copies lie under $HF_HOME/tljax, by their address, and are made again only where that has changed.
"""

import contextlib
import fnmatch
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from tljax.core.errors import InputError, explain_disk_errors, one_line
from tljax.distributed import processes
from tljax.storage.atomic import atomic_path

# What an object's listing may say of its content; each store has its own words.
STAMPS = ("size", "generation", "etag", "ETag", "md5Hash", "mtime", "LastModified", "created")
PACKAGES = {"gs": "gcs", "gcs": "gcs"}  # extras of tljax by the scheme that needs them
CACHE_FULL = "make room, or set HF_HOME to a folder on a larger disk"
SHOWN = 2**28  # bytes from which a copy is told of


ALL_FILES = ("**",)  # as patterns: all files, those of folders within too


def is_remote(path: object) -> bool:
    """Whether a path is an address of another machine."""
    return "://" in str(path)


def cache_folder() -> Path:
    """The folder of this machine that copies, and working folders of runs, lie in."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME).expanduser() / "tljax"


def cache_path(address: str, kind: str) -> Path:
    """Where something of `kind` with this address lies in the cache."""
    scheme, _, rest = address.partition("://")
    return cache_folder() / kind / scheme / rest.strip("/")


def local_path(path: str, what: str, patterns: Sequence[str] = ("*",)) -> Path:
    """A path of this machine for `path`, which `what` holds: itself, or a copy of what is at that address.

    patterns: of a folder's files, those that are needed, such as "*.json". Raises InputError where nothing is there, or
    it may not be read, and where the cache cannot be written; a path of this machine is not looked at.
    """
    return fetch(path, what, patterns) if is_remote(path) else Path(path).expanduser()


def fetch(address: str, what: str, patterns: Sequence[str] = ("*",)) -> Path:
    """The copy of a file or folder, made where there is none of its content: whole or not at all."""
    target = cache_path(address, "copies")
    with explain_store_errors(address, what):
        there = list_objects(address, ALL_FILES)
        found = {name: stamp for name, stamp in there.items() if name == "" or any(_fits(name, p) for p in patterns)}
        if not found:
            raise FileNotFoundError(address)
    with explain_disk_errors(target, CACHE_FULL):
        target.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(target.with_name(f".{target.name}.lock")):
            _copy(address, what, found, there, target)
    return target


def list_objects(address: str, patterns: Sequence[str] = ("*",)) -> dict[str, dict[str, Any]]:
    """The objects at an address by their names below it, "" for the one that has it, with what tells of their content.

    Raises what the store's library raises; to be called inside `told`.
    """
    fs, root = _open(address)
    fs.invalidate_cache()
    root = root.rstrip("/")
    infos = fs.find(root, detail=True)
    found = {name[len(root) :].strip("/"): info for name, info in infos.items() if info["type"] == "file"}
    if "" in found:
        found = {"": found[""]}
    wanted = {name: info for name, info in found.items() if name == "" or any(_fits(name, p) for p in patterns)}
    return {name: {word: str(info[word]) for word in STAMPS if word in info} for name, info in wanted.items()}


def _fits(name: str, pattern: str) -> bool:
    """Whether a file's name below its folder is one of a pattern; "*" stands for no "/"."""
    return pattern == "**" or (name.count("/") == pattern.count("/") and fnmatch.fnmatch(name, pattern))


def _copy(
    address: str, what: str, found: Mapping[str, dict[str, str]], there: Mapping[str, dict[str, str]], target: Path
) -> None:
    record = target.with_name(f".{target.name}.copied")
    have = json.loads(record.read_text()) if record.is_file() and target.exists() else {}
    if have.items() >= found.items() and have.keys() <= there.keys():
        return
    if target.is_dir() == ("" in found):
        have = {}
        shutil.rmtree(target, ignore_errors=True)
        target.unlink(missing_ok=True)
    record.unlink(missing_ok=True)
    for path in target.rglob("*"):
        if path.is_file() and not path.name.startswith(".") and path.relative_to(target).as_posix() not in there:
            path.unlink()
    missing = [name for name, stamp in found.items() if have.get(name) != stamp]
    size = sum(int(found[name].get("size", 0)) for name in missing)
    if size >= SHOWN:
        print(f"copying {address}, {size / 1e9:,.1f} GB, to {target}", file=sys.stderr, flush=True)
    _get(address, {name: target / name if name else target for name in missing}, what)
    record.write_text(json.dumps({name: stamp for name, stamp in have.items() if name in there} | dict(found)))


def download(address: str, target: Path, patterns: Sequence[str], what: str) -> None:
    """Copies what is at an address into a folder; nothing where nothing is there."""
    with explain_store_errors(address, what):
        found = list_objects(address, patterns)
    _get(address, {name: target / name for name in found}, what)


def object_sizes(address: str, what: str) -> dict[str, int]:
    """The bytes of every object at an address, by its name below it."""
    with explain_store_errors(address, what):
        return {name: int(stamp["size"]) for name, stamp in list_objects(address, ALL_FILES).items()}


def read_blocks(address: str, starts: Sequence[int], length: int, what: str) -> list[bytes]:
    """`length` bytes of an object from each start on, read side by side."""
    if not length:
        return [b""] * len(starts)
    with explain_store_errors(address, what):
        fs, path = _open(address)
        return fs.cat_ranges([path] * len(starts), list(starts), [start + length for start in starts], on_error="raise")


def _get(address: str, places: Mapping[str, Path], what: str) -> None:
    fs, root = _open(address)
    with contextlib.ExitStack() as stack, explain_store_errors(address, what):
        parts = [stack.enter_context(atomic_path(place)) for place in places.values()]
        for part in parts:
            part.parent.mkdir(parents=True, exist_ok=True)
        fs.get([f"{root.rstrip('/')}/{name}".rstrip("/") for name in places], [str(part) for part in parts])


def upload(files: Mapping[str, Path], what: str, *, growing: bool = False) -> None:
    """Writes files of this machine to addresses, side by side; each is there whole or not at all.

    growing: they are small and may grow meanwhile; as they are when they are read. Raises InputError where one cannot
    be written.
    """
    if not files:
        return
    first = next(iter(files))
    with explain_store_errors(first, what):
        fs, _ = _open(first)
        places = {fs._strip_protocol(address): path for address, path in files.items()}
        if growing:
            fs.pipe({place: path.read_bytes() for place, path in places.items()})
        else:
            fs.put([str(path) for path in places.values()], list(places))


def remove_objects(address: str, what: str) -> None:
    """Removes what is at an address, if anything."""
    with explain_store_errors(address, what):
        fs, root = _open(address)
        fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            fs.rm(root, recursive=True)


def remove_other_objects(address: str, name: str) -> None:
    """Removes what is at an address but the object `name`; raises what the store's library raises."""
    fs, root = _open(address)
    others = [f"{root.rstrip('/')}/{other}" for other in list_objects(address, ALL_FILES) if other != name]
    if others:
        fs.rm(others)


@contextlib.contextmanager
def explain_store_errors(address: str, what: str) -> Iterator[None]:
    """Raises InputError, in one line, for what stores and their libraries raise in the body; of a path here nothing."""
    if not is_remote(address):
        yield
        return
    try:
        yield
    except InputError:
        raise
    # Every store has exceptions of its own, and their libraries let those of HTTP and of credentials through.
    except Exception as error:
        raise InputError(f"{what} {address}: {_why(address, error)}") from error


def _why(address: str, error: Exception) -> str:
    scheme = address.partition("://")[0]
    text = one_line(error)[:200]
    if isinstance(error, ImportError):
        extra = PACKAGES.get(scheme)
        cure = f"pip install 'tljax[{extra}]'" if extra else "install the package that it names"
        return f"addresses of {scheme}:// need a package that is not installed ({text}); {cure}"
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
        return f"addresses of {scheme}:// are not known; give gs://BUCKET/NAME or a path of this machine"
    return f"could not be reached ({type(error).__name__}: {text}); check the address and the network, then try again"


def _open(address: str) -> tuple[Any, str]:
    """The file system of an address and the path in it."""
    from fsspec.core import url_to_fs

    return url_to_fs(address)


@contextlib.contextmanager
def with_local_paths(config: Any, *, reads: Sequence[str], writes: Sequence[str] = ()) -> Iterator[None]:
    """Within, fields of the config that are addresses are paths of this machine: copies of what is read, and for what
    is written places whose files, and those beside them, are put beside the address at the end, by process 0.

    What ends in .partial stays here, and the same command goes on from it on this machine. Raises InputError, before
    anything is computed, where something is there already, or cannot be read.
    """
    for field in reads:
        block, name = _block(config, field)
        if is_remote(block.get(name, "")):
            block[name] = str(fetch(block[name], f"config.{field}", ALL_FILES))
    wanted = [(field, config[field]) for field in writes if is_remote(config[field])]
    for field, address in wanted:
        if processes.run_on_primary(lambda field=field, address=address: _is_there(address, f"config.{field}")):
            raise InputError(f"config.{field} {address} is there already; name another, or remove it")
        place = _desk(address)
        processes.run_on_primary(lambda field=field, address=address: _settle(address, f"config.{field}"))
        with explain_disk_errors(place, CACHE_FULL):
            place.parent.mkdir(parents=True, exist_ok=True)
        config[field] = str(place)
    yield
    for field, address in wanted if processes.is_primary() else ():
        _deliver(address, f"config.{field}")


def _is_there(address: str, what: str) -> bool:
    with explain_store_errors(address, what):
        return bool(list_objects(address, ALL_FILES))


def _settle(address: str, what: str) -> None:
    """Puts at an address what an earlier command has made for it, which then says so and ends: InputError."""
    place = _desk(address)
    if place.exists() and not any(place.parent.glob("*.partial")):
        _deliver(address, what)
        raise InputError(
            f"{what} {address}: an earlier command had made it here and could not put it there, which was done now; "
            "for another one give another name"
        )


def _deliver(address: str, what: str) -> None:
    """Puts what was made for an address there, after what was made beside it; what is there already is left."""
    folder, home = _desk(address).parent, address.rstrip("/").rpartition("/")[0]
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    made = {f"{home}/{name}": folder / name for name in names if not name.startswith(".") and name[-8:] != ".partial"}
    for other, path in list(made.items()):
        there = object_sizes(other, what)
        if there == {"": path.stat().st_size}:
            del made[other]
        elif there:
            raise InputError(f"{what} {other} is there already; what was made lies in {folder}: copy it by hand")
    named = {other: made.pop(other) for other in list(made) if f"{other}/".startswith(f"{address.rstrip('/')}/")}
    upload(made, what)
    upload(named, what)
    print(f"written       {address}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)


def _block(config: Any, field: str) -> tuple[Any, str]:
    """The part of a config that has a dotted field, and the field's name in it."""
    *blocks, name = field.split(".")
    for block in blocks:
        config = config.get(block, {})
    return config, name


def _desk(address: str) -> Path:
    """Where what is to be put at an address is made: in a folder of its own."""
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    return cache_folder() / "made" / key / address.rstrip("/").rpartition("/")[2]
