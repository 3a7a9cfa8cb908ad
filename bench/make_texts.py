#!/usr/bin/env python3
"""Writes texts to time tokenizers on: english.txt, chinese.txt, code.txt and mix.txt, documents with a zero byte between.

    python3 bench/make_texts.py --tokenizer DIR OUT

english   prose that a Debian system with Python has: /usr/share/common-licenses, the language reference of pydoc, and
          the documentation strings of the standard library
code      the C sources of this project and the modules of Python's standard library, in equal parts while they last
chinese   words of the vocabulary of DIR/tokenizer.json (byte-level BPE, such as Qwen3's) that are Han characters alone,
          drawn with Zipf frequencies in the order of their ids, in sentences with Chinese punctuation, some numbers and
          some Latin words
mix       a third of each

Half of the bytes are documents of about 2 kB, half of about 64 kB. Nothing is repeated. Needs only Python 3; on the same
machine the same arguments give the same bytes."""

import argparse
import ast
import itertools
import json
import pathlib
import pydoc_data.topics
import random
import sysconfig

SHORT, LONG = 2048, 65536


def documentation(path):
    """The documentation strings of a module."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            text = ast.get_docstring(node)
            if text and len(text) > 200:
                yield text + "\n\n"


def modules():
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    left_out = {"test", "tests", "idle_test", "dist-packages", "site-packages", "pydoc_data", "encodings"}
    return [p for p in sorted(root.rglob("*.py")) if not left_out & set(p.relative_to(root).parts)]


def english(r):
    parts = [p.read_text(encoding="utf-8") for p in sorted(pathlib.Path("/usr/share/common-licenses").iterdir())
             if not p.is_symlink()]
    parts += [pydoc_data.topics.topics[k] for k in sorted(pydoc_data.topics.topics)]
    for p in modules():
        parts += documentation(p)
    r.shuffle(parts)
    yield from parts


def code(r):
    root = pathlib.Path(__file__).resolve().parent.parent
    own = [p for part in ("cli", "core", "kernels") for e in ("*.c", "*.h") for p in sorted((root / part).rglob(e))]
    python = modules()
    r.shuffle(own)
    r.shuffle(python)
    n_own = n_python = 0
    while own or python:
        take_own = own and (n_own <= n_python or not python)
        text = (own if take_own else python).pop().read_text(encoding="utf-8", errors="ignore").replace("\0", "")
        if take_own:
            n_own += len(text)
        else:
            n_python += len(text)
        yield text


def byte_of_char():
    """models.md 3.6: the character that stands for each byte in a byte-level vocabulary."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in own]
    return {chr(b): b for b in own} | {chr(256 + i): b for i, b in enumerate(rest)}


def han_words(directory):
    vocab = json.loads((pathlib.Path(directory) / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    table = byte_of_char()
    words = []
    for token, _ in sorted(vocab.items(), key=lambda kv: kv[1]):
        try:
            word = bytes(table[c] for c in token).decode("utf-8")
        except (KeyError, UnicodeDecodeError):
            continue
        if all("\u4e00" <= c <= "\u9fff" for c in word):
            words.append(word)
    return words


def chinese(r, words):
    sums = list(itertools.accumulate(1 / (rank + 2.7) for rank in range(len(words))))
    latin = ["API", "GPU", "Python", "Linux", "CPU", "token", "AI", "Web", "2024", "3.14", "100%", "1234567"]
    while True:
        text = []
        for _ in range(r.randint(3, 12)):
            for clause in range(r.randint(1, 4)):
                text += ["\uff0c"] if clause else []
                text += r.choices(words, cum_weights=sums, k=r.randint(2, 9))
                if r.random() < 0.06:
                    text.append(r.choice(latin))
            text.append(r.choices("\u3002\uff01\uff1f\uff1b\uff1a", (20, 2, 2, 1, 1))[0])
        text.append("\n" if r.random() < 0.7 else "\n\n")
        yield "".join(text)


def documents(parts, n_bytes):
    """Cuts a stream of texts into documents, at characters: half of the bytes in short ones, then half in long ones."""
    out, text, done = [], "", 0
    for part in parts:
        text += part
        while done < n_bytes:
            size = SHORT if done < n_bytes / 2 else LONG
            if len(text) < size:
                break
            document = text[:size].encode("utf-8")[:size].decode("utf-8", "ignore")
            text = text[len(document):]
            out.append(document)
            done += len(document.encode("utf-8"))
        if done >= n_bytes:
            break
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tokenizer", required=True, help="directory whose vocabulary gives the Chinese words")
    p.add_argument("--mb", type=float, default=2, help="size of each text (2)")
    p.add_argument("out", type=pathlib.Path)
    a = p.parse_args()
    n_bytes = int(a.mb * 1e6)
    a.out.mkdir(parents=True, exist_ok=True)
    kinds = {
        "english": documents(english(random.Random(1)), n_bytes),
        "chinese": documents(chinese(random.Random(2), han_words(a.tokenizer)), n_bytes),
        "code": documents(code(random.Random(3)), n_bytes),
    }
    # a third of each kind, short and long documents, in an order that changes kind all the time
    mix = [d for docs in kinds.values() for d in docs[::3]]
    random.Random(4).shuffle(mix)
    kinds["mix"] = mix
    for name, docs in kinds.items():
        data = "\0".join(docs).encode("utf-8")
        (a.out / f"{name}.txt").write_bytes(data)
        print(f"{name}: {len(docs)} documents, {len(data)} bytes")


if __name__ == "__main__":
    main()
