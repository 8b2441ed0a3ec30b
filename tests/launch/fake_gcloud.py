"""Stands in for gcloud on PATH: keeps a slice's state in a file, runs ssh commands in a home folder per worker.

`state`: node, queue (states, None: absent), type, workers, down (workers that do not answer), fail (replies to calls
that contain `match`, so many times), twice (what gcloud runs again by itself) and events (changes of the state at the
n-th call that contains `match`; where the node is not ready after one, its VMs are gone, and the file `preempted` is
there). It is called some hundred times, and imports what starts in no time.
"""

import marshal
import os
import sys

HERE = os.environ["FAKE_GCLOUD"]
MOST_CALLS = 200  # ends a loop that a test did not mean


def at(*names):
    return os.path.join(HERE, *names)


def quit_with(code, error=""):
    if error:
        print(error, file=sys.stderr)
    sys.exit(code)


def home(worker):
    folder = at(f"worker-{worker}")
    if not os.path.exists(folder):
        os.mkdir(folder)
        os.symlink(at("store"), os.path.join(folder, "tljax-store"))
    return folder


def end_vms():
    import shutil
    import signal

    for name in os.listdir(HERE):
        if name.startswith("worker-"):
            try:
                with open(at(name, "tljax-run", "pid")) as file:
                    os.killpg(int(file.read()), signal.SIGKILL)
            except (OSError, ValueError):
                pass
            shutil.rmtree(at(name))


def on_worker(worker, command):
    folder = home(worker)
    os.chdir(folder)
    environment = {
        "HOME": folder,
        "PATH": f"{at('vm-bin')}:/usr/bin:/bin",
        "FAKE_GCLOUD": HERE,
        "FAKE_WORKER": str(worker),
        "LIBTPU_LOCKFILE": os.path.join(folder, "libtpu_lockfile"),
    }
    pid = os.posix_spawn("/bin/bash", ["bash", "-c", command], environment)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def ssh(state, flags):
    workers = range(state["workers"]) if flags["worker"] == "all" else [int(w) for w in flags["worker"].split(",")]
    if state["twice"] and state["twice"] in flags["command"]:  # the connection broke, and gcloud tried again by itself
        for worker in set(workers) - set(state["down"]):
            on_worker(worker, flags["command"])
    codes = [255 if w in state["down"] else on_worker(w, flags["command"]) for w in workers]
    for worker in set(workers) & set(state["down"]):
        print(f"Retrying: SSH command error: [worker {worker}] connect to host timed out", file=sys.stderr)
    quit_with(next((code for code in codes if code), 0))


def scp(state, source, target):
    import shutil

    if ":" in source:
        path = os.path.join(home(0), source.split(":", 1)[1])
        (shutil.copytree if os.path.isdir(path) else shutil.copy)(path, target)
        return
    for worker in range(state["workers"]):
        if worker in state["down"]:
            quit_with(255, f"ERROR: (gcloud.compute.tpus.tpu-vm.scp) worker {worker}: connection timed out")
        shutil.copy(source, os.path.join(home(worker), target.split(":", 1)[1]))


def compute(state, words, flags):
    group, verb, name = words[2:5]
    missing = f"ERROR: (gcloud.compute.tpus.{group}.{verb}) NOT_FOUND: Resource '{name}' was not found"
    key = "node" if group == "tpu-vm" else "queue"
    if verb == "create":
        if state[key]:
            quit_with(
                1, f"ERROR: (gcloud.compute.tpus.{group}.create) ALREADY_EXISTS: Resource '{name}' already exists"
            )
        state.update(node="READY", type=flags["accelerator-type"])
        if key == "queue":
            state["queue"] = "ACTIVE"
    elif not state[key]:
        quit_with(1, missing)
    elif verb == "describe" and key == "node":
        endpoints = ", ".join(["{}"] * state["workers"])
        reply = f'"state": "{state["node"]}", "acceleratorType": "{state["type"]}", "networkEndpoints": [{endpoints}]'
        print("{" + reply + "}")
    elif verb == "describe":
        import json

        error = {"failedData": {"error": {"message": state["detail"]}}} if state["detail"] else {}
        spec = {"nodeSpec": [{"node": {"acceleratorType": state["type"]}}]}
        print(json.dumps({"state": {"state": state["queue"]} | error, "tpu": spec}))
    elif verb == "delete":
        end_vms()
        state.update(node=None, detail="", **({"queue": None} if key == "queue" else {}))
    elif state["node"] != "READY":
        quit_with(1, f"ERROR: (gcloud.compute.tpus.tpu-vm.{verb}) This TPU has terminal state {state['node']}")
    elif verb == "ssh":
        ssh(state, flags)
    elif verb == "scp":
        scp(state, words[4], words[5])


def storage(words, flags):
    import shutil

    left = shutil.ignore_patterns("checkpoints") if "exclude" in flags else None
    shutil.copytree(at("store", words[2].split("/", 3)[3]), words[3], dirs_exist_ok=True, ignore=left)


def main():
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    flags = dict(word[2:].partition("=")[::2] for word in sys.argv[1:] if word.startswith("--"))
    line = " ".join(sys.argv[1:]).replace("\n", " ")
    with open(at("calls"), "a+") as calls:
        calls.write(line + "\n")
        calls.seek(0)
        if len(calls.readlines()) > MOST_CALLS:
            quit_with(1, "ERROR: (fake) too many calls")
    with open(at("state"), "rb") as file:
        state = marshal.load(file)
    released = words[0] != "alpha"
    words = words if released else words[1:]
    try:
        if released and "autocheckpoint-enabled" in flags:
            quit_with(
                2, f"ERROR: ({'.'.join(['gcloud', *words[:4]])}) unrecognized arguments: --autocheckpoint-enabled"
            )
        for event in state["events"]:
            if event["match"] in line:
                event["left"] -= 1
                if event["left"] == 0:
                    state.update(event["changes"])
                    if state["node"] != "READY":
                        end_vms()
                        open(at("preempted"), "w").close()
        for failure in state["fail"]:
            if failure["match"] in line and failure["times"] > 0:
                failure["times"] -= 1
                quit_with(failure["code"], failure["error"])
        if words[0] == "compute":
            compute(state, words, flags)
        elif words[:2] == ["storage", "rsync"]:
            storage(words, flags)
    finally:
        with open(at("state"), "wb") as file:
            marshal.dump(state, file)


main()
