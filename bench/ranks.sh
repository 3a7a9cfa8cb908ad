#!/bin/bash
# What ranks cost on one machine: one process with two threads, two data-parallel ranks and one group of two, each rank with
# one thread, in turn on the same rows. Prints the rates of each round and the ratios to the one process, then the memory
# of the weights, which ranks of a host share.
#
#   bench/ranks.sh [options] MODEL ROWS.jsonl [-- more llmbatch options]
#     -b FILE   the program (build/release/llmbatch)
#     -n N      rounds (5)
set -euo pipefail

usage() { sed -n '6,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }

root=$(cd "$(dirname "$0")/.." && pwd)
program=$root/build/release/llmbatch rounds=5
while getopts b:n: opt; do
    case $opt in
    b) program=$OPTARG ;;
    n) rounds=$OPTARG ;;
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
[ -x "$program" ] || { echo "ranks.sh: no program '$program': build it (cmake --preset release && cmake --build --preset release) or name it with -b" >&2; exit 2; }
[ -e "$model" ] || { echo "ranks.sh: no model '$model'" >&2; exit 2; }

exec python3 - "$program" "$model" "$rows" "$rounds" "$@" <<'END_PYTHON'
import json, os, statistics, subprocess, sys, tempfile, time

program, model, rows, rounds, more = *sys.argv[1:4], int(sys.argv[4]), sys.argv[5:]
MPIRUN = ["mpirun", "--bind-to", "none", "--oversubscribe", "-n", "2"] + (["--allow-run-as-root"] if os.geteuid() == 0 else [])
LOOK_S = 5
KINDS = {"one": [program, "--threads", "2"],
         "dp 2": [*MPIRUN, program, "--threads", "1", "--tp", "1"],
         "tp 2": [*MPIRUN, program, "--threads", "1", "--tp", "2"]}


def weights_bytes():
    """Memory of all processes of the program, what they share counted once."""
    total = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/exe") == os.path.realpath(program):
                with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
                    total += sum(int(line.split()[1]) * 1024 for line in f if line.startswith("Pss:"))
        except OSError:
            continue
    return total


def run(kind, folder):
    """Rate, seconds of loading, most memory of all processes, the bytes of the output."""
    out = os.path.join(folder, "out.jsonl")
    p = subprocess.Popen([*KINDS[kind], "-m", model, "-i", rows, "-o", out, "--overwrite", "--restart", "--ignore-eos",
                          "--progress", "off", *more])
    most = 0
    while True: # seldom: the kernel walks all pages for it, and holds the ranks up
        try:
            p.wait(LOOK_S)
            break
        except subprocess.TimeoutExpired:
            most = max(most, weights_bytes())
    if p.returncode:
        sys.exit(f"ranks.sh: {kind}: exit {p.returncode}")
    with open(out + ".stats.json", encoding="utf-8") as f:
        s = json.load(f)
    with open(out, "rb") as f:
        data = f.read()
    t = s["time_s"]
    return (s["tokens"]["prompt"] + s["tokens"]["completion"]) / (t["total"] - t["load"]), t["load"], most, data


rates = {kind: [] for kind in KINDS}
memory = {}
with tempfile.TemporaryDirectory() as folder:
    print("round  " + "".join(f"{kind + ' tok/s':>14}" for kind in KINDS) + "   dp 2/one   tp 2/one")
    for i in range(rounds):
        first = None
        for kind in KINDS:
            rate, _, most, data = run(kind, folder)
            first = first or data
            if data != first:
                sys.exit(f"ranks.sh: {kind}: other bytes than one process")
            rates[kind].append(rate)
            memory[kind] = max(memory.get(kind, 0), most)
        row = [rates[kind][-1] for kind in KINDS]
        print(f"{i + 1:5d}  " + "".join(f"{r:14.1f}" for r in row) + f"{row[1] / row[0]:11.3f}{row[2] / row[0]:11.3f}", flush=True)
for kind in ("dp 2", "tp 2"):
    ratios = [a / b for a, b in zip(rates[kind], rates["one"])]
    print(f"{kind}: {statistics.median(ratios):.3f} times one process (median of {min(ratios):.3f} to {max(ratios):.3f}), best "
          f"{max(rates[kind]):.1f} to best {max(rates['one']):.1f}: {max(rates[kind]) / max(rates['one']):.3f}")
size = sum(os.path.getsize(os.path.join(model, n)) for n in os.listdir(model) if n.endswith(".safetensors")) if os.path.isdir(model) else os.path.getsize(model)
print("memory of all processes, shared pages once: " + ", ".join(f"{kind} {b / 1e9:.2f} GB" for kind, b in memory.items()) +
      f"; dp 2 is {memory['dp 2'] / memory['one']:.3f} times one; the model's files are {size / 1e9:.2f} GB")
END_PYTHON
