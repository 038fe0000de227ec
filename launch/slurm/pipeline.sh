#!/bin/bash
# Submit a whole experiment as a chain of jobs, each starting when the one before it has ended well.
# Without -u: before bash 4.4 it takes an empty array for an unset one.
set -eo pipefail

usage() {
    cat <<'USAGE'
usage: launch/slurm/pipeline.sh [--data CONFIG] [--source RECIPE] --train RECIPE --ds_config C [options]

Submits up to five jobs from the repository's root and prints their ids:

  prepare   data_prep.sbatch CONFIG; the recipes below then read what it writes (data.shards)
  source    pretrain.sbatch, a recipe whose run is the source of the next
  train     pretrain.sbatch, a recipe; with --source it starts from that run (source.path), and grows it
  evaluate  evaluate.sbatch, what the run of `train` has come to
  report    report.sbatch, the page of that run

Each starts when the one before it has ended well; where one fails, those after it are cancelled.

  --data CONFIG           what to prepare, as `python -m data_prep run` takes it
  --source RECIPE         the small model's recipe
  --train RECIPE          the recipe that grows and trains
  --ds_config C           DeepSpeed's configuration, of both recipes
  --evaluate "TASK ..."   the tasks, and further arguments of launch/evaluate.py, for instance "wikitext2 lambada --data DIR";
                          a report follows
  --report FILE           where the report goes (with --evaluate: report.html in the run of --train)
  --data_job "OPTIONS"    options of sbatch for one job, for instance "--ntasks=64 --time=2:00:00"
  --source_job "OPTIONS"
  --train_job "OPTIONS"
  --evaluate_job "OPTIONS"
  --report_job "OPTIONS"  SBATCH_ACCOUNT, SBATCH_PARTITION and the like hold for all jobs
USAGE
}

refuse() {
    echo "pipeline.sh: $*" >&2
    exit 2
}

data= source= train= ds_config= report=
evaluate=() data_job=() source_job=() train_job=() evaluate_job=() report_job=()
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h) usage && exit ;;
    --data | --source | --train | --ds_config | --evaluate | --report | \
        --data_job | --source_job | --train_job | --evaluate_job | --report_job)
        [ $# -gt 1 ] || refuse "$1 needs a value; --help tells more"
        case $1 in
        # Words as a shell reads them, quotes too, but nothing in them is run.
        --evaluate | *_job)
            split=$(xargs -r -n 1 printf '%s\n' <<<"$2" 2>/dev/null) || refuse "$1: cannot be split into words; close its quotes"
            [ -z "$split" ] || mapfile -t "${1#--}" <<<"$split"
            ;;
        *) printf -v "${1#--}" %s "$2" ;;
        esac
        shift 2
        ;;
    *) refuse "$1: no such option; --help tells more" ;;
    esac
done
[ -n "$train" ] || refuse "no recipe to train; name one with --train"
[ -n "$ds_config" ] || refuse "no DeepSpeed configuration; name one with --ds_config, for instance ds_configs/zero3.json"
[[ ${evaluate[0]-} != -* ]] || refuse "--evaluate begins with ${evaluate[0]}; name the tasks first, as in --evaluate \"wikitext2 --data DIR\""

root=${PROJECT_ROOT:-$PWD}
[ -r "$root/launch/slurm/job.sh" ] || refuse "$root/launch/slurm/job.sh: not there; start in the repository's root, or set PROJECT_ROOT"
. "$root/launch/slurm/environment.sh"
pretrain=("$PYTHON" "$root/launch/pretrain.py" --ds_config "$ds_config")
export PROJECT_ROOT=$root

# quoted TEXT: what YAML reads as TEXT, whatever is in it.
quoted() {
    local quote="'"
    printf %s "$quote${1//$quote/$quote$quote}$quote"
}

# What can be wrong whatever the jobs before leave is refused here, before anything is submitted.
from_data=() from_source=()
if [ -n "$data" ]; then
    shards=$("$PYTHON" -m data_prep check "$data") || exit 2
    from_data=("data.shards=$(quoted "$shards")" data.text=null data.tokenizer=null)
fi
# check RECIPE OVERRIDE...: all of a recipe where its data and its source are there, else what it says.
check() {
    local how=--dry_run
    [ -z "$data" ] || [ -e "$shards/manifest.json" ] || how=--print_config
    [ -z "$source" ] || [ "$1" = "$source" ] || [ -e "$run_dir/summary.json" ] || how=--print_config
    "${pretrain[@]}" --recipe "$@" $how >/dev/null || exit 2
}
# run_dir_of RECIPE OVERRIDE...: the run directory that a recipe names.
run_dir_of() {
    local find='import pathlib, sys; from pipeline.recipe import load_recipe; print(load_recipe(pathlib.Path(sys.argv[1]), sys.argv[2:]).run_dir)'
    "$PYTHON" -c "$find" "$@"
}
if [ -n "$source" ]; then
    check "$source" "${from_data[@]}"
    run_dir=$(run_dir_of "$source" "${from_data[@]}")
    from_source=("source={}" "source.path=$(quoted "$run_dir")")
fi
check "$train" "${from_data[@]}" "${from_source[@]}"
if [ ${#evaluate[@]} -gt 0 ] || [ -n "$report" ]; then
    trained=$(run_dir_of "$train" "${from_data[@]}" "${from_source[@]}")
    report=${report:-$trained/report.html}
    folder=$(dirname "$report")
    # The run's own is made by the run.
    [ -d "$folder" ] || [ "$folder" = "$trained" ] || refuse "--report: $folder is no directory; make it, or name another file"
fi

ids=()
trap '[ ${#ids[@]} = 0 ] || { scancel "${ids[@]}"; echo "pipeline.sh: cancelled the jobs submitted so far: ${ids[*]}" >&2; }' EXIT

# submit NAME SBATCH_ARGUMENT...: submit a job that starts when the last one has ended well, and print its line.
submit() {
    local name=$1 after= id dependency=()
    shift
    if [ ${#ids[@]} -gt 0 ]; then
        after=${ids[-1]}
        dependency=(--dependency=afterok:"$after" --kill-on-invalid-dep=yes)
    fi
    id=$(sbatch --parsable --job-name="$name" "${dependency[@]}" "$@")
    id=${id%%;*}
    ids+=("$id")
    printf '%-8s  %8s  %8s  %s\n' "$name" "$id" "${after:--}" "$name-$id.log"
}
printf '%-8s  %8s  %8s  %s\n' stage job after log
[ -z "$data" ] || submit prepare "${data_job[@]}" "$root/launch/slurm/data_prep.sbatch" "$data"
[ -z "$source" ] ||
    submit source "${source_job[@]}" "$root/launch/slurm/pretrain.sbatch" --recipe "$source" --ds_config "$ds_config" "${from_data[@]}"
submit train "${train_job[@]}" "$root/launch/slurm/pretrain.sbatch" --recipe "$train" --ds_config "$ds_config" "${from_data[@]}" "${from_source[@]}"
[ ${#evaluate[@]} = 0 ] ||
    submit evaluate "${evaluate_job[@]}" "$root/launch/slurm/evaluate.sbatch" --model "$trained" --task "${evaluate[@]}"
[ -z "$report" ] || submit report "${report_job[@]}" "$root/launch/slurm/report.sbatch" "$trained" --out "$report"
trap - EXIT
