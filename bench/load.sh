#!/bin/bash
# How long a model takes until it is ready, beside what `cat` takes for its files, both from the page cache.
#
#   bench/load.sh [options] MODEL [-- more llmbatch options]
#     -b FILE   the program (build/release/llmbatch)
#     -n N      pairs (9)
#     -t N      threads (2)
#
# Prints each pair and the medians: seconds of cat, time_s.load of the stats file, their ratio, and the processor
# seconds and page faults of the whole program, which does nothing but load since its input has no rows. "first s" is
# the load of a run just before the one that counts: a virtual machine's host takes free memory back after some seconds,
# and gives it again at 0.4 to 1 GB/s; memory that a program has just returned is still there.
set -euo pipefail

usage() { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }

root=$(cd "$(dirname "$0")/.." && pwd)
program=$root/build/release/llmbatch pairs=9 threads=2
while getopts b:n:t: opt; do
    case $opt in
    b) program=$OPTARG ;;
    n) pairs=$OPTARG ;;
    t) threads=$OPTARG ;;
    *) usage ;;
    esac
done
shift $((OPTIND - 1))
[ $# -ge 1 ] || usage
model=$1
shift
if [ $# -gt 0 ]; then
    [ "$1" = -- ] || usage
    shift
fi
[ -x "$program" ] || { echo "load.sh: no program '$program': build it (cmake --preset release && cmake --build --preset release) or name it with -b" >&2; exit 2; }
[ -e "$model" ] || { echo "load.sh: no model '$model'" >&2; exit 2; }

exec python3 - "$program" "$model" "$pairs" "$threads" "$@" <<'END_PYTHON'
import glob, json, os, resource, statistics, subprocess, sys, tempfile, time

program, model, pairs, threads, more = *sys.argv[1:3], *map(int, sys.argv[3:5]), sys.argv[5:]
names = ("*.safetensors", "*.json")
files = [model] if not os.path.isdir(model) else sorted(f for n in names for f in glob.glob(os.path.join(model, n)))


def cat():
    begin = time.monotonic()
    subprocess.run(["cat", *files], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - begin


def load(folder):
    stats = os.path.join(folder, "stats.json")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([program, "-m", model, "-i", "/dev/null", "-o", os.path.join(folder, "out"), "--overwrite",
                    "--restart", "--stats", stats, "--threads", str(threads), "--progress", "off", *more],
                   check=True, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(stats, encoding="utf-8") as f:
        said = json.load(f)
    return (said["time_s"]["load"], after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime,
            after.ru_minflt - before.ru_minflt, said["engine"]["isa"])


cat()
rows = []
print(f"{sum(map(os.path.getsize, files)) * 1e-9:.2f} GB in {len(files)} files, {threads} threads")
print("   cat s first s  load s  load/cat  user s   sys s  faults  set")
with tempfile.TemporaryDirectory() as folder:
    for _ in range(pairs):
        c = cat()
        first = load(folder)[0]
        seconds, *rest, isa = load(folder)
        rows.append((c, first, seconds, seconds / c, *rest))
        print("{:8.3f}{:8.3f}{:8.3f}{:10.2f}{:8.3f}{:8.3f}{:8d}".format(*rows[-1]) + f"  {isa}", flush=True)
medians = [statistics.median(column) for column in zip(*rows)]
print("{:8.3f}{:8.3f}{:8.3f}{:10.2f}{:8.3f}{:8.3f}{:8.0f}  medians".format(*medians))
END_PYTHON
