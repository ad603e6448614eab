# What the sbatch files share: preflight, the ranks' step and the engines' step watched together, requeue. Sourced in a job, whose working
# directory is the checkout's root. COMMAND: train, or sft. Needs RANK_NODES: how many nodes of a disaggregated run have ranks; the others have its engines.
#
# Asked to stop (USR1 ahead of the time limit, scancel --signal=USR1, SIGTERM at a preemption) the run saves, leaves <run_dir>/stopped and
# ends with status 0; then the job requeues itself and goes on with resume=auto. A run without that file is finished. A step that fails
# ends the job with its status; after the loss of a node Slurm requeues the job by itself.
set -uo pipefail

# Deadlines; site.sh may set others.
SAVE_S=900          # for the ranks to save and end, once the engines are gone
SERVERS_END_S=60    # for the engines to end by themselves, once the ranks have
TASKS_APART_S=60    # between the end of the first and of the last task of a step; a task whose slurmstepd is gone is not waited for longer
asked=0             # to stop
COMMAND=train       # of megatron-oreal; an sbatch file may name sft

say() { echo "job ${SLURM_JOB_ID:-}: $*"; }
fail() { # STATUS WORDS...
    local status=$1
    shift
    say "error: $*" >&2
    exit "$status"
}
alive() { [[ -n $1 ]] && kill -0 "$1" 2>/dev/null; }

step() { # NODES TASKS_PER_NODE SRUN_OPTIONS... -- COMMAND...
    local nodes=$1 tasks=$2 options=()
    shift 2
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    [[ -n ${SLURM_CPUS_PER_TASK:-} ]] && options+=(--cpus-per-task="$SLURM_CPUS_PER_TASK")
    exec srun --nodes="$nodes" --ntasks="$((nodes * tasks))" --ntasks-per-node="$tasks" --kill-on-bad-exit=1 --wait="$TASKS_APART_S" \
        --overlap --open-mode=append "${options[@]}" "${CONTAINER[@]}" "$@"
}

address_of() { # NODE: its name where that resolves, else the address at which Slurm reaches it
    local address
    getent hosts "$1" >/dev/null && { echo "$1"; return; }
    address=$(scontrol show node -o "$1" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
    echo "${address:-127.0.0.1}"
}

find_master() { # where the ranks meet: on the job's first node, at a port of the job's own
    mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    export MASTER_ADDR=${MASTER_ADDR:-$(address_of "${nodes[0]}")}
    export MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 12000))}
}

keep_caches_local() { # kernels compiled at the start: on a shared home, nodes would wait for each other or read halves of files
    local folder=${JIT_CACHE:-${TMPDIR:-/tmp}/megatron_oreal-jit-$(id -u)}
    export SGLANG_CACHE_DIR=${SGLANG_CACHE_DIR:-$folder/sglang} TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$folder/triton}
    export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$folder/inductor} CUDA_CACHE_PATH=${CUDA_CACHE_PATH:-$folder/nv}
    export FLASHINFER_WORKSPACE_BASE=${FLASHINFER_WORKSPACE_BASE:-$folder} TVM_FFI_CACHE_DIR=${TVM_FFI_CACHE_DIR:-$folder/tvm-ffi}
}

ask_to_stop() { # trap: pass it on; what has not begun yet does not begin
    asked=1
    say "asked to stop: the run saves and ends"
    alive "${ranks:-}" && kill -USR1 "$ranks"
}

wait_while() { # SECONDS PID...: until one of them has ended, at most so long (0: for ever); fails where none has
    local deadline=$((SECONDS + $1)) limited=$1 pid
    shift
    while true; do
        for pid in "$@"; do
            alive "$pid" || return 0
        done
        ((limited == 0 || SECONDS < deadline)) || return 1
        sleep 1 &
        wait $! # which a trap interrupts
    done
}

end_step() { # PID SECONDS: of its srun; ended where it has not by then
    wait_while "$2" "$1" && return
    kill -TERM "$1" 2>/dev/null
    wait_while 60 "$1" || kill -KILL "$1" 2>/dev/null
}

say_where() { # STEP STATUS FIRST_NODE NODES TASKS_PER_NODE: srun's lines above name nodes, or number them; those of ranks and engines, ranks
    local number=0 node where=()
    for node in "${nodes[@]:$3:$4}"; do
        where+=("node $number: $node, tasks $((number * $5))-$((number * $5 + $5 - 1));")
        ((++number))
    done
    say "error: $1 ended with status $2 (${where[*]} logs: $LOGS)" >&2
    cat "$LOGS"/* | grep -a '^error' | sort -u | head -n 5 >&2
}

watch_steps() { # until both are over; sets `status` (of the ranks) and `servers_status`
    status=0 servers_status=0
    if [[ -n $servers ]]; then
        wait_while 0 "$ranks" "$servers"
        if ! alive "$servers"; then
            wait "$servers"
            servers_status=$?
            if ((servers_status)); then
                say_where "the engines' step" "$servers_status" "$rank_nodes" $((SLURM_NNODES - rank_nodes)) 1
                kill -USR1 "$ranks" 2>/dev/null
                end_step "$ranks" "$SAVE_S"
            fi
        fi
    fi
    wait_while 0 "$ranks"
    wait "$ranks"
    status=$?
    ((status)) && say_where "the ranks' step" "$status" 0 "$rank_nodes" "$tasks"
    if alive "$servers"; then
        end_step "$servers" $((status ? 5 : SERVERS_END_S)) # ranks that failed may not have told them
    fi
}

requeue_or_end() { # after a run that was asked to stop, or is over
    local state
    if ((status || servers_status)) && ! ((asked)); then
        exit $((status ? status : servers_status))
    fi
    if [[ ! -f $RUN_DIR/stopped ]] && ! ((asked && status)); then
        say "the run is finished"
        exit 0
    fi
    state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)
    [[ $state == RUNNING ]] || fail $((status ? status : 1)) "not requeued, the job is ${state:-gone}; sbatch it again with resume=auto"
    ((${SLURM_RESTART_COUNT:-0} < MAX_REQUEUES)) || fail 1 "not requeued: that was done MAX_REQUEUES=$MAX_REQUEUES times"
    trap - USR1 TERM # Slurm ends what it requeues
    say "stopped as asked; requeued, and goes on with resume=auto"
    scontrol requeue "$SLURM_JOB_ID" || fail 1 "could not be requeued; sbatch it again with resume=auto"
    sleep 300 # Slurm ends this script
}

run_job() { # HYDRA OVERRIDES...
    local facts rank_nodes=$SLURM_NNODES tasks=${SLURM_NTASKS_PER_NODE:?sbatch needs --ntasks-per-node: the GPUs of a node}
    trap ask_to_stop USR1 TERM
    # shellcheck source=site.sh
    source "${SITE:-launch/slurm/site.sh}" || exit 2
    find_master
    keep_caches_local
    facts=$(step 1 1 -- "$PYTHON" launch/slurm/facts.py "$COMMAND" "$@" | grep '^RUN_DIR=') || fail 2 "the configuration cannot be used (see above)"
    eval "$facts"
    [[ $PLACEMENT == disaggregated ]] && rank_nodes=$RANK_NODES
    ((SLURM_NNODES > rank_nodes)) || [[ $PLACEMENT != disaggregated ]] ||
        fail 2 "rollout.placement=disaggregated takes $RANK_NODES nodes for ranks (RANK_NODES) and at least one more; sbatch -N"
    compgen -G "$RUN_DIR/checkpoints/step-*/state.json" >/dev/null && ((${SLURM_RESTART_COUNT:-0})) && set -- "$@" resume=auto
    LOGS=$RUN_DIR/logs/$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
    mkdir -p "$LOGS" || fail 2 "$LOGS cannot be made"
    rm -f "$RUN_DIR/stopped"
    say "$SLURM_JOB_NODELIST, rank 0 at $MASTER_ADDR:$MASTER_PORT, logs of each node in $LOGS"

    (step "$SLURM_NNODES" 1 -- "$PYTHON" tools/doctor.py --of "$COMMAND" --ranks $((rank_nodes * tasks)) --ranks-per-node "$tasks" \
        --nodes "$(IFS=,; echo "${nodes[*]}")" "${DOCTOR[@]}" "$@") ||
        ((asked)) || fail 1 "the preflight check found errors (see above)"
    ranks='' servers='' status=1 servers_status=0
    if ! ((asked)); then
        (step "$rank_nodes" "$tasks" --relative=0 --output="$LOGS/ranks-%n-%N.log" -- "$PYTHON" -m "megatron_oreal.$COMMAND" "$@") &
        ranks=$!
        if [[ $PLACEMENT == disaggregated ]]; then
            (step $((SLURM_NNODES - rank_nodes)) 1 --relative="$rank_nodes" --output="$LOGS/engines-%n-%N.log" -- \
                "$PYTHON" -m megatron_oreal.serve "$@") &
            servers=$!
        fi
        watch_steps
    fi
    requeue_or_end
}
