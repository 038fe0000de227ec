#!/bin/bash
# One rank: what `srun` starts once for each task. Ranks come from Slurm's variables; job.sh has set the meeting point.

export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_STEP_NUM_TASKS
# Tasks of this node: one number, or this node's of a list like 2(x3),1.
tasks=()
IFS=, read -ra groups <<<"$SLURM_STEP_TASKS_PER_NODE"
for group in "${groups[@]}"; do
    times=1
    [[ $group != *x* ]] || { times=${group##*x}; times=${times%)}; }
    for ((i = 0; i < times; i++)); do tasks+=("${group%%(*}"); done
done
export LOCAL_WORLD_SIZE=${tasks[$SLURM_NODEID]}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}

# What is compiled lies on the node's own disk, and belongs to this attempt alone: a build that was killed leaves a lock
# behind, on which the next would wait for ever.
cache=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/growth-$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
export TORCH_EXTENSIONS_DIR=$cache/torch_extensions TRITON_CACHE_DIR=$cache/triton TORCHINDUCTOR_CACHE_DIR=$cache/inductor

# Slurm signals this shell alone (proctrack/cgroup) or Python too (linuxproc, pgid): passed on, the signal arrives in either
# case, and one that comes twice within seconds is one request (pipeline/training/signals.py).
asked= python=
relay() {
    asked=$1
    [ -z "$python" ] || kill -"$1" "$python" 2>/dev/null
}
for name in USR1 USR2 TERM INT; do trap "relay $name" "$name"; done
"${PYTHON:-python}" "$@" &
python=$!
[ -z "$asked" ] || relay "$asked"
# A signal ends `wait`, and not Python. Bash remembers the status of one that has ended.
while kill -0 "$python" 2>/dev/null; do
    wait "$python"
done
wait "$python"
status=$?
[ "$SLURM_LOCALID" != 0 ] || rm -rf "$cache"

# srun returns the highest status of its tasks, and ends the others by TERM where one fails: these stop as they are asked to,
# which must not hide the failure. A refusal stands over a fault, since the ranks that one rank's refusal leaves alone fail.
case $status in
0) exit 0 ;;
2) exit 77 ;;
# Saved, or ended by USR1 or TERM (128 + 10, 128 + 15) before it could listen, when there was nothing to save.
75 | 138 | 143) exit 75 ;;
*) exit 76 ;;
esac
