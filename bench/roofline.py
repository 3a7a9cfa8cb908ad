#!/usr/bin/env python3
"""Where the time of a run goes, and what bounds each part. The run must have been made with --log-level debug, its
standard error kept, its output native rows:

    bench_peak --json > peak.json
    llmbatch -m MODEL -i rows.jsonl -o out.jsonl --ignore-eos --log-level debug 2> run.log
    python3 bench/roofline.py --config MODEL/config.json peak.json out.jsonl run.log

config.json is a Hugging Face one (for a GGUF file: one that says the same). Prints a Markdown table: seconds of each part,
the work that it must do (floating-point operations, bytes of weights or cache that it must read), the rates reached and
their share of the peaks of the same sitting."""

import argparse
import json
import re


def read_rows(path):
    with open(path, encoding="utf-8") as f:
        for line in f:
            row = json.loads(line)
            yield row["prompt_tokens"], row["completion_tokens"]


def peak(figures, where, **key):
    """The best of the sitting that fits `key`, over all threads of the run; None where there is none."""
    fit = [f["value"] for f in figures if f["where"] in where and all(f.get(k) == v for k, v in key.items())]
    return max(fit, default=None)


def work_of(c, rows, steps, elem):
    """Operations and bytes that the parts cannot do without."""
    dim, n_layer = c["hidden_size"], c["num_hidden_layers"]
    n_head = c["num_attention_heads"]
    n_kv = c.get("num_key_value_heads", n_head)
    hd = c.get("head_dim") or dim // n_head
    ffn, vocab = c["intermediate_size"], c["vocab_size"]
    qkv, behind = dim * (n_head + 2 * n_kv) * hd, n_head * hd * dim + 3 * dim * ffn
    layer = qkv + behind
    forwarded = sum(p + n - 1 for p, n in rows)  # the last token is never an input
    new = sum(n for _, n in rows)
    positions = sum((p + n - 1) * (p + n) / 2 for p, n in rows)
    decoded = sum(sum(range(p + 1, p + n)) for p, n in rows)  # positions that single tokens look at
    # of the last layer, behind its K and V, only the tokens whose logits are wanted
    looked = (n_layer - 1) * positions + sum(sum(range(p, p + n)) for p, n in rows)
    row_bytes = 2 * n_kv * hd * elem * n_layer
    return {
        "layer products": (2.0 * (layer * (n_layer - 1) + qkv) * forwarded + 2.0 * behind * new,
                           float(layer * n_layer * elem * steps)),
        "attention and cache": (4.0 * n_head * hd * looked, float(row_bytes * (decoded + forwarded))),
        "norms": (0.0, 8.0 * dim * (2 * n_layer) * forwarded),
        "head": (2.0 * vocab * dim * new, float(vocab * dim * elem * steps)),
    }


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", required=True)
    p.add_argument("peak")
    p.add_argument("out")
    p.add_argument("log")
    a = p.parse_args()
    with open(a.config, encoding="utf-8") as f:
        config = json.load(f)
    with open(a.peak, encoding="utf-8") as f:
        sitting = json.load(f)
    with open(a.out + ".stats.json", encoding="utf-8") as f:
        stats = json.load(f)
    with open(a.log, encoding="utf-8") as f:
        said = re.search(r"forward: layer products (\S+) s, attention and cache (\S+) s, norms (\S+) s, head (\S+) s",
                         f.read())
    if not said:
        p.error(f"{a.log} lacks the seconds by part: run with --log-level debug")
    engine, dtype = stats["engine"], stats["model"]["dtype"]
    figures = sitting["figures"]
    flops = peak(figures, ("registers", "l1"), set=engine["isa"], type=dtype, threads=engine["threads"])
    bytes_s = peak(figures, ("memory",), threads=engine["threads"])
    rows = list(read_rows(a.out))
    steps = stats["steps"]["count"]
    work = work_of(config, rows, steps, 2 if dtype == "bf16" else 4)
    seconds = dict(zip(work, map(float, said.groups())))
    forward = stats["time_s"]["forward"]
    print(f"{engine['isa']} {dtype}, {engine['threads']} threads, {steps} steps of {stats['steps']['tokens_mean']:.0f} "
          f"tokens; peaks of the sitting: {flops or 0:.0f} GFLOP/s, {bytes_s or 0:.1f} GB/s\n")
    print("| part | s | share | TFLOP | GB at least | GFLOP/s | of peak | GB/s | of memory | at best s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, (flop, size) in work.items():
        s = seconds[name]
        least = max(flop / flops / 1e9 if flops else 0, size / bytes_s / 1e9 if bytes_s else 0)
        print(f"| {name} | {s:.2f} | {100 * s / forward:.1f} % | {flop / 1e12:.3f} | {size / 1e9:.1f} | "
              f"{flop / s / 1e9:.0f} | {100 * flop / s / 1e9 / flops if flops else 0:.0f} % | {size / s / 1e9:.1f} | "
              f"{100 * size / s / 1e9 / bytes_s if bytes_s else 0:.0f} % | {least:.2f} |")
    rest = forward - sum(seconds.values())
    print(f"| rest: beginning of steps, embedding, sampling | {rest:.2f} | {100 * rest / forward:.1f} % | | | | | | | |")


if __name__ == "__main__":
    main()
