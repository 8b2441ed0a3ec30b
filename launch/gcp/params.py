"""The parameters of launch/gcp/tpu.py: from tpu.toml, then from a file of the user, then from the command line.

Later values replace earlier ones.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULTS = Path(__file__).with_name("tpu.toml")

# Runtime versions by generation: https://cloud.google.com/tpu/docs/runtimes
IMAGES = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
# The largest types with one host. Sizes of v5litepod and v6e count chips, those of the others count cores.
SIZES = "v5litepod-8, v6e-8, v5p-8, v4-8"


class Failure(Exception):
    """Ends the command with one line and an exit code."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


class TransientFailure(Failure):
    """A failure of Google or of the network that may pass; another try may succeed."""


@dataclass(frozen=True, slots=True)
class Params:
    """The checked parameters; tpu.toml explains each."""

    name: str
    project: str
    zone: str
    type: str
    image: str
    queued: bool
    spot: bool
    autocheckpoint: bool
    reserved: bool
    wait_hours: int
    network: str
    subnetwork: str
    internal_ips: bool
    service_account: str
    disk: str
    bucket: str
    command: tuple[str, ...]
    out: str
    copy: tuple[str, ...]
    env: tuple[str, ...]
    extras: str
    restarts: int
    poll_seconds: int

    @property
    def store(self) -> str:
        """The storage that remains when the slice is deleted, under its name in worker.sh."""
        return f"gs://{self.bucket}" if self.bucket else "disk" if self.disk else "none"

    @property
    def folder(self) -> str:
        """The path of the run's folder, relative to the copied repository."""
        return self.out if self.store == "none" else f"../tljax-store/{self.out}"

    @property
    def one_host(self) -> bool:
        return int(self.type.rpartition("-")[2]) <= 8

    def disk_path(self) -> str:
        return self.disk if "/" in self.disk else f"projects/{self.project}/zones/{self.zone}/disks/{self.disk}"


def load(file: Path | None, flags: Mapping[str, str]) -> Params:
    """Returns the parameters. flags: the values of the command line, as text.

    Raises Failure for a parameter that is unknown, of the wrong type, or impossible.
    """
    values = read(DEFAULTS)
    if file is not None:
        for key, value in read(file).items():
            values[key] = check_type(f"{file}, field {key}", key, value, values)
    for key, text in flags.items():
        values[key] = check_type(f"--{key}", key, parse_flag(text, values.get(key)), values)
    for key in ("command", "copy", "env"):
        values[key] = tuple(values[key])
    values["image"] = values["image"] or IMAGES.get(values["type"].partition("-")[0], "")
    params = Params(**values)
    check(params)
    return params


def read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Failure(2, f"{file}: {error.strerror}; --params needs a TOML file such as {DEFAULTS}") from None
    except ValueError as error:
        raise Failure(2, f"{file}: {error}") from None


def parse_flag(text: str, example: Any) -> Any:
    """Converts a value of the command line to the type of `example`, or returns the text if that is impossible."""
    if isinstance(example, bool):
        return {"true": True, "false": False}.get(text.lower(), text)
    if isinstance(example, int):
        return int(text) if text.isdecimal() else text
    if isinstance(example, list):
        return [part for part in text.split(",") if part]
    return text


def check_type(location: str, key: str, value: Any, values: Mapping[str, Any]) -> Any:
    if key not in values:
        raise Failure(2, f"{location}: there is no such parameter; allowed: {', '.join(values)}")
    wanted = type(values[key])
    if type(value) is not wanted or (wanted is list and not all(isinstance(part, str) for part in value)):
        kinds = {str: "a text", bool: "true or false", int: "a whole number from 0", list: "a list of texts"}
        raise Failure(2, f"{location} is {value!r}; it must be {kinds[wanted]}")
    return value


def check(params: Params) -> None:
    def need(holds: object, message: str) -> None:
        if not holds:
            raise Failure(2, message)

    generation, _, size = params.type.partition("-")
    need(
        re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", params.name),
        f"name is {params.name!r}; small letters, digits, -",
    )
    need(params.zone, "zone is empty; the zones of each type: https://cloud.google.com/tpu/docs/regions-zones")
    known = "tpu7x runs only on GKE (launch/gcp/jobset.yaml)" if generation == "tpu7x" else f"for example {SIZES}"
    need(params.image and size.isdecimal(), f"type is {params.type!r}; GENERATION-SIZE of {', '.join(IMAGES)}; {known}")
    need(not (params.spot and params.reserved), "spot and reserved are both set; a slice is one or the other")
    need(not (params.disk and params.bucket), "disk and bucket are both set; the run's folder lies on one")
    need(
        params.one_host or not params.disk,
        f"disk is set and {params.type} has several hosts; a disk serves one: bucket",
    )
    need(
        params.project or not params.disk or "/" in params.disk,
        "disk is set without project, which is part of its address; set both",
    )
    need("/" not in params.bucket, f"bucket is {params.bucket!r}; give its name alone, without gs:// and folders")
    need(
        params.command, "command is empty; a script and its arguments, such as launch/train.py, --config=configs/sft.py"
    )
    need(
        params.one_host or params.bucket or params.command[0] != "launch/train.py",
        f"{params.type} has several hosts, which write one folder; set bucket, which all of them mount",
    )
    need(
        params.out and not params.out.startswith(("/", "~", "gs:")) and ".." not in params.out,
        f"out is {params.out!r}; give a relative folder; it lies in the store (bucket, disk) or the repository",
    )
