#!/usr/bin/env python3
"""Times llmbatch's tokenizer beside the PyPI package `tokenizers`, in turn, one thread each.

    python3 bench/tok_peer.py [--bench build/release/.ci/cmake/bench_tok] [--repeats 5] TEXTS DIR...

TEXTS is what make_texts.py wrote, DIR a directory with tokenizer.json. Needs `tokenizers`. Each round is a fresh process of
bench_tok and a fresh process of the peer; figures are processor time, of which the medians are printed. `cold` is the first
pass over a text, `warm` a later one: both programs keep a cache of words. The peer is timed one text a call (`encode`) and
all texts in one call (`encode_batch`); ratios are to the faster of the two. All ids are compared."""

import argparse
import array
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

KINDS = ("english", "chinese", "code", "mix")


def peer(directory, paths, ids_dir):
    """The peer's side of a round: the same lines as bench_tok prints."""
    import tokenizers

    file = os.path.join(directory, "tokenizer.json")
    begin = time.process_time()
    tokenizers.Tokenizer.from_file(file)
    print(f"-\tload\t{time.process_time() - begin:.4f}\t0")
    for path in map(pathlib.Path, paths):
        data = path.read_bytes()
        documents = data.decode("utf-8").split("\0")
        tok = tokenizers.Tokenizer.from_file(file)
        for what in ("cold", "warm", "batch"):
            begin = time.process_time()
            if what == "batch":
                encoded = tok.encode_batch(documents, add_special_tokens=False)
            else:
                encoded = [tok.encode(d, add_special_tokens=False) for d in documents]
            seconds = time.process_time() - begin
            ids = [e.ids for e in encoded]
            n_id = sum(map(len, ids))
            print(f"{path.name}\t{what}\t{len(data) / 1e6 / seconds:.3f}\t{n_id}")
        begin = time.process_time()
        for i in ids:
            tok.decode(i, skip_special_tokens=False)
        print(f"{path.name}\tdecode\t{len(data) / 1e6 / (time.process_time() - begin):.3f}\t{n_id}")
        if ids_dir:
            (pathlib.Path(ids_dir) / f"peer-{path.name}.ids").write_bytes(array.array("i", sum(ids, [])).tobytes())


def figures(command):
    env = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
    return {tuple(f[:2]): float(f[2]) for f in (line.split("\t") for line in out.splitlines())}


def compare_ids(tmp, names):
    for name in names:
        ours, theirs = (array.array("i", (pathlib.Path(tmp) / f"{who}-{name}.ids").read_bytes()) for who in ("own", "peer"))
        if ours != theirs:
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
            sys.exit(f"tok_peer.py: {name}: ids differ from number {at} on")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = pathlib.Path(__file__).resolve().parent.parent
    p.add_argument("--bench", default=root / "build/release/.ci/cmake/bench_tok", type=pathlib.Path)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--peer", metavar="IDS_DIR", help=argparse.SUPPRESS)
    p.add_argument("texts")
    p.add_argument("dirs", nargs="+")
    a = p.parse_args()
    paths = [os.path.join(a.texts, f"{k}.txt") for k in KINDS]
    if a.peer is not None:
        return peer(a.dirs[0], paths, a.peer)

    print("| tokenizer | text | llmbatch cold MB/s | warm | decode | tokenizers cold | warm | batch | decode | cold ratio | warm ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    loads = []
    for d in a.dirs:
        own, theirs = [], []
        with tempfile.TemporaryDirectory() as tmp:
            for i in range(a.repeats):
                own.append(figures([a.bench, d, "--ids", f"{tmp}/own-", *paths]))
                theirs.append(figures([sys.executable, __file__, "--peer", tmp if i == 0 else "", a.texts, d]))
                if i == 0:
                    compare_ids(tmp, [os.path.basename(path) for path in paths])
        middle = [{key: statistics.median(r[key] for r in rounds) for key in rounds[0]} for rounds in (own, theirs)]
        name = os.path.basename(os.path.normpath(d))
        for k in KINDS:
            o, t = ({what: m[(f"{k}.txt", what)] for what in ("cold", "warm", "batch", "decode") if (f"{k}.txt", what) in m}
                    for m in middle)
            print(f"| {name} | {k} | {o['cold']:.1f} | {o['warm']:.1f} | {o['decode']:.0f} | {t['cold']:.2f} | {t['warm']:.2f} | "
                  f"{t['batch']:.2f} | {t['decode']:.1f} | {o['cold'] / t['cold']:.1f} | "
                  f"{o['warm'] / max(t['warm'], t['batch']):.1f} |", flush=True)
        loads.append(f"| {name} | {middle[0][('-', 'load')] * 1e3:.0f} | {middle[1][('-', 'load')] * 1e3:.0f} |")
    print("\n| tokenizer | llmbatch load ms | tokenizers load ms |\n|---|---|---|")
    print("\n".join(loads))


if __name__ == "__main__":
    main()
