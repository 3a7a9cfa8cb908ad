"""The CUDA device from the command line: what is said where there is none, and runs on the library that has stand-ins
for CUDA's (kernels/tests/standin), whose kernels run on the model of a block."""
import json
import os
import random
import re
import signal
import subprocess
import time

from devices import MODEL, STANDIN, needs_standin
from run import (CLEAN_ENV, FULL, GLM, PROGRAM, ROOT, SLOW, TINY, WAIT_S, Skip, case, check, equal, good, lines, program, read,
                 refused, sample, shallow, write)

ROWS = b''.join(json.dumps({'prompt_token_ids': [5 + i, 7, 9][:1 + i % 3], 'max_tokens': 3 + i % 2,
                            'ignore_eos': True}).encode() + b'\n' for i in range(6))


def device_args(*args):
    needs_standin()
    return ['-m', MODEL, '--device', 'cuda', '--threads', '1', '--batch-tokens', '64', *args]


def device_env(**env):
    return {'LLMBATCH_CUDA_LIBRARY': STANDIN, 'ASAN_OPTIONS': 'detect_leaks=0', **env}


def on_device(args, stdin=b'', **env):
    """A run on the stand-ins; what they find wrong, leaks too, ends a process with 99. A sanitizer's look for leaks reads all
    memory, fibers' stacks and what the stand-ins forbid to the host among it, and falls over."""
    return program(device_args(*args), stdin, env=device_env(**env))


def n_finished(partial):
    """Whole records behind the header of a partial output."""
    return max(read(partial).count(b'\n') - 1, 0) if os.path.exists(partial) else 0


@case
def a_device_that_is_not_there(_):
    away = {'LLMBATCH_CUDA_LIBRARY': '/nowhere/llmbatch-cuda.so'}
    refused(program(['-m', TINY, '-p', 'a', '--device', 'cuda'], env=away), 4, 'cannot load the CUDA library: /nowhere')
    other = {'LLMBATCH_CUDA_LIBRARY': PROGRAM}
    refused(program(['-m', TINY, '-p', 'a', '--device', 'cuda'], env=other), 4, 'cannot load|not llmbatch')
    r = program(['-m', TINY, '-p', 'a', '--device', 'cuda', '--max-tokens', '1'])
    if r.code:  # no GPU here
        refused(r, 4, 'no llmbatch-cuda.so|cannot load|no CUDA driver|finds no device|driver is for')
        check('--device cpu' in r.err, r.err)


@case
def auto_says_what_it_takes(_):
    args = ['-m', TINY, '-p', 'Once', '--max-tokens', '4', '--temperature', '0']
    away = {'LLMBATCH_CUDA_LIBRARY': '/nowhere/llmbatch-cuda.so'}
    r = program([*args, '--device', 'auto', '--log-level', 'debug'], env=away)
    check(r.code == 0 and re.search('device auto: cpu, as there is no CUDA: cannot load', r.err), r.err)
    equal(r.out, good([*args, '--device', 'cpu']).out, 'rows')
    equal(good([*args, '--device', 'auto'], env=away).out, r.out, 'rows, in silence')


@case
def rows_on_a_device(tmp):
    args = ['-m', MODEL, '--dtype', 'f32', '--token-ids', '--temperature', '0']
    first = ROWS[:ROWS.index(b'\n') + 1]
    rows = first if SLOW else b''.join(ROWS.splitlines(True)[:6 if FULL else 3])
    stats = os.path.join(tmp, 'stats.json')
    r = on_device([*args, '--stats', stats], rows)
    equal((r.code, r.err), (0, ''), 'the run')
    equal([row['token_ids'] for row in r.rows],
          [row['token_ids'] for row in good(args, rows).rows], 'ids as on the CPU')
    engine = json.loads(read(stats))['engine']
    equal((engine['device'], engine['isa']), ('cuda', 'sm_90'), 'engine')
    # in bf16 another order of sums (the set amx) rounds activations to other neighbors: less than transformers' bf16 is from
    # its float32 on this model (testdata/drift.jsonl, bf16_rms); at most 0.0042 was seen
    for dtype, largest, mean in (('f32', 1e-5, 1e-5), ('bf16', 0.05, 0.017)):
        r = on_device(['-m', TINY if FULL else shallow(), '--dtype', dtype, '--verify', '2', '--temperature', '0.8',
                       '--log-level', 'info'], first * 2)
        equal(r.code, 0, r.err)
        said = re.search(r'--verify: 2 rows on cpu and cuda: 6 log-probabilities differ by up to (\S+), by (\S+) in the mean',
                         r.err)
        check(said and float(said[1]) < largest and float(said[2]) < mean, dtype, r.err)
    refused(on_device(['--isa', 'ref', '-p', 'a']), 2, 'the CUDA device has its own')


@case
def decode_steps_as_graphs(tmp):
    """Steps that are queued from graphs give the bytes of steps that are launched: rows of different length that end
    one after the other, positions on both sides of a page's and a split's end, more shapes than are kept."""
    ids = [(7 * i) % 200 + 5 for i in range(600)]
    rows = [{'id': i, 'prompt_token_ids': ids[i:i + n], 'max_tokens': new, 'temperature': t, 'ignore_eos': True}
            for i, (n, new, t) in enumerate(((3, 24, 0), (30, 17, 0.8), (505, 12, 0), (1, 9, 0.9)) if FULL else
                                             ((3, 15, 0), (30, 7, 0.8), (59, 9, 0)))]
    path = write(os.path.join(tmp, 'in.jsonl'), lines(rows))

    def run(graphs, *more):
        r = on_device(['-i', path, '--log-level', 'debug', '--batch-tokens', '512', *more], LLMBATCH_CUDA_GRAPHS=graphs)
        equal(r.code, 0, r.err)
        said = re.search(r'graphs: (\d+) of (\d+) decode steps were queued from (\d+) graphs', r.err)
        return r.out, tuple(map(int, said.groups())) if said else None
    for more in ([], ['-m', GLM]) if FULL else ([],):
        plain, none = run('0', *more)
        equal(none, None, 'graphs are off')
        for kept in sample(('', '1'), 1):
            out, (replayed, steps, made) = run(kept, *more)
            equal(out, plain, f'{kept or "64"} graphs kept')
            check(made >= 2 and 6 <= replayed <= steps - 2 * made, f'{replayed} of {steps} steps from {made} graphs')


@case
def rows_that_sample_on_a_device(tmp):
    """Ids that the device draws, in steps that run ahead, are those that the host draws: alone, and beside a row that the
    host has to look at."""
    more = ({}, {'top_k': 3}, {'top_p': 0.8}, {'min_p': 0.2}, {'top_p': 0.95, 'top_k': 40}, {'logprobs': 1, 'max_tokens': 3 if FULL else 2})
    rows = [{'prompt_token_ids': [5 + i, 7, 9], 'max_tokens': 10 if FULL else 8, 'temperature': 1.2, 'seed': i, 'ignore_eos': True, **m}
            for i, m in enumerate(more)]
    path = write(os.path.join(tmp, 'in.jsonl'), lines(rows))

    def run(no_ahead, *args):
        r = on_device(['-i', path, '--token-ids', '--log-level', 'debug', *args], LLMBATCH_NO_AHEAD=no_ahead)
        equal(r.code, 0, r.err)
        said = re.search(r'steps launched while another one was on its way: (\d+)', r.err)
        return r.out, int(said[1])
    drawn, n = run('1')
    equal(n, 0, 'steps ahead')
    out, n = run('0')
    equal(out, drawn, 'rows')
    check(n >= 5, f'{n} steps ahead')
    if FULL:
        out, n = run('0', '--max-seqs', '1')
        equal(out, drawn, 'rows alone')
        check(n >= 40, f'{n} steps ahead of rows alone')


@case
def graphs_of_other_families(tmp):
    """Experts, latents with experts, and two windows; experts in f32 ask the host, and are launched."""
    rows = [{'id': i, 'prompt_token_ids': [5 + i, 7, 9][:1 + i], 'max_tokens': n, 'temperature': 0.8, 'ignore_eos': True}
            for i, n in enumerate((12, 7))]
    path = write(os.path.join(tmp, 'in.jsonl'), lines(rows))

    def run(model, graphs, *more):
        model = os.path.join(ROOT, '../shared/goldens', model)
        if not os.path.isdir(model):
            raise Skip('no goldens')
        model = model if FULL else shallow(model, 2)  # the first one has no experts
        r = on_device(['-m', model, '-i', path, '--log-level', 'debug', '--audit', 'off', *more],
                      LLMBATCH_CUDA_GRAPHS=graphs)
        equal(r.code, 0, r.err)
        said = re.search(r'graphs: (\d+) of \d+ decode steps were queued from (\d+) graphs', r.err)
        return r.out, int(said[1]) if said else 0, int(said[2]) if said else 0
    for model in ('glm4-moe', 'glm4-moe-lite', 'mistral-swa') if FULL else ('glm4-moe-lite',):
        out, n, made = run(model, '64')
        equal(out, run(model, '0')[0], f'{model} with graphs')
        check(made >= 1 and n >= 2, f'{model}: {n} steps from {made} graphs')
    path = write(os.path.join(tmp, 'one.jsonl'), lines([{**rows[0], 'max_tokens': 3}]))
    equal(run('glm4-moe-lite', '64', '--dtype', 'f32', '-i', path)[1:], (0, 0), 'graphs of experts in f32')


@case
def device_memory(_):
    r = on_device(['-p', 'a'], STANDIN_BYTES='300000')
    refused(r, 4, 'device memory|are free')
    r = on_device(['-p', 'a', '--kv-memory', '200M'], STANDIN_BYTES=str(256 << 20))
    refused(r, 4, r'--kv-memory of .* are free')


@case
def a_device_that_fails(tmp):
    """Finished rows are kept, and the same command goes on from them."""
    undisturbed = os.path.join(tmp, 'whole.jsonl')
    rows = write(os.path.join(tmp, 'in.jsonl'), ROWS)
    args = ['-i', rows, '--seed', '3', '--temperature', '0.9', '--max-seqs', '2']
    equal(on_device([*args, '-o', undisturbed]).code, 0, 'undisturbed')
    out = os.path.join(tmp, 'out.jsonl')
    r = on_device([*args, '-o', out], STANDIN_FAIL='500' if FULL else '250')
    equal(r.code, 4, r.err)
    check(re.search(r'llmbatch: error: [^\n]* of [^\n]*: cuda\w+', r.err), r.err)
    kept = read(out + '.partial').count(b'\n') - 1
    check(0 < kept < 6, f'{kept} rows kept')
    r = on_device([*args, '-o', out])
    equal(r.code, 0, r.err)
    equal(read(out), read(undisturbed), 'rows')
    resumed = json.loads(read(out + '.stats.json'))['rows']['resumed']
    equal(resumed, kept, 'rows taken over')


@case
def a_run_on_a_device_that_is_killed(tmp):
    """At random moments, again and again: no finished row is lost or computed twice, and the bytes are the same."""
    draw = random.Random(time.time_ns() if FULL else 11)
    n_row, n_prompt, n_new = (24, 40, 6) if FULL else (6, 8, 2)
    rows = [{'prompt_token_ids': [5 + i] * draw.randint(1, n_prompt), 'max_tokens': draw.randint(1, n_new), 'logprobs': 1,
             'prompt_logprobs': 1, 'n': 1 + i % 2, 'temperature': 0.9} for i in range(n_row)]
    path = write(os.path.join(tmp, 'in.jsonl'), b''.join(json.dumps(row).encode() + b'\n' for row in rows))
    whole, out = (os.path.join(tmp, name) for name in ('whole.jsonl', 'out.jsonl'))
    partial = out + '.partial'
    args = ['-i', path, '--audit', 'off', '--seed', '3', '--max-seqs', '2', '--progress', 'off']
    equal(on_device([*args, '-o', whole]).code, 0, 'undisturbed')
    n_kept, n_kill = 0, 0
    for target in sorted(draw.sample(range(1, len(rows)), 8 if FULL else 2)):
        p = subprocess.Popen([PROGRAM, *device_args(*args, '-o', out)], env={**CLEAN_ENV, **device_env()},
                             stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + WAIT_S
        while p.poll() is None and n_finished(partial) < target and time.monotonic() < deadline:
            time.sleep(0.002)
        p.kill()
        if p.wait() == 0:
            break
        equal(p.returncode, -signal.SIGKILL, 'its end')
        check(n_finished(partial) >= max(n_kept, target), f'{n_kept} rows were finished, {n_finished(partial)} are')
        n_kept, n_kill = n_finished(partial), n_kill + 1
    check(n_kill > 0, 'it was done before each kill')
    r = on_device([*args, '-o', out])
    equal(r.code, 0, r.err)
    equal(read(out), read(whole), 'rows')
    equal(json.loads(read(out + '.stats.json'))['rows']['resumed'], n_kept, 'rows taken over')
