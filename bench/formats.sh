#!/bin/bash
# Weight formats against bf16: decoding of 1, 2, 4 and 8 rows and prefill on a random model, in turn with bf16.
#
#   bench/formats.sh [-b PROGRAM] [-t THREADS] [-n ROUNDS] [-f 'FORMAT ...'] [-d DIR] [-s 'SHAPE OPTIONS']
#
# DIR (${XDG_CACHE_HOME:-$HOME/.cache}/llmbatch/formats) keeps the models, Llama 3.2 1B's shape unless -s says otherwise
# (make_random_model.py's options); FORMAT as there (q8_0 q4_0 gptq), also with +int8 or +w4a8 behind it, for --quantize.
# Decoding: 32 prompt ids and 64 new tokens a row; prefill: a prompt of 1,024 ids and 1 new token. Each round runs bf16
# first, then the format; a ratio is the median over the rounds of bf16's seconds in the forward pass over the format's.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
program=$root/build/release/llmbatch threads=2 rounds=3 formats='q8_0 q4_0 gptq' shape=
dir=${XDG_CACHE_HOME:-$HOME/.cache}/llmbatch/formats
while getopts b:t:n:f:d:s: opt; do
    case $opt in
    b) program=$OPTARG ;;
    t) threads=$OPTARG ;;
    n) rounds=$OPTARG ;;
    f) formats=$OPTARG ;;
    d) dir=$OPTARG ;;
    s) shape=$OPTARG ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# where a format's model is, made when it is not there
model() {
    local format=${1%+*}
    # shellcheck disable=SC2086
    [ -e "$dir/$format" ] || python3 "$root/bench/make_random_model.py" --format "$format" $shape "$dir/$format"
    [ -e "$dir/$format/model.gguf" ] && echo "$dir/$format/model.gguf" || echo "$dir/$format"
}

rows() { # N PROMPT NEW
    python3 - "$@" <<'PY'
import json, random, sys
n, prompt, new = map(int, sys.argv[1:])
draw = random.Random(n)
for i in range(n):
    print(json.dumps({"prompt_token_ids": [draw.randrange(10, 2000) for _ in range(prompt)], "max_tokens": new}))
PY
}

# seconds in the forward pass
seconds() { # FORMAT ROWS
    local options=()
    [[ $1 != *+* ]] || options=(--quantize "${1#*+}")
    "$program" -m "$(model "$1")" -i "$tmp/$2" -o "$tmp/out" --stats "$tmp/stats" --overwrite --ignore-eos --audit off \
        --threads "$threads" --batch-tokens 1024 --kv-memory 256M --progress off "${options[@]}" 2> "$tmp/err" ||
        { cat "$tmp/err" >&2; exit 1; }
    python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["time_s"]["forward"])' "$tmp/stats"
}

for n in 1 2 4 8; do rows $n 32 64 > "$tmp/decode-$n"; done
rows 1 1024 1 > "$tmp/prefill"
model bf16 > /dev/null
echo "| format | work | times as fast as bf16 | each round | s of bf16 | s |"
echo "|---|---|---|---|---|---|"
for format in $formats; do
    for work in decode-1 decode-2 decode-4 decode-8 prefill; do
        for ((i = 0; i < rounds; i++)); do
            a=$(seconds bf16 "$work") b=$(seconds "$format" "$work")
            echo "$a $b"
        done > "$tmp/times"
        python3 - "$format" "$work" "$tmp/times" <<'PY'
import statistics, sys
pairs = [tuple(map(float, line.split())) for line in open(sys.argv[3])]
ratios = [a / b for a, b in pairs]
middle = [statistics.median(x) for x in zip(*pairs)]
print(f"| {sys.argv[1]} | {sys.argv[2]} | {statistics.median(ratios):.2f} | {' '.join(f'{r:.2f}' for r in ratios)} "
      f"| {middle[0]:.2f} | {middle[1]:.2f} |", flush=True)
PY
    done
done
