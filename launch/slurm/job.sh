# What the jobs of this folder share; sourced by their sbatch scripts, which have set `root` to the repository.
# A job is one `srun` step at a time, waited for in the background, so that the batch shell hears its signals.

. "$root/launch/slurm/environment.sh"
export PYTHONUNBUFFERED=1
# A step does not inherit the job's --cpus-per-task since Slurm 22.05.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# The id that names this job alone: an array's own id would requeue all of its tasks.
job=$SLURM_JOB_ID
[ -z "${SLURM_ARRAY_TASK_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID

# The signal for srun when the job is to stop.
notice=USR1
signalled=
step=

# --signal=B:USR1@SECONDS reaches this shell alone. srun passes USR1 on to every task; at TERM it kills them all. Once: a
# second signal tells the ranks to leave without saving.
trap 'if [ -z "$signalled" ]; then signalled=yes; [ -z "$step" ] || kill -"$notice" "$step"; fi' USR1

refuse() {
    echo "$*" >&2
    exit 2
}

# requeue REASON: put this job back into the queue, unless someone has ended it.
requeue() {
    local state= tries restarts=${SLURM_RESTART_COUNT:-0}
    if [ "$restarts" -ge "${MAX_RESTARTS:-100}" ]; then
        echo "job $job: $1; not requeued after $restarts restarts; submit it again, or with a greater MAX_RESTARTS" >&2
        return
    fi
    # The controller may be busy, or being restarted.
    for ((tries = 0; tries < 12; tries++)); do
        state=$(squeue --noheader --jobs="$job" --format=%T)
        [ -z "$state" ] || break
        sleep 5
    done
    # A job that was cancelled or has run out of time is COMPLETING by now, and `scontrol requeue` would revive it.
    if [ "$state" != RUNNING ]; then
        echo "job $job: $1; not requeued, since it is ${state:-unknown to squeue} and not RUNNING" >&2
        return
    fi
    # Said beforehand: the requeue ends this shell.
    echo "job $job: $1; requeueing"
    scontrol requeue "$job" || echo "job $job: may not be requeued; submit it again, or a chain (docs/how-to/cluster.md)"
}

# answers NODES [SRUN_OPTION...]: whether so many nodes of this job start a process.
answers() {
    # What the job asks for of GPUs, hosts, memory and MPI is not asked for again: the step that failed may still hold it.
    timeout 60 env -u SLURM_GPUS -u SLURM_GPUS_PER_NODE -u SLURM_GPUS_PER_TASK -u SLURM_NTASKS_PER_GPU -u SLURM_HOSTFILE \
        srun --overlap --gres=none --mem=0 --mpi=none \
        --nodes="$1" --ntasks="$1" --ntasks-per-node=1 --cpus-per-task=1 "${@:2}" true 2>/dev/null
}

# run SRUN_ARGUMENT...: run one step and leave as it did; requeue the job where it goes on in another attempt.
run() {
    local status
    srun --kill-on-bad-exit=1 "$@" &
    step=$!
    [ -z "$signalled" ] || kill -"$notice" "$step"
    # A signal ends `wait`, and not the step. Bash remembers the status of one that has ended.
    while kill -0 "$step" 2>/dev/null; do
        wait "$step"
    done
    wait "$step"
    status=$?
    case $status in
    0) exit 0 ;;
    # A refusal: of a rank (task.sh), or of a program that srun started itself.
    2 | 77) exit 2 ;;
    # Saved, or ended by USR1 itself (128 + 10) before it could listen, when there was nothing to save. Whoever sent the
    # signal: a preemption with a grace time tells the tasks alone, and a node that comes back after the job was requeued
    # may be asked late to end its tasks.
    75 | 138)
        requeue "stopped at a signal"
        exit 75
        ;;
    esac
    if [ -n "$signalled" ]; then
        requeue "stopped at the signal"
    # The ranks of the other nodes fail seconds after a node has died, and Slurm learns of its death minutes later.
    elif [ "$SLURM_JOB_NUM_NODES" -gt 1 ] && answers 1 --nodelist="$SLURMD_NODENAME" && ! answers "$SLURM_JOB_NUM_NODES"; then
        requeue "a node does not answer"
    fi
    exit 1
}

# ranks PROGRAM ARGUMENT...: a Python program, one task a rank.
ranks() {
    # The address by which Slurm itself reaches the first node; its name need not resolve.
    local first
    first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    MASTER_ADDR=$(scontrol --oneliner show node "$first" | grep -o ' NodeAddr=[^ ]*' | cut -d= -f2)
    MASTER_ADDR=${MASTER_ADDR:-$first}
    # Jobs that share a node need ports of their own, and so does an attempt after one whose sockets linger. Below the range
    # that systems give to outgoing connections.
    MASTER_PORT=$((10240 + (SLURM_JOB_ID * 31 + ${SLURM_RESTART_COUNT:-0}) % 20000))
    export MASTER_ADDR MASTER_PORT
    # The site's business, where the default route is the wrong one: NCCL_SOCKET_IFNAME, NCCL_IB_HCA, GLOO_SOCKET_IFNAME.
    local tasks=()
    [ -n "${SLURM_NTASKS:-}${SLURM_NTASKS_PER_NODE:-}" ] || tasks=(--nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node="${SLURM_GPUS_ON_NODE:-1}")
    run "${tasks[@]}" "$root/launch/slurm/task.sh" "$@"
}

# train PRETRAIN_ARGUMENT...: launch/pretrain.py.
train() {
    case " $* " in
    *" --recipe"[\ =]*) ;;
    *) refuse "$SLURM_JOB_NAME: no recipe; name one with --recipe, for instance --recipe launch/recipes/bert2bert.yaml" ;;
    esac
    ranks "$root/launch/pretrain.py" "$@"
}
