#!/bin/sh
# A run that is longer than the queue's time limit: sbatch slurm-requeue.sh. Slurm sends SIGUSR1 two minutes before the limit;
# the ranks stop in order with status 130, the job goes back into the queue, and the next start takes the finished rows over.
#SBATCH --job-name=llmbatch
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

# Slurm 22.05 lets a task out of MPI_Init before those of other nodes are ready, and these crash; in a ring all wait for all
export SLURM_PMIX_FENCE=ring
srun -K --mpi=pmix --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" llmbatch -m "${MODEL:-model/}" -i "${IN:-in.jsonl}" \
    -o "${OUT:-out.jsonl}" ${OPTIONS-}
code=$?
# A status of 4 (a node failed) may go on elsewhere too; look at what it said before you let it.
[ $code -ne 130 ] || exec scontrol requeue "$SLURM_JOB_ID"
exit $code
