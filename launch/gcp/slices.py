"""Finds, creates and deletes a slice of TPUs."""

import json
import math
import sys
import time
from dataclasses import dataclass

from gcloud import TRANSIENT, Gcloud, Result, error_kind, error_line, is_transient, log, refusal
from params import Failure, Params, TransientFailure

# States of a node or of a queued resource that can no longer be used; its name is free once it is deleted.
GONE = ("PREEMPTED", "TERMINATED", "FAILED", "SUSPENDED")
# States before there is a VM, so that no run can have started.
COMING = ("ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "CREATING")


@dataclass(frozen=True, slots=True)
class Slice:
    state: str  # the node's; before there is a node and after its end, that of the queued resource
    type: str = ""
    workers: int = 0  # hosts
    detail: str = ""  # the reason for the state, if Google names one

    @property
    def ready(self) -> bool:
        return self.state == "READY"

    @property
    def gone(self) -> bool:
        return self.state in GONE


def find_slice(gcloud: Gcloud) -> Slice | None:
    """Returns the slice as Google describes it, or None if there is none. Raises Failure if Google does not answer."""
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
    result = gcloud.tpu_with_retries(group, "describe", gcloud.params.name, "--format=json", seconds=120)
    if result.code == 0:
        return json.loads(result.out) if result.out.strip() else None
    if error_kind(result.err) == "absent":
        return None
    raise refusal(result, f"the slice {gcloud.params.name} cannot be looked up")


def create(gcloud: Gcloud) -> Slice:
    """Returns a slice that is ready: the existing one, or a new one, for whose capacity it waits up to wait_hours.

    A preempted slice is replaced. Raises Failure if there is no capacity, or if waiting cannot help.
    """
    params = gcloud.params
    if gcloud.dry_run:
        send_request(gcloud, params.wait_hours)
        describe(gcloud, "tpu-vm")
        return Slice("READY", params.type, 1)
    deadline = time.monotonic() + 3600 * params.wait_hours
    shown = ""
    while True:
        over = time.monotonic() > deadline
        try:
            found = find_slice(gcloud)
            if found is not None and found.ready and found.type.lower() in ("", params.type):
                log(f"{params.name} is ready: {params.type}, {found.workers} host{'s' if found.workers != 1 else ''}")
                return found
            state = advance(gcloud, found, max(1, math.ceil((deadline - time.monotonic()) / 3600)))
            if over:
                raise withdraw_request(gcloud, found)
        except TransientFailure as failure:
            if over:
                raise
            state = str(failure)
        if state != shown:
            log(f"{params.name}: {state}")
        shown = state
        gcloud.wait(params.poll_seconds)


def advance(gcloud: Gcloud, found: Slice | None, hours: int) -> str:
    """Does the next step towards a ready slice, and returns a line about it. Raises Failure if waiting cannot help."""
    params = gcloud.params
    if found is None:
        return request_slice(gcloud, hours)
    if found.type and found.type.lower() != params.type:
        raise Failure(2, f"{params.name} exists as a {found.type} and type is {params.type}; delete it, or set name")
    if found.state == "STOPPED":
        words = f"gcloud compute tpus tpu-vm start {params.name} --zone={params.zone}"
        raise Failure(5, f"{params.name} is stopped; {words}, or delete it")
    if found.gone:
        delete_remains(gcloud, found)
        return request_slice(gcloud, hours)
    return found.state


def withdraw_request(gcloud: Gcloud, found: Slice | None) -> Failure:
    """Withdraws the request, which could still be granted and billed, and returns the Failure to raise."""
    params = gcloud.params
    remains = "nothing is left behind"
    if found is not None and found.state not in COMING and not found.gone:
        remains = f"{params.name} is left as it is, {found.state}, and may cost until launch/gcp/tpu.py delete"
    else:
        delete_slice(gcloud)
    message = f"no capacity for {params.type} in {params.zone} within {params.wait_hours} hours; {remains}"
    return Failure(4, f"{message}; try another zone, spot, or a longer wait_hours")


def request_slice(gcloud: Gcloud, hours: int) -> str:
    """Requests the slice once, valid for `hours`, and returns a line about the outcome.

    Raises Failure if another request cannot help.
    """
    params = gcloud.params
    result = send_request(gcloud, hours)
    if is_transient(result):
        return f"{error_line(result)}; asked again every {params.poll_seconds} s"
    if result.code != 0 and error_kind(result.err) != "exists":
        raise refusal(result, f"{params.type} in {params.zone} was refused")
    return f"asked for {params.type} in {params.zone}{' (spot)' if params.spot else ''}"


def send_request(gcloud: Gcloud, hours: int) -> Result:
    params = gcloud.params
    flags = [f"--accelerator-type={params.type}"]
    if params.queued:
        # A request without a time limit could be granted, and billed, after this command was killed.
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


def delete_remains(gcloud: Gcloud, found: Slice) -> None:
    """Deletes the remains of a slice and logs why it ended. Raises Failure if a new one would end in the same way."""
    why = f" ({found.detail})" if found.detail else ""
    log(f"{gcloud.params.name} is {found.state}{why}: deleted, to ask anew")
    delete_slice(gcloud)
    if found.state == "FAILED" and error_kind(found.detail) not in (*TRANSIENT, "other"):
        raise refusal(Result(1, "", found.detail), f"{gcloud.params.type} in {gcloud.params.zone} was refused")


def delete_slice(gcloud: Gcloud) -> None:
    name = gcloud.params.name
    # Delete the request first, which deletes its node too; then a node that was created directly, or remains.
    for words in (["queued-resources", "delete", name, "--force"], ["tpu-vm", "delete", name]):
        result = gcloud.tpu_with_retries(*words, seconds=1800)
        if result.code != 0 and error_kind(result.err) != "absent":
            raise refusal(result, f"{name} could not be deleted, and may go on costing")


def delete(gcloud: Gcloud, yes: bool) -> None:
    params = gcloud.params
    if gcloud.dry_run:
        delete_slice(gcloud)
        return
    found = find_slice(gcloud)
    if found is None:
        log(f"there is no slice {params.name} in {params.zone}; nothing to delete")
        return
    lost = (
        "everything on its VMs" if params.store == "none" else f"its VMs (runs stay on {params.bucket or params.disk})"
    )
    if not yes:
        if not sys.stdin.isatty():
            raise Failure(2, f"delete ends {params.name} ({found.state}) and {lost}; say --yes")
        if input(f"delete {params.name} ({found.type}, {found.state}) and {lost}? [y/N] ").strip().lower() != "y":
            raise Failure(1, "kept")
    delete_slice(gcloud)
    log(f"{params.name} is deleted")


def ready_slice(gcloud: Gcloud, params: Params) -> Slice:
    """Returns the slice. Raises Failure, with code 5 and what to do, if it is not ready."""
    if gcloud.dry_run:
        return Slice("READY", params.type, 1)
    found = find_slice(gcloud)
    if found is None:
        raise Failure(5, f"there is no slice {params.name} in {params.zone}; launch/gcp/tpu.py create")
    if found.gone:
        state = "was preempted" if found.state in ("PREEMPTED", "SUSPENDED") else f"is {found.state}"
        raise Failure(5, f"{params.name} {state}; launch/gcp/tpu.py create replaces it, watch goes on with its run too")
    if not found.ready:
        raise Failure(5, f"{params.name} is {found.state}; launch/gcp/tpu.py create waits for it")
    return found
