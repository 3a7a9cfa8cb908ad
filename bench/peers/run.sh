#!/bin/bash
# Measures llmbatch and the peers in turn. bench/peers/run.sh --help
#
#   bench/peers/run.sh OUT --models smollm2 --workloads ragged --runs 3
#   python3 bench/peers/table.py OUT/results.jsonl
set -euo pipefail
exec python3 -B "$(dirname "$0")/drive.py" "$@"
