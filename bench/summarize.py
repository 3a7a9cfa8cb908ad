#!/usr/bin/env python3
"""Prints the rates of runs from their stats files, and the best. python3 bench/summarize.py STATS.json...

rate = (prompt + completion tokens) / (time_s.total - time_s.load). Exit 1 if a run had failed rows or padding."""

import json
import platform
import sys


def processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            found = {}
            for line in f:
                key, _, value = line.partition(":")
                found.setdefault(key.strip(), value.strip())
        return (f"{found['model name']} (family {found.get('cpu family', '?')}, model {found.get('model', '?')})"
                if "model name" in found else platform.processor() or "unknown")
    except OSError:
        return platform.processor() or "unknown"


def main(paths):
    if not paths:
        sys.exit(__doc__)
    runs = []
    for path in paths:
        with open(path, encoding="utf-8") as f:
            runs.append(json.load(f))
    e = runs[0]["engine"]
    print(f"processor {processor()}")
    print(f"engine    isa {e.get('isa')}, dtype {runs[0]['model'].get('dtype')}, threads {e.get('threads')}, "
          f"batch_tokens {e.get('batch_tokens')}")
    print(f"{'run':>4} {'tok/s':>8} {'new tok/s':>9} {'seconds':>8} {'load s':>7} {'host_wait/forward':>17} "
          f"{'sec in forward':>14} {'tokens/step':>11} {'padding':>7} {'failed':>6}")
    best, good = 0.0, True
    for i, s in enumerate(runs, 1):
        t, n = s["time_s"], s["tokens"]
        seconds = t["total"] - t["load"]
        rate = (n["prompt"] + n["completion"]) / seconds
        best = max(best, rate)
        failed = s["rows"]["error"]
        good = good and failed == 0 and n["padding"] == 0
        print(f"{i:4d} {rate:8.1f} {n['completion'] / seconds:9.1f} {seconds:8.3f} {t['load']:7.3f} "
              f"{100 * t['host_wait'] / t['forward']:16.2f}% {t['forward']:14.3f} {s['steps']['tokens_mean']:11.1f} "
              f"{n['padding']:7d} {failed:6d}")
    print(f"best {best:.1f} tok/s")
    if not good:
        sys.exit("summarize: failed rows or padding: the figures do not count")


if __name__ == "__main__":
    main(sys.argv[1:])
