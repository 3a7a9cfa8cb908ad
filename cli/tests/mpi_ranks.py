"""What ranks compute is what one process computes, byte for byte: however many there are and however they are grouped,
whatever the rows ask for, in OUT and on standard output."""
import gzip
import json
import os
import random
import re
import signal
import subprocess
import time

import run
from ranks import SLOW, Run, alone, finished, local, needs_mpi
from run import CLEAN_ENV, FULL, MHA, PROGRAM, SMALL, WAIT_S, case, check, equal, lines, read, sample, write

QUIET = ['--progress', 'off', '--audit', 'off']
# ranks and --tp: one rank, groups of one, one group, groups of several
LAYOUTS = sample([(4, 2), (3, 1), (2, 2), (4, 4), (2, 1), (1, 1)], 3)


def every_kind(n=70, seed=11):
    """Rows of every form, setting and failure."""
    draw = random.Random(seed)
    rows = [b'{unreadable, before the first readable row']
    for i in range(n):
        row = {'prompt': 'Once upon a time ' * draw.randint(1, 9), 'max_tokens': draw.randint(1, 24)}
        row.update([{}, {'temperature': 0.9, 'id': f'r{i}'}, {'n': 3, 'temperature': 1.2, 'logprobs': 2}, {'logprobs': 0},
                    {'stop': ['e', 'the'], 'min_tokens': 2}, {'stop': ['a b', 'o'], 'include_stop_str_in_output': True},
                    {'n': 2}, {'temperature': 0.7, 'top_k': 7, 'top_p': 0.8, 'min_p': 0.01, 'seed': i},
                    {'repetition_penalty': 1.2, 'frequency_penalty': 0.4, 'presence_penalty': -0.2},
                    {'logit_bias': {'7': 5, '9': -100}, 'temperature': 0.5}, {'stop_token_ids': [30, 31, 32]},
                    {'ignore_eos': True}, {'skip_special_tokens': False}, {'prompt_logprobs': 2, 'max_tokens': 0},
                    {'prompt_logprobs': 0, 'prompt_logprobs_from': 4, 'n': 2, 'temperature': 1}][i % 15])
        if i % 17 == 4:
            row = draw.choice([b'{bad', b'{}', {'prompt': 'a', 'max_tokens': -1}, {'prompt_token_ids': [5, 99999]}])
        elif i % 11 == 6:
            row = {'custom_id': f'c{i}', 'method': 'POST', 'url': '/v1/chat/completions', 'body': {
                'model': 'm', 'messages': [{'role': 'user', 'content': f'Tell me {i}'}], 'max_tokens': 9, 'n': 2}}
        elif i % 11 == 9:
            row = {'custom_id': f'c{i}', 'method': 'POST', 'url': '/v1/completions', 'body': {
                'model': 'm', 'prompt': ['A cat', 'A dog'], 'max_tokens': 5, 'logprobs': 2}}
        rows.append(row)
    return lines(rows)


def compare(tmp, args, layouts=LAYOUTS, out='out.jsonl', code=0, only_alone=()):
    """The same command alone, with `only_alone`, and on ranks. Returns the statistics of the last."""
    needs_mpi()
    want = alone([*args, *only_alone, '--audit', 'off'], tmp, 'alone-' + out)
    check(want, 'no output')
    for n, tp in layouts:
        path = os.path.join(tmp, out)
        with Run(local(n), [*args, '--audit', 'off', '-o', path, '--overwrite', '--tp', str(tp)]) as r:
            equal(r.end(), code, f'{n} ranks, tp {tp}: exit code ({r.err})')
        equal(re.findall('llmbatch[^\n]*', r.err), [], f'{n} ranks, tp {tp}: standard error')
        check(read(path) == want, f'{n} ranks, tp {tp}: {path} differs')
        stats = json.loads(read(path + '.stats.json'))
        equal([stats['engine'][k] for k in ('ranks', 'tp', 'dp')], [n, tp, n // tp], 'engine')
        equal([k['rank'] for k in stats['ranks']], list(range(n)), 'ranks')
    return stats


@case
def null_device_on_ranks(tmp):
    """Rows in the order of all of them, some of them the same, dealt to groups as fast as they come."""
    draw = random.Random(3)
    rows = [{'prompt_token_ids': [draw.randrange(10, 30) for _ in range(draw.randint(1, 3))], 'max_tokens': 3} for _ in range(4000)]
    path = write(os.path.join(tmp, 'in.jsonl'), lines(rows))
    stats = compare(tmp, ['-m', SMALL, '--device', 'null', '-i', path], [(3, 1)])
    check(stats['rows']['folded'] > 500, stats['rows'])


@case
def ranks_give_the_same_bytes(tmp):
    path = write(os.path.join(tmp, 'in.jsonl'), every_kind())
    stats = compare(tmp, ['-m', SMALL, '-i', path], code=1)
    one = json.loads(read(os.path.join(tmp, 'alone-out.jsonl.stats.json')))
    equal(stats['rows'], one['rows'], 'rows')
    for name in ('prompt', 'completion'):
        equal(stats['tokens'][name], one['tokens'][name], name)
    taken = [s['tokens']['prompt_computed'] + s['tokens']['prefix_hit'] for s in (stats, one)]
    equal(*taken, 'prompt tokens that were computed or found')


@case
def ranks_in_f32_with_ids(tmp):
    path = write(os.path.join(tmp, 'in.jsonl'), every_kind(40, 5))
    compare(tmp, ['-m', SMALL, '-i', path, '--dtype', 'f32', '--token-ids', '--batch-tokens', '24', '--max-seqs', '5'],
            [(3, 1), (4, 2), (8, 8)], code=1)


@case
def ranks_of_another_model(tmp):
    path = write(os.path.join(tmp, 'in.jsonl'), lines(
        [{'prompt_token_ids': [3 + (7 * i + j) % 90 for j in range(1 + i * 5 % 37)], 'max_tokens': 1 + i * 3 % 29,
          'temperature': i % 2, 'keep': i} for i in range(30)]))
    compare(tmp, ['-m', MHA, '-i', path, '--keep', 'all', '--token-ids'], [(2, 1), (2, 2)])


@case
def ranks_and_compressed_files(tmp):
    path = write(os.path.join(tmp, 'in.jsonl.gz'), gzip.compress(every_kind(30, 6)))
    compare(tmp, ['-m', SMALL, '-i', path], [(3, 1), (2, 2)], out='out.jsonl.zst', code=1)


@case
def ranks_that_share_beginnings_and_are_short_of_memory(tmp):
    """Pages are shared and rows evicted on each rank as it comes; no row shows it."""
    begin = [3 + 5 * i % 90 for i in range(100)]
    rows = [{'prompt_token_ids': begin[:40 * (i % 3)] + [5 + i, 6, 7], 'max_tokens': 90 if i % 2 else 300, 'ignore_eos': i % 2 == 1,
             'temperature': i % 4 // 2} for i in range(36)]
    path = write(os.path.join(tmp, 'in.jsonl'), lines(rows))
    stats = compare(tmp, ['-m', SMALL, '-i', path, '--kv-memory', '700K', '--batch-tokens', '32'], [(2, 1), (3, 1), (2, 2)])
    check(stats['tokens']['prefix_hit'] > 0, stats['tokens'])


@case
def ranks_that_take_drafts(tmp):
    rows = [{'prompt_token_ids': [5 + (i * 7 + k % (3 + i)) % 90 for k in range(40)], 'max_tokens': 100, 'ignore_eos': True,
             **([{}, {'temperature': 0.1}, {'logprobs': 2, 'temperature': 0.05}][i % 3])} for i in range(12)]
    path = write(os.path.join(tmp, 'in.jsonl'), lines(rows))
    stats = compare(tmp, ['-m', SMALL, '-i', path, '--max-seqs', '4'], [(2, 1), (4, 2), (2, 2)], only_alone=['--no-draft'])
    check(stats['tokens']['drafted'] >= stats['tokens']['accepted'] > 100, stats['tokens'])


@case
def every_rank_gets_rows(tmp):
    needs_mpi()
    path = write(os.path.join(tmp, 'in.jsonl'), lines([{'prompt_token_ids': [5 + i % 50, 7, 9], 'max_tokens': 60,
                                                        'ignore_eos': True} for i in range(60)]))
    out = os.path.join(tmp, 'out.jsonl')
    with Run(local(3), ['-m', SMALL, '-i', path, '-o', out, '--timing', '--no-draft']) as r:
        equal(r.end(), 0, r.err)
    where = [json.loads(line)['timing'] for line in read(out).splitlines()]
    count = [sum(t['rank'] == k for t in where) for k in range(3)]
    check(min(count) >= 12, 'rows of each rank:', count)
    for t in where:
        check(0 <= t['queue_s'] and 0 < t['prefill_s'] and t['first_token_s'] <= t['total_s'] < 600 and t['steps'] == 60, t)


def piped(n, args, data):
    p = subprocess.run([*local(n), PROGRAM, *QUIET, *args], input=data, capture_output=True, timeout=WAIT_S, check=False,
                       env={**CLEAN_ENV, 'OMPI_MCA_mpi_yield_when_idle': '1'})
    return p.returncode, p.stdout, p.stderr.decode('utf-8', 'replace')


@case
def rank_0_reads_standard_input_and_writes_standard_output(tmp):
    needs_mpi()
    data = every_kind(40, 7)
    want = run.program(['-m', SMALL, '--audit', 'off'], data)
    equal(want.code, 1, want.err)
    for n, tp in ((2, 1), (2, 2)):
        code, out, err = piped(n, ['-m', SMALL, '--tp', str(tp)], data)
        equal(code, 1, err)
        check(out == want.out, f'{n} ranks, tp {tp}: standard output differs')


@case
def what_all_ranks_would_say_is_said_once(tmp):
    needs_mpi()
    out = os.path.join(tmp, 'out.jsonl')
    for args, code, says in sample(((['--max-tokens', '0x'], 2, '--max-tokens'), (['--tp', '3'], 2, '--tp 3'),
                                    (['-i', '/no/rows'], 3, '/no/rows'), (['--isa', 'sse9'], 2, 'sse9'),
                                    (['--threads', '99999'], 2, '--threads'), (['--stats', tmp], 2, 'directory'),
                                    (['--nonsense'], 2, 'nonsense'), (['--chat-template', '/no/template'], 3, '/no/template'),
                                    (['--shard', '2/2'], 2, '--shard')), 4):
        with Run(local(2), ['-m', SMALL, '-p', 'a', '-o', out, *args] if '-i' not in args else
                 ['-m', SMALL, '-o', out, *args]) as r:
            equal(r.end(), code, f'{args}: exit code ({r.err})')
        said = re.findall(r'^llmbatch[^\n]*', r.err, flags=re.M)
        check(len(said) == 1 and says in said[0] and said[0].startswith('llmbatch[0@') and ': error: ' in said[0], args, said)
        check(not os.listdir(tmp), args, os.listdir(tmp))
    for about in ('--help', '--version'):
        with Run(local(3), [about]) as r:
            equal(r.end(), 0, r.err)
        equal(r.out, run.program([about]).out, about)


@case
def render_and_plan_are_of_rank_0(tmp):
    needs_mpi()
    path = write(os.path.join(tmp, 'in.jsonl'), every_kind(20, 3))
    for what in ('--render', '--plan'):
        want = run.program(['-m', SMALL, '--audit', 'off', '-i', path, what])
        with Run(local(2), ['-m', SMALL, '--audit', 'off', '-i', path, what]) as r:
            equal(r.end(), want.code, r.err)
        # what a rank may use, and how long it takes, is not what a process alone may
        cut = [re.sub(rb'\nengine .*?\n\n', b'', text, flags=re.S) for text in (r.out, want.out)]
        equal(*cut, what)
        equal([b'\nsteps ' in text for text in (r.out, want.out)], [what == '--plan'] * 2, 'steps')


@case
def a_run_on_ranks_is_interrupted_and_goes_on(tmp):
    needs_mpi()
    long = 60 if SLOW else 250
    rows = [{'prompt_token_ids': [5 + i % 50, 7, 9], 'max_tokens': 2 if i % 4 == 0 else long, 'ignore_eos': True,
             'temperature': i % 2} for i in range(40 if SLOW else 80)]
    path = write(os.path.join(tmp, 'in.jsonl'), lines(rows))
    want = alone(['-m', SMALL, '-i', path], tmp)
    out = os.path.join(tmp, 'out.jsonl')
    args = ['-m', SMALL, '-i', path, '-o', out]
    for n, tp in sample(((3, 1), (2, 2)), 1):
        with Run(local(n), [*args, '--tp', str(tp)]) as r:
            r.wait_for(lambda: len(r.ranks()) == n and len(finished(out + '.partial')) >= 5, 'finished rows')
            os.kill(r.launcher(), signal.SIGUSR1)
            equal(r.end(30), 130, f'exit code ({r.err})')
        said = re.findall(r'^llmbatch[^\n]*', r.err, flags=re.M)
        check(len(said) == 1 and re.search(r'warn: interrupted: \d+ finished rows are kept', said[0]), said)
        kept = finished(out + '.partial')
        check(len(kept) >= 5 and f'{len(kept)} finished rows' in said[0], said, len(kept))
        with Run(local(2), args) as r:
            equal(r.end(), 0, f'going on: {r.err}')
        check(read(out) == want, f'{n} ranks, tp {tp}: OUT differs')
        check(json.loads(read(out + '.stats.json'))['rows']['resumed'] == len(kept), 'resumed')
        with Run(local(2), args) as r:  # already complete
            equal(r.end(), 0, f'once more: {r.err}')
        os.remove(out)
        os.remove(out + '.stats.json')


@case
def a_time_limit_on_ranks(tmp):
    needs_mpi()
    rows = lines([{'prompt_token_ids': [5 + i % 50, 7 + i // 50], 'max_tokens': 1500, 'ignore_eos': True} for i in range(300)])
    path, out = write(os.path.join(tmp, 'in.jsonl'), rows), os.path.join(tmp, 'out.jsonl')
    begin = time.monotonic()
    with Run(local(2), ['-m', SMALL, '-i', path, '-o', out, '--time-limit', '2s', '--max-model-len', '2048']) as r:
        equal(r.end(60), 130, f'exit code ({r.err})')
    check(time.monotonic() - begin < 20, 'it took', time.monotonic() - begin)
    check(len(re.findall(r'^llmbatch[^\n]*time limit', r.err, flags=re.M)) == 1, r.err)


@case
def shards_on_ranks_and_their_merging(tmp):
    needs_mpi()
    path = write(os.path.join(tmp, 'in.jsonl'), every_kind(24, 8))
    args = ['-m', SMALL, '--audit', 'off', '-i', path]
    want = alone(args, tmp)
    for i in range(2):
        with Run(local(2), [*args, '--shard', f'{i}/2', '-o', os.path.join(tmp, 'part-%s.jsonl')]) as r:
            check(r.end() in (0, 1), r.err)
    with Run(local(2), ['--merge', '-o', os.path.join(tmp, 'out.jsonl'),
                        *(os.path.join(tmp, f'part-{i}-of-2.jsonl') for i in range(2))]) as r:
        equal(r.end(), 0, r.err)
    check(read(os.path.join(tmp, 'out.jsonl')) == want, 'shards on ranks do not make the whole')


@case
def errors_on_ranks(tmp):
    needs_mpi()
    rows = [{'prompt': 'Once', 'max_tokens': 3} if i % 3 else b'{bad' for i in range(300)]
    path, out = write(os.path.join(tmp, 'in.jsonl'), lines(rows)), os.path.join(tmp, 'out.jsonl')
    args = ['-m', SMALL, '--audit', 'off', '-i', path, '-o', out]
    with Run(local(2), [*args, '--max-errors', '20']) as r:
        equal(r.end(), 5, r.err)
    equal([text for _, _, text in r.said()], ['stopped: 21 rows have failed, more than --max-errors 20 allows'], 'said')
    with Run(local(2), args) as r:
        equal(r.end(), 1, r.err)
    want = read(out)
    with Run(local(3), [*args, '--retry-errors']) as r:  # they fail again
        equal(r.end(), 1, r.err)
    check(read(out) == want, 'OUT differs after --retry-errors')


@case
def ranks_verify_rows(tmp):
    path = write(os.path.join(tmp, 'in.jsonl'), every_kind(30, 3))
    for layout in sample(((4, 2), (3, 1), (2, 2)), 1):
        stats = compare(tmp, ['-m', SMALL, '-i', path, '--verify', '9', '--batch-tokens', '24'], [layout], code=1)
        equal(stats['verify'], {'rows': 9, 'differ': 0}, layout)


@case
def ranks_measure_together(tmp):
    """Rank 0's choice is everyone's: a step that another rank had no room for would end the run."""
    n = 400 if FULL else 230    # that may have enough tokens that a measurement of one layer is worth it, on two groups
    rows = [{'prompt_token_ids': [5 + (i * 7 + k) % 600 for k in range(1 + i * 37 % 60)]} for i in range(n)]
    path = write(os.path.join(tmp, 'in.jsonl'), lines(rows))
    stats = compare(tmp, ['-m', SMALL, '-i', path, '--max-tokens', '1900', '--stop-token-ids',
                          ','.join(map(str, range(700)))], [(4, 2)] if FULL else [(2, 1)], only_alone=['--batch-tokens', '512'])
    why = stats['engine']['auto']['batch_tokens']
    check('measure' in why, why)    # or that it would take too long, on a slow machine
