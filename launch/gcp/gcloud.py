"""Calls gcloud and explains its errors."""

import re
import shlex
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass

from params import Failure, Params, TransientFailure

# Kinds of error, and patterns in the messages of gcloud and the TPU API. The first match decides: a rate limit and a
# full zone mention quotas too.
ERRORS = (
    ("rate", r"per minute|rate ?limit|rateLimitExceeded"),
    (
        "capacity",
        r"no more capacity|[Ii]nsufficient (reserved )?capacity|not have enough resources|STOCKOUT|EXHAUSTED_WITH",
    ),
    ("capacity", r"RESOURCE_POOL_EXHAUSTED|currently unavailable in the"),
    ("quota", r"[Qq]uota\b.*(exceeded|exhausted)|QUOTA_EXCEEDED|RESOURCE_EXHAUSTED"),
    # These come before login: without a network gcloud cannot renew a token, and asks for a login.
    ("transient", r"Max retries exceeded|[Nn]ame ?[Rr]esolution|Failed to resolve|unreachable|No route to host"),
    ("transient", r"Connection ?(aborted|Error|reset|refused)|TransportError|SSLError"),
    ("transient", r"\b50[0234]:? (Internal|Server|Bad|Service|Gateway)|Service [Uu]navailable"),
    ("login", r"gcloud auth login|active account|[Rr]eauthenticat|invalid_grant"),
    ("project", r"core/project\] is|required property \[project|SERVICE_DISABLED|has not been used in project"),
    ("permission", r"PERMISSION_DENIED|does not have permission|LOCATION_POLICY_VIOLATED|[Ff]orbidden"),
    ("exists", r"ALREADY_EXISTS|already exists"),
    ("type", r"zonal accelerator configurations|accelerator.*not.*(found|available)|INVALID_ARGUMENT"),
    ("absent", r"NOT_FOUND|was not found|not found"),
    ("transient", r"UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED|[Tt]imed? ?out|try again"),
)
ADVICE = {
    "quota": "ask for more (IAM & Admin > Quotas, TPU API), or another zone or spot; suspended requests count too: "
    "gcloud compute tpus queued-resources list",
    "login": "run gcloud auth login",
    "project": "gcloud config set project PROJECT, and gcloud services enable tpu.googleapis.com",
    "permission": "your account needs the role TPU Admin in the project, and the project the zone",
    "type": "which zones have which types: gcloud compute tpus accelerator-types list --zone=ZONE",
}
TRANSIENT = ("rate", "capacity", "transient")  # the kinds of error that pass by themselves
SSH_FAILED = 255


@dataclass(frozen=True, slots=True)
class Result:
    """A finished gcloud process. code: its exit code, or 124 after a time-out. out: stdout, and stderr if streamed."""

    code: int
    out: str = ""
    err: str = ""


class Gcloud:
    """Runs gcloud for one slice. dry_run: prints the commands instead."""

    def __init__(self, params: Params, dry_run: bool):
        self.params = params
        self.dry_run = dry_run

    def tpu(
        self, *words: str, stream: bool = False, seconds: float | None = 600, release: tuple[str, ...] = ()
    ) -> Result:
        """Runs gcloud compute tpus WORDS with zone and project.

        stream: shows the output as it comes, without a time limit. release: ("alpha",) for commands that only
        gcloud alpha has.
        """
        flags = [f"--zone={self.params.zone}", *self.project()]
        return self.call(*release, "compute", "tpus", *words, *flags, stream=stream, seconds=seconds)

    def tpu_with_retries(self, *words: str, seconds: float) -> Result:
        """Runs `tpu` up to four times while its error is transient."""
        for attempt in range(4):
            result = self.tpu(*words, seconds=seconds)
            if not is_transient(result):
                break
            self.wait(min(self.params.poll_seconds, 5 * 2**attempt))
        return result

    def project(self) -> list[str]:
        return [f"--project={self.params.project}"] if self.params.project else []

    def call(self, *words: str, stream: bool = False, seconds: float | None = 600) -> Result:
        # With --quiet gcloud asks no questions, and creates a missing ssh key without a passphrase.
        argv = ["gcloud", *words, "--quiet"]
        if self.dry_run:
            print(shlex.join(argv), flush=True)
            return Result(0)
        try:
            if stream:
                return stream_output(argv)
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=seconds
            )
        except FileNotFoundError:
            raise Failure(2, "gcloud is not on PATH; install it: https://cloud.google.com/sdk/docs/install") from None
        except subprocess.TimeoutExpired:
            return Result(124, "", f"gcloud timed out after {seconds} s")
        return Result(done.returncode, done.stdout, done.stderr)

    def ssh(self, *command: str, worker: str = "all", stream: bool = False) -> Result:
        """Runs a command on one worker, or on all workers at once."""
        words = ["tpu-vm", "ssh", self.params.name, f"--worker={worker}", f"--command={shlex.join(command)}"]
        return self.tpu(*words, *self.inside(), stream=stream)

    def scp(self, source: str, target: str, worker: str, recurse: bool = False) -> Result:
        flags = [f"--worker={worker}", "--compress", *(["--recurse"] if recurse else []), *self.inside()]
        return self.tpu("tpu-vm", "scp", source, target, *flags, seconds=None)

    def inside(self) -> list[str]:
        return ["--internal-ip"] if self.params.internal_ips else []

    def wait(self, seconds: float) -> None:
        if not self.dry_run:
            time.sleep(seconds)


def stream_output(argv: list[str]) -> Result:
    lines: deque[str] = deque(maxlen=2000)
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            lines.append(line)
    return Result(process.returncode, "".join(lines))


def log(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S', time.gmtime())} {text}", flush=True)


def error_kind(text: str) -> str:
    """Returns the kind of an error message: one of ERRORS, or "other"."""
    return next((kind for kind, pattern in ERRORS if re.search(pattern, text, re.DOTALL)), "other")


def is_transient(result: Result) -> bool:
    """Returns True for an error that passes by itself, so that another try can succeed."""
    return result.code == 124 or (result.code != 0 and error_kind(result.err) in TRANSIENT)


def error_line(result: Result) -> str:
    """Returns gcloud's own message in one line."""
    lines = [line.strip() for line in (result.err or result.out).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
    return re.sub(r"^ERROR: (\([\w.-]+\) )?", "", errors[0]) if errors else f"gcloud ended with code {result.code}"


def refusal(result: Result, doing: str) -> Failure:
    """Returns the Failure for a refused command.

    Its exit code is 3 if the user must change something at Google, 2 for a wrong type, and 1 otherwise.
    """
    if is_transient(result):
        return TransientFailure(1, f"{doing}: {error_line(result)}")
    kind = error_kind(result.err + result.out)
    code = 3 if kind in ("quota", "login", "project", "permission") else 2 if kind == "type" else 1
    advice = f"; {ADVICE[kind]}" if kind in ADVICE else ""
    return Failure(code, f"{doing}: {error_line(result)}{advice}")
