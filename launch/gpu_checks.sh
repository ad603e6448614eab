#!/usr/bin/env bash
# What a GPU has to show, on one GPU without network, in parts: each with its time limit and its log; a failed part does not stop the rest.
#   bash launch/gpu_checks.sh [--dry-run] KIT OUT PART...      logs in OUT, a table last; status 1 where a part failed
#   parts: install modules learn engine loop slice step plain logprobs sync demo; those joined by + run side by side. The limits of a
#   call may add up to 580 s. All that can be right or wrong, and one timing, which has the GPU for itself; then the other timings:
#     KIT OUT install modules learn+loop engine slice
#     KIT OUT install step  |  KIT OUT install plain logprobs  |  KIT OUT install sync demo
# KIT is a folder of wheels and sglang-*.tar.xz for the machine's own Python, installed into /tmp/site where they are not there already.
set -uo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SITE=/tmp/site
MOST_SECONDS=580
# Of an SGLang whose optional kernels were left out.
ENGINE=(attention-backend=triton sampling-backend=pytorch grammar-backend=none mem-fraction-static=0.3)

# Beside other work on the GPU: the cache that a small model needs, whatever part of the memory is free as it starts.
SMALL_ENGINE=("${ENGINE[@]/mem-fraction-static=0.3/mem-fraction-static=0.5}" max-total-tokens=65536)

declare -A LIMIT=([install]=60 [modules]=30 [learn]=240 [engine]=100 [loop]=240 [slice]=130 [step]=500 [plain]=420 [logprobs]=60 [sync]=240
    [demo]=280)

fail() {
    echo "gpu_checks: $*" >&2
    exit 2
}

install() {
    if [[ -f $SITE/.whole ]]; then
        run echo "$SITE is there already"
        return
    fi
    run python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$SITE" "$KIT"/*.whl || return
    run tar -xJf "$KIT"/sglang-*.tar.xz -C "$SITE" || return
    run rm -rf "$SITE/tools" || return # came along with SGLang, and would hide ours
    run touch "$SITE/.whole"
}

modules() { # what is missing is named here, not in the middle of a part
    local names=(torch transformers transformer_engine.pytorch megatron.core sglang hydra omegaconf msgspec psutil requests aiohttp rich
        safetensors sympy latex2sympy2_extended pytest)
    # torch first: Transformer Engine's extension finds its libraries through it.
    run python3 -c '
import importlib, sys
missing = []
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name)
        print(name, getattr(module, "__version__", ""))
    except Exception as error:
        missing.append(name)
        print(f"{name}: {type(error).__name__}: {error}")
sys.exit(f"missing or broken: {chr(32).join(missing)}" if missing else 0)' "${names[@]}"
}

TESTS=(python3 -m pytest -m gpu -q -rA --tb=short -p no:cacheprovider)

learn() { run "${TESTS[@]}" tests/learn tests/model tests/plan; }

engine() { run "${TESTS[@]}" tests/sync --engine-args "${ENGINE[@]}"; } # it measures what the GPU has free: nothing beside it

loop() { # a few steps of the demo's own model: colocated, asleep while it trains, new weights by CUDA IPC
    local work=$OUT/loop flags=("${SMALL_ENGINE[@]/#/+rollout.server_args.}")
    run python3 tools/make_demo.py --out "$work/task" --seed 0 || return
    run python3 -m megatron_oreal.train experiment=demo debug=fast parallel=auto model.dtype=bfloat16 "${flags[@]}" rollout.sync=tensor \
        model.path="$work/task/base" data.train="$work/task/train.jsonl" eval.data="$work/task/heldout.jsonl" run_dir="$work/run" || return
    run rm -rf "$work/run/checkpoints"
}

slice() { run python3 tools/bench_step.py --shape 32b-tp8 --steps 3; }

step() { run python3 tools/bench_step.py --shape 32b-tp8 32b-layers 7b --steps 3 --profile "$OUT/traces"; }

plain() { run python3 tools/bench_step.py --shape 32b-layers 7b --steps 3 --against-plain; }

logprobs() { run python3 tools/bench_logprobs.py --tokens 16384 --vocab 152064; }

# Not `distributed`: NCCL joins no two processes on one GPU.
sync() { run python3 tools/bench_sync.py --size 1.5b --engines 1 --ways tensor disk --server-args "${ENGINE[@]}"; }

demo() { # launch/demo.sh without its environment, in bfloat16 on one rank
    local work=$OUT/demo common=(parallel=auto model.dtype=bfloat16) engine=("${ENGINE[@]/#/+rollout.server_args.}")
    run python3 tools/make_demo.py --out "$work/task" --seed 0 || return
    run python3 -m megatron_oreal.sft experiment=demo_sft "${common[@]}" model.path="$work/task/base" data.train="$work/task/sft.jsonl" \
        run_dir="$work/sft" seed=0 || return
    run python3 tools/passrate.py experiment=demo_passrate model.dtype=bfloat16 "${engine[@]}" model.path="$work/sft/hf" \
        questions="$work/task/train.jsonl" out="$work/train.jsonl" || return
    run python3 -m megatron_oreal.train experiment=demo "${common[@]}" "${engine[@]}" rollout.sync=tensor model.path="$work/sft/hf" \
        data.train="$work/train.jsonl" eval.data="$work/task/heldout.jsonl" run_dir="$work/run" || return
    run rm -rf "$work/run/checkpoints" "$work/sft/checkpoints" # what comes back from the machine is small
}

run() { # COMMAND...: said, and done where this is no dry run
    printf '+'
    printf ' %q' "$@"
    echo
    [[ -n $DRY ]] || "$@"
}

DRY=""
if [[ ${1:-} == --dry-run ]]; then
    DRY=1
    shift
fi
(($# >= 3)) || fail "usage: gpu_checks.sh [--dry-run] KIT OUT PART...   parts: ${!LIMIT[*]}"
KIT=$(realpath -m "$1") OUT=$(realpath -m "$2")
shift 2
total=0
for group in "$@"; do
    longest=0
    for part in ${group//+/ }; do
        [[ -n ${LIMIT[$part]:-} ]] || fail "no part is called $part; parts: ${!LIMIT[*]}"
        longest=$((LIMIT[$part] > longest ? LIMIT[$part] : longest))
    done
    total=$((total + longest))
done
((total <= MOST_SECONDS)) || fail "the limits of $* add up to $total s, and a call has $MOST_SECONDS: do it in several"
[[ -d $KIT ]] || fail "KIT=$KIT is no folder"
mkdir -p "$OUT" || exit 2
cd "$ROOT" || exit 2

export PYTHONPATH=$SITE:$PWD${PYTHONPATH:+:$PYTHONPATH} OMP_NUM_THREADS=4 # with torch.compile, as a run has it
export KIT OUT DRY SITE

timed() { # PART: in a shell of its own, so that the limit ends the part and all that it started
    local began=$SECONDS
    timeout -k 10 "${LIMIT[$1]}" bash -c "$(declare -f run "$1"); $(declare -p ENGINE SMALL_ENGINE TESTS); $1" >"$OUT/$1.log" 2>&1
    echo "$? $((SECONDS - began))" >"$OUT/$1.ended"
}

table="" status=0
for group in "$@"; do
    for part in ${group//+/ }; do timed "$part" & done
    wait
    for part in ${group//+/ }; do
        log=$OUT/$part.log
        read -r code seconds <"$OUT/$part.ended"
        case $code in
        0) said=done ;;
        124 | 137) said="over ${LIMIT[$part]} s" status=1 ;;
        *) said="failed ($code)" status=1 ;;
        esac
        echo "== $part: $said"
        if [[ -n $DRY ]]; then cat "$log"; else tail -n 25 "$log" | cut -c -200; fi
        table+=$(printf '%-10s %-14s %5d s  %s' "$part" "$said" "$seconds" "$log")$'\n'
    done
done
printf '\n%s' "$table"
exit "$status"
