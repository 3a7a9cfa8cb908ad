"""Adapters on the CUDA device, on its stand-ins: a row's ids are those of the CPU in f32, and in bf16 those it has alone.
What adapters make of the numbers is for test_golden --cuda."""
import os

import test_cuda
from adapters import adapter
from devices import MODEL
from run import FULL, case, check, equal, good

PROMPTS = [[500, *range(20, 20 + n)] for n in (2, 9, 19)]
QUIET = ['--token-ids', '--audit', 'off', '--temperature', '0']


def ids(r):
    equal((r.code, r.err), (0, ''), 'the run')
    return [row['token_ids'] for row in r.rows]


def two(tmp):
    """Of all modules, and of some; ranks beside the width of what kernels take at a time."""
    all_modules = ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj')
    return ['--lora', 'a=' + adapter(MODEL, os.path.join(tmp, 'a'), rank=11, modules=all_modules),
            '--lora', 'b=' + adapter(MODEL, os.path.join(tmp, 'b'), rank=4, seed=2, modules=('v_proj', 'up_proj', 'down_proj'))]


def rows(n, **more):
    return [{'prompt_token_ids': PROMPTS[i % 3], 'max_tokens': 2, 'ignore_eos': True, **more,
             **({'lora': 'ab'[i % 2]} if i % 5 else {})} for i in range(n)]


@case
def adapters_on_a_device(tmp):
    args = [*QUIET, *two(tmp), '--dtype', 'f32']
    some = rows(6)
    got = ids(test_cuda.on_device(args, some))
    equal(got, ids(good(['-m', MODEL, *args], some)), 'ids as on the CPU')
    plain = ids(good(['-m', MODEL, *QUIET, '--dtype', 'f32'], [dict(r, lora=None) for r in some]))
    check(sum(x != y for x, y in zip(got, plain)) >= 2, 'adapters that do nothing', got, plain)


@case
def adapters_and_company_on_a_device(tmp):
    """bf16: each row alone, and all at once in other chunks, decode steps enough to be recorded; log-probabilities show the bits."""
    args = [*QUIET, *two(tmp)]
    some = rows(5 if FULL else 3, logprobs=2, max_tokens=4)
    whole = test_cuda.on_device([*args, '--batch-tokens', '16'], some)
    alone = test_cuda.on_device([*args, '--max-seqs', '1', '--no-prefix-cache', '--no-fold'], some)
    equal(whole.code, 0, whole.err)
    equal(whole.out, alone.out, 'rows')
