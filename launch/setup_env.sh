#!/usr/bin/env bash
# Sets up .venv in the checkout: the frozen environment of requirements-cpu.txt, or -gpu.txt, and the project itself, editable.
# Does nothing when .venv is already what the requirements say; made anew when they change, the checkout has moved, or PYTHON asks for another version.
# Where setup.py alone has changed, the project itself is installed again, in seconds: its command is named there.
#   bash launch/setup_env.sh                  with the first of python3.11, python3.12, python3 that fits
#   PYTHON=python3.12 bash launch/setup_env.sh
#   bash launch/setup_env.sh gpu              CUDA 13, Python 3.12 alone, and a C++ compiler; not run on a GPU yet
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
KIND=${1:-cpu}
REQUIREMENTS=$ROOT/launch/requirements-$KIND.txt
STAMP=$VENV/.setup_stamp
ITSELF=$VENV/.setup_itself # of which setup.py the project was installed
LOG=$ROOT/.venv.log
LOCK_SECONDS=1800 # longest wait for another setup of the same checkout
STEP_SECONDS=1800 # longest time for one step
BUILT=transformer-engine-torch # on GPUs: has no wheel, and is built by what the others bring

say() { echo "setup_env: $*"; }
fail() {
    echo "setup_env: $*" >&2
    exit 1
}

declare -A PYTHONS=([cpu]="3.11 or 3.12" [gpu]="3.12")
[[ -n ${PYTHONS[$KIND]:-} ]] || fail "$KIND is no environment; cpu or gpu"

suitable() { # COMMAND: is it one of PYTHONS?
    local found
    found=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) && [[ " ${PYTHONS[$KIND]} " == *" $found "* ]]
}

choose_python() {
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        suitable "$PYTHON" || fail "PYTHON=$PYTHON is not a working Python ${PYTHONS[$KIND]}"
        echo "$PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3; do
        if suitable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python ${PYTHONS[$KIND]} in PATH: install one, or name it with PYTHON=/path/to/python3.12"
}

ready() { # has a setup finished here, from these requirements, and with the Python that PYTHON asks for?
    [[ -x $VENV/bin/python && -f $STAMP && $(<"$STAMP") == "$1" ]] && [[ -z ${PYTHON:-} || $(version "$PYTHON") == $(version "$VENV/bin/python") ]]
}

version() { "$1" -c 'import sys; print(sys.version_info[:2])' 2>/dev/null; }

step() { # COMMAND...: quiet when it works, its last lines when it does not
    if ! timeout "$STEP_SECONDS" "$@" >>"$LOG" 2>&1; then
        tail -n 25 "$LOG" >&2
        fail "failed: ${*##*/} (everything it said: $LOG)"
    fi
}

cuda_of_wheels() { # make of the wheels what a CUDA_HOME is; variables that have a build take it, whatever CUDA the machine has
    local nvidia cuda
    nvidia=$("$VENV/bin/python" -c 'import nvidia; print(next(iter(nvidia.__path__)))')
    cuda=$(compgen -G "$nvidia/cu[0-9]*")
    ln -sfn lib "$cuda/lib64" && (cd "$cuda/lib" && ln -sf libcudart.so.* libcudart.so)
    echo "CUDA_HOME=$cuda"
    echo "CPATH=$(printf '%s:' "$nvidia"/*/include)"
}

install_itself() { # editable, unless it is installed from this very setup.py
    local setup
    setup=$(sha256sum "$ROOT/setup.py")
    [[ -f $ITSELF && $(<"$ITSELF") == "$setup" ]] && return
    say "installing megatron-oreal itself, editable"
    step "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --no-deps --no-build-isolation --editable "$ROOT"
    echo "$setup" >"$ITSELF"
}

install() { # PYTHON
    local headers pip=("$VENV/bin/python" -m pip install --disable-pip-version-check --no-input)
    : >"$LOG"
    step "$1" -m venv --clear "$VENV"
    say "installing torch (1/2)"
    step "${pip[@]}" --constraint "$REQUIREMENTS" setuptools wheel torch
    say "installing the other $(grep -c '^[^#]*==' "$REQUIREMENTS") packages (2/2)"
    step "${pip[@]}" --no-deps --no-build-isolation --requirement <(grep -v "^$BUILT==" "$REQUIREMENTS")
    if grep -q "^$BUILT==" "$REQUIREMENTS"; then
        say "building $BUILT, with all cores for some minutes"
        mapfile -t headers < <(cuda_of_wheels)
        step env "${headers[@]}" "${pip[@]}" --no-deps --no-build-isolation "$(grep "^$BUILT==" "$REQUIREMENTS")"
    fi
    install_itself
}

main() {
    local python stamp
    # The path as well: scripts in a .venv name it, so one that was copied or moved along with its checkout does not work.
    stamp=$(sha256sum "$REQUIREMENTS")
    if ready "$stamp"; then
        (
            flock 9
            install_itself
            rm -f "$LOG"
        ) 9>"$ROOT/.venv.lock"
        return
    fi
    [[ ! -L $VENV ]] || fail "$VENV is a link to $(readlink "$VENV"): what it names is somebody else's, and would be cleared; remove the link"
    python=$(choose_python)
    exec 9>"$ROOT/.venv.lock"
    if ! flock --nonblock 9; then
        say "waiting for another setup of $VENV"
        flock --timeout "$LOCK_SECONDS" 9 || fail "another setup of $VENV has held its lock for $LOCK_SECONDS s: end it and run again"
        if ready "$stamp"; then return; fi
    fi
    say "making $VENV with $("$python" --version), a minute or two"
    install "$python"
    echo "$stamp" >"$STAMP"
    rm -f "$LOG"
    say "done in $SECONDS s"
}

main
