#!/bin/bash
# SmolLM2-135M on two threads: the first 64 rows of the ragged mix, five runs.
#
#   bench/smollm2.sh [-b PROGRAM] [MODEL.gguf]
#
# Without MODEL: the file that quickstart.sh keeps in ${XDG_CACHE_HOME:-$HOME/.cache}/llmbatch.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
program=()
while getopts b: opt; do
    case $opt in
    b) program=(-b "$OPTARG") ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
. "$root/bench/model.sh"
model=$(model_or_smollm2 "${1:-}")

rows=$(mktemp)
trap 'rm -f "$rows"' EXIT
python3 "$root/bench/make_mix.py" --vocab 49152 --first 17 --rows 64 > "$rows"
"$root/bench/run.sh" "${program[@]}" -n 5 -t 2 "$model" "$rows"
