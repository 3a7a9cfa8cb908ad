#!/usr/bin/env python3
"""What weight formats cost: perplexity and greedy agreement of models on a text, beside the first one.

    bench/quality.py [-b PROGRAM] [--text FILE] [--rows N] TOKENIZER NAME=MODEL [NAME=MODEL ...]

NAME=MODEL may go on with options of llmbatch and with VARIABLE=VALUE of its environment, separated by spaces:

    python3 testdata/make_quantized.py SmolLM2.gguf q
    bench/quality.py SmolLM2.gguf bf16=q/bf16 'int8=q/bf16 --quantize int8' \\
        'q4_0=q/q4_0.gguf' 'q4_0 unpacked=q/q4_0.gguf LLMBATCH_UNPACK=1'

The text (testdata/corpus/tiny.txt) is tokenized by TOKENIZER, a model that has one, and cut into rows of 512 ids; every
id but a row's first is scored by --prompt-logprobs. perplexity: e to the mean of -log p; agreement: of the positions,
how many have the first model's best id as their own best."""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROW = 512


def run(program, model, rows, words, out):
    env = dict(os.environ)
    options = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name.isupper():
            env[name] = value
        else:
            options.append(word)
    args = [program, "-m", model, "-i", rows, "-o", out, "--overwrite", "--progress", "off", "--log-level", "error", "--stats", out + ".stats"]
    if subprocess.run(args + options, env=env, check=False).returncode:
        sys.exit(f"quality.py: {' '.join(args + options)} failed")
    with open(out, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def ids_of(program, tokenizer, text, dir_):
    rows, out = os.path.join(dir_, "text.jsonl"), os.path.join(dir_, "ids.jsonl")
    with open(text, encoding="utf-8") as f, open(rows, "w", encoding="utf-8") as to:
        for part in f.read().split("\n\n"):  # a whole text may be longer than the model takes
            to.write(json.dumps({"prompt": part + "\n\n"}) + "\n")
    return [i for row in run(program, tokenizer, rows, ["--render"], out) for i in row["prompt_token_ids"]]


def score(results):
    """Sum of log p, the best id of each position."""
    total, best = 0.0, []
    for row in results:
        if row.get("error"):
            sys.exit(f"quality.py: {row['error']}")
        total += row["prompt_nll"]
        best += [p["top"][0][0] for p in row["prompt_logprobs"][1:]]
    return total, best


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-b", dest="program", default=os.path.join(ROOT, "build/release/llmbatch"))
    p.add_argument("--text", default=os.path.join(ROOT, "testdata/corpus/tiny.txt"))
    p.add_argument("--rows", type=int, default=1 << 30, metavar="N", help="at most so many")
    p.add_argument("tokenizer")
    p.add_argument("model", nargs="+", metavar="NAME=MODEL")
    o = p.parse_args()
    with tempfile.TemporaryDirectory() as dir_:
        ids = ids_of(o.program, o.tokenizer, o.text, dir_)
        rows, out = os.path.join(dir_, "rows.jsonl"), os.path.join(dir_, "out.jsonl")
        n_row = min(len(ids) // ROW, o.rows)
        with open(rows, "w", encoding="ascii") as f:
            for i in range(n_row):
                json.dump({"prompt_token_ids": ids[i * ROW:(i + 1) * ROW], "max_tokens": 1, "prompt_logprobs": 1}, f)
                f.write("\n")
        print(f"{n_row} rows of {ROW} ids of {os.path.relpath(o.text, ROOT)}\n")
        print("| model | perplexity | to the first | agreement |\n|---|---|---|---|")
        first = None
        for entry in o.model:
            name, _, rest = entry.partition("=")
            model, *words = rest.split()
            total, best = score(run(o.program, model, rows, words, out))
            first = first or (total, best)
            n = len(best)
            same = sum(a == b for a, b in zip(best, first[1]))
            change = 100 * math.expm1((total - first[0]) / n)
            print(f"| {name} | {math.exp(total / n):.5f} | {change:+.3f} % | {100 * same / n:.2f} % |", flush=True)


if __name__ == "__main__":
    main()
