"""Weights that stay packed in memory: the same bytes as unpacked, less memory."""
import os
import re
import subprocess
import sys

from run import GOLDENS, ROOT, Skip, case, check, equal, lines, program, write


def rows():
    return [{'prompt_token_ids': [5 + (i * 7 + k * 11) % 480 for k in range(3 + 9 * i)], 'max_tokens': 6, 'logprobs': 4,
             'ignore_eos': True, 'temperature': 0} for i in range(6)]


def run(name, unpack):
    path = os.path.join(GOLDENS, name, name + '.gguf')
    r = program(['-m', path, '--log-level', 'info', '--audit', 'off'], rows(), env={'LLMBATCH_UNPACK': unpack})
    equal(r.code, 0, r.err)
    return r


@case
def packed_and_unpacked_give_the_same(_):
    if not os.path.isdir(GOLDENS):
        raise Skip('no ../shared/goldens')
    for name, kind in (('llama-gguf-q4_1', 'Q4_1'), ('llama-gguf-q6_k', 'Q6_K')):
        packed, plain = run(name, ''), run(name, '1')
        check(packed.out == plain.out, f'{name}: other bytes')
        n = re.search(rf'matrices kept packed: (\d+) of {kind}\n', packed.err)
        check(n and 'unpacked at load' not in packed.err, packed.err)
        check(f'matrices unpacked at load: {n[1]} of {kind} (as asked for)' in plain.err, plain.err)
        check('kept packed' not in plain.err, plain.err)


@case
def parts_of_a_matrix_may_be_packed_otherwise(tmp):
    """Q and K of one type, V of another, as Q4_K_M files have them: products into the same rows."""
    script = os.path.join(ROOT, 'bench', 'make_random_model.py')
    shape = {'layers': 2, 'vocab': 512, 'dim': 512, 'ffn': 768, 'heads': 8, 'kv-heads': 2}
    options = [word for name, n in shape.items() for word in (f'--{name}', str(n))]
    subprocess.run([sys.executable, script, '--format', 'q4_k_m', *options, tmp], check=True)
    for dtype in ('f32', 'bf16'):
        r = [program(['-m', os.path.join(tmp, 'model.gguf'), '--dtype', dtype, '--log-level', 'info'], rows(),
                     env={'LLMBATCH_UNPACK': unpack}) for unpack in ('0', '1')]
        check('matrices kept packed: 11 of Q4_K, 4 of Q6_K\n' in r[0].err, r[0].err)
        check(r[0].code == 0 and r[0].out.count(b'"length"') == 6, r[0].err, r[0].out)
        check(r[0].out == r[1].out, f'{dtype}: other bytes')


@case
def plans_know_packed_weights(tmp):
    if not os.path.isdir(GOLDENS):
        raise Skip('no ../shared/goldens')
    name = 'llama-gguf-q4_0'
    path = os.path.join(GOLDENS, name, name + '.gguf')
    data = write(os.path.join(tmp, 'in.jsonl'), lines(rows()))
    need = []
    for unpack in ('0', '1'):
        r = program(['-m', path, '-i', data, '--plan'], env={'LLMBATCH_UNPACK': unpack})
        equal(r.code, 0, r.err)
        need.append(float(re.search(rb'weights, packed +([0-9.]+) MiB', r.out)[1]))
    check(3.2 < need[1] / need[0] < 16 / 4.5 + 0.1, need)  # 16 bits a weight, or 4 and a scale of 16 for 32 of them
