#!/bin/sh
# Hosts without a scheduler, named in the file hosts, one a line ("node1 slots=1"); all have the program and the model under
# the same path. On hosts with several networks, NET is the one that all share: NET=10.1.0.0/16 ./mpirun.sh
set -eu
n=$(grep -c '^[^#]' "${HOSTS:-hosts}")
exec mpirun -n "$n" --hostfile "${HOSTS:-hosts}" --map-by node --bind-to none \
    ${NET:+--mca oob_tcp_if_include $NET --mca btl_tcp_if_include $NET} ${MPI_OPTIONS-} \
    llmbatch -m "${MODEL:-model/}" -i "${IN:-in.jsonl}" -o "${OUT:-out.jsonl}" ${OPTIONS-}
