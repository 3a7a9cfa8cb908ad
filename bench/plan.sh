#!/bin/bash
# How well --plan predicts three kinds of runs: each is planned and run in turn, several times, and the ratio of the two
# times is printed, with its median.
#
#   bench/plan.sh [options] [MODEL.gguf]
#     -b FILE   the program (build/release/llmbatch)
#     -n N      rounds (5)
#     -t N      threads (2)
#     -f N      rows: N times decode 6, prefill 4, ragged 16 (1)
#     -v N      vocabulary of the model (49152)
#
# Without MODEL: the file that quickstart.sh keeps in ${XDG_CACHE_HOME:-$HOME/.cache}/llmbatch.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
program=$root/build/release/llmbatch rounds=5 threads=2 times=1 vocab=49152
while getopts b:n:t:f:v: opt; do
    case $opt in
    b) program=$OPTARG ;;
    n) rounds=$OPTARG ;;
    t) threads=$OPTARG ;;
    f) times=$OPTARG ;;
    v) vocab=$OPTARG ;;
    *) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
. "$root/bench/model.sh"
model=$(model_or_smollm2 "${1:-}")

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
for kind in decode:6 prefill:4 ragged:16; do
    python3 "$root/bench/make_mix.py" --vocab "$vocab" --first 17 --kind "${kind%:*}" --rows $((${kind#*:} * times)) \
        > "$tmp/${kind%:*}.jsonl"
done
for round in $(seq "$rounds"); do
    for kind in decode prefill ragged; do
        options=(-m "$model" -i "$tmp/$kind.jsonl" --ignore-eos --threads "$threads" --progress off --audit off)
        "$program" "${options[@]}" --plan --stats "$tmp/plan.json" > /dev/null
        "$program" "${options[@]}" -o "$tmp/out.jsonl" --overwrite --stats "$tmp/run.json"
        python3 - "$kind" "$round" "$tmp/plan.json" "$tmp/run.json" <<'PY' | tee -a "$tmp/table"
import json, sys
kind, turn, plan, run = sys.argv[1], sys.argv[2], json.load(open(sys.argv[3])), json.load(open(sys.argv[4]))
said, took = plan["plan"]["time_s"]["run"], run["time_s"]["total"] - run["time_s"]["load"]
print(f"{kind:8} {turn:>3}  planned {said:8.2f} s, {plan['plan']['steps']['count']:5d} steps;  "
      f"took {took:8.2f} s, {run['steps']['count']:5d} steps;  ratio {said / took:.3f}")
PY
    done
done
for kind in decode prefill ragged; do
    grep "^$kind" "$tmp/table" | awk '{print $NF}' | sort -n |
        awk -v kind="$kind" '{x[NR] = $1} END {printf "%-8s median ratio %.3f\n", kind, (x[int((NR + 1) / 2)] + x[int(NR / 2) + 1]) / 2}'
done
