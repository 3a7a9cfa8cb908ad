"""The order in which rows run, and rows that run once for several: nothing of it changes a byte. The null device, which
takes rows as fast as they come, has most of them; that it is no model does not matter here."""
import gzip
import json
import os
import random
import re
import signal
import time

from run import SMALL, WAIT_S, case, check, copy_model, equal, good, lines, program, read, refused, threads, write
from test_resume import FULL, SANITIZED, compare, mixed_rows, start, stats_of

NULL = ['-m', SMALL, '--device', 'null', '--audit', 'off']
MANY = 1500 if SANITIZED else 20000 if FULL else 9000  # several windows, but under a sanitizer


def short_rows(n, seed=1):
    """Rows that share beginnings, with prompts of all lengths, some of them the same."""
    draw = random.Random(seed)
    heads = [[draw.randrange(10, 500) for _ in range(80)] for _ in range(9)]
    rows = []
    for i in range(n):
        ids = draw.choice(heads)[:draw.randint(1, 80)] + [draw.randrange(10, 500) for _ in range(draw.choice((0, 0, 3, 30)))]
        row = {'prompt_token_ids': ids, 'max_tokens': draw.randint(1, 9)}
        row.update([{}, {'id': f'r{i}'}, {'temperature': 0.9}, {'logprobs': 1}][draw.choice((0, 0, 0, 1, 1, 2, 3))])
        rows.append(row)
    return rows


def run_on(tmp, name, inputs, *options, code=0):
    """OUT and its statistics."""
    out = os.path.join(tmp, name)
    r = program([*NULL, *options, *(a for path in inputs for a in ('-i', path)), '-o', out])
    check(r.code == code and not r.err, r.code, r.err)
    return read(out), stats_of(out)


# ---- the null device ----


@case
def null_device(tmp):
    model = copy_model(SMALL, tmp, 'model', '(?!.*safetensors)')
    rows = [{'prompt': 'Once upon a time', 'max_tokens': 6}, {'prompt': 'A cat', 'temperature': 1.3, 'max_tokens': 6},
            {'prompt': 'A dog', 'logprobs': 3, 'max_tokens': 4}, {'prompt': 'A dog', 'max_tokens': 3, 'logit_bias': {'400': 90}},
            {'prompt': 'A dog', 'max_tokens': 9, 'repetition_penalty': 1.5}]
    path, out = write(os.path.join(tmp, 'in.jsonl'), lines(rows)), os.path.join(tmp, 'out.jsonl')
    args = ['-m', model, '--device', 'null', '--audit', 'off', '--token-ids']
    good([*args, '-i', path, '-o', out])
    got = [json.loads(line) for line in read(out).splitlines()]
    equal([g['completion_tokens'] for g in got], [r['max_tokens'] for r in rows], 'new tokens')
    equal(got[3]['token_ids'], [400] * 3, 'a bias decides')
    for entry in got[2]['logprobs']:
        equal([entry['rank'], len(entry['top']), entry['top'][0][0]], [1, 3, entry['id']], 'log-probabilities')
        check(-1.5 < entry['logprob'] < 0, entry)
    # alone, in other company, in steps of a few tokens
    for i, row in enumerate(rows):
        if 'temperature' not in row:  # what is drawn depends on the row's number too
            equal(good([*args], [row]).rows[0]['token_ids'], got[i]['token_ids'], 'alone')
    equal(good([*args, '--batch-tokens', '3', '--max-seqs', '2', '-i', path]).rows, got, 'few tokens a step')
    stats = stats_of(out)
    equal([stats['engine'].get(k) for k in ('device', 'isa')], ['null', None], 'engine')
    equal(stats['model'].get('parameters'), None, 'parameters')
    equal(stats['fingerprint']['device'], 'null', 'fingerprint')
    check(re.search(rb'^time +none', good([*args, '--plan', '-i', path]).out, re.M), 'the plan has a time')
    refused(program(['-m', model, '-p', 'a']), 3, 'safetensors')
    refused(program([*args, '-p', 'a', '--tp', '2']), 2, '--tp')
    refused(program([*args, '-p', 'a', '--isa', 'ref']), 2, '--isa')
    equal(program([*args, '-p', 'a', '--max-model-len', '99999']).code, 2, 'the configuration counts')


# ---- the order ----


def windows_of(tmp, paths):
    """The same inputs as compressed files, which are not read twice."""
    made = []
    for i, path in enumerate(paths):
        made.append(write(os.path.join(tmp, f'packed-{i}.gz'), gzip.compress(read(path), 1)))
    return made


@threads
@case
def order_of_all_rows_changes_no_byte(tmp):
    rows = short_rows(MANY)
    rows[7], rows[8], rows[MANY // 6 * 3] = b'{unreadable', b'{"prompt":7}', {'prompt_token_ids': [5, 9999]}
    half = MANY // 2 - 100
    first = b'\xef\xbb\xbf\n' + lines(rows[:half]).replace(b'}\n{"prompt_token_ids": [1', b'}\r\n \t\n{"prompt_token_ids": [1')
    paths = [write(os.path.join(tmp, 'a.jsonl'), first), write(os.path.join(tmp, 'none.jsonl'), b''),
             write(os.path.join(tmp, 'b.jsonl'), lines(rows[half:])[:-1])]
    want, stats = run_on(tmp, 'windows.jsonl', windows_of(tmp, paths), code=1)
    equal([stats['rows'][k] for k in ('total', 'error')], [MANY, 3], 'rows')
    got, whole = run_on(tmp, 'out.jsonl', paths, code=1)
    check(got == want, 'another order changes bytes')
    equal(whole['input_hash'], stats['input_hash'], 'hash of the rows')
    if not SANITIZED:
        check(whole['tokens']['prompt_computed'] < stats['tokens']['prompt_computed'], whole['tokens'], stats['tokens'])
        check(whole['rows']['folded'] > stats['rows']['folded'], whole['rows'], stats['rows'])
    got, _ = run_on(tmp, 'done.jsonl', paths, '--order', 'completion', code=1)
    equal(sorted(got.splitlines()), sorted(want.splitlines()), 'lines in order of completion')
    check(got != want, 'the order of completion is that of the input')
    equal(program([*NULL, *(a for p in paths for a in ('-i', p))]).out, want, 'on standard output')
    parts = [run_on(tmp, f'part-{i}.jsonl', paths, '--shard', f'{i}/3', code=1 if i < 3 else 0)[0].splitlines()
             for i in range(3)] if not SANITIZED else []
    for i, part in enumerate(parts):
        check(part == want.splitlines()[i::3], f'shard {i}')


@case
def shuffled_rows_have_their_text(tmp):
    rows = [{**r, 'id': i} for i, r in enumerate(short_rows(MANY // 3, 2))]
    texts = []
    for seed in (1, 2):
        random.Random(seed).shuffle(rows)
        got, _ = run_on(tmp, f'{seed}.jsonl', [write(os.path.join(tmp, f'in-{seed}'), lines(rows))])
        texts.append({r.pop('id'): (r.pop('index'), r)[1] for r in map(json.loads, got.splitlines())})
    check(texts[0] == texts[1], 'the text of a row depends on its place')


@case
def a_model_in_the_order_of_all_rows(tmp):
    path = write(os.path.join(tmp, 'in.jsonl'), lines(mixed_rows(60)))
    args = ['-m', SMALL, '--audit', 'off', '-o', os.path.join(tmp, 'out.jsonl')]
    equal(program([*args, '-i', path]).code, 1, 'plain')
    want = read(os.path.join(tmp, 'out.jsonl'))
    equal(program([*args, '--overwrite', '--no-fold', '-i', *windows_of(tmp, [path])]).code, 1, 'compressed')
    check(read(os.path.join(tmp, 'out.jsonl')) == want, 'another order changes bytes')


@case
def killed_in_the_order_of_all_rows(tmp):
    path = write(os.path.join(tmp, 'in.jsonl'), lines(short_rows(MANY, 3)))
    want, stats = run_on(tmp, 'want.jsonl', [path])
    out = os.path.join(tmp, 'out.jsonl')
    args = [*NULL, '-i', path, '-o', out]
    draw, kept = random.Random(4), 0
    for _ in range(3):
        p = start(args)
        while not os.path.exists(out + '.partial') and p.poll() is None:
            time.sleep(0.001)
        time.sleep(draw.random() * stats['time_s']['total'])
        p.send_signal(signal.SIGKILL if draw.random() < 0.6 else signal.SIGTERM)
        p.communicate(timeout=WAIT_S)
        if os.path.exists(out):  # it was done before
            compare(out, want)
            os.remove(out)
            os.remove(out + '.stats.json')
        kept = read(out + '.partial').count(b'\n') - 1 if os.path.exists(out + '.partial') else 0
    r = program(args)
    check(r.code == 0 and re.fullmatch(r'(llmbatch: warn: the end of [^\n]* is torn[^\n]*\n)?', r.err), r.err)
    compare(out, want)
    check(stats_of(out)['rows']['resumed'] in (kept, kept - 1), stats_of(out)['rows'], kept)


@case
def ids_that_come_twice_are_told_alike(tmp):
    for k, twice in enumerate(('r1', 'r\u00e9"1', 7, -3)):
        rows = [{'prompt': 'x' * (i + 1), 'max_tokens': 1, **({'id': twice} if i in (2, 5) else {})} for i in range(7)]
        rows[1] = b'{"id": ' + json.dumps(twice).encode() + b', bad'
        data = b'\n' + lines(rows)
        said = []
        for name, packed in (('plain', data), ('packed', gzip.compress(data))):
            path = write(os.path.join(tmp, 'in.jsonl'), packed)
            out = os.path.join(tmp, f'{name}-{k}')
            r = program(['-m', SMALL, '--device', 'null', '-i', path, '-o', out])
            said.append(r.err)
            equal(r.code, 1, r.err)
            refused(program(['-m', SMALL, '--device', 'null', '-i', path, '-o', out + '2', '--audit', 'error', '--chat']), 2,
                    'in.jsonl:7:')
        equal(said[0], said[1], 'warnings')
        check('in.jsonl:7:' in said[0] and 'in.jsonl:4 ' in said[0], said[0])


@case
def file_that_changes_before_its_rows_are_read(tmp):
    path, out = os.path.join(tmp, 'in.jsonl'), os.path.join(tmp, 'out.jsonl')
    write(path, lines(short_rows(2000, 5)) * (30 if FULL else 10))
    before = os.stat(path)
    args = [*NULL, '--no-fold', '-i', path, '-o', out]
    p = start(args)
    while not os.path.exists(out + '.partial') or os.path.getsize(out + '.partial') < 4096:
        check(p.poll() is None, 'no rows')
        time.sleep(0.001)
    os.utime(path)
    _, err = p.communicate(timeout=WAIT_S)
    equal(p.returncode, 3, err)
    check(re.fullmatch(rb"llmbatch: error: [^\n]*/in\.jsonl:\d+: the file was changed during the run[^\n]*\n", err), err)
    check(os.path.exists(out + '.partial') and not os.path.exists(out), os.listdir(tmp))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    good(args)
    check(stats_of(out)['rows']['resumed'] > 0, 'nothing was kept')
    equal(read(out).count(b'\n'), 60000 if FULL else 20000, 'rows')


@case
def memory_does_not_grow_with_the_input(tmp):
    """100 MB of rows (50 MB in a sample, and less that they may take), of which a window by number of rows alone would hold all."""
    if SANITIZED:
        return
    model = copy_model(SMALL, tmp, 'model', '(?!.*safetensors)')
    config = json.loads(read(os.path.join(model, 'config.json')))
    write(os.path.join(model, 'config.json'), json.dumps({**config, 'max_position_embeddings': 20000}).encode())
    draw, peak = random.Random(7), []
    line = b'{"prompt_token_ids":[%s],"max_tokens":2}\n' % b','.join(b'%d' % draw.randrange(10, 500) for _ in range(16000))
    for n in (20, 1600 if FULL else 800):
        path, out = os.path.join(tmp, 'in.jsonl'), os.path.join(tmp, f'out-{n}.jsonl')
        write(path, line * n)
        good(['-m', model, '--device', 'null', '--audit', 'off', '--no-fold', '--no-prefix-cache', '-i', path, '-o', out])
        peak.append(stats_of(out)['ranks'][0]['peak_rss_bytes'])
    check(peak[1] - peak[0] < (60 if FULL else 42) << 20, 'memory of few and of many rows:', peak)


# ---- rows that are the same ----


@case
def rows_that_are_the_same_run_once(tmp):
    same = {'prompt': 'Once upon a time', 'max_tokens': 8}
    rows = [same, {**same, 'id': 'x'}, {**same, 'id': 7, 'note': 'kept', 'seed': 9}, {**same, 'temperature': 0},
            {'custom_id': 'c', 'method': 'POST', 'url': '/v1/completions', 'body': {'model': 'm', **same}},
            # others: each runs by itself
            {**same, 'max_tokens': 7}, {**same, 'temperature': 0.7}, {**same, 'temperature': 0.7}, {**same, 'logprobs': 1},
            {**same, 'stop': ['e']}, {**same, 'min_tokens': 3, 'stop_token_ids': [300]}, {**same, 'logit_bias': {'40': 3}},
            {**same, 'presence_penalty': 0.5}, {**same, 'frequency_penalty': 0.5}, {**same, 'repetition_penalty': 1.1},
            {**same, 'ignore_eos': True}, {**same, 'skip_special_tokens': False}, {**same, 'n': 2}, {**same, 'prompt': 'Once upon a'},
            {**same, 'stop': ['e'], 'include_stop_str_in_output': True}, {**same, 'max_tokens': 5000},
            {**same, 'prompt_logprobs': 1}, {**same, 'prompt_logprobs': 1, 'prompt_logprobs_from': 2}, {**same, 'max_tokens': 0, 'prompt_logprobs': 0}]
    path = write(os.path.join(tmp, 'in.jsonl'), lines(rows + rows[5:]))
    for device in ('cpu', 'null'):
        args = ['-m', SMALL, '--device', device, '--audit', 'off', '--token-ids', '--keep', 'note', '-i', path, '-o']
        out = os.path.join(tmp, device)
        equal(program([*args, out]).code, 1, 'folded')
        equal(program([*args, out + '-all', '--no-fold']).code, 1, 'all run')
        check(read(out) == read(out + '-all'), f'{device}: bytes differ')
        stats, every = stats_of(out), stats_of(out + '-all')
        n_drawn, n_failed = 4, 2
        equal([s['rows']['folded'] for s in (stats, every)], [4 + 19 - n_drawn // 2 - n_failed // 2, 0], 'folded')
        for part in ('total', 'ok', 'stop', 'length', 'error'):
            equal(stats['rows'][part], every['rows'][part], part)
        equal(stats['tokens']['completion'], every['tokens']['completion'], 'new tokens')
        check(stats['tokens']['prompt_computed'] <= every['tokens']['prompt_computed'], 'prompts')
    got = [json.loads(line) for line in read(os.path.join(tmp, 'cpu')).splitlines()]
    equal([g.get('id') for g in got[:5]], [0, 'x', 7, 3, 'batch_req_4'], 'ids')
    equal([got[2]['kept'], got[3].get('kept')], [{'note': 'kept'}, {}], 'kept members')
    equal(len({g['text'] for g in got[:4]} | {got[4]['response']['body']['choices'][0]['text']}), 1, 'texts')


@case
def folded_rows_are_timed_as_the_one_that_ran(tmp):
    r = good(['-m', SMALL, '--audit', 'off', '--timing', '-i', write(os.path.join(tmp, 'in'), lines([{'prompt': 'A', 'max_tokens': 4}] * 3))])
    equal([x['timing'] for x in r.rows[1:]], [r.rows[0]['timing']] * 2, 'timing')


@case
def folded_rows_that_an_earlier_run_lacks(tmp):
    """Any of the same rows may be the ones that were finished before."""
    rows = [{'prompt': p, 'max_tokens': 5} for p in 'abcab' * 12]
    path, out = write(os.path.join(tmp, 'in.jsonl'), lines(rows)), os.path.join(tmp, 'out.jsonl')
    args = ['-m', SMALL, '--audit', 'off', '-i', path, '-o', out]
    good(args)
    want = read(out)
    equal(stats_of(out)['rows']['folded'], 57, 'folded')
    equal(program([*args, '--overwrite', '--stats', '/dev/full']).code, 4, 'OUT is not made')
    whole = read(out + '.partial').splitlines(True)
    draw = random.Random(6)
    for _ in range(6):
        kept = sorted(draw.sample(range(1, 61), draw.randint(1, 59)))
        write(out + '.partial', whole[0] + b''.join(whole[i] for i in kept))
        os.remove(out)
        good(args)
        compare(out, want)
        rest = {json.dumps(rows[i]) for i in range(60) if i not in {int(whole[k].split(b'\t')[0]) for k in kept}}
        equal([stats_of(out)['rows'][k] for k in ('resumed', 'folded')], [len(kept), 60 - len(kept) - len(rest)], 'rows')
