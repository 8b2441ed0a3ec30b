#!/usr/bin/env bash
# The part of launch/gcp/tpu.py for one worker. It is called over ssh on every VM of a slice, in the copied repository:
#   worker.sh install EXTRAS STORE          installs Python, tljax and its dependencies, and mounts the store
#   worker.sh start STORE SCRIPT ARG ...    starts python SCRIPT ARG ... in the background; its output goes to the log
#   worker.sh status                        prints the state of the run, and the processes that use the TPU
#   worker.sh stop SECONDS [again]          sends SIGTERM, so that the run saves, and SIGKILL after so many seconds;
#                                           `again`: tpu.py stops the run, not the user, and will start it again
#   worker.sh logs LINES                    follows the log to the end of the run
#   worker.sh list FOLDER                   lists the files of a folder
# STORE is the storage that remains when the VM is gone, mounted at ~/tljax-store: "none", "disk" (the VM's second disk) or
# a bucket's gs:// name.
# Answers to tpu.py are lines "tljax worker=N state=..."; lines "tljax worker=N says: ..." are for people.
# Exit codes: 0 done; 1 failed, in one line; 3 a run is going; 4 another process uses the TPU.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=$HOME/tljax-venv
store=$HOME/tljax-store
run=$HOME/tljax-run # the run's pid, log and exit code
lock=${LIBTPU_LOCKFILE:-/tmp/libtpu_lockfile}
metadata=http://metadata.google.internal/computeMetadata/v1/instance/attributes

worker=$(curl -sf -m 5 -H 'Metadata-Flavor: Google' "$metadata/agent-worker-number" || echo "${HOSTNAME##*-w-}")

answer() { echo "tljax worker=$worker $*"; }
says() { answer "says: $*"; }
fail() {
    says "error: $*"
    exit 1
}

# --- install ---------------------------------------------------------------------------------------------------------

make_venv() {
    local name
    for name in python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null && "$name" -c 'import venv, ensurepip' 2>/dev/null; then
            "$name" -m venv "$venv"
            return
        fi
    done
    says "the image has no Python 3.11 or newer; uv fetches one"
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --seed --python 3.12 "$venv"
}

install_gcsfuse() { # by Google's instructions for Ubuntu
    local key=/usr/share/keyrings/cloud.google.asc
    curl -sf https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -c -s) main" |
        sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get -qq -o DPkg::Lock::Timeout=300 update
    sudo apt-get -qq -o DPkg::Lock::Timeout=300 install -y gcsfuse >/dev/null
}

other_disks() { # prints all disks but the boot disk
    local boot
    boot=$(lsblk -npo PKNAME "$(findmnt -no SOURCE /)" | head -n 1)
    lsblk -dnpo NAME,TYPE | awk -v boot="$boot" '$2 == "disk" && $1 != boot { print $1 }'
}

mount_store() {
    if [ "$1" = none ] || mountpoint -q "$store"; then
        return 0
    fi
    mkdir -p "$store"
    if [ "$1" = disk ]; then
        local device found=0
        device=$(other_disks)
        [ "$(wc -w <<<"$device")" -eq 1 ] || fail "besides the boot disk there should be one disk: ${device:-none is there}"
        sudo blkid "$device" >/dev/null || found=$?
        # blkid returns 2 if it finds nothing on the disk. A disk with anything on it is never formatted.
        if [ "$found" -eq 2 ]; then
            says "formats the new disk $device"
            sudo mkfs.ext4 -q "$device"
        fi
        sudo mount -o discard,defaults "$device" "$store"
        sudo chown "$(id -u):$(id -g)" "$store"
    else
        command -v gcsfuse >/dev/null || install_gcsfuse
        # The limit is for checkpoints, which are folders that are renamed when they are complete.
        gcsfuse --implicit-dirs --rename-dir-limit=1000000 "${1#gs://}" "$store" >/dev/null
    fi
    mountpoint -q "$store" || fail "$1 could not be mounted at $store"
}

install() {
    mount_store "$2"
    [ -x "$venv/bin/python" ] || make_venv
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "${repo}[$1]"
    answer "state=installed jax=$("$venv/bin/python" -c 'from importlib.metadata import version; print(version("jax"))')"
}

# --- the run ---------------------------------------------------------------------------------------------------------

pid() { cat "$run/pid" 2>/dev/null || true; }

alive() { # looks at the command too: the pid of a run that ended may belong to another process now
    local at
    at=$(pid)
    [ -n "$at" ] && grep -qs worker.sh "/proc/$at/cmdline"
}

holders() { # prints the processes that have the TPU's device files open; libtpu finds them in the same way
    sudo -n lsof -w -t /dev/accel[0-9]* /dev/vfio/[0-9]* 2>/dev/null | sort -un | paste -sd, - || true
}

free_tpu() {
    local held file owner
    command -v lsof >/dev/null || fail "lsof, which tells who has the TPU, is missing: sudo apt-get install -y lsof"
    held=$(holders)
    if [ -n "$held" ]; then
        says "error: the TPU is in use by process $held ($(ps -o args= -p "${held%%,*}" || true)); end it first"
        answer "state=busy held=$held"
        exit 4
    fi
    for file in "$lock" "${lock%file}_$(id -u)" "$HOME/.libtpu_lockfile"; do # the paths that libtpu tries one after the other
        if [ -e "$file" ]; then
            owner=$(stat -c %U "$file")
            says "$file is a stale lock of libtpu: a process of $owner left it, and no process has the TPU; removed"
            sudo -n rm -rf "$file"
        fi
    done
}

start() {
    if alive; then
        answer "state=running pid=$(pid) already=yes"
        exit 3
    fi
    free_tpu
    mount_store "$1"
    shift
    [ -x "$venv/bin/python" ] || fail "tljax is not installed here; launch/gcp/tpu.py install"
    mkdir -p "$run"
    rm -f "$run/exit" "$run/stopped"
    echo "--- $(date -u +%FT%TZ) python $*" >>"$run/log"
    # In a new session, so that it survives the end of the ssh connection and one signal reaches all its processes.
    setsid bash "${BASH_SOURCE[0]}" supervise "$@" >>"$run/log" 2>&1 </dev/null &
    echo $! >"$run/pid"
    answer "state=running pid=$!"
}

supervise() {
    local line code=0
    trap : TERM
    cd "$repo"
    export PATH="$venv/bin:$PATH"
    if [ -f .run-env ]; then
        while IFS= read -r line; do export "${line?}"; done <.run-env
    fi
    python launch/interruptible.py "$@" || code=$?
    echo "$code" >"$run/exit.new"
    mv "$run/exit.new" "$run/exit"
}

status() {
    local state=none code=
    if alive; then
        state=running
    elif [ -f "$run/exit" ]; then
        code=$(cat "$run/exit")
        case $code in
            0) state="done" ;;
            75) state=interrupted ;;
            *) state=failed ;;
        esac
    elif [ -f "$run/pid" ]; then
        state=lost
    fi
    case $state in interrupted | failed | lost) if [ -f "$run/stopped" ]; then state=stopped; fi ;; esac
    if [ "$state" = interrupted ]; then # the last line tells by what: a signal, or another worker that is gone
        tail -n 1 "$run/log" | while IFS= read -r line; do says "$line"; done
    elif [ "$state" = failed ] || [ "$state" = lost ]; then
        tail -n 12 "$run/log" | while IFS= read -r line; do says "$line"; done
    fi
    answer "state=$state code=$code held=$(holders)"
}

stop() {
    local left=$1 killed=137
    if ! alive; then
        status
        return
    fi
    if [ "${2:-}" = again ]; then killed=75; else touch "$run/stopped"; fi
    kill -TERM -- "-$(pid)"
    while alive && [ "$left" -gt 0 ]; do
        sleep 1
        left=$((left - 1))
    done
    if alive; then
        says "no end within $1 s of SIGTERM: killed; it goes on from its last checkpoint"
        kill -KILL -- "-$(pid)"
        echo "$killed" >"$run/exit"
        sleep 1
    fi
    status
}

logs() {
    [ -f "$run/log" ] || fail "no run was started here; launch/gcp/tpu.py run"
    if alive; then
        tail -n "$1" --pid="$(pid)" -F "$run/log"
    else
        tail -n "$1" "$run/log"
    fi
    status
}

list() {
    local path
    cd "$repo"
    [ -d "$1" ] || fail "there is no folder $1 in $repo"
    for path in "$1"/*; do
        if [ -e "$path" ]; then answer "file=${path##*/}"; fi
    done
}

case ${1:-} in
    install | start | supervise | status | stop | logs | list) "$@" ;;
    *) fail "'${1:-}' is not a command; allowed: install, start, status, stop, logs, list" ;;
esac
