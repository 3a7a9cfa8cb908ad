"""What a run leaves when it ends too early, and how the same command goes on: the bytes of OUT are those of a run that
nobody disturbed, and no finished row is computed again."""
import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time

from adapters import adapter
from run import (CLEAN_ENV, FULL, PROGRAM, SMALL, TINY, WAIT_S, case, check, copy_model, equal, good, lines, program, read,
                 refused, start_long_run, threads, write)

SANITIZED = b'__asan_init' in read(PROGRAM) or b'__tsan_init' in read(PROGRAM)  # ten times as slow
QUIET = ['--progress', 'off', '--audit', 'off']


def mixed_rows(n, seed=1):
    """Rows of every form: prompts, ids, conversations, requests of the API, several samples, failures."""
    draw = random.Random(seed)
    rows = []
    for i in range(n):
        row = {'prompt': 'Once upon a time ' * draw.randint(1, 6), 'max_tokens': draw.randint(1, 24)}
        kind = (i + 3) % 8
        if kind == 1:
            row.update(temperature=1.1, id=f'r{i}')
        elif kind == 2:
            row.update(n=3, temperature=0.8)
        elif kind == 3:
            row = {'custom_id': f'c{i}', 'method': 'POST', 'url': '/v1/chat/completions', 'body': {
                'model': 'm', 'messages': [{'role': 'user', 'content': f'Tell me {i}'}], 'max_tokens': draw.randint(1, 12)}}
        elif kind == 4:
            row = {'custom_id': f'c{i}', 'method': 'POST', 'url': '/v1/completions', 'body': {
                'model': 'm', 'prompt': ['A cat', 'A dog'], 'max_tokens': 5, 'logprobs': 2}}
        elif kind == 5:
            row = {'messages': [{'role': 'user', 'content': 'Hi é'}], 'max_tokens': 6, 'logprobs': 1}
        elif kind == 6:
            row = draw.choice([b'{bad', b'{}', {'prompt': 'a', 'max_tokens': -1}, {'prompt_token_ids': [5, 900]},
                               {'custom_id': 'x', 'method': 'POST', 'url': '/v1/completions', 'body': {'prompt': 7}}])
        rows.append(row)
    return [b'{unreadable, before the first readable row', *rows]


def records(path):
    """The whole records of a partial file: index to output line."""
    found = {}
    for line in read(path).split(b'\n')[1:-1]:
        index, _, row = line.split(b'\t', 2)
        found[int(index)] = row
    return found


def new_tokens(row):
    """Tokens that a row of the output was given."""
    row = json.loads(row)
    body = row.get('response', {}).get('body', row)
    if 'usage' in body:
        return body['usage']['completion_tokens']
    return sum(c['completion_tokens'] for c in body.get('choices', [body]) if 'completion_tokens' in c)


def command(tmp, rows, *args, model=SMALL, out='out.jsonl'):
    path = os.path.join(tmp, 'in.jsonl')
    if rows is not None:
        write(path, rows if isinstance(rows, bytes) else lines(rows))
    return ['-m', model, '--audit', 'off', '-i', path, '-o', os.path.join(tmp, out), *args], os.path.join(tmp, out)


def keep_partial(args, **more):
    """Runs to the end of the last row, but makes no OUT: its statistics cannot be written."""
    r = program([*args, '--stats', '/dev/full'], **more)
    equal(r.code, 4, r.err)
    out = args[args.index('-o') + 1]
    check(not os.path.exists(out) and not os.path.exists(out + '.tmp'), os.listdir(os.path.dirname(out)))
    return out + '.partial'


def stats_of(out):
    return json.loads(read(out + '.stats.json'))


def start(args, **more):
    return subprocess.Popen([PROGRAM, '--progress', 'off', *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=CLEAN_ENV, **more)


def compare(out, want, order='input'):
    got = read(out)
    if order == 'completion':
        got, want = sorted(got.split(b'\n')), sorted(want.split(b'\n'))
    check(got == want, f'{out} is not what an undisturbed run makes')


def check_numbers(stats, want, kept):
    """No row that was kept is computed again, and the counts are of all rows."""
    equal(stats['rows']['resumed'], len(kept), 'resumed')
    how = ('resumed', 'folded')
    mine = {k: v for k, v in stats['rows'].items() if k not in how}
    equal(mine, {k: v for k, v in want['rows'].items() if k not in how}, 'rows')
    equal(stats['tokens']['completion'], want['tokens']['completion'] - sum(map(new_tokens, kept.values())), 'new tokens')


# ---- kills and cuts ----


def kill_and_go_on(tmp, rows, n_kill, seed, *options, out='out.jsonl', order='input'):
    """Kills a run at random moments, goes on each time, and at last lets it end."""
    args, path = command(tmp, rows, *options, out=out)
    begin = time.monotonic()
    equal(program(args).code, 1, 'the undisturbed run')
    length = time.monotonic() - begin
    want, numbers = read(path), stats_of(path)
    os.remove(path)
    os.remove(path + '.stats.json')
    draw, kept = random.Random(seed), {}
    for _ in range(n_kill):
        p = start(args)
        with contextlib.suppress(subprocess.TimeoutExpired):
            p.communicate(timeout=draw.random() * length)
        p.kill()
        p.communicate()
        killed = p.returncode == -signal.SIGKILL
        if not killed or os.path.exists(path):  # it was done before, or had only to end: what there is is whole
            equal(p.returncode, -signal.SIGKILL if killed else 1, 'exit code')
            compare(path, want, order)
            check_numbers(stats_of(path), numbers, kept)
            for left in (path, path + '.stats.json', path + '.partial'):  # the last where it was killed before removing it
                with contextlib.suppress(FileNotFoundError):
                    os.remove(left)
            kept = {}
            continue
        before, kept = kept, records(path + '.partial') if os.path.exists(path + '.partial') else {}
        check(before.items() <= kept.items(), 'a finished row is lost')
    equal(program(args).code, 1, 'the last run')
    compare(path, want, order)
    check_numbers(stats_of(path), numbers, kept)
    check(not os.path.exists(path + '.partial') and not os.path.exists(path + '.tmp'), os.listdir(tmp))


@case
def killed_at_random_moments(tmp):
    kill_and_go_on(tmp, mixed_rows(60 if SANITIZED else 200), 50 if FULL else 5, time.time_ns() if FULL else 7)


@case
def killed_in_order_of_completion(tmp):
    kill_and_go_on(tmp, mixed_rows(40), 20 if FULL else 2, 3, '--order', 'completion', '--threads', '1', order='completion')


@case
def killed_with_compressed_output(tmp):
    kill_and_go_on(tmp, mixed_rows(40), 20 if FULL else 2, 4, '--token-ids', out='out.jsonl.gz')


@case
def cut_at_every_byte(tmp):
    args, out = command(tmp, mixed_rows(24))
    equal(program(args).code, 1, 'the undisturbed run')
    want, numbers = read(out), stats_of(out)
    os.remove(out)
    partial = keep_partial(args)
    whole = read(partial)
    last = range(max(0, len(whole) - 2048), len(whole) + 1)
    draw = random.Random(5)
    for n in last if FULL else draw.sample(last, 12 if SANITIZED else 20) + [len(whole) - 1, len(whole), 0, 20]:
        write(partial, whole[:n])
        kept = records(partial) if n > whole.index(b'\n') else {}
        r = program(args)
        equal(r.code, 1, r.err)
        torn = n > 20 and whole[n - 1:n] != b'\n'
        check(bool(re.fullmatch(r'llmbatch: warn: the end of [^\n]* is torn[^\n]*\n', r.err)) == torn, n, r.err)
        compare(out, want)
        check_numbers(stats_of(out), numbers, kept)
        os.remove(out)


@case
def end_that_a_power_failure_left(tmp):
    args, out = command(tmp, mixed_rows(24))
    program(args)
    want = read(out)
    os.remove(out)
    partial = keep_partial(args)
    whole = read(partial)
    for change in (whole + b'\0' * 4096, whole[:-700] + b'\0' * 700, whole[:-900] + b'\0' * 300 + whole[-600:]):
        write(partial, change)
        r = program(args)
        equal(r.code, 1, r.err)
        check('torn' in r.err or 'damaged' in r.err, r.err)
        compare(out, want)
        os.remove(out)


@case
def unreadable_rows_keep_their_form(tmp):
    """The first readable row says what unreadable ones are written as, also when it was finished before."""
    rows = [b'{bad', {'custom_id': 'c', 'method': 'POST', 'url': '/v1/completions', 'body': {'prompt': 7}}, b'{worse',
            {'prompt': 'a', 'max_tokens': 2}]
    args, out = command(tmp, rows)
    program(args)
    want = read(out)
    equal(want.count(b'batch_req_'), 3, 'form')
    os.remove(out)
    partial = keep_partial(args)
    whole = read(partial)
    for gone in (b'0', b'2', b'02', b'023', b'03'):
        write(partial, b''.join(line for line in whole.splitlines(True) if line[:1] not in gone or line[1:2] != b'\t'))
        equal(program(args).code, 1, gone)
        compare(out, want)
        equal(stats_of(out)['rows']['resumed'], 4 - len(gone), 'resumed')
        os.remove(out)


# ---- what must be the same ----

# An option of --help, values that change a byte of a row, and the fact that is named.
CHANGES = {
    'prompt': None, 'model': None, 'input': None,  # their contents count: below
    'dtype': ('f32', 'dtype'), 'quantize': ('int8', 'quantization'), 'isa': ('ref', 'isa'), 'max-model-len': ('100', 'max_model_len'), 'chat': (None, 'chat'),
    'system': ('You are', 'system'), 'chat-template': ('FILE', 'chat_template'),
    'chat-template-kwargs': ('{"a":1}', 'chat_template_kwargs'), 'input-key': ('text', 'input_key'),
    'add-bos': ('no', 'add_bos'), 'max-tokens': ('3', 'max_tokens'), 'min-tokens': ('1', 'min_tokens'),
    'temperature': ('0.5', 'temperature'), 'top-p': ('0.5', 'top_p'), 'top-k': ('3', 'top_k'), 'min-p': ('0.1', 'min_p'),
    'repetition-penalty': ('1.1', 'repetition_penalty'), 'presence-penalty': ('0.1', 'presence_penalty'),
    'frequency-penalty': ('0.1', 'frequency_penalty'), 'seed': ('1', 'seed'), 'n': ('2', 'n'), 'stop': ('x', 'stop'),
    'stop-token-ids': ('5', 'stop_token_ids'), 'include-stop-str': (None, 'include_stop'),
    'ignore-eos': (None, 'ignore_eos'), 'logprobs': ('1', 'logprobs'),
    'prompt-logprobs': ('1', 'prompt_logprobs'), 'overflow': ('shorten', 'overflow'), 'keep-special': (None, 'keep_special'),
    'format': ('native', 'format'), 'token-ids': (None, 'token_ids'), 'timing': (None, 'timing'), 'keep': ('x', 'keep'),
    'render': (None, 'render'), 'shard': None, 'lora': ('ADAPTER', 'adapters'),
}
# Options that change no byte of a row.
NEUTRAL = {
    'output': None, 'stats': None, 'report': ['/dev/null'], 'trace': ['/dev/null'], 'completions': None, 'overwrite': None,
    'restart': None, 'device': ['cpu'], 'kv-dtype': ['bf16'], 'threads': ['1'],
    'batch-tokens': ['17'], 'max-seqs': ['2'], 'no-prefix-cache': [], 'no-fold': [], 'no-draft': [], 'kv-memory': ['64M'], 'order': ['completion'],
    'audit': ['warn'], 'plan': None, 'progress': ['on'], 'log-level': ['debug'], 'retry-errors': [], 'tp': None,
    'no-mpi': [], 'rank-timeout': ['1h'], 'merge': None,
    'time-limit': ['1h'], 'max-errors': ['5'], 'verify': ['2'], 'version': None, 'help': None,
}


@case
def what_must_be_the_same(tmp):
    """Every option of --help is in one of the tables, so that a new one cannot be forgotten."""
    known = re.findall(r'^ +(?:-\w, )?--([a-z-]+)(?: |$)(?!for --)', program(['--help']).out.decode(), flags=re.M)
    aliases = re.findall(r'^ +--([a-z-]+) for --', program(['--help']).out.decode(), flags=re.M)
    equal(sorted(set(known) - set(aliases)), sorted({*CHANGES, *NEUTRAL}), 'options')
    args, out = command(tmp, [{'prompt': 'Once upon a time', 'max_tokens': 4}] * 3)
    template = write(os.path.join(tmp, 'template'), b'{{ messages }}')
    tuned = adapter(SMALL, os.path.join(tmp, 'tuned'), seed=1, rank=2)
    partial = keep_partial(args)
    before = read(partial)
    for name, change in CHANGES.items():
        if change:
            made = {'FILE': template, 'ADAPTER': tuned}
            value = [] if change[0] is None else [made.get(change[0], change[0])]
            refused(program([*args, '--' + name, *value]), 2, rf'other settings: [^;]*\b({change[1]}) \(')
            equal((read(partial), os.path.exists(out)), (before, False), f'--{name} touches something')
    for name, value in NEUTRAL.items():
        if value:
            write(partial, before)
            r = program([*args, '--' + name, *value, '--overwrite'], quiet=False)
            check(r.code == 0, name, r.err)
            equal(stats_of(out)['rows']['resumed'], 3, name)
    write(partial, before)
    refused(program(args + ['--overwrite'], env={'SOURCE_DATE_EPOCH': '86400'}), 2, r'created \(0 then, 86400 now\)')


@case
def restart_discards(tmp):
    args, out = command(tmp, [{'prompt': 'Once', 'max_tokens': 4}])
    partial = keep_partial(args)
    good([*args, '--max-tokens', '3', '--restart'])
    equal((stats_of(out)['rows']['resumed'], os.path.exists(partial)), (0, False), 'restart')
    os.remove(out)
    for alien in (b'x', b'{}\n', b'\n'):
        write(partial, alien)
        refused(program(args), 2, 'no partial output.*--restart')
        equal(read(partial), alien, 'untouched')


@case
def a_model_must_be_the_same(tmp):
    model = copy_model(SMALL, tmp, 'model')
    write(os.path.join(model, 'generation_config.json'), b'{}')
    args, out = command(tmp, [{'prompt': 'Once', 'max_tokens': 4}], model=model)
    partial = keep_partial(args)
    before = read(partial)
    weights = read(os.path.join(model, 'model.safetensors'))
    longer = (int.from_bytes(weights[:8], 'little') + 8).to_bytes(8, 'little')
    head = weights[8:8 + int.from_bytes(weights[:8], 'little')]
    for file, data, fact in (
            ('config.json', read(os.path.join(model, 'config.json')) + b' ', 'config'),
            ('generation_config.json', b'{"temperature": 0.5}', 'generation_config'),
            ('tokenizer.json', read(os.path.join(model, 'tokenizer.json')) + b'\n', 'tokenizer'),
            ('tokenizer_config.json', b'{}', 'tokenizer'),
            ('chat_template.jinja', b'x', 'chat_template'),
            ('model.safetensors', longer + head + b' ' * 8 + weights[8 + len(head):], 'weights')):
        path = os.path.join(model, file)
        old = read(path) if os.path.exists(path) else None
        write(path, data)
        refused(program(args), 2, rf'other settings: {fact} \(')
        equal(read(partial), before, 'untouched')
        write(path, old) if old is not None else os.remove(path)
    os.utime(os.path.join(model, 'config.json'))
    shutil.copytree(model, os.path.join(tmp, 'moved'))
    args[1] = os.path.join(tmp, 'moved')
    good(args)  # neither the model's place nor its files' times count
    equal(stats_of(out)['rows']['resumed'], 1, 'resumed')


@case
def inputs_must_be_the_same(tmp):
    rows = [{'prompt': f'Once {i}', 'max_tokens': 4} for i in range(5)]
    args, out = command(tmp, rows)
    partial = keep_partial(args)
    before = read(partial)
    command(tmp, rows + rows)
    refused(program(args), 2, r'inputs \(')
    command(tmp, [*rows[:3], {'prompt': 'Once X', 'max_tokens': 4}, rows[4]])
    refused(program(args), 2, 'row 3 is not')
    equal(read(partial), before, 'untouched')
    command(tmp, rows)
    moved = shutil.move(os.path.join(tmp, 'in.jsonl'), os.path.join(tmp, 'moved'))
    good([moved if a.endswith('in.jsonl') else a for a in args])
    equal(stats_of(out)['rows']['resumed'], 5, 'a path does not count')


@case
def streams(tmp):
    rows = mixed_rows(30)
    out = os.path.join(tmp, 'out.jsonl')
    args = ['-m', SMALL, '--audit', 'off', '-o', out]
    equal(program(args, rows).code, 1, 'the undisturbed run')
    want = read(out)
    os.remove(out)
    partial = keep_partial(args, stdin=rows)
    before = read(partial)
    other = [*rows[:12], b'{"prompt":"another"}', *rows[13:]]
    refused(program(args, other), 3, 'stdin:13: row 12 is not')
    refused(program(args, rows[:-2]), 3, 'ends after 29 rows')
    refused(program(args, b''), 3, 'ends after 0 rows')
    equal((read(partial), os.path.exists(out)), (before, False), 'OUT.partial is kept')
    # rows before the one that differs are run and kept
    write(partial, b'\n'.join(line for line in before.split(b'\n') if not re.match(rb'[45]\t', line)))
    refused(program(args, other), 3, 'row 12 is not')
    check(4 in records(partial) and 5 in records(partial), sorted(records(partial)))
    equal(program(args, rows).code, 1, 'the same stream')
    compare(out, want)
    equal(stats_of(out)['rows']['resumed'], 31, 'resumed')


@case
def kernel_set_is_pinned(tmp):
    args, out = command(tmp, [{'prompt': 'Once', 'max_tokens': 4}] * 2)
    partial = keep_partial([*args, '--isa', 'ref'])
    before = read(partial)
    good(args)
    equal((stats_of(out)['engine']['isa'], stats_of(out)['rows']['resumed']), ('ref', 2), 'the set of the first start')
    os.remove(out)
    write(partial, before.replace(b'"isa":"ref"', b'"isa":"avx9"'))
    refused(program(args), 2, "'avx9', which this processor lacks")
    check(b'avx9' in read(partial), 'untouched')


@case
def clock_is_that_of_the_first_start(tmp):
    template = write(os.path.join(tmp, 't'), b"{{ strftime_now('%Y-%m-%d %H:%M:%S %a %j') }}")
    args, out = command(tmp, [{'messages': [{'role': 'user', 'content': 'Hi'}]}] * 3, '--render', '--chat-template', template)
    partial = keep_partial(args)
    first, *rows = read(partial).split(b'\n')
    head = json.loads(first)
    check(re.fullmatch(r'20\d\d-\d\d-\d\d \d\d:\d\d:\d\d', head['fingerprint']['clock']), head)
    write(partial, first.replace(head['fingerprint']['clock'].encode(), b'2024-02-29 23:59:58') + b'\n' + rows[0] + b'\n')
    good(args)
    got = [json.loads(line)['prompt'] for line in read(out).splitlines()]
    equal(got[int(not int(rows[0].split(b'\t')[0]))], '2024-02-29 23:59:58 Thu 060', 'clock')
    os.remove(out)
    env = {'SOURCE_DATE_EPOCH': '86400'}
    keep_partial(args, env=env)
    good(args, env=env)
    equal(json.loads(read(out).splitlines()[0])['prompt'], '1970-01-02 00:00:00 Fri 002', 'SOURCE_DATE_EPOCH')


# ---- complete outputs, second runs ----


@case
def already_complete(tmp):
    rows = mixed_rows(20)
    args, out = command(tmp, rows)
    equal(program(args).code, 1, 'first run')
    before, stats = read(out), read(out + '.stats.json')
    want = (1, f"llmbatch: info: '{out}' is already complete\n", b'')
    for more in ([], ['--threads', '1'], ['--order', 'input']):
        r = program([*args, *more])
        equal((r.code, r.err, r.out), want, more)
    write(out + '.partial', b'{"llmbatch_partial":1,"fingerprint":%s}\n0\t' % json.dumps(json.loads(stats)['fingerprint']).encode())
    equal(program(args).code, 1, 'killed between the rename and the end')
    equal((read(out), read(out + '.stats.json'), os.path.exists(out + '.partial')), (before, stats, False), 'untouched')
    refused(program([*args, '--seed', '3']), 2, r'made with other settings: seed \(.*--overwrite')
    command(tmp, lines(rows).replace(b'Tell me 16', b'Tell me 61'))
    refused(program(args), 2, 'made of other input rows.*--overwrite')
    command(tmp, rows)
    r = program([*args, '--overwrite'])
    equal((r.code, read(out)), (1, before), 'overwritten')
    equal(json.loads(read(out + '.stats.json'))['rows']['resumed'], 0, 'run anew')
    write(out + '.stats.json', b'{}')
    refused(program(args), 2, '--overwrite')
    os.remove(out + '.stats.json')
    refused(program(args), 2, '--overwrite')


@case
def a_stream_that_is_already_complete(tmp):
    out, rows = os.path.join(tmp, 'out.jsonl'), [{'prompt': 'Once', 'max_tokens': 3}] * 3
    args = ['-m', SMALL, '--audit', 'off', '-o', out]
    good(args, rows)
    equal(program(args, rows).code, 0, 'the same stream')
    refused(program(args, rows[:2]), 2, 'other input rows')
    refused(program([*args, '-p', 'a']), 2, 'other settings')


@case
@threads
def second_run(tmp):
    p, out = start_long_run(tmp)
    args = ['-m', SMALL, '--audit', 'off', '-i', os.path.join(tmp, 'in.jsonl'), '-o', out, '--batch-tokens', '32']
    before = read(out + '.partial')
    for more in ([], ['--restart'], ['--seed', '1']):
        refused(program(args + more), 2, rf'being written by another run, process {p.pid} on host \S')
    check(read(out + '.partial').startswith(before), 'OUT.partial is left alone')
    p.kill()
    p.communicate()


# ---- runs that end in order, and failures ----


def interrupted(tmp, args, out, code, says, **more):
    """Ends early with what was finished kept, and goes on to the same bytes. Returns the rows that were kept."""
    r = program(args, **more)
    equal(r.code, code, r.err)
    check(re.search(says, r.err) and r.err.count('\n') == 1, r.err)
    check(not os.path.exists(out) and not os.path.exists(out + '.tmp'), os.listdir(tmp))
    equal(stats_of(out)['exit_code'], code, 'recorded code')
    return records(out + '.partial') if os.path.exists(out + '.partial') else {}


@case
def signals_and_on(tmp):
    args, out = command(tmp, mixed_rows(40 if SANITIZED else 160))
    begin = time.monotonic()
    equal(program(args).code, 1, 'the undisturbed run')
    length = time.monotonic() - begin
    want, numbers = read(out), stats_of(out)
    os.remove(out)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        p = start(args)
        with contextlib.suppress(subprocess.TimeoutExpired):
            p.communicate(timeout=length / 2)
        p.send_signal(number)
        _, err = p.communicate(timeout=WAIT_S)
        if p.returncode == 1:  # it was faster
            continue
        equal(p.returncode, 130, err)
        check(re.fullmatch(rb'llmbatch: warn: interrupted: \d+ finished rows are kept\n', err), err)
        kept = records(out + '.partial') if os.path.exists(out + '.partial') else {}
        equal(stats_of(out)['rows']['total'], len(kept), 'rows')
        equal(program(args).code, 1, 'exit code')
        compare(out, want)
        check_numbers(stats_of(out), numbers, kept)
        os.remove(out)


@case
def time_limit(tmp):
    """Rows that cannot end in time are not begun, short ones behind them are."""
    def rows(n_token, max_tokens):
        return [{'prompt_token_ids': [5] * n_token, 'max_tokens': max_tokens, 'ignore_eos': True}] * 64

    options = ['--isa', 'ref', '--dtype', 'f32', '--threads', '1', '--max-seqs', '64', '--batch-tokens', '256', '--no-fold']
    args, out = command(tmp, rows(4, 8), *options)
    good(args)
    limit = int(3 * stats_of(out)['time_s']['total']) + 2
    os.remove(out)
    args, out = command(tmp, rows(4, 8) + rows(3, 2000) + rows(1, 2), *options)
    begin = time.monotonic()
    kept = interrupted(tmp, [*args, '--time-limit', f'{limit}s'], out, 130, r'the time limit is reached: \d+ finished')
    check(time.monotonic() - begin < limit + 5, time.monotonic() - begin)
    equal(sorted(kept), [*range(64), *range(128, 192)], 'the rows for which there was time')
    kept = interrupted(tmp, [*args, '--time-limit', '00:00:01'], out, 130, 'time limit')
    equal(stats_of(out)['rows']['total'], len(kept), 'rows')
    os.remove(out + '.partial')
    args, out = command(tmp, rows(1, 2))
    good([*args, '--time-limit', '10m'])


@case
@threads
def max_errors(tmp):
    rows = [{'prompt': 'Once', 'max_tokens': 3} if i % 3 else b'{bad' for i in range(60)]
    args, out = command(tmp, rows)
    equal(program(args).code, 1, 'the undisturbed run')
    want = read(out)
    os.remove(out)
    for limit in (0, 7):
        kept = interrupted(tmp, [*args, '--max-errors', str(limit)], out, 5,
                           rf'error: stopped: {limit + 1} rows have failed, more than --max-errors {limit} allows')
        check(limit < sum(b'"error"' in row for row in kept.values()) <= 20, len(kept))
        refused(program([*args, '--max-errors', str(limit)]), 5, 'earlier run failed.*--retry-errors')
        check(records(out + '.partial') == kept, 'rows are kept')
        equal(program([*args, '--max-errors', '20']).code, 1, 'as many as there are')
        compare(out, want)
        os.remove(out)


@case
def retry_errors_of_a_partial_output(tmp):
    rows = mixed_rows(40)
    args, out = command(tmp, rows)
    equal(program(args).code, 1, 'the undisturbed run')
    want, numbers = read(out), stats_of(out)
    os.remove(out)
    partial = keep_partial(args)
    whole = records(partial)
    failed = {i for i, row in whole.items() if b'"error":{"' in row}
    equal(len(failed), numbers['rows']['error'], 'failed rows')
    # a row that failed and now does not: as if a defect had been mended meanwhile
    victim = next(i for i in whole if i not in failed)
    lines_of = read(partial).splitlines(True)
    error = b'{"id":1,"index":%d,"finish_reason":"error","error":{"code":"no_memory","message":"m"}}\n' % victim
    write(partial, b''.join(line.split(b'{', 1)[0] + error if line.startswith(b'%d\t' % victim) else line
                            for line in lines_of))
    equal(program([*args, '--retry-errors']).code, 1, 'exit code')
    compare(out, want)
    stats = stats_of(out)
    equal((stats['rows']['resumed'], stats['rows']['error']), (len(whole) - len(failed) - 1, len(failed)), 'resumed')


@case
def retry_errors_of_a_complete_output(tmp):
    rows = mixed_rows(24)
    for out_name, order in (('out.jsonl', 'input'), ('out.jsonl.gz', 'input'), ('o2.jsonl', 'completion')):
        # rows fail for want of memory that has been found since
        args, out = command(tmp, rows, '--order', order, out=out_name, model=TINY)
        equal(program(args).code, 1, 'the undisturbed run')
        want, numbers = read(out), stats_of(out)
        equal(program([*args, '--overwrite', '--kv-memory', '24K']).code, 1, 'little memory')
        less = stats_of(out)
        check(less['rows']['errors_by_code'].get('no_memory', 0) > 2, less['rows'])
        equal(program([*args]).code, 1, 'already complete')
        refused(program([*args, '--retry-errors', '--seed', '5']), 2, 'other settings: seed')
        equal(program([*args, '--retry-errors']).code, 1, 'once more')
        compare(out, want, order)
        stats = stats_of(out)
        equal(stats['rows']['resumed'], less['rows']['ok'], 'resumed')
        equal(stats['rows']['errors_by_code'], numbers['rows']['errors_by_code'], 'errors')
        equal(sorted(os.listdir(tmp)), sorted({*os.listdir(tmp)} - {os.path.basename(out) + '.partial', 'out.jsonl.tmp'}),
              'files')
    command(tmp, [b'{"prompt":"x"}', *rows[1:]])
    refused(program([*args, '--retry-errors']), 2, 'settings: inputs|other input rows')
    args, out = command(tmp, [{'prompt': 'Once', 'max_tokens': 2}], out='ok.jsonl')
    good(args)
    equal(program([*args, '--retry-errors']).err, f"llmbatch: info: '{out}' is already complete\n", 'nothing failed')


@case
def killed_while_errors_are_retried(tmp):
    rows = mixed_rows(60)
    args, out = command(tmp, rows)
    equal(program(args).code, 1, 'the undisturbed run')
    want = read(out)
    equal(program([*args, '--overwrite', '--kv-memory', '24K']).code, 1, 'little memory')
    before, less = read(out), stats_of(out)
    draw = random.Random(2)
    for _ in range(20 if FULL else 4):
        p = start([*args, '--retry-errors'])
        with contextlib.suppress(subprocess.TimeoutExpired):
            p.communicate(timeout=draw.random() * 0.6)
        p.kill()
        p.communicate()
        if p.returncode == 1:
            break
        equal(read(out), before, 'OUT is whole until the new one is')
    else:
        equal(program([*args, '--retry-errors']).code, 1, 'the last run')
    compare(out, want)
    check(less['rows']['ok'] <= stats_of(out)['rows']['resumed'], stats_of(out)['rows'])
    check(not os.path.exists(out + '.partial'), os.listdir(tmp))


@case
def full_disk_and_on(tmp):
    args, out = command(tmp, mixed_rows(60))
    equal(program(args).code, 1, 'the undisturbed run')
    want, numbers = read(out), stats_of(out)
    os.remove(out)

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(want) // 2, len(want) // 2))

    kept = interrupted(tmp, args, out, 4, r"cannot write '.*out\.jsonl\.partial'", preexec_fn=small_files)
    check(len(kept) > 5, sorted(kept))
    equal(program(args).code, 1, 'with room')
    compare(out, want)
    check_numbers(stats_of(out), numbers, kept)


@case
def folder_that_goes(tmp):
    os.mkdir(os.path.join(tmp, 'there'))
    rows = [{'prompt': 'Once', 'max_tokens': 2}] * 8 + [{'prompt': 'Once', 'max_tokens': 60, 'ignore_eos': True}] * 120
    args, out = command(tmp, rows, '--max-seqs', '4', '--no-fold', '--no-draft', out='there/out.jsonl')
    good(args)
    want = read(out)
    os.remove(out)
    p = start(args)
    end = time.monotonic() + WAIT_S
    while not os.path.exists(out + '.partial') or read(out + '.partial').count(b'\n') < 4:
        check(p.poll() is None and time.monotonic() < end, 'no rows')
        time.sleep(0.01)
    os.rename(os.path.join(tmp, 'there'), os.path.join(tmp, 'away'))
    _, err = p.communicate(timeout=WAIT_S)
    equal(p.returncode, 4, err)
    check(re.fullmatch(rb"llmbatch: error: cannot [^\n]*/there(/[^\n]*)?': No such file[^\n]*\n", err), err)
    os.rename(os.path.join(tmp, 'away'), os.path.join(tmp, 'there'))
    good(args)
    compare(out, want)
    equal(stats_of(out)['rows']['resumed'], 128, 'every row was kept')


@case
def inputs_that_change_under_the_run(tmp):
    rows = [{'prompt': 'Once', 'max_tokens': 2}] * 8 + [{'prompt': 'Once', 'max_tokens': 60, 'ignore_eos': True}] * 120
    args, out = command(tmp, rows, '--max-seqs', '4', '--no-fold', '--no-draft')
    p = start(args)
    while not os.path.exists(out + '.partial') or read(out + '.partial').count(b'\n') < 4:
        check(p.poll() is None, 'no rows')
        time.sleep(0.01)
    with open(os.path.join(tmp, 'in.jsonl'), 'ab') as f:
        f.write(b'{"prompt":"more"}\n')
    _, err = p.communicate(timeout=WAIT_S)
    equal(p.returncode, 0, err)
    check(re.fullmatch(rb'llmbatch: warn: the inputs were changed during the run[^\n]*\n', err), err)
    equal(read(out).count(b'\n'), 128, 'rows')
    refused(program(args), 2, 'other settings: inputs')
