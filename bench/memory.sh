#!/bin/bash
# Peak of memory beside what a packed model may need: 1.1 times its file and the planned KV cache.
#
#   bench/memory.sh [-b PROGRAM] [-t THREADS] [-k KV_MIB] [MODEL.gguf]
#
# A run of one row, and one of the first 16 rows of the ragged mix, whose steps are full. Peak is VmHWM; what it is made
# of (RssAnon: weights, cache, steps; RssFile: pages of the model's file, of the program and of its libraries) is of the
# last look before the end. Without MODEL: the file that quickstart.sh keeps in ${XDG_CACHE_HOME:-$HOME/.cache}/llmbatch.
# Exit status 1: the one row took more than that.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
program=$root/build/release/llmbatch threads=2 kv=64
while getopts b:t:k: opt; do
    case $opt in
    b) program=$OPTARG ;;
    t) threads=$OPTARG ;;
    k) kv=$OPTARG ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
. "$root/bench/model.sh"
model=$(model_or_smollm2 "${1:-}")

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
echo '{"prompt_token_ids": [504, 3575, 282, 4649, 314], "max_tokens": 16}' > "$tmp/one row"
python3 "$root/bench/make_mix.py" --vocab 49152 --first 17 --rows 16 > "$tmp/16 ragged rows"
python3 - "$program" "$model" "$threads" "$kv" "$tmp" <<'PY'
import os, re, subprocess, sys, time
program, model, threads, kv, tmp = sys.argv[1:]

def measure(rows):
    run = subprocess.Popen([program, "-m", model, "-i", f"{tmp}/{rows}", "-o", f"{tmp}/out", "--overwrite", "--progress", "off",
                            "--audit", "off", "--ignore-eos", "--threads", threads, "--kv-memory", f"{kv}M", "--batch-tokens", "512"])
    seen = {}
    while run.poll() is None:
        with open(f"/proc/{run.pid}/status") as f:
            seen.update((k, int(v) / 1024) for k, v in re.findall(r"^(VmHWM|RssAnon|RssFile):\s+(\d+) kB", f.read(), re.M))
        time.sleep(0.005)
    if run.returncode != 0:
        sys.exit(f"memory.sh: {program} ended with {run.returncode}")
    return seen

size = os.path.getsize(model) / 2**20
limit = 1.1 * size + int(kv)
print(f"file {size:.1f} MiB, KV cache {kv} MiB: at most {limit:.1f}\n")
print("| rows | peak MiB | anonymous | of files |\n|---|---|---|---|")
for rows in "one row", "16 ragged rows":
    seen = measure(rows)
    if rows == "one row":
        over = seen["VmHWM"] > limit
    print(f"| {rows} | {seen['VmHWM']:.1f} | {seen['RssAnon']:.1f} | {seen['RssFile']:.1f} |", flush=True)
sys.exit(1 if over else 0)
PY
