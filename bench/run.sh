#!/bin/bash
# Runs one workload several times and prints, from the stats files, the rate of each run and the best.
#
#   bench/run.sh [options] MODEL ROWS.jsonl [-- more llmbatch options]
#     -b FILE   the program (build/release/llmbatch)
#     -n N      runs (5)
#     -t N      threads (2)
set -euo pipefail

usage() { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }

root=$(cd "$(dirname "$0")/.." && pwd)
program=$root/build/release/llmbatch runs=5 threads=2
while getopts b:n:t: opt; do
    case $opt in
    b) program=$OPTARG ;;
    n) runs=$OPTARG ;;
    t) threads=$OPTARG ;;
    *) usage ;;
    esac
done
shift $((OPTIND - 1))
[ $# -ge 2 ] || usage
model=$1 rows=$2
shift 2
if [ $# -gt 0 ]; then
    [ "$1" = -- ] || usage
    shift
fi
[ -x "$program" ] || { echo "run.sh: no program '$program': build it (cmake --preset release && cmake --build --preset release) or name it with -b" >&2; exit 2; }
[ -e "$model" ] || { echo "run.sh: no model '$model'" >&2; exit 2; }

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
for i in $(seq "$runs"); do
    # Exit code 1 means that rows failed: the summary refuses such a run and says how many.
    rc=0
    "$program" -m "$model" -i "$rows" -o "$tmp/$i.jsonl" --stats "$tmp/$i.stats.json" \
        --ignore-eos --threads "$threads" --progress off "$@" || rc=$?
    [ "$rc" -le 1 ] || { echo "run.sh: run $i: exit $rc" >&2; exit "$rc"; }
    [ -s "$tmp/$i.stats.json" ] || { echo "run.sh: run $i left no stats file" >&2; exit 1; }
done
python3 "$root/bench/summarize.py" "$tmp"/*.stats.json
