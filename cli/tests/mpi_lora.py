"""Adapters on several ranks: the bytes are those of one, whether ranks share a model or each has its own."""
import os

from adapters import adapter
from ranks import Run, local, needs_mpi
from run import FULL, GLM, SLOW, SMALL, case, check, equal, good, lines, read, write

THIN = SLOW and not FULL


def rows(n):
    prompts = [[696, *range(20, 20 + 9 * k)] for k in range(1, 7)]
    return [{'prompt_token_ids': prompts[i % 6], 'max_tokens': 9, 'logprobs': 2, 'ignore_eos': True,
             **({'lora': f'a{i % 4}'} if i % 5 else {})} for i in range(n)]


def same(tmp, model, modules, launches, *more):
    lora, n_row = [], 12 if THIN else 24
    for k in range(4):
        lora += ['--lora', f'a{k}={adapter(model, os.path.join(tmp, f"a{k}"), rank=1 + 6 * k, seed=k, modules=modules)}']
    path, out = write(os.path.join(tmp, 'in.jsonl'), lines(rows(n_row))), os.path.join(tmp, 'out.jsonl')
    for dtype in ('f32', 'bf16'):
        options = ['-m', model, '-i', path, '--dtype', dtype, '--audit', 'off', *lora, *more]
        want = good(options).out
        equal(want.count(b'"length"'), n_row, 'rows')
        for n, tp in (launches[-1:] if dtype == 'f32' else launches[:2]) if THIN else launches:
            with Run(local(n), [*options, '-o', out, '--overwrite', '--tp', str(tp)]) as r:
                equal(r.end(), 0, f'{n} ranks, tp {tp}: exit code ({r.err})')
            check(read(out) == want, f'{dtype}, {n} ranks, tp {tp}: other bytes')


@case
def lora_on_ranks(tmp):
    needs_mpi()
    same(tmp, SMALL, ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'), ((2, 2), (2, 1), (4, 2)))


@case
def lora_beside_int8_on_ranks(tmp):
    needs_mpi()
    same(tmp, SMALL, ('q_proj', 'v_proj', 'o_proj', 'down_proj'), ((2, 2),), '--quantize', 'int8')


@case
def lora_of_fused_modules_on_ranks(tmp):
    needs_mpi()
    same(tmp, GLM, ('v_proj', 'o_proj', 'gate_up_proj', 'down_proj'), ((2, 2),))
