#!/usr/bin/env bash
# Sets up the environment where it is missing, then runs the tests: bash tests/run.sh [pytest arguments, paths from the checkout's root]
# Without arguments all that are neither slow nor for a GPU, three files at a time.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup_env.sh
# One thread a process: tests start several ranks and servers on few cores. No dynamo: it compiles for 20 s and gains nothing on CPU.
export OMP_NUM_THREADS=1 TORCHDYNAMO_DISABLE=1
(($#)) || set -- --numprocesses=3 --dist=loadfile --no-loadscope-reorder
exec .venv/bin/python -m pytest "$@"
