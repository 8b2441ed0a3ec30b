"""A TPU slice from nothing to results: python launch/gcp/tpu.py COMMAND [--dry-run] [--params=mine.toml] [--zone=...]

    create     requests the slice and waits until it is ready; requests it again while there is no capacity
    install    copies tljax to every worker and installs it there
    run        starts the command of the parameters on all workers at once; run -- launch/evaluate.py ... starts another
    status     prints whether the run is going, done or failed, and why
    logs       follows the log of a worker (--worker=0); Ctrl-C does not end the run
    watch      creates, installs and runs as far as needed, and again after every preemption, until the run is done;
               --finish then fetches its results and deletes the slice
    stop       sends SIGTERM to the run, which saves; `run` continues it
    fetch      copies the run's folder to fetched/NAME or --to=FOLDER; --all includes the checkpoints
    ssh        `ssh -- nproc` runs a command on all workers, or on --worker=0
    delete     deletes the slice and its place in the queue; --yes asks nothing

launch/gcp/tpu.toml lists and explains the parameters. --dry-run prints the gcloud commands and runs none.
Exit codes: 0 done; 1 gcloud failed otherwise; 2 bad parameters; 3 Google refuses because of quota, account or
permission; 4 no capacity within wait_hours; 5 no slice, or a worker does not answer; 6 the run failed or was stopped;
7 a run is going already, or the TPU is in use; 130 interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import runs
from gcloud import Gcloud, log
from params import Failure, Params, load
from slices import create, delete, ready_slice
from watch import watch

COMMANDS = ("create", "install", "run", "status", "logs", "watch", "stop", "fetch", "ssh", "delete")
VERDICT_CODES = {"silent": 5, "none": 5, "part": 7, "foreign": 7}
VERDICT_CODES |= dict.fromkeys(("ending", "failed", "crashed", "stopped", "again"), 6)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Failure(2, f"{message}; python launch/gcp/tpu.py --help lists commands and parameters")


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str], list[str]]:
    """Returns the options, the parameters that are given as flags, and the words after `--`."""
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("verb", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("--params", type=Path)
    parser.add_argument("--worker", default="")
    parser.add_argument("--lines", type=int, default=50)
    parser.add_argument("--to", type=Path)
    for name in ("--dry-run", "--yes", "--all", "--finish"):
        parser.add_argument(name, action="store_true")
    options, rest = parser.parse_known_args(argv[:cut])
    flags = {}
    for word in rest:
        key, equals, value = word.partition("=")
        if not key.startswith("--") or not equals:
            raise Failure(2, f"{word!r} is not understood; parameters are given as --zone=us-east5-b")
        flags[key[2:].replace("-", "_")] = value
    return options, flags, list(argv[cut + 1 :])


def run_command(options: argparse.Namespace, params: Params, words: list[str]) -> int:
    gcloud = Gcloud(params, options.dry_run)
    command = words or list(params.command)
    target = options.to or Path("fetched") / params.name
    match options.verb:
        case "create":
            create(gcloud)
        case "install":
            runs.install(gcloud, params)
        case "run":
            runs.run(gcloud, params, command)
        case "status":
            verdict, text = runs.run_status(gcloud, ready_slice(gcloud, params))
            log(text)
            return VERDICT_CODES.get(verdict, 0)
        case "logs":
            return runs.logs(gcloud, params, options.worker or "0", options.lines)
        case "watch":
            if options.finish and target.exists():
                raise Failure(2, f"{target} exists, and --finish fetches to it; give another --to=FOLDER, or remove it")
            watch(gcloud, params, command)
            if options.finish:
                runs.fetch(gcloud, params, target, options.all)
                delete(gcloud, yes=True)
            elif not options.dry_run:
                log("done; the slice costs until launch/gcp/tpu.py fetch and delete")
        case "stop":
            runs.stop(gcloud, params)
        case "fetch":
            runs.fetch(gcloud, params, target, options.all)
        case "ssh":
            if not words:
                raise Failure(2, "no command given; for example: launch/gcp/tpu.py ssh -- df -h")
            line = words if len(words) > 1 else ["bash", "-c", *words]
            return gcloud.ssh(*line, worker=options.worker or "all", stream=True).code
        case "delete":
            delete(gcloud, options.yes)
    return 0


def main(argv: Sequence[str]) -> int:
    if argv[:1] in (["-h"], ["--help"]):
        print((__doc__ or "").strip())
        return 0
    try:
        options, flags, words = parse(argv)
        return run_command(options, load(options.params, flags), words)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return failure.code
    except KeyboardInterrupt:
        print(
            "interrupted; a slice, a request in the queue or a run goes on: launch/gcp/tpu.py status", file=sys.stderr
        )
        return 130
    except OSError as error:
        print(f"error: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
