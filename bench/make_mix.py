#!/usr/bin/env python3
"""Writes benchmark rows of random token ids to standard output.

    python3 bench/make_mix.py --vocab 49152 --first 17 > mix.jsonl          # SmolLM2, the ragged mix
    python3 bench/make_mix.py --vocab 49152 --first 17 --kind prefill > prefill.jsonl

Ids are drawn evenly from [first, vocab): choose the bounds so that no special token lies between them (SmolLM2's are
0 to 16, Llama 3's begin at 128000). Needs only Python 3; the same arguments give the same bytes.

kinds                rows   prompt ids                                          new tokens
  ragged              256   lognormal, median 120, sigma 0.87, clamped 8..1024  16 to 112
  prefill              64   256 to 1024                                         8
  decode               64   16 to 64                                            256
  shared               64   512 shared by all, then 16 to 64 of its own         32
Ranges are uniform, both ends included.
"""

import argparse
import json
import math
import random
import sys

ROWS = {"ragged": 256, "prefill": 64, "decode": 64, "shared": 64}
SHARED_PREFIX = 512


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--vocab", type=int, required=True, help="ids stay below this")
    p.add_argument("--first", type=int, default=0, help="lowest id (0)")
    p.add_argument("--kind", choices=sorted(ROWS), default="ragged")
    p.add_argument("--rows", type=int, help="number of rows; fewer are the first ones of the full file")
    p.add_argument("--seed", type=int, default=20251122)
    a = p.parse_args()
    if not 0 <= a.first < a.vocab:
        p.error("--first must lie below --vocab")

    r = random.Random(a.seed)

    def between(lo, hi):
        return lo + int(r.random() * (hi - lo + 1))

    def ids(n):
        return [between(a.first, a.vocab - 1) for _ in range(n)]

    prefix = ids(SHARED_PREFIX) if a.kind == "shared" else []
    for i in range(ROWS[a.kind] if a.rows is None else a.rows):
        if a.kind == "ragged":
            n = min(max(round(r.lognormvariate(math.log(120), 0.87)), 8), 1024)
            new = between(16, 112)
        else:
            lo, hi, new = {"prefill": (256, 1024, 8), "decode": (16, 64, 256), "shared": (16, 64, 32)}[a.kind]
            n = between(lo, hi)
        row = {"id": f"{a.kind}-{i:03d}", "prompt_token_ids": prefix + ids(n), "max_tokens": new}
        sys.stdout.write(json.dumps(row, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
