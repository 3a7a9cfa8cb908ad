#!/usr/bin/env python3
"""What drafts gain on text: the same chat rows with and without them, in turn, so many at a time.

    bench/drafts.py [-b build/release/llmbatch] MODEL [--at-a-time 1 4 16 64] [--temperature T] [--max-tokens N]

Rows ask to rewrite, to summarize and to correct paragraphs of this project's README, and some questions: the first kinds
repeat their prompt, the last do not. Random ids (make_mix.py) would not do: what a model says to them goes round in
circles. A line for each number of rows: seconds of the forward passes, tokens that were drafted and accepted. Another text
with drafts is an error."""
import argparse
import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
TASKS = ('Rewrite the following text in simple words:', 'Summarize in two sentences:',
         'Correct the spelling of this text and give it back:')
QUESTIONS = ('What is gravity?', 'Write a short story about a cat.', 'List ten animals.', 'Explain how a bicycle works.',
             'Write a Python function that sorts a list of names by length.', 'What is the capital of France and why?',
             'Give me a recipe for pancakes.', 'Write an email that declines an invitation.')


def rows():
    with open(os.path.join(ROOT, 'README.md'), encoding='utf-8') as f:
        parts = [p.strip() for p in f.read().split('\n\n')]
    parts = [p for p in parts if 200 < len(p) < 1500][:16]
    return [f'{task}\n\n{p}' for p in parts for task in TASKS] + list(QUESTIONS)


def run(args, path, out, n, *more):
    command = [args.program, '-m', args.model, '-i', path, '-o', out, '--chat', '--max-tokens', str(args.max_tokens), '--max-seqs',
               str(n), '--threads', str(args.threads), '--temperature', str(args.temperature), '--overwrite', '--restart',
               '--progress', 'off', '--audit', 'off', *more]
    subprocess.run(command, check=True)
    with open(out, encoding='utf-8') as f, open(out + '.stats.json', encoding='utf-8') as s:
        return f.read(), json.load(s)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('model')
    p.add_argument('-b', '--program', default=os.path.join(ROOT, 'build/release/llmbatch'))
    p.add_argument('--at-a-time', nargs='+', type=int, default=[1, 4, 16, 64])
    p.add_argument('--temperature', type=float, default=0)
    p.add_argument('--max-tokens', type=int, default=200)
    p.add_argument('--threads', type=int, default=2)
    args = p.parse_args()
    print('| rows at a time | without, s | with, s | times as fast | steps | drafted | accepted | new tokens |\n|' + '---|' * 8)
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, 'in.jsonl')
        with open(path, 'w', encoding='utf-8') as f:
            f.writelines(json.dumps({'prompt': row}) + '\n' for row in rows())
        for n in args.at_a_time:
            want, without = run(args, path, os.path.join(tmp, 'without.jsonl'), n, '--no-draft')
            got, with_them = run(args, path, os.path.join(tmp, 'with.jsonl'), n)
            if got != want:
                sys.exit(f'{n} rows at a time: another text with drafts')
            s, t, k = without['time_s']['forward'], with_them['time_s']['forward'], with_them['tokens']
            print(f'| {n} | {s:.1f} | {t:.1f} | {s / t:.2f} | {without["steps"]["count"]}, {with_them["steps"]["count"]} | '
                  f'{k["drafted"]:,} | {k["accepted"]:,} | {k["completion"]:,} |', flush=True)


main()
