"""Sampling from a vocabulary that the ranks of a group hold in parts: the same bytes as from a whole one, whatever the
filters and penalties, and whatever has to be asked for."""
import json
import os
import random
import re
import subprocess
import sys

from mpi_ranks import compare
from ranks import SLOW, Run, alone, local, needs_mpi
from run import CASES, MHA, ROOT, SMALL, bend, case, check, equal, lines, read, sample, write

CASES.clear()   # those of mpi_ranks are run by themselves

SETTINGS = [
    {'temperature': 1},
    {'temperature': 1, 'logprobs': 3},
    {'temperature': 40, 'logprobs': 1},                             # most ids that are drawn are no candidates
    {'temperature': 30, 'top_p': 0.95},                             # 256 candidates do not cover it
    {'temperature': 1, 'top_p': 0.9, 'logprobs': 0},
    {'temperature': 20, 'top_k': 300, 'top_p': 0.9},
    {'temperature': 20, 'top_k': 300},
    {'temperature': 0.8, 'top_k': 256},
    {'temperature': 50, 'min_p': 0.9},
    {'temperature': 5, 'min_p': 1e-5, 'n': 2},
    {'logprobs': 20},
    {'temperature': 30, 'repetition_penalty': 1.3, 'logprobs': 2},
    {'temperature': 1.5, 'presence_penalty': 1, 'frequency_penalty': 0.5, 'logit_bias': {'7': 9, '600': 12, '3': -100}},
    {'repetition_penalty': 1.5, 'min_tokens': 9, 'stop_token_ids': [4, 8, 9], 'logprobs': 1},
    {'temperature': 25, 'top_p': 0.9, 'repetition_penalty': 0.8, 'min_tokens': 3},
]


def rows(n, seed):
    draw = random.Random(seed)
    return lines([{'prompt_token_ids': [draw.randrange(3, 690) for _ in range(draw.randint(1, 40))],
                   'max_tokens': draw.randint(9, 16), 'ignore_eos': True, 'seed': i, **SETTINGS[i % len(SETTINGS)]}
                  for i in range(n)])


@case
def sampling_from_parts(tmp):
    path = write(os.path.join(tmp, 'in.jsonl'), rows(30 if SLOW else 60, 1))
    compare(tmp, ['-m', SMALL, '-i', path, '--token-ids'], sample([(4, 2), (8, 8), (2, 2), (4, 4)], 2) if not SLOW else [(4, 4)])


@case
def sampling_from_parts_in_f32(tmp):
    path = write(os.path.join(tmp, 'in.jsonl'), rows(15 if SLOW else 45, 2))
    compare(tmp, ['-m', SMALL, '-i', path, '--token-ids', '--dtype', 'f32', '--batch-tokens', '24'],
            sample([(2, 2), (8, 8)], 1))


@case
def every_question_is_asked(tmp):
    """... and few rows are sent whole."""
    path, out = write(os.path.join(tmp, 'in.jsonl'), rows(60, 3)), os.path.join(tmp, 'out.jsonl')
    needs_mpi()
    want = alone(['-m', SMALL, '-i', path, '--audit', 'off'], tmp)
    with Run(local(4), ['-m', SMALL, '-i', path, '-o', out, '--overwrite', '--tp', '4', '--log-level', 'debug',
                        '--audit', 'off']) as r:
        equal(r.end(), 0, r.err)
    check(read(out) == want, 'output differs')
    found = re.search(r'asked for (\d+) sets of logits, (\d+) masses, (\d+) ids, (\d+) ranks, (\d+) depths, (\d+) lists and (\d+) rows', r.err)
    check(found, r.err)
    asked = [int(x) for x in found.groups()]
    check(min(asked[:5]) > 10 and asked[6] > 10, asked)     # 700 ids are too few for lists


@case
def filters_beyond_the_candidates(tmp):
    """Of many ids those that the filters keep are listed."""
    folder, out = os.path.join(tmp, 'model'), os.path.join(tmp, 'out.jsonl')
    subprocess.run([sys.executable, os.path.join(ROOT, 'bench/make_random_model.py'), '--vocab', '4000', '--dim', '64',
                    '--layers', '1', '--heads', '8', '--kv-heads', '2', '--ffn', '128', folder], check=True)
    path = write(os.path.join(tmp, 'in.jsonl'), lines(
        [{'prompt_token_ids': [5 + i, 7, 9], 'max_tokens': 8, 'temperature': t, 'seed': i, 'logprobs': 1, **more}
         for i, (t, more) in enumerate((t, more) for t in (0.06, 0.07, 0.08) for more in (
             {'top_p': 0.9}, {'top_k': 400}, {'top_k': 700, 'top_p': 0.8}, {'top_p': 0.93, 'repetition_penalty': 1.4},
             {'top_p': 0.95, 'min_p': 0.001}))]))
    args = ['-m', folder, '-i', path, '--ignore-eos']
    compare(tmp, [*args, '--log-level', 'error'], sample([(2, 2), (8, 8)], 1))
    with Run(local(4), [*args, '-o', out, '--overwrite', '--tp', '4', '--log-level', 'debug', '--audit', 'off']) as r:
        equal(r.end(), 0, r.err)
    check(read(out) == read(os.path.join(tmp, 'alone-out.jsonl')), 'output differs')
    listed, whole = map(int, re.search(r' (\d+) lists and (\d+) rows', r.err).groups())
    check(listed > 2 * whole, listed, whole)


@case
def numbers_that_are_none_in_one_part(tmp):
    """The last id's logit is infinite: every row fails, whoever holds it."""
    vocab = json.loads(read(os.path.join(MHA, 'config.json')))['vocab_size']

    def spoil(name, data):
        size = len(data) // vocab
        return data[:-size] + b'\0\0\x80\x7f' * (size // 4) if name == 'lm_head.weight' else data
    folder = bend(tmp, spoil)
    path = write(os.path.join(tmp, 'in.jsonl'), lines([{'prompt_token_ids': [5 + i, 7], 'max_tokens': 3, **SETTINGS[i]}
                                                       for i in range(6)]))
    compare(tmp, ['-m', folder, '-i', path], sample([(2, 2), (4, 4)], 1), code=1)
    found = [json.loads(line)['error']['code'] for line in read(os.path.join(tmp, 'out.jsonl')).splitlines()]
    equal(found, ['not_finite'] * 6, 'errors')
