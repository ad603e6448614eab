#!/usr/bin/env bash
# The whole OREAL loop on two CPU cores, from nothing: environment, task, supervised start, pass rates, OREAL, table.
#   bash launch/demo.sh [hydra overrides of the OREAL run]       e.g. seed=1 parallel=pp2 debug=fast
# Everything is written below work_dirs/demo, made anew at each run (WORK=DIR for another place).
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
bash launch/setup_env.sh
PYTHON=$ROOT/.venv/bin/python
WORK=${WORK:-work_dirs/demo}
# One thread a process: two ranks, a server and the verifier share two cores. No dynamo: it compiles for 20 s and gains nothing here.
export OMP_NUM_THREADS=1 TORCHDYNAMO_DISABLE=1

override() { # KEY DEFAULT OVERRIDES...: the value that the overrides give a key of the OREAL run
    local key=$1 value=$2 argument
    shift 2
    for argument in "$@"; do
        [[ $argument == "$key="* ]] && value=${argument#*=}
    done
    echo "$value"
}

SEED=$(override seed 0 "$@")
SIZE=$(override debug full "$@")
sft=()
rollout=()
problems=(--seed "$SEED")
validation=100
if [[ $SIZE == fast ]]; then
    sft=(debug=fast_sft)
    rollout=(rollout.samples=4)
    validation=16
    problems+=(--train 96 --heldout 64 --sft 2000)
fi

echo "demo 1/5: a small model, its tokenizer, and word problems -> $WORK/task"
rm -rf "$WORK"
mkdir -p "$WORK"
$PYTHON tools/make_demo.py --out "$WORK/task" "${problems[@]}"

echo "demo 2/5: supervised start -> $WORK/sft"
$PYTHON -m megatron_oreal.sft experiment=demo_sft model.path="$WORK/task/base" data.train="$WORK/task/sft.jsonl" \
    run_dir="$WORK/sft" seed="$SEED" "${sft[@]}"

echo "demo 3/5: pass rate of every training question -> $WORK/train.jsonl"
$PYTHON tools/passrate.py experiment=demo_passrate model.path="$WORK/sft/hf" questions="$WORK/task/train.jsonl" \
    out="$WORK/train.jsonl" "${rollout[@]}"

echo "demo 4/5: OREAL, evaluated before and after -> $WORK"
$PYTHON -m megatron_oreal.train experiment=demo model.path="$WORK/sft/hf" data.train="$WORK/train.jsonl" \
    eval.data="$WORK/task/heldout.jsonl" eval.validation="$validation" run_dir="$WORK" "$@"

echo "demo 5/5: transformers loads $WORK/hf"
$PYTHON - "$WORK/hf" <<'PY'
import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
question = "Ann has 12 eggs. Ben has 5 fewer. How many together?"
chat = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**chat, max_new_tokens=60, do_sample=False)[0, chat["input_ids"].shape[1] :]
print(f"  {question}\n  {tokenizer.decode(answer, skip_special_tokens=True)}")
PY
echo "demo: $SECONDS s in all; results in $WORK/summary.json, curve in $WORK/metrics.jsonl"
