"""Calls gcloud, and says in a few words what its errors mean."""

import re
import shlex
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass

from params import Failure, Params, Unanswered

# What gcloud and the TPU API say -> kind. The first that fits counts: a rate limit and a full zone mention quotas too.
ERRORS = (
    ("rate", r"per minute|rate ?limit|rateLimitExceeded"),
    (
        "capacity",
        r"no more capacity|[Ii]nsufficient (reserved )?capacity|not have enough resources|STOCKOUT|EXHAUSTED_WITH",
    ),
    ("capacity", r"RESOURCE_POOL_EXHAUSTED|currently unavailable in the"),
    ("quota", r"[Qq]uota\b.*(exceeded|exhausted)|QUOTA_EXCEEDED|RESOURCE_EXHAUSTED"),
    # Before login, which gcloud asks for where a token cannot be renewed because the network is away.
    ("passing", r"Max retries exceeded|[Nn]ame ?[Rr]esolution|Failed to resolve|unreachable|No route to host"),
    ("passing", r"Connection ?(aborted|Error|reset|refused)|TransportError|SSLError"),
    ("passing", r"\b50[0234]:? (Internal|Server|Bad|Service|Gateway)|Service [Uu]navailable"),
    ("login", r"gcloud auth login|active account|[Rr]eauthenticat|invalid_grant"),
    ("project", r"core/project\] is|required property \[project|SERVICE_DISABLED|has not been used in project"),
    ("permission", r"PERMISSION_DENIED|does not have permission|LOCATION_POLICY_VIOLATED|[Ff]orbidden"),
    ("exists", r"ALREADY_EXISTS|already exists"),
    ("type", r"zonal accelerator configurations|accelerator.*not.*(found|available)|INVALID_ARGUMENT"),
    ("absent", r"NOT_FOUND|was not found|not found"),
    ("passing", r"UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED|[Tt]imed? ?out|try again"),
)
ADVICE = {
    "quota": "ask for more (IAM & Admin > Quotas, TPU API), or another zone or spot; suspended requests count too: "
    "gcloud compute tpus queued-resources list",
    "login": "run gcloud auth login",
    "project": "gcloud config set project PROJECT, and gcloud services enable tpu.googleapis.com",
    "permission": "your account needs the role TPU Admin in the project, and the project the zone",
    "type": "which zones have which types: gcloud compute tpus accelerator-types list --zone=ZONE",
}
PASSING = ("rate", "capacity", "passing")  # goes by itself
SSH_FAILED = 255


@dataclass(frozen=True, slots=True)
class Result:
    """code: of gcloud's process, 124 where it did not end in time. A streamed call has all in `out`."""

    code: int
    out: str = ""
    err: str = ""


class Gcloud:
    """gcloud for one slice."""

    def __init__(self, params: Params, dry_run: bool):
        self.params = params
        self.dry_run = dry_run

    def tpu(
        self, *words: str, stream: bool = False, seconds: float | None = 600, release: tuple[str, ...] = ()
    ) -> Result:
        """gcloud compute tpus WORDS with zone and project; `stream` shows the output as it comes, with no limit.

        release: ("alpha",) for what gcloud has there alone.
        """
        flags = [f"--zone={self.params.zone}", *self.project()]
        return self.call(*release, "compute", "tpus", *words, *flags, stream=stream, seconds=seconds)

    def again(self, *words: str, seconds: float) -> Result:
        """The same, up to four times where the error is one that goes by itself."""
        for attempt in range(4):
            result = self.tpu(*words, seconds=seconds)
            if not passing(result):
                break
            self.wait(min(self.params.poll_seconds, 5 * 2**attempt))
        return result

    def project(self) -> list[str]:
        return [f"--project={self.params.project}"] if self.params.project else []

    def call(self, *words: str, stream: bool = False, seconds: float | None = 600) -> Result:
        # --quiet: no question, and an ssh key without a passphrase where there is none yet.
        argv = ["gcloud", *words, "--quiet"]
        if self.dry_run:
            print(shlex.join(argv), flush=True)
            return Result(0)
        try:
            if stream:
                return streamed(argv)
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=seconds
            )
        except FileNotFoundError:
            raise Failure(2, "gcloud is not on PATH; install it: https://cloud.google.com/sdk/docs/install") from None
        except subprocess.TimeoutExpired:
            return Result(124, "", f"gcloud timed out after {seconds} s")
        return Result(done.returncode, done.stdout, done.stderr)

    def ssh(self, *command: str, worker: str = "all", stream: bool = False) -> Result:
        """Runs a command on workers, all at once."""
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


def streamed(argv: list[str]) -> Result:
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


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S', time.gmtime())} {text}", flush=True)


def kind_of(text: str) -> str:
    """One of the kinds in ERRORS, or "other"."""
    return next((kind for kind, pattern in ERRORS if re.search(pattern, text, re.DOTALL)), "other")


def passing(result: Result) -> bool:
    """Whether it is an error that goes by itself."""
    return result.code == 124 or (result.code != 0 and kind_of(result.err) in PASSING)


def told(result: Result) -> str:
    """gcloud's own message in one line."""
    lines = [line.strip() for line in (result.err or result.out).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
    return re.sub(r"^ERROR: (\([\w.-]+\) )?", "", errors[0]) if errors else f"gcloud ended with code {result.code}"


def refused(result: Result, doing: str) -> Failure:
    """What is not to be tried again at once: 3 where Google or its account must change, else 1."""
    if passing(result):
        return Unanswered(1, f"{doing}: {told(result)}")
    kind = kind_of(result.err + result.out)
    code = 3 if kind in ("quota", "login", "project", "permission") else 2 if kind == "type" else 1
    advice = f"; {ADVICE[kind]}" if kind in ADVICE else ""
    return Failure(code, f"{doing}: {told(result)}{advice}")
