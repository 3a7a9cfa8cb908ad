#!/bin/sh
# The rows in 8 parts, each a job that starts as soon as a node is free:
#
#   job=$(sbatch --parsable slurm-array.sh) && sbatch --dependency=afterok:$job slurm-array.sh merge
#SBATCH --job-name=llmbatch
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00

out=${OUT:-out.jsonl}
if [ "${1-}" = merge ]; then
    # the second job is an array too: its first task does it
    [ "$SLURM_ARRAY_TASK_ID" -eq "$SLURM_ARRAY_TASK_MIN" ] || exit 0
    parts=
    for i in $(seq "$SLURM_ARRAY_TASK_MIN" "$SLURM_ARRAY_TASK_MAX"); do
        parts="$parts ${out%.jsonl}.$i-of-$SLURM_ARRAY_TASK_COUNT.jsonl"
    done
    exec llmbatch --merge -o "$out" $parts
fi
exec llmbatch -m "${MODEL:-model/}" -i "${IN:-in.jsonl}" -o "${out%.jsonl}.%s.jsonl" \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" ${OPTIONS-}
