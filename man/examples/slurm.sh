#!/bin/sh
# One run over four nodes: MODEL=... IN=... OUT=... sbatch slurm.sh
#SBATCH --job-name=llmbatch
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00

# One task a node (or NUMA node: --ntasks-per-node=2), all of its processors. Where the model does not fit a node's memory,
# --tp 2 spreads a copy over two tasks. -K: a task that fails before the ranks know each other ends the others too.
# Slurm 22.05 lets a task out of MPI_Init before those of other nodes are ready, and these crash; in a ring all wait for all
export SLURM_PMIX_FENCE=ring
exec srun -K --mpi=pmix --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" llmbatch -m "${MODEL:-model/}" -i "${IN:-in.jsonl}" \
    -o "${OUT:-out.jsonl}" ${OPTIONS-}
