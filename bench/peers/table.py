#!/usr/bin/env python3
"""Markdown from results of run.sh. python3 bench/peers/table.py RESULTS.jsonl... >> bench/RESULTS.md

Ratios are peer seconds / llmbatch seconds of the same turn, median over the turns: 2.0 is "llmbatch does the same rows in
half the time". Only runs of one file, sitting, model, workload and number are paired. With several files or sittings, each gets
a table."""

import json
import sys
from statistics import median

BASE = "llmbatch"


def settings(r):
    return ", ".join(f"{k} {v}" for k, v in r.get("settings", {}).items())


def spread(values):
    return f"{median(values):.2f}" + (f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else "")


def rate(r, seconds):
    return (r["prompt_tokens"] + r["new_tokens"]) / r[seconds]


def row(runs, base):
    """One line: the runs of an engine beside llmbatch's of the same turns."""
    good = [r for r in runs if "error" not in r]
    errors = [r["error"] for r in runs if "error" in r]
    first = runs[0]
    if not good:
        return f"| {first['model']} | {first['workload']} | {first['engine']} | not measured: {errors[0]} | | | | | | |".replace("\n", " ")
    pairs = [(r, base[r["run"]]) for r in good if r["run"] in base]

    def ratio(key):
        if first["engine"] == BASE:
            return "1"
        return spread([r[key] / b[key] for r, b in pairs]) if pairs else "–"

    return (f"| {first['model']} | {first['workload']}, {first.get('rows', good[0]['rows'])} rows | {first['engine']} | {ratio('run_s')} | {ratio('wall_s')} "
            f"| {median(rate(r, 'run_s') for r in good):,.0f} | {median(r['run_s'] for r in good):.2f} "
            f"| {median(r['wall_s'] - r['run_s'] for r in good):.2f} | {max(r['peak_rss_bytes'] for r in good) / 2**20:,.0f} "
            f"| {len(good)}{'; then ' + errors[0] if errors else ''} |")


def table(records):
    r = records[0]
    print(f"\nProcessor {r['processor']}, best extension {r['kind']}, {r['threads']} threads, {r['sitting']}.\n")
    print("| model | workload | engine | llmbatch is so many times as fast | the same, load included | tok/s | run s | other s | peak MiB | runs |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    seen = dict.fromkeys((r["model"], r["workload"], r["engine"]) for r in records)
    for key in seen:
        runs = [r for r in records if (r["model"], r["workload"], r["engine"]) == key]
        base = {r["run"]: r for r in records
                if (r["model"], r["workload"], r["engine"]) == (*key[:2], BASE) and "error" not in r}
        print(row(runs, base))
    print("\nVersions and settings:\n")
    for text in dict.fromkeys(f"* {r['engine']}, {r['model']}: {r['version']}; {settings(r)}" for r in records if "error" not in r):
        print(text)


def main(paths):
    if not paths:
        sys.exit(__doc__)
    for path in paths:
        with open(path, encoding="utf-8") as f:
            records = [json.loads(line) for line in f]
        for sitting in dict.fromkeys(r["sitting"] for r in records):
            table([r for r in records if r["sitting"] == sitting])


if __name__ == "__main__":
    main(sys.argv[1:])
