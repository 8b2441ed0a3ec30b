"""A slice of TPUs: is it there, create it, delete it."""

import json
import math
import sys
import time
from dataclasses import dataclass

from gcloud import PASSING, Gcloud, Result, kind_of, passing, refused, say, told
from params import Failure, Params, Unanswered

# States of a node or of a queued resource in which nothing is left to use; the name is free once it is deleted.
GONE = ("PREEMPTED", "TERMINATED", "FAILED", "SUSPENDED")
# States in which there is nothing yet that a run could have lain on.
COMING = ("ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "CREATING")


@dataclass(frozen=True, slots=True)
class Slice:
    state: str  # of the node; of the queued resource while there is no node yet, or where that has ended
    type: str = ""
    workers: int = 0  # hosts
    detail: str = ""  # why, where Google tells

    @property
    def ready(self) -> bool:
        return self.state == "READY"

    @property
    def gone(self) -> bool:
        return self.state in GONE


def look(gcloud: Gcloud) -> Slice | None:
    """The slice as Google sees it; None where there is none. Raises Failure where Google does not answer."""
    node = describe(gcloud, "tpu-vm")
    if node is not None and node.get("state") == "READY":
        return node_slice(node)
    request = describe(gcloud, "queued-resources")
    if request is not None:
        state = request.get("state", {})
        name = state.get("state", "STATE_UNSPECIFIED")
        if node is None or name in GONE or name == "SUSPENDING":
            detail = state.get("failedData", {}).get("error", {}).get("message", "")
            return Slice("CREATING" if name == "ACTIVE" else name, requested_type(request), detail=detail)
    return node_slice(node) if node is not None else None


def node_slice(node: dict) -> Slice:
    detail = node.get("healthDescription", "")
    return Slice(node.get("state", ""), node.get("acceleratorType", ""), len(node.get("networkEndpoints", [])), detail)


def requested_type(request: dict) -> str:
    specs = request.get("tpu", {}).get("nodeSpec", [])
    return specs[0].get("node", {}).get("acceleratorType", "") if specs else ""


def describe(gcloud: Gcloud, group: str) -> dict | None:
    result = gcloud.again(group, "describe", gcloud.params.name, "--format=json", seconds=120)
    if result.code == 0:
        return json.loads(result.out) if result.out.strip() else None
    if kind_of(result.err) == "absent":
        return None
    raise refused(result, f"the slice {gcloud.params.name} cannot be looked up")


def create(gcloud: Gcloud) -> Slice:
    """The slice, ready, waiting up to wait_hours for capacity. One that is there is kept, one that is gone replaced."""
    params = gcloud.params
    if gcloud.dry_run:
        request(gcloud, params.wait_hours)
        describe(gcloud, "tpu-vm")
        return Slice("READY", params.type, 1)
    deadline = time.monotonic() + 3600 * params.wait_hours
    shown = ""
    while True:
        over = time.monotonic() > deadline
        try:
            found = look(gcloud)
            if found is not None and found.ready and found.type.lower() in ("", params.type):
                say(f"{params.name} is ready: {params.type}, {found.workers} host{'s' if found.workers != 1 else ''}")
                return found
            state = advance(gcloud, found, max(1, math.ceil((deadline - time.monotonic()) / 3600)))
            if over:
                raise given_up(gcloud, found)
        except Unanswered as failure:
            if over:
                raise
            state = str(failure)
        if state != shown:
            say(f"{params.name}: {state}")
        shown = state
        gcloud.wait(params.poll_seconds)


def advance(gcloud: Gcloud, found: Slice | None, hours: int) -> str:
    """Brings a slice that is not ready nearer to it; what to say of it. Raises Failure where waiting cannot help."""
    params = gcloud.params
    if found is None:
        return ask(gcloud, hours)
    if found.type and found.type.lower() != params.type:
        raise Failure(2, f"{params.name} exists as a {found.type} and type is {params.type}; delete it, or set name")
    if found.state == "STOPPED":
        words = f"gcloud compute tpus tpu-vm start {params.name} --zone={params.zone}"
        raise Failure(5, f"{params.name} is stopped; {words}, or delete it")
    if found.gone:
        clear(gcloud, found)
        return ask(gcloud, hours)
    return found.state


def given_up(gcloud: Gcloud, found: Slice | None) -> Failure:
    """Withdraws a request that nobody waits for any more, which could still be granted, and billed."""
    params = gcloud.params
    where = "nothing is left behind"
    if found is not None and found.state not in COMING and not found.gone:
        where = f"{params.name} is left as it is, {found.state}, and may cost until launch/gcp/tpu.py delete"
    else:
        remove(gcloud)
    told_ = f"no capacity for {params.type} in {params.zone} within {params.wait_hours} hours; {where}"
    return Failure(4, f"{told_}; try another zone, spot, or a longer wait_hours")


def ask(gcloud: Gcloud, hours: int) -> str:
    """One request, valid for so long, and what became of it. Raises Failure where asking again cannot help."""
    params = gcloud.params
    result = request(gcloud, hours)
    if passing(result):
        return f"{told(result)}; asked again every {params.poll_seconds} s"
    if result.code != 0 and kind_of(result.err) != "exists":
        raise refused(result, f"{params.type} in {params.zone} was refused")
    return f"asked for {params.type} in {params.zone}{' (spot)' if params.spot else ''}"


def request(gcloud: Gcloud, hours: int) -> Result:
    params = gcloud.params
    flags = [f"--accelerator-type={params.type}"]
    if params.queued:
        # Without an end a request may be granted, and billed, after this command was killed.
        queue = [f"--node-id={params.name}", f"--runtime-version={params.image}"]
        words = ["queued-resources", "create", params.name, *queue, f"--valid-until-duration={hours}h"]
    else:
        words = ["tpu-vm", "create", params.name, f"--version={params.image}"]
    if params.disk:
        flags.append(f"--data-disk=source={params.disk_path()},mode=read-write")
    for name in ("network", "subnetwork", "service_account"):
        if getattr(params, name):
            flags.append(f"--{name.replace('_', '-')}={getattr(params, name)}")
    for name in ("spot", "reserved", "internal_ips"):
        if getattr(params, name):
            flags.append(f"--{name.replace('_', '-')}")
    if params.autocheckpoint:
        flags.append("--autocheckpoint-enabled")
    return gcloud.tpu(*words, *flags, seconds=1800, release=("alpha",) if params.autocheckpoint else ())


def clear(gcloud: Gcloud, found: Slice) -> None:
    """Deletes what is left of a slice that is gone, says why it went, and raises Failure where it would go again."""
    why = f" ({found.detail})" if found.detail else ""
    say(f"{gcloud.params.name} is {found.state}{why}: deleted, to ask anew")
    remove(gcloud)
    if found.state == "FAILED" and kind_of(found.detail) not in (*PASSING, "other"):
        raise refused(Result(1, "", found.detail), f"{gcloud.params.type} in {gcloud.params.zone} was refused")


def remove(gcloud: Gcloud) -> None:
    name = gcloud.params.name
    # First the request, which takes its node along; a node that was created directly, or is left over, second.
    for words in (["queued-resources", "delete", name, "--force"], ["tpu-vm", "delete", name]):
        result = gcloud.again(*words, seconds=1800)
        if result.code != 0 and kind_of(result.err) != "absent":
            raise refused(result, f"{name} could not be deleted, and may go on costing")


def delete(gcloud: Gcloud, yes: bool) -> None:
    params = gcloud.params
    if gcloud.dry_run:
        remove(gcloud)
        return
    found = look(gcloud)
    if found is None:
        say(f"there is no slice {params.name} in {params.zone}; nothing to delete")
        return
    lost = (
        "everything on its VMs" if params.store == "none" else f"its VMs (runs stay on {params.bucket or params.disk})"
    )
    if not yes:
        if not sys.stdin.isatty():
            raise Failure(2, f"delete ends {params.name} ({found.state}) and {lost}; say --yes")
        if input(f"delete {params.name} ({found.type}, {found.state}) and {lost}? [y/N] ").strip().lower() != "y":
            raise Failure(1, "kept")
    remove(gcloud)
    say(f"{params.name} is deleted")


def ready(gcloud: Gcloud, params: Params) -> Slice:
    """The slice, which must be ready. Raises Failure with code 5 and what to do."""
    if gcloud.dry_run:
        return Slice("READY", params.type, 1)
    found = look(gcloud)
    if found is None:
        raise Failure(5, f"there is no slice {params.name} in {params.zone}; launch/gcp/tpu.py create")
    if found.gone:
        what = "was preempted" if found.state in ("PREEMPTED", "SUSPENDED") else f"is {found.state}"
        raise Failure(5, f"{params.name} {what}; launch/gcp/tpu.py create replaces it, watch goes on with its run too")
    if not found.ready:
        raise Failure(5, f"{params.name} is {found.state}; launch/gcp/tpu.py create waits for it")
    return found
