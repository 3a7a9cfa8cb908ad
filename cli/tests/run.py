#!/usr/bin/env python3
"""Tests of the command line: arguments and input, then standard output, standard error and exit code.

    run.py PROGRAM [FILE.py] [CASE-PATTERN ...]

FILE: the cases of a file beside this one alone; each mpi_*.py, which needs several processes, is a CTest of its
own. Completions are compared with golden rows of transformers in float32 (../shared/goldens/llama-mha, whose pad token is
its end token, and testdata/tiny-llama and tiny-glm), never with own recorded output. LB_TEST_SUBSET=threads runs the cases
in which threads meet, LB_TEST_SUBSET=N every N-th one; what is marked `long` is run with LB_TEST_FULL=1 alone."""
import atexit
import concurrent.futures
import fnmatch
import functools
import gzip
import importlib
import json
import os
import pty
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

import tables

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TINY = os.path.join(ROOT, 'testdata/tiny-llama')
GLM = os.path.join(ROOT, 'testdata/tiny-glm')
MHA = os.path.join(ROOT, '../shared/goldens/llama-mha')
if not os.path.isdir(MHA):
    MHA = TINY
PROGRAM = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else ''
SLOW = 'san/' in PROGRAM    # a sanitizer's build
FULL = os.environ.get('LB_TEST_FULL') == '1'
CLEAN_ENV = {k: v for k, v in os.environ.items() if not re.match(r'(OMPI|PMI|PMIX|SLURM|MV2)_', k)}
WAIT_S = 960 if FULL else 240
CASES = []


@functools.cache
def shallow(model=TINY, n_layer=1):
    """A model's first layers alone, whose ids nobody knows: for what computes slowly, and is asked how it gets there."""
    tmp = tempfile.mkdtemp(prefix='llmbatch-shallow-')
    atexit.register(shutil.rmtree, tmp, ignore_errors=True)
    folder = copy_model(model, tmp, os.path.basename(model))
    config = json.loads(read(os.path.join(model, 'config.json')))
    config.update({key: config[key][:n_layer] for key in config if key.endswith('layer_types') and config[key]})
    write(os.path.join(folder, 'config.json'), json.dumps({**config, 'num_hidden_layers': n_layer}).encode())
    return folder


class Skip(Exception):
    pass


def case(function):
    CASES.append((function.__name__.replace('_', ' '), function))
    return function


def long(function):
    """A case that waits for deadlines, or repeats at length what others show: LB_TEST_FULL=1 has it."""
    function.long = True
    return function


def sample(cases, n):
    """The first n of cases that are alike; LB_TEST_FULL=1 has them all."""
    return cases if FULL else cases[:n]


def threads(function):
    """A case that is run under the thread sanitizer too."""
    function.threads = True
    return function


class Result:
    def __init__(self, code, out, err):
        self.code, self.out = code, out
        # a tokenizer of a kind that is not built is said once
        self.err, self.n_tokenizer = re.subn(r"llmbatch: warn: the model's tokenizer [^\n]* is not built in[^\n]*\n", '',
                                             err.decode('utf-8', 'replace'))
        # both models have chat templates, and most cases give them raw prompts all the same
        self.err, self.n_raw = re.subn(r'llmbatch: warn: audit: raw_prompt: [^\n]*\n', '', self.err)

    @property
    def rows(self):
        return [json.loads(line) for line in self.out.decode().split('\n')[:-1]]


def check(condition, *what):
    if not condition:
        raise AssertionError(' '.join(str(w) for w in what))


def equal(got, want, what):
    check(got == want, f'{what}: got {got!r}, want {want!r}')


def program(args, stdin=b'', env=None, quiet=True, **more):
    extra = ['--progress', 'off'] if quiet else []
    if isinstance(stdin, list):
        stdin = lines(stdin)
    p = subprocess.run([PROGRAM, *extra, *args], input=stdin, capture_output=True, timeout=WAIT_S, check=False,
                       env={**CLEAN_ENV, **(env or {})}, **more)
    return Result(p.returncode, p.stdout, p.stderr)


def good(args, stdin=b'', **more):
    """A run that must succeed in silence."""
    r = program(args, stdin, **more)
    check(r.code == 0 and r.err == '', f'exit {r.code}, standard error {r.err!r}')
    return r


def refused(r, code, holds=''):
    """One error line, nothing else."""
    equal(r.code, code, f'exit code ({r.err!r})')
    check(re.fullmatch(r'llmbatch: error: [^\n]+\n', r.err), f'standard error is {r.err!r}')
    check(re.search(holds, r.err), f'{r.err!r} does not say {holds!r}')
    equal(r.out, b'', 'standard output')


def lines(rows):
    return b''.join((row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode()) + b'\n' for row in rows)


def read(path):
    with open(path, 'rb') as f:
        return f.read()


def write(path, data):
    with open(path, 'wb') as f:
        f.write(data)
    return path


def golden(model, text=False):
    """Input rows and the greedy ids that transformers gives them."""
    found = []
    for line in open(os.path.join(model, 'golden.jsonl'), encoding='utf-8'):
        g = json.loads(line)
        if text and not g.get('prompt'):
            continue
        row = {'id': g['id'], 'max_tokens': g.get('max_tokens', len(g['greedy_ids'])),
               'ignore_eos': 'finish_reason' not in g}
        row.update({'prompt': g['prompt']} if text else {'prompt_token_ids': g['prompt_token_ids']})
        found.append((row, g))
    return found


def long_rows(n, max_tokens=1500):
    return lines([{'prompt_token_ids': [5 + i % 50, 7, 9], 'max_tokens': max_tokens, 'ignore_eos': True} for i in range(n)])


def copy_model(model, tmp, name, files=''):
    """A copy of the files whose names begin as the pattern says."""
    folder = os.path.join(tmp, name)
    os.mkdir(folder)
    for file in os.listdir(model):
        if re.match(files, file):
            shutil.copyfile(os.path.join(model, file), os.path.join(folder, file))
    return folder


F32 = ['--dtype', 'f32', '--token-ids']
# for runs that are compared with other runs
SMALL = TINY if FULL else shallow()

# ---- help, version, options ----


@case
def help_and_version(_):
    r = program(['--help'], quiet=False)
    check(r.code == 0 and r.err == '' and r.out.startswith(b'Usage: llmbatch'), r.code, r.err)
    check(max(map(len, r.out.decode().split('\n'))) <= 80, 'lines of more than 80 columns')
    equal(program(['-h'], quiet=False).out, r.out, '-h')
    r = program(['-m', '/nowhere', '--version'])
    check(r.code == 0 and re.match(rb'llmbatch \d+\.\d+\.\d+\n.*\bref\b', r.out), r.out)
    check(program(['--help'], env={'PMI_SIZE': '2'}).code == 0, '--help under a launcher')


@case
def bad_options(_):
    for args, holds in tables.BAD_OPTIONS:
        args = [TINY if a == 'MODEL' else a for a in args]
        r = program(args, b'{"prompt":"a"}\n')
        try:
            refused(r, 2, holds)
        except AssertionError as e:
            raise AssertionError(f'{args}: {e}') from None


@case
def spellings_of_options(_):
    row, g = golden(MHA)[0]
    del row['max_tokens']
    short = dict(g, greedy_ids=g['greedy_ids'][:3])
    for args in (['-m', MHA, '--max-tokens', '3'], ['-m' + MHA, '--max-tokens=3'], [f'--model={MHA}', '--max-tokens', '9',
                 '--max-tokens', '3'], ['--model', MHA, '--max-num-seqs', '2', '--max-num-batched-tokens=7', '--max-tokens=3']):
        for dtype in ('f32', 'float32'):
            equal(good([*args, '--dtype', dtype, '--token-ids'], [row]).rows[0]['token_ids'], short['greedy_ids'], args)


@case
def no_input_on_a_terminal(_):
    main, side = pty.openpty()
    try:
        p = subprocess.run([PROGRAM, '-m', TINY], stdin=side, capture_output=True, timeout=WAIT_S, check=False, env=CLEAN_ENV)
    finally:
        os.close(main)
        os.close(side)
    refused(Result(p.returncode, p.stdout, p.stderr), 2, 'llmbatch -m MODEL')


@case
def launchers(tmp):
    out = os.path.join(tmp, 'out.jsonl')
    for env, several in tables.LAUNCHERS:
        r = program(['-m', TINY, '-p', 'a', '--max-tokens', '1', '-o', out, '--overwrite'], env=env)
        if several:
            refused(r, 2, 'MPI')
            check(not os.listdir(tmp), env, os.listdir(tmp))
            r = program(['-m', TINY, '-p', 'a', '--max-tokens', '1', '-o', out, '--overwrite', '--no-mpi'], env=env)
            equal(r.code, 0, f'{env}, --no-mpi: {r.err}')
            os.remove(out)
            os.remove(out + '.stats.json')
        else:
            equal(r.code, 0, f'{env}: {r.err}')
            os.remove(out)
            os.remove(out + '.stats.json')


# ---- rows ----


@case
def bad_rows(_):
    rows, want = [], []
    beside = golden(TINY)
    for i, (name, line, code, holds) in enumerate(tables.BAD_ROWS):
        row, g = beside[i % len(beside)]
        rows += [line, {**row, 'id': f'good {i}'}]
        want += [(name, code, holds), g]
    r = program(['-m', TINY, *F32], rows)
    equal(r.code, 1, f'exit code ({r.err})')
    equal(r.err, '', 'standard error')
    got = r.rows
    equal(len(got), len(want), 'rows')
    wrong = []
    for i, (row, w) in enumerate(zip(got, want)):
        equal(row['index'], i, 'index')
        if isinstance(w, dict):
            equal(row.get('token_ids'), w['greedy_ids'], f'ids of good row {row["id"]}')
            continue
        name, code, holds = w
        ok = row['finish_reason'] == 'error' and list(row) == ['id', 'index', 'finish_reason', 'error']
        if not ok or row['error']['code'] != code or holds not in row['error']['message']:
            wrong.append((name, code, holds, row))
        unread = code in ('bad_json', 'bad_utf8') or name in ('array', 'string')
        if (row['id'] is None) != unread and name not in ('id is a list', 'id is no integer'):
            wrong.append((name, 'id', row))
    check(not wrong, wrong)


@case
def rows_that_the_options_refuse(_):
    r = program(['-m', TINY, '--add-bos', 'no'], [{'prompt': ''}, {'prompt': 'a', 'max_tokens': 1}])
    equal((r.code, r.rows[0]['error']['code'], r.rows[1]['completion_tokens']), (1, 'empty_prompt', 1), 'empty prompt')
    # One page holds 32 positions: a row that needs 34 never fits, one that needs 10 does.
    page = 1 << 20
    while True:
        r = program(['-m', TINY, '--kv-memory', str(page)], [{'prompt_token_ids': [5, 6], 'max_tokens': 120},
                                                            {'prompt_token_ids': [5, 6], 'max_tokens': 8}])
        if r.code != 0:
            break
        page //= 2
    equal((r.code, r.rows[0]['error']['code'], r.rows[1]['finish_reason'] != 'error'), (1, 'no_memory', True), 'no memory')
    r = program(['-m', TINY, '--max-model-len', '16'], [{'prompt_token_ids': [5] * 10, 'max_tokens': 7},
                                                       {'prompt_token_ids': [5] * 10, 'ignore_eos': True},
                                                       {'prompt_token_ids': [5] * 10, 'max_tokens': 6, 'ignore_eos': True}])
    equal((r.rows[0]['error']['code'], r.rows[1]['completion_tokens'], r.rows[2]['completion_tokens']), ('too_long', 6, 6),
          'length')


@case
def neutral_members(_):
    prompt = b'{"prompt":"a","max_tokens":3,"ignore_eos":true,%s}'
    rows = [prompt % member for member in [b'"x":1', *tables.NEUTRAL]]
    got = good(['-m', TINY, *F32], rows).rows
    for row, member in zip(got[1:], tables.NEUTRAL):
        if b'max_tokens' in member:
            continue
        equal(row.get('token_ids'), got[0]['token_ids'], member)


@case
def not_finite(tmp):
    folder = bend(tmp, lambda name, t: b'\xff\xff\xff\x7f' * (len(t) // 4) if name == 'model.norm.weight' else t)
    r = program(['-m', folder, '--dtype', 'f32'], [{'prompt_token_ids': [5]}, {'prompt_token_ids': [6], 'temperature': 1}])
    equal((r.code, [row['error']['code'] for row in r.rows]), (1, ['not_finite'] * 2), r.err)


@case
def close_name_is_said_once(_):
    r = program(['-m', TINY], [{'prompt': 'a', 'max_tokens': 1, 'temperatur': 1}] * 2)
    equal(r.code, 0, r.err)
    check(re.fullmatch(r'llmbatch: warn: [^\n]*temperatur[^\n]*"temperature"[^\n]*\n', r.err), r.err)


@case
def lines_and_numbers(tmp):
    one = write(os.path.join(tmp, '1'), b'\xef\xbb\xbf{"prompt":"a"}\r\n\r\n  \n{"id":7.0,"prompt":"b"}')
    two = write(os.path.join(tmp, '2'), b'\n{"id":"x","prompt":"c"}\n')
    r = good(['-m', TINY, '--max-tokens', '1', one, '-i', two, '-'], b'{"prompt":"d"}\n')
    equal([(row['id'], row['index']) for row in r.rows], [(0, 0), (7, 1), ('x', 2), (3, 3)], 'ids')
    shutil.copy(one, os.path.join(tmp, '-x'))
    equal(len(good(['-m', TINY, '--max-tokens', '1', '--', '-x'], cwd=tmp).rows), 2, 'operand after --')


@case
def long_line(_):
    line = b'{"prompt":"' + b'a' * (64 << 20) + b'"}'
    r = program(['-m', TINY, '--max-tokens', '1'], [line, {'prompt': 'a'}])
    equal((r.code, r.rows[0]['error']['code'], r.rows[1]['index']), (1, 'bad_row', 1), r.err)


@case
def empty_input(tmp):
    out = os.path.join(tmp, 'out.jsonl')
    r = program(['-m', TINY, '-o', out], b'\n')
    equal((r.code, read(out)), (0, b''), r.err)
    check(re.fullmatch(r'llmbatch: warn: [^\n]+\n', r.err), r.err)


# ---- prompts: --render, --plan, --audit ----

GOLDENS = os.path.join(ROOT, '../shared/goldens')
CHAT = [{'messages': [{'role': 'user', 'content': 'Hi'}]}]


@case
def model_shorter_under_way(tmp):
    """The embedding is read from the mapped file as rows ask for it; before the first one the file is cut."""
    model = copy_model(TINY, tmp, 'model')
    run = subprocess.Popen([PROGRAM, '--progress', 'off', '--log-level', 'info', '-m', model], stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=CLEAN_ENV)
    for line in run.stderr:
        if re.search(rb'; load [0-9.e-]+ s$', line.rstrip()):
            break
    for file in os.listdir(model):
        if file.endswith('.safetensors'):
            os.truncate(os.path.join(model, file), 0)
    _, err = run.communicate(lines([{'prompt_token_ids': [5, 6, 7], 'max_tokens': 2}]), timeout=WAIT_S)
    equal(run.returncode, 3, f'exit code ({err!r})')
    check(err.endswith(b'error: a mapped file of the model became shorter or could not be read: put it back and '
                       b'start again, finished rows are kept\n'), err)


def text_rows(model):
    """Rows of text and conversations with the ids and the text that transformers gives them."""
    found = []
    for line in open(os.path.join(model, 'golden.jsonl'), encoding='utf-8'):
        g = json.loads(line)
        for key in ('prompt', 'messages'):
            if g.get(key):
                found.append(({'id': g['id'], key: g[key]}, g))
    return found


@case
def render_equals_transformers(tmp):
    others = (os.path.join(GOLDENS, name) for name in ('llama-bias', 'llama-bf16', 'glm', 'glm4', 'glm4-moe', 'qwen3'))
    for model in (TINY, GLM, *filter(os.path.isdir, others)):
        name = os.path.basename(model)
        rows = text_rows(model)
        bare = copy_model(model, tmp, name, r'token|chat')
        for folder in (model, bare):
            r = good(['-m', folder, '--render', '--audit', 'off'], [row for row, _ in rows])
            equal(len(r.rows), len(rows), name)
            for i, (got, (row, g)) in enumerate(zip(r.rows, rows)):
                equal(list(got), ['id', 'index', 'prompt', 'prompt_token_ids'], name)
                equal((got['id'], got['index']), (row['id'], i), name)
                equal(got['prompt_token_ids'], g['prompt_token_ids'], row)
                equal(got['prompt'], g['rendered'] if 'messages' in row else row['prompt'], row)


@case
def render_is_a_run(tmp):
    out = os.path.join(tmp, 'out.jsonl.gz')
    rows = [*CHAT, b'{bad', {'id': 'x', 'prompt_token_ids': [5, 700]}, {'prompt': 'b', 'max_tokens': 2048}, *CHAT * 2000]
    r = program(['-m', TINY, '--render', '-o', out], rows)
    equal((r.code, r.out, r.err), (1, b'', ''), 'exit code')
    got = [json.loads(line) for line in gzip.decompress(read(out)).splitlines()]
    equal([row['index'] for row in got], list(range(2004)), 'order')
    equal([row['error']['code'] for row in got[1:4]], ['bad_json', 'bad_token', 'too_long'], 'codes')
    equal(got[4]['prompt_token_ids'], got[0]['prompt_token_ids'], 'ids')
    stats = json.loads(read(out + '.stats.json'))
    equal(stats['rows'], {'total': 2004, 'ok': 2001, 'error': 3,
                          'errors_by_code': {'bad_json': 1, 'bad_token': 1, 'too_long': 1}, 'resumed': 0}, 'rows')
    equal(stats['tokens'], {'prompt': 2001 * len(got[0]['prompt_token_ids'])}, 'tokens')
    equal(stats['exit_code'], 1, 'exit code')
    check(not {'engine', 'kv', 'steps', 'ranks', 'latency_s'} & set(stats), sorted(stats))
    equal(sorted(os.listdir(tmp)), ['out.jsonl.gz', 'out.jsonl.gz.stats.json'], 'files')
    refused(program(['-m', TINY, '--render', '-o', out], CHAT), 2, '--overwrite')
    refused(program(['-m', TINY, '--render', '--plan'], CHAT), 2, '--plan')


@case
def chat_rows_run(_):
    """A conversation gives what its rendered ids give."""
    rows = [row for row, _ in text_rows(TINY) if 'messages' in row] or CHAT
    ids = [row['prompt_token_ids'] for row in good(['-m', TINY, '--render'], rows).rows]
    got = good(['-m', TINY, *F32, '--max-tokens', '8'], rows).rows
    want = good(['-m', TINY, *F32, '--max-tokens', '8'], [{'prompt_token_ids': i} for i in ids]).rows
    for a, b in zip(got, want):
        equal((a['prompt_token_ids'], a['token_ids'], a['text']), (b['prompt_token_ids'], b['token_ids'], b['text']), a['id'])


@case
def conversations_of_glm(_):
    """An answer ends where the user's turn would begin: with an end token that no file calls eos_token."""
    rows = [({**row, 'max_tokens': g['max_tokens']}, g) for row, g in text_rows(GLM) if 'messages' in row]
    check(len(rows) > 8, len(rows))
    user = json.loads(read(os.path.join(GLM, 'config.json')))['eos_token_id'][1]
    got = good(['-m', GLM, *F32], [row for row, _ in rows]).rows
    for out, (_, g) in zip(got, rows):
        equal((out['prompt_token_ids'], out['token_ids'], out['text']),
              (g['prompt_token_ids'], g['greedy_ids'], g['output_text']), g['id'])
        equal((out['finish_reason'], out.get('stop_reason')), (g['finish_reason'], g['stop_token_id']), g['id'])
    check([out.get('stop_reason') for out in got].count(user) > 8, got)
    row, g = next((row, g) for row, g in rows if g['stop_token_id'] == user)
    out = good(['-m', GLM, *F32, '--keep-special'], [row]).rows[0]
    equal(out['text'], g['output_text'], 'the end token is no part of the answer')
    out = good(['-m', GLM, *F32, '--ignore-eos', '--keep-special'], [{**row, 'max_tokens': len(g['greedy_ids'])}]).rows[0]
    equal((out['text'], out['finish_reason']), (g['output_text'] + '<|user|>', 'length'), '--ignore-eos')


@case
def glm_begins_once(_):
    """[gMASK]<sop> stands once before a conversation, its rendered text, its text alone and its ids."""
    row, g = next((row, g) for row, g in text_rows(GLM) if 'messages' in row)
    begin, want = '[gMASK]<sop>', g['prompt_token_ids']
    bare = g['rendered'].removeprefix(begin)
    args = ['-m', GLM, '--audit', 'off', '--token-ids', '--max-tokens', '1']
    prompts = [row, {'prompt': g['rendered']}, {'prompt': bare}, {'prompt': '[gMASK] <sop>' + bare}, {'prompt_token_ids': want}]
    equal([out['prompt_token_ids'] for out in good(args, prompts).rows], [want] * 5, 'ids')
    out, = good([*args, '--render'], [row]).rows
    equal((out['prompt'], want.count(want[0]), want.count(want[1])), (g['rendered'], 1, 1), 'rendered')
    equal([out['prompt_token_ids'] for out in good([*args, '--add-bos', 'no'], [row, {'prompt': bare}]).rows], [want, want[2:]],
          '--add-bos no')


@case
def chat_templates(tmp):
    own = write(os.path.join(tmp, 'own.jinja'), b"{{ name }}:{% for m in messages %}{{ m.content }}{% endfor %}"
                b"{% if not add_generation_prompt %}.{% endif %}{{ strftime_now(' %d %b %Y') }}")
    args = ['-m', TINY, '--render', '--chat-template', own, '--audit', 'off', '--chat-template-kwargs', '{"name":"A"}']
    rows = [*CHAT, {**CHAT[0], 'chat_template_kwargs': {'name': [1]}}, {**CHAT[0], 'add_generation_prompt': False}]
    got = good(args, rows, env={'SOURCE_DATE_EPOCH': '1735787045'}).rows
    equal([row['prompt'] for row in got], ['A:Hi 02 Jan 2025', '[1]:Hi 02 Jan 2025', 'A:Hi. 02 Jan 2025'], 'prompts')
    refused(program([*args, '--chat-template-kwargs', '[]'], CHAT), 2, '--chat-template-kwargs')
    refused(program(args, CHAT, env={'SOURCE_DATE_EPOCH': 'today'}), 2, 'SOURCE_DATE_EPOCH')
    refused(program(['-m', TINY, '--render', '--chat-template', write(own, b'{% if %}')], CHAT), 2, 'own.jinja')
    refused(program(['-m', TINY, '--render', '--chat-template', own + 'x'], CHAT), 3, 'own.jinjax')
    write(own, b"{{ raise_exception('no such talk') }}")
    r = program(['-m', TINY, '--render', '--chat-template', own], CHAT)
    equal((r.code, r.rows[0]['error']['code']), (1, 'bad_template'), r.err)
    check('no such talk' in r.rows[0]['error']['message'], r.rows)


@case
def plan(tmp):
    out, stats = os.path.join(tmp, 'out.jsonl'), os.path.join(tmp, 'stats.json')
    rows = [b'{bad', *CHAT, {'prompt_token_ids': [5] * 100}, {'prompt_token_ids': [5] * 3000}]
    r = program(['-m', SMALL, '--plan', '-o', out, '--stats', stats], rows)
    equal((r.code, r.err), (1, ''), 'exit code')
    text = r.out.decode()
    check(max(map(len, text.split('\n'))) <= 80 or len(SMALL) > 68, text)
    for holds in ('LlamaForCausalLM', 'template    tokenizer_config.json', '4: 2 would run, 2 fail', 'bad_json 1, first row 0',
                  'too_long 1, first row 3', r'64 - 127 +1 +#', 'first row   1, id 1', r'"<\|begin_of_text\|>"',
                  '  \\| .*Hi', 'pad_is_end'):
        check(re.search(holds, text), holds, text)
    equal(os.listdir(tmp), ['stats.json'], 'files')
    s = json.loads(read(stats))
    equal((s['rows']['total'], s['rows']['ok'], s['exit_code']), (4, 2, 1), 'stats')
    equal(s['tokens']['prompt'], sum(row['prompt_tokens'] for row in program(['-m', SMALL, '--max-tokens', '1'], rows[1:3]).rows),
          'tokens')
    equal(good(['-m', SMALL, '--plan'], CHAT).code, 0, 'exit code')


@case
def audit(tmp):
    out = os.path.join(tmp, 'out.jsonl')
    rows = [{'prompt': 'The dog ', 'max_tokens': 1}] * 3
    r = program(['-m', TINY, '-o', out], rows)
    equal(r.code, 0, r.err)
    equal(r.n_raw, 1, 'raw prompts are said once')
    check(re.fullmatch(r'llmbatch: warn: audit: space_at_end: row 0: [^\n]+\n', r.err), r.err)
    found = {f['code']: f for f in json.loads(read(out + '.stats.json'))['audit']}
    equal((found['space_at_end']['severity'], found['space_at_end']['count']), ('warn', 3), 'stats')
    equal((found['raw_prompt']['count'], found['pad_is_end']['severity']), (3, 'info'), 'stats')
    refused(program(['-m', TINY, '--audit', 'error'], rows), 2, 'audit error: raw_prompt: row 0')
    r = good(['-m', TINY, '--audit', 'off', '-o', out, '--overwrite'], rows)
    equal((r.n_raw, 'audit' in json.loads(read(out + '.stats.json'))), (0, False), 'off')
    # a model whose template ends turns with a token that no file lists
    folder = copy_model(TINY, tmp, 'no end')
    for file, change in (('generation_config.json', {'eos_token_id': 697}), ('config.json', {'eos_token_id': 697}),
                         ('tokenizer_config.json', {'eos_token': '<|end_of_text|>'})):
        path = os.path.join(folder, file)
        write(path, json.dumps({**json.loads(read(path)), **change}).encode())
    r = program(['-m', folder, '--max-tokens', '1'], CHAT)
    equal(r.code, 0, r.err)
    check(re.fullmatch(r'llmbatch: warn: audit: end_token: [^\n]*--stop-token-ids 699[^\n]*\n', r.err), r.err)
    refused(program(['-m', folder, '--audit', 'error', '--max-tokens', '1'], CHAT), 2, 'end_token')


# ---- forms ----


def request(custom_id, url, **body):
    return {'custom_id': custom_id, 'method': 'POST', 'url': url, 'body': {'model': 'm', **body}}


def completion(custom_id, **body):
    return request(custom_id, '/v1/completions', **body)


# As the guide to OpenAI's Batch API shows them.
GUIDE = [
    b'{"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-3.5-turbo-0125", '
    b'"messages": [{"role": "system", "content": "You are a helpful assistant."},{"role": "user", "content": "Hello world!"}],'
    b'"max_tokens": 1000}}',
    b'{"custom_id": "request-2", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-3.5-turbo-0125", '
    b'"messages": [{"role": "system", "content": "You are an unhelpful assistant."},{"role": "user", "content": "Hello world!"}]}}',
]


@case
def openai_chat(_):
    args = ['-m', TINY, '--dtype', 'f32']
    got = good([*args, '--token-ids'], GUIDE, env={'SOURCE_DATE_EPOCH': '1700000000'}).rows
    for i, (row, line) in enumerate(zip(got, GUIDE)):
        equal(list(row), ['id', 'custom_id', 'response', 'error'], 'members')
        equal((row['id'], row['custom_id'], row['error']), (f'batch_req_{i}', f'request-{i + 1}', None), 'row')
        equal((row['response']['status_code'], row['response']['request_id']), (200, f'req_{i}'), 'response')
        body = row['response']['body']
        equal({k: body[k] for k in ('id', 'object', 'created', 'model')},
              {'id': f'chatcmpl-{i}', 'object': 'chat.completion', 'created': 1700000000, 'model': 'gpt-3.5-turbo-0125'}, 'body')
        # the same conversation as a native row; without a limit the answer goes on to its end
        native = good([*args, '--token-ids'], [{'messages': json.loads(line)['body']['messages'], 'max_tokens': 1000}]).rows[0]
        choice, = body['choices']
        equal((choice['message'], choice['finish_reason'], choice['stop_reason'], choice['token_ids'], body['prompt_token_ids']),
              ({'role': 'assistant', 'content': native['text'], 'refusal': None}, native['finish_reason'],
               native.get('stop_reason'), native['token_ids'], native['prompt_token_ids']), 'choice')
        equal(body['usage'], {'prompt_tokens': native['prompt_tokens'], 'completion_tokens': native['completion_tokens'],
                              'total_tokens': native['prompt_tokens'] + native['completion_tokens']}, 'usage')
    tools = [{'type': 'function', 'function': {'name': 'f', 'parameters': {}}}]
    row = request('a', '/v1/chat/completions', messages=[{'role': 'user', 'content': [{'type': 'text', 'text': 'Hi'}]}],
                  max_completion_tokens=3, logprobs=True, top_logprobs=2, n=2, tools=tools, tool_choice='none', ignore_eos=True)
    body = good(args, [row]).rows[0]['response']['body']
    for choice in body['choices']:
        content = choice['logprobs']['content']
        equal(''.join(bytes(t['bytes']).decode() for t in content), choice['message']['content'], 'tokens')
        check(all(t['top_logprobs'][0] == {k: t[k] for k in ('token', 'logprob', 'bytes')} for t in content), content)
        equal([len(t['top_logprobs']) for t in content], [2] * 3, 'top_logprobs')
    # without a limit the answer has the rest of the context
    row = request('a', '/v1/chat/completions', messages=[{'role': 'user', 'content': 'Hi'}], ignore_eos=True)
    usage = good([*args, '--max-model-len', '300'], [row]).rows[0]['response']['body']['usage']
    equal(usage['total_tokens'], 300, 'the rest of the context')


@case
def openai_completions(_):
    args = ['-m', TINY, '--dtype', 'f32']
    texts = ['Once upon a time', 'The dog', 'My name is']
    native = good([*args, '--logprobs', '2'], [{'prompt': t, 'max_tokens': 9} for t in texts]).rows
    rows = [completion('a', prompt=texts, max_tokens=9, logprobs=2, n=2), completion('b', prompt=texts[0], max_tokens=9, echo=True),
            completion('c', prompt=[[5, 6], [7]], max_tokens=2), completion('d', prompt='The', n=3, temperature=2, ignore_eos=True)]
    got = [row['response']['body'] for row in good(args, rows).rows]
    equal([b['id'] for b in got], [f'cmpl-{i}' for i in range(4)], 'ids')
    equal({b['object'] for b in got}, {'text_completion'}, 'object')
    equal([c['index'] for c in got[0]['choices']], list(range(6)), 'index')
    for c in got[0]['choices']:
        want = native[c['index'] // 2]
        equal((c['text'], c['finish_reason']), (want['text'], want['finish_reason']), 'text')
        lp = c['logprobs']
        equal(lp['token_logprobs'], [t['logprob'] for t in want['logprobs']], 'token_logprobs')
        equal([len(t) for t in lp['top_logprobs']], [2] * len(lp['tokens']), 'top_logprobs')
        for token, at in zip(lp['tokens'], lp['text_offset']):
            check(token.startswith('<|') or c['text'][at:].startswith(token), token, at, c['text'])
    equal(got[1]['choices'][0]['text'], texts[0] + native[0]['text'], 'echo')
    equal(len(got[2]['choices']), 2, 'prompts of ids')
    equal(len({c['text'] for c in got[3]['choices']}), 3, 'samples')
    equal(got[3]['usage']['completion_tokens'], 3 * 256, '--max-tokens')


@case
def openai_errors(_):
    rows = [b'{"custom_id":', b'[]', b'{"prompt":"\xff"}', *[{'custom_id': name, **r} for name, r, *_ in tables.BAD_REQUESTS]]
    want = [(None, 400, 'bad_json', None, ''), (None, 400, 'bad_row', None, 'object'), (None, 400, 'bad_utf8', None, '')]
    want += [(name, *rest) for name, _, *rest in tables.BAD_REQUESTS]
    r = program(['-m', TINY, '--audit', 'off'], rows)
    equal((r.code, r.err, len(r.rows)), (1, '', len(want)), 'exit code')
    for row, (name, status, code, param, holds) in zip(r.rows, want):
        equal((row['custom_id'], row['error'], row['response']['status_code']), (name, None, status), row)
        error = row['response']['body']['error']
        equal((error['code'], error['param'], error['type']), (code, param, 'invalid_request_error'), row)
        check(holds in error['message'], name, error)
    r = program(['-m', TINY, '--kv-memory', '64K'], [request('a', '/v1/chat/completions', messages=CHAT[0]['messages'])])
    body = r.rows[0]['response']
    equal((body['status_code'], body['body']['error']['code'], body['body']['error']['type']), (500, 'no_memory', 'server_error'),
          'no memory')
    check('--max-tokens' in body['body']['error']['message'], body)


@case
def mixed_forms(_):
    def forms(rows, *args):
        r = program(['-m', TINY, '--max-tokens', '1', '--audit', 'off', *args], rows)
        return ['openai' if 'response' in row else 'native' for row in r.rows], r
    native, openai = {'id': 'n', 'prompt': 'a'}, completion('o', prompt='a')
    found, r = forms([b'x', openai, native, b'y'])
    equal((found, r.code), (['openai', 'openai', 'native', 'openai'], 1), 'auto')
    equal(forms([b'x', native, openai, b'y'])[0], ['native', 'native', 'openai', 'native'], 'auto')
    found, r = forms([native, b'x', openai], '--format', 'openai')
    equal(found, ['openai'] * 3, 'openai')
    check('--format' in r.rows[0]['response']['body']['error']['message'] and r.rows[2]['response']['status_code'] == 200, r.rows)
    found, r = forms([native, b'x', openai], '--format', 'native')
    equal((found, r.rows[2]['error']['code']), (['native'] * 3, 'bad_row'), 'native')
    check('--format' in r.rows[2]['error']['message'] and r.rows[0]['finish_reason'] == 'length', r.rows)


@case
def several_samples(_):
    row = {'id': 'a', 'prompt': 'Once upon a time', 'temperature': 1.5, 'max_tokens': 16}
    args = ['-m', TINY, '--token-ids', '--audit', 'off']
    r = good(args, [{**row, 'n': 4}, row, {**row, 'id': 'b', 'n': 2}])
    many, one, other = r.rows
    equal(list(many), ['id', 'index', 'choices', 'prompt_tokens', 'prompt_token_ids'], 'members')
    equal(list(many['choices'][0]), ['text', 'finish_reason', 'completion_tokens', 'token_ids'], 'members')
    equal(len({tuple(c['token_ids']) for c in many['choices'] + other['choices']}), 6, 'samples differ')
    equal(many['choices'][0]['token_ids'], one['token_ids'], 'the first is what a row alone gives')
    for more in (['--max-seqs', '1'], ['--batch-tokens', '7', '--threads', '1'], ['--max-seqs', '3', '--threads', '3']):
        equal(good(args + more, [{**row, 'n': 4}, row, {**row, 'id': 'b', 'n': 2}]).out, r.out, more)
    equal(good(args + ['--n', '4'], [row]).out, r.out.split(b'\n')[0] + b'\n', '--n')
    equal(good(args + ['--n', '4'], [{**row, 'n': 1}]).rows[0]['token_ids'], one['token_ids'], 'the row decides')
    greedy = good(args, [{**row, 'temperature': 0, 'n': 3}, {**row, 'temperature': 0}]).rows
    equal([c['text'] for c in greedy[0]['choices']], [greedy[1]['text']] * 3, 'greedy samples')


@case
def conversations(_):
    talk = [{'role': 'user', 'content': 'Hello'}]
    args = ['-m', TINY, '--render']

    def prompt(row, *more):
        return good([*args, *more], [row]).rows[0]['prompt']
    want = prompt({'messages': talk})
    equal(prompt({'prompt': 'Hello'}, '--chat'), want, '--chat')
    equal(prompt({'talk': talk, 'prompt': 7}, '--input-key', 'talk'), want, '--input-key')
    system = [{'role': 'system', 'content': 'Be kind.'}]
    want = prompt({'messages': system + talk})
    equal(prompt({'messages': talk}, '--system', 'Be kind.'), want, '--system')
    equal(prompt({'prompt': 'Hello'}, '--chat', '--system', 'Be kind.'), want, '--chat --system')
    equal(prompt(request('a', '/v1/chat/completions', messages=talk), '--system', 'Be kind.'), want, 'request')
    equal(prompt({'messages': system + talk}, '--system', 'x'), want, 'its own system message stays')
    equal(good([*args, '--chat', '--system', 'Be kind.', '-p', 'Hello']).rows[0]['prompt'], want, '-p')


@case
def ids_that_come_again(tmp):
    path = write(os.path.join(tmp, 'in'), b'\n' + lines([{'id': i % 5, 'prompt': 'a'} for i in range(12)]))
    r = program(['-m', TINY, '--max-tokens', '1', path])
    equal((r.code, len(r.rows)), (0, 12), r.err)
    check(re.fullmatch(r'llmbatch: warn: [^\n]*in:7: the id 0 [^\n]*in:2 too[^\n]*\n', r.err), r.err)


# ---- results ----


@case
def golden_rows(_):
    for model in dict.fromkeys((MHA, TINY, GLM)):
        for text in (False, True) if model in (TINY, GLM) else (False,):
            rows = golden(model, text)
            got = good(['-m', model, *F32], [row for row, _ in rows]).rows
            equal(len(got), len(rows), 'rows')
            for out, (row, g) in zip(got, rows):
                what = f'{os.path.basename(model)} {g["id"]}'
                equal(out['id'], g['id'], what)
                equal(out['prompt_token_ids'], g['prompt_token_ids'], what)
                equal(out['token_ids'], g['greedy_ids'], what)
                if 'output_text' in g:
                    equal(out['text'], g['output_text'], what)
                equal((out['prompt_tokens'], out['completion_tokens']), (len(g['prompt_token_ids']), len(g['greedy_ids'])), what)
                equal((out['finish_reason'], out.get('stop_reason')), (g.get('finish_reason', 'length'), g.get('stop_token_id')),
                      what)


@case
def a_row_depends_on_itself_alone(_):
    """Pad token is end token in all models: a ragged batch gives what single rows give, bit for bit."""
    for model, dtype in ((MHA, 'f32'), (MHA, 'bf16'), (TINY, 'bf16'), (GLM, 'bf16')) if not SLOW or FULL else ((SMALL, 'bf16'),):
        rows = [dict(row, logprobs=2) for row, _ in golden(model)]
        args = ['-m', model, '--dtype', dtype, '--token-ids']
        batch = good([*args, '--threads', '2'], rows).out.split(b'\n')
        for i in (0, len(rows) // 2, len(rows) - 1):
            alone = good([*args, '--threads', '1'], [rows[i]]).out.split(b'\n')[0]
            equal(re.sub(rb'"index":\d+', b'', batch[i]), re.sub(rb'"index":\d+', b'', alone), rows[i]['id'])
        for more in (['--batch-tokens', '16'], ['--threads', '3', '--max-seqs', '2'], ['--batch-tokens', '3', '--threads', '1']):
            equal(good([*args, *more], rows).out.split(b'\n'), batch, more)


@case
def logprobs(_):
    rows = golden(MHA)
    got = good(['-m', MHA, '--dtype', 'f32', '--logprobs', '3'], [row for row, _ in rows]).rows
    for out, (_, g) in zip(got, rows):
        equal(len(out['logprobs']), len(g['greedy_ids']), 'length')
        for lp, token, want in zip(out['logprobs'], g['greedy_ids'], g['logprobs']):
            equal(list(lp), ['id', 'logprob', 'rank', 'top'], 'members')
            equal((lp['id'], lp['rank'], len(lp['top']), lp['top'][0]), (token, 1, 3, [token, lp['logprob']]), g['id'])
            check(abs(lp['logprob'] - want) <= 2e-4, g['id'], lp, want)
            check(lp['top'][0][1] >= lp['top'][1][1] >= lp['top'][2][1], lp)
    check('top' not in good(['-m', TINY, '--logprobs', '0', '--max-tokens', '1', '-p', 'a']).rows[0]['logprobs'][0], 'K = 0')


@case
def stops(_):
    row, g = next((row, g) for row, g in golden(TINY, True) if len(g['output_text']) > 30 and g['output_text'].isascii())
    text, ids = g['output_text'], g['greedy_ids']
    stop = text[8:12]
    at = text.index(stop)
    out = good(['-m', TINY, *F32, '--stop', 'not in there', '--stop', stop], [row]).rows[0]
    equal((out['text'], out['finish_reason'], out['stop_reason']), (text[:at], 'stop', stop), 'stop text')
    equal(out['token_ids'], ids[:len(out['token_ids'])], 'ids are not cut')
    check(len(out['token_ids']) < len(ids), 'it went on')
    out = good(['-m', TINY, *F32], [{**row, 'stop': stop}]).rows[0]
    equal((out['text'], out['stop_reason']), (text[:at], stop), 'stop of the row')
    n = ids.index(ids[3]) + 1
    out = good(['-m', TINY, *F32, '--stop-token-ids', f'{ids[3]},0'], [row]).rows[0] if 0 not in ids[:n] else None
    if out:
        equal((out['token_ids'], out['stop_reason'], out['finish_reason']), (ids[:n], ids[3], 'stop'), 'stop id')
    end = next((row, g) for row, g in golden(TINY, True) if g['finish_reason'] == 'stop')
    plain = {'prompt': end[1]['prompt']}
    limit = len(end[1]['greedy_ids'])
    out = good(['-m', TINY, *F32, '--max-tokens', str(limit)], [plain]).rows[0]
    equal(out['finish_reason'], 'stop', 'end token as the last that is allowed')
    out = good(['-m', TINY, *F32, '--max-tokens', str(limit - 1)], [plain]).rows[0]
    equal((out['finish_reason'], 'stop_reason' in out), ('length', False), 'limit before the end token')
    out = good(['-m', TINY, *F32, '--max-tokens', str(limit + 4), '--ignore-eos'], [plain]).rows[0]
    equal((out['completion_tokens'], out['token_ids'][:limit]), (limit + 4, end[1]['greedy_ids']), '--ignore-eos')
    check('<|im_end|>' not in out['text'], out)
    out = good(['-m', TINY, *F32, '--max-tokens', str(limit + 4), '--ignore-eos', '--keep-special'], [plain]).rows[0]
    check('<|im_end|>' in out['text'], out)


@case
def penalties(_):
    plain = {'prompt': 'Once upon a time', 'max_tokens': 30, 'ignore_eos': True, 'temperature': 2}  # a hot row, to be less sure

    def ids_of(options, members=None):
        return good(['-m', TINY, *F32, *options], [{**plain, **(members or {})}]).rows[0]['token_ids']
    ids = ids_of([])
    for option, member, value in (('--repetition-penalty', 'repetition_penalty', '4'), ('--presence-penalty', 'presence_penalty', '2'),
                                  ('--frequency-penalty', 'frequency_penalty', '-2')):
        got = ids_of([option, value])
        check(got != ids, option, got)
        equal(ids_of([], {member: float(value)}), got, 'the same of the row')
        equal(ids_of([option, '1.5'], {member: float(value)}), got, 'the row goes first')
    check(ids[0] not in ids_of([], {'logit_bias': {str(ids[0]): -100}}), 'a bias bans')
    equal(set(ids_of([], {'logit_bias': {'42': 100}})), {42}, 'a bias forces')
    row, g = next((row, g) for row, g in golden(TINY, True) if len(g['output_text']) > 30 and g['output_text'].isascii())
    text = g['output_text']
    stop = text[8:12]
    at = text.index(stop)
    out = good(['-m', TINY, *F32, '--stop', stop, '--include-stop-str'], [row]).rows[0]
    equal((out['text'], out['stop_reason']), (text[:at] + stop, stop), '--include-stop-str')
    equal(good(['-m', TINY, *F32, '--stop', stop, '--include-stop-str'],
               [{**row, 'include_stop_str_in_output': False}]).rows[0]['text'], text[:at], 'the row goes first')
    end, g = next((row, g) for row, g in golden(TINY, True) if g['finish_reason'] == 'stop')
    n = len(g['greedy_ids'])
    out = good(['-m', TINY, *F32, '--min-tokens', str(n + 3), '--max-tokens', str(n + 3)],
               [{'prompt': g['prompt']}]).rows[0]
    equal((out['completion_tokens'], out['finish_reason'], out['token_ids'][:n - 1]), (n + 3, 'length', g['greedy_ids'][:-1]),
          '--min-tokens')
    check(not {697, 699} & set(out['token_ids']), 'no end token', out['token_ids'])
    out = good(['-m', TINY, *F32, '--min-tokens', str(n - 1)], [{'prompt': g['prompt']}]).rows[0]
    equal(out['token_ids'], g['greedy_ids'], 'an end token behind min_tokens')


@case
def sampling(_):
    rows = [{'id': f'r{i}', 'prompt': 'Once upon a time', 'max_tokens': 12} for i in range(6)]
    args = ['-m', TINY, '--temperature', '1', '--token-ids']
    first = good(args, rows)
    equal(good(args + ['--threads', '1', '--batch-tokens', '8'], rows).out, first.out, 'the same seed')
    ids = {r['id']: r['token_ids'] for r in first.rows}
    check(len({tuple(v) for v in ids.values()}) > 1, 'rows draw their own numbers', ids)
    turned = {r['id']: r['token_ids'] for r in good(args, rows[::-1]).rows}
    equal(turned, ids, 'the id keys the numbers')
    check({r['id']: r['token_ids'] for r in good(args + ['--seed', '1'], rows).rows} != ids, 'another seed')
    best = good(['-m', TINY, '--token-ids'], rows).rows[0]['token_ids']
    for narrow in (['--top-k', '1'], ['--top-p', '1e-6'], ['--min-p', '1']):
        equal({tuple(r['token_ids']) for r in good(args + narrow, rows).rows}, {tuple(best)}, narrow)
    equal(good(args, [{**rows[0], 'temperature': 0}]).rows[0]['token_ids'], best, 'the row decides')


@case
def members_of_rows(_):
    row = {'id': 'a', 'prompt': 'Hello', 'max_tokens': 3, 'ignore_eos': True, 'x': [1, {'y': None}], 'z': 'é'}
    base = ['id', 'index', 'text', 'finish_reason', 'prompt_tokens', 'completion_tokens']
    out = good(['-m', TINY], [row]).rows[0]
    equal(list(out), base, 'members')
    out = good(['-m', TINY, '--timing', '--token-ids', '--logprobs', '0', '--keep', 'z,none,x'], [row]).rows[0]
    equal(list(out), base + ['prompt_token_ids', 'token_ids', 'logprobs', 'timing', 'kept'], 'members')
    equal(out['kept'], {'x': row['x'], 'z': row['z']}, 'kept')
    equal(set(out['timing']), {'queue_s', 'prefill_s', 'decode_s', 'first_token_s', 'total_s', 'rank', 'steps'}, 'timing')
    check(all(v >= 0 for v in out['timing'].values()) and out['timing']['steps'] == 3, out['timing'])
    equal(good(['-m', TINY, '--keep', 'all'], [row]).rows[0]['kept'], row, 'all')
    equal(good(['-m', TINY, '--keep', 'all', '--input-key', 'z'], [{**row, 'z': 'Hello', 'prompt': None}]).rows[0]['text'],
          out['text'], '--input-key')


@case
def first_token(_):
    # tiny-llama's tokenizer puts 696 first
    def ids(mode, prompt):
        return good(['-m', TINY, '--max-tokens', '1', '--token-ids', '--add-bos', mode], [{'prompt': prompt}]).rows[0]
    auto, yes, no = (ids(mode, 'Hello')['prompt_token_ids'] for mode in ('auto', 'yes', 'no'))
    check(auto[0] == 696 and yes == auto and no == auto[1:], auto, yes, no)
    r = program(['-m', TINY, '--max-tokens', '1', '--token-ids'], [{'prompt': '<|begin_of_text|>Hello'}] * 2)
    equal([row['prompt_token_ids'] for row in r.rows], [auto] * 2, 'no second one')
    check(r.err.count('\n') == 1 and r.err.startswith('llmbatch: warn: '), r.err)


@case
def one_prompt(_):
    g = golden(TINY, True)[0][1]
    out = good(['-m', TINY, '-p', g['prompt'], '--dtype', 'f32', '--max-tokens', str(g['max_tokens'])]).rows
    equal([(r['id'], r['index'], r['text']) for r in out], [(0, 0, g['output_text'])], '-p')


@case
@threads
def order(_):
    rows = [{'id': i, 'prompt': 'Hello', 'ignore_eos': True, 'max_tokens': n} for i, n in enumerate((60 if SLOW else 300, 1, 30, 2))]
    inorder = good(['-m', SMALL], rows)
    equal([r['id'] for r in inorder.rows], [0, 1, 2, 3], 'input order')
    done = good(['-m', SMALL, '--order', 'completion'], rows)
    equal([r['id'] for r in done.rows], [1, 3, 2, 0], 'completion order')
    equal(sorted(done.out.split(b'\n')), sorted(inorder.out.split(b'\n')), 'the same lines')


# ---- streams and files ----


@case
def jq_pipe(_):
    if not shutil.which('jq'):
        raise Skip('no jq')
    g = next(g for row, g in golden(TINY, True) if len(g['greedy_ids']) > 8 and g['output_text'].isascii())
    p = subprocess.run(['sh', '-c', '"$0" -m "$1" --dtype f32 --max-tokens 8 2>/dev/null | jq -r .text', PROGRAM, TINY],
                       input=lines([{'prompt': g['prompt']}]), capture_output=True, timeout=WAIT_S, check=False, env=CLEAN_ENV)
    text = p.stdout.decode().rstrip('\n')
    check(p.returncode == 0 and text and g['output_text'].startswith(text), p.returncode, text)


@case
@threads
def closed_pipe(_):
    p = subprocess.Popen([PROGRAM, '-m', SMALL, '--progress', 'off', '--audit', 'off', '--order', 'completion'], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=CLEAN_ENV)
    p.stdin.write(lines([{'prompt': 'Hello', 'max_tokens': 1}]) + (long_rows(8, 24) if SLOW else long_rows(64, 200)))
    p.stdin.close()
    json.loads(p.stdout.readline())
    p.stdout.close()
    err = p.stderr.read()
    equal((p.wait(WAIT_S), err), (0, b''), 'a closed pipe ends quietly')


@case
def windows_of_a_stream(_):
    p = subprocess.Popen([PROGRAM, '-m', TINY, '--progress', 'off', '--audit', 'off', '--max-tokens', '2'], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=CLEAN_ENV)
    for i in range(3):
        p.stdin.write(lines([{'id': i, 'prompt': 'Hello'}]))
        p.stdin.flush()
        equal(json.loads(p.stdout.readline())['id'], i, 'a row comes while the stream is open')
    p.stdin.close()
    equal((p.stdout.read(), p.stderr.read(), p.wait(WAIT_S)), (b'', b'', 0), 'end')


@case
def devices_are_left_alone(tmp):
    before = os.stat('/dev/null')
    good(['-m', TINY, '-p', 'Hello', '--max-tokens', '2', '-o', '/dev/null'], cwd=tmp)
    after = os.stat('/dev/null')
    equal((after.st_mode, after.st_rdev, after.st_ino), (before.st_mode, before.st_rdev, before.st_ino), '/dev/null')
    check(not os.path.exists('/dev/null.stats.json') and not os.path.exists('/dev/null.partial'), 'files beside it')
    fifo = os.path.join(tmp, 'fifo')
    os.mkfifo(fifo)
    p = subprocess.Popen([PROGRAM, '-m', TINY, '--progress', 'off', '--audit', 'off', '-p', 'Hello', '--max-tokens', '2', '-o', fifo], env=CLEAN_ENV)
    equal(json.loads(read(fifo))['index'], 0, 'row')
    equal((p.wait(WAIT_S), os.listdir(tmp)), (0, ['fifo']), 'a FIFO')


@case
def existing_files(tmp):
    out = os.path.join(tmp, 'out.jsonl')
    args = ['-m', TINY, '-p', 'Hello', '--max-tokens', '2', '-o', out]
    write(out, b'mine\n')
    refused(program(args), 2, '--overwrite')
    equal((read(out), os.listdir(tmp)), (b'mine\n', ['out.jsonl']), 'untouched')
    good(args + ['--overwrite'])
    equal(json.loads(read(out))['index'], 0, 'replaced')
    equal(sorted(os.listdir(tmp)), ['out.jsonl', 'out.jsonl.stats.json'], 'files')
    os.remove(out)
    write(out + '.partial', b'x')
    refused(program(args), 2, '--restart')
    equal(read(out + '.partial'), b'x', 'untouched')
    good(args + ['--restart'])
    equal(sorted(os.listdir(tmp)), ['out.jsonl', 'out.jsonl.stats.json'], 'files')
    refused(program(args[:-1] + [os.path.join(tmp, 'no/out.jsonl')]), 2, 'no/out.jsonl')


@case
def inputs_are_not_overwritten(tmp):
    rows = write(os.path.join(tmp, 'in.jsonl'), b'{"prompt":"Hello"}\n')
    os.symlink(rows, os.path.join(tmp, 'link'))
    for args in (['-o', rows, '--overwrite'], ['-o', os.path.join(tmp, 'link'), '--overwrite'], ['--stats', rows]):
        refused(program(['-m', TINY, '-i', rows, *args]), 2, 'input')
    equal(read(rows), b'{"prompt":"Hello"}\n', 'untouched')


@case
def tokenizer_that_is_not_there(tmp):
    folder = copy_model(TINY, tmp, 'no tokenizer')
    for name in os.listdir(folder):
        if 'token' in name:
            os.remove(os.path.join(folder, name))
    row, g = golden(TINY)[0]
    r = program(['-m', folder, *F32], [{'prompt': 'a'}, row, {'prompt': 'b'}, {**row, 'id': 3, 'stop': 'x'}])
    equal((r.code, r.n_tokenizer, r.err), (1, 1, ''), 'said once')
    equal([r.rows[i]['error']['code'] for i in (0, 2, 3)], ['unsupported'] * 3, 'text')
    equal((r.rows[1]['token_ids'], 'text' in r.rows[1]), (g['greedy_ids'], False), 'ids')
    # a response has a text all the same, and tokens without names
    r = program(['-m', folder, *F32], [completion('a', prompt=row['prompt_token_ids'], max_tokens=3, logprobs=1, n=2)])
    choices = r.rows[0]['response']['body']['choices']
    equal([(c['text'], c['token_ids']) for c in choices], [('', g['greedy_ids'][:3])] * 2, 'response')
    equal((choices[0]['logprobs']['tokens'], choices[0]['logprobs']['text_offset']), ([''] * 3, [0] * 3), 'tokens')


@case
def links_are_followed(tmp):
    os.mkdir(os.path.join(tmp, 'there'))
    target, link = os.path.join(tmp, 'there/real.jsonl'), os.path.join(tmp, 'link.jsonl')
    write(target, b'')
    os.symlink(target, link)
    good(['-m', TINY, '-p', 'Hello', '--max-tokens', '2', '-o', link, '--overwrite'])
    check(os.path.islink(link) and json.loads(read(target))['index'] == 0, os.listdir(tmp))


@case
def compressed(tmp):
    rows = [row for row, _ in golden(TINY, True)]
    plain = good(['-m', TINY], rows).out
    packed = write(os.path.join(tmp, 'in'), gzip.compress(lines(rows[:3])) + gzip.compress(lines(rows[3:])))
    out = os.path.join(tmp, 'out.jsonl.gz')
    good(['-m', TINY, packed, '-o', out])
    equal(gzip.decompress(read(out)), plain, 'gzip')
    equal(good(['-m', TINY], read(packed)).out, plain, 'gzip on standard input')
    cut = write(os.path.join(tmp, 'cut'), gzip.compress(lines([{**row, 'id': i} for i, row in enumerate(rows * 8)]))[:-20])
    r = program(['-m', TINY, cut, '--max-tokens', '1', '-o', os.path.join(tmp, 'cut.jsonl')])
    equal(r.code, 3, r.err)
    check(re.fullmatch(r'llmbatch: error: [^\n]*cut[^\n]*\n', r.err), r.err)
    check(os.path.exists(os.path.join(tmp, 'cut.jsonl.partial')), 'finished rows are kept')
    if not shutil.which('zstd'):
        raise Skip('no zstd')
    packed = write(os.path.join(tmp, 'in2'), subprocess.run(['zstd', '-c'], input=lines(rows), capture_output=True, check=True).stdout)
    out = os.path.join(tmp, 'out.jsonl.zst')
    good(['-m', TINY, packed, '-o', out])
    equal(subprocess.run(['zstd', '-dc', out], capture_output=True, check=True).stdout, plain, 'zstd')


def start_long_run(tmp):
    """A run that would take minutes, once a few of its rows are done."""
    out = os.path.join(tmp, 'out.jsonl')
    rows = write(os.path.join(tmp, 'in.jsonl'), lines([{'prompt': 'Hello' * 9, 'max_tokens': 2}] * 5) + long_rows(2000))
    p = subprocess.Popen([PROGRAM, '-m', SMALL, '--progress', 'off', '--audit', 'off', '-i', rows, '-o', out, '--batch-tokens', '32'],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=CLEAN_ENV)
    end = time.monotonic() + WAIT_S
    while not os.path.exists(out + '.partial') or read(out + '.partial').count(b'\n') < 3:
        check(p.poll() is None and time.monotonic() < end, 'no rows')
        time.sleep(0.02)
    return p, out


@case
@threads
def signals_keep_finished_rows(tmp):
    for sent in ([signal.SIGINT], [signal.SIGTERM] * 3, [signal.SIGUSR1, signal.SIGUSR1]):
        p, out = start_long_run(tmp)
        for number in sent:
            p.send_signal(number)
        stdout, err = p.communicate(timeout=WAIT_S)
        equal((p.returncode, stdout), (130, b''), f'{sent} ({err})')
        check(err.count(b'\n') <= 1, err)
        check(not os.path.exists(out), 'OUT is there')
        first, *rows = read(out + '.partial').split(b'\n')[:-1]
        check(len(rows) >= 2 and 'llmbatch_partial' in json.loads(first), first)
        for row in rows:
            index, digest, line = row.split(b'\t', 2)
            equal(json.loads(line)['index'], int(index), 'index')
            check(re.fullmatch(rb'[0-9a-f]{16}', digest), digest)
        equal(json.loads(read(out + '.stats.json'))['exit_code'], 130, 'stats')
        os.remove(out + '.partial')


@case
def second_interrupt(tmp):
    p, out = start_long_run(tmp)
    p.send_signal(signal.SIGSTOP)
    p.send_signal(signal.SIGINT)
    p.send_signal(signal.SIGCONT)
    p.send_signal(signal.SIGINT)
    p.communicate(timeout=WAIT_S)
    equal((p.returncode, os.path.exists(out), os.path.exists(out + '.partial')), (130, False, True), 'end')


@case
@threads
def interrupted_stream(_):
    p = subprocess.Popen([PROGRAM, '-m', TINY, '--progress', 'off', '--audit', 'off'], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, env=CLEAN_ENV)
    p.stdin.write(lines([{'prompt': 'Hello', 'max_tokens': 2}]))
    p.stdin.flush()
    json.loads(p.stdout.readline())
    p.send_signal(signal.SIGTERM)  # while it waits for input
    equal((p.wait(WAIT_S), p.stdout.read()), (130, b''), 'end')
    p.stdin.close()
    p.stderr.close()


@case
def full_disk(tmp):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    out = os.path.join(tmp, 'out.jsonl')
    rows = [{'prompt': 'Hello', 'max_tokens': 2, 'x': 'y' * 400}] * 64
    r = program(['-m', TINY, '--keep', 'all', '-o', out], rows, preexec_fn=small_files)
    refused(r, 4, 'out.jsonl')
    check(not os.path.exists(out), 'OUT is there')
    for row in read(out + '.partial').split(b'\n')[1:-1]:
        json.loads(row.split(b'\t', 2)[2])
    with open('/dev/full', 'wb') as full:
        p = subprocess.run([PROGRAM, '-m', TINY, '--progress', 'off', '--audit', 'off', '-p', 'Hello', '--max-tokens', '2'], stdout=full,
                           stderr=subprocess.PIPE, timeout=WAIT_S, check=False, env=CLEAN_ENV)
    refused(Result(p.returncode, b'', p.stderr), 4, 'standard output|stdout')


# ---- numbers and messages ----


@case
def stats_file(tmp):
    rows = [row for row, _ in golden(MHA)] + [b'{}']
    out = os.path.join(tmp, 'out.jsonl')
    for args, path in ((['-o', out], out + '.stats.json'), (['--stats', os.path.join(tmp, 's.json')], os.path.join(tmp, 's.json'))):
        r = program(['-m', MHA, '--dtype', 'f32', '--seed', '3', *args], rows)
        equal(r.code, 1, r.err)
        text = read(path).decode()
        stats = json.loads(text, parse_constant=lambda c: check(False, c))
        for name, members in tables.STATS.items():
            check(members <= set(stats[name]), name, 'lacks', members - set(stats[name]))
        want = {'total': len(rows), 'ok': len(rows) - 1, 'error': 1, 'errors_by_code': {'bad_row': 1}}
        equal({k: stats['rows'][k] for k in want}, want, 'rows')
        equal(stats['rows']['stop'] + stats['rows']['length'], len(rows) - 1, 'ends')
        tokens = sum(len(row['prompt_token_ids']) for row in rows[:-1])
        equal((stats['tokens']['padding'], stats['tokens']['prompt'], stats['tokens']['prompt_computed']), (0, tokens, tokens),
              'tokens')
        if MHA != TINY:
            equal(stats['tokens']['completion'], sum(row['max_tokens'] for row in rows[:-1]), 'completion')
        equal((stats['exit_code'], stats['engine']['device'], stats['model']['dtype']), (1, 'cpu', 'f32'), 'engine')
        equal(stats['sampling']['seed'], {'value': 3, 'origin': 'command line'}, 'seed')
        check('--seed 3' in stats['command'], stats['command'])
        check(0 < stats['time_s']['load'] < stats['time_s']['total'], stats['time_s'])
    equal(sorted(os.listdir(tmp)), ['out.jsonl', 'out.jsonl.stats.json', 's.json'], 'files')


@case
def summary(_):
    rows = [{'prompt': 'Hello', 'max_tokens': 2, 'ignore_eos': True}] * 3 + [b'{}']
    r = program(['-m', TINY], rows, quiet=False)
    equal(r.code, 1, r.err)
    said = r.err.split('\n')[:-1]
    check(8 <= len(said) <= 14, r.err)
    check('4: 3 ok (0 stop, 3 length), 1 failed (bad_row 1)' in said[0], said[0])
    check(all(re.match(r'[A-Za-z ]{12}\S', line) for line in said), 'aligned', r.err)
    check(re.search(r'(?m)^padding +0 tokens$', r.err) and '100 % of the rows ended at their token limit' in r.err, r.err)
    equal(program(['-m', TINY], rows).err, '', '--progress off')
    r = program(['-m', TINY, '--log-level', 'info', '-p', 'Hello', '--max-tokens', '1'])
    check(r.code == 0 and r.err and all(line.startswith('llmbatch: ') for line in r.err.split('\n')[:-1]), r.err)


@case
def progress(tmp):
    rows = write(os.path.join(tmp, 'in'), long_rows(20, 4))
    r = program(['-m', TINY, '--progress', 'on', '--dtype', 'f32', rows, '-o', '/dev/null'], quiet=False)
    check(r.code == 0 and '\r' in r.err and ' tok/s' in r.err and '/20 rows' in r.err, r.err)
    r = program(['-m', TINY, '-p', 'Hello', '--max-tokens', '1'], quiet=False)
    check('\r' not in r.err, r.err)


# ---- models and inputs that cannot be read ----


def bend(tmp, tensor=lambda name, data: data, header=lambda h: None, name='bent'):
    """A copy of the model whose tensors and safetensors header went through functions."""
    folder = os.path.join(tmp, name)
    shutil.copytree(MHA, folder, copy_function=shutil.copyfile)
    os.chmod(folder, 0o755)
    path = os.path.join(folder, 'model.safetensors')
    data = read(path)
    n = struct.unpack('<Q', data[:8])[0]
    head, body = json.loads(data[8:8 + n]), bytearray(data[8 + n:])
    for key, t in head.items():
        if key != '__metadata__':
            b, e = t['data_offsets']
            body[b:e] = tensor(key, bytes(body[b:e]))
    header(head)
    text = json.dumps(head).encode()
    write(path, struct.pack('<Q', len(text)) + text + body)
    return folder


@case
def models_that_are_not_valid(tmp):
    def set_member(name, member, value):
        def change(h):
            h[name][member] = value
        return change

    one = 'model.norm.weight'
    bends = {
        'tensor is missing': lambda h: h.pop(one),
        'dtype is unknown': set_member(one, 'dtype', 'X9'),
        'shape is wrong': set_member(one, 'shape', [3]),
        'shape overflows': set_member(one, 'shape', [1 << 62, 1 << 62]),
        'offsets beyond the file': set_member(one, 'data_offsets', [1 << 40, (1 << 40) + 256]),
        'offsets turned': set_member(one, 'data_offsets', [256, 0]),
    }
    for name, change in bends.items():
        folder = bend(tmp, header=change, name=name)
        r = program(['-m', folder, '-p', 'a'])
        check(r.code == 3, name, r.code, r.err)
        refused(r, 3)
    for name, file, data in (('config is no JSON', 'config.json', b'{'), ('config is empty', 'config.json', b'{}'),
                             ('tokenizer is no JSON', 'tokenizer.json', b'[1'), ('no weights', 'model.safetensors', b''),
                             ('header is huge', 'model.safetensors', b'\xff' * 64)):
        folder = bend(tmp, name=name)
        write(os.path.join(folder, file), data)
        r = program(['-m', folder, '-p', 'a'])
        check(r.code == 3, name, r.code, r.err)
        refused(r, 3, file if file != 'config.json' else '')
    folder = bend(tmp, name='cut off')
    path = os.path.join(folder, 'model.safetensors')
    write(path, read(path)[:-1000])
    refused(program(['-m', folder, '-p', 'a']), 3, 'model.safetensors')
    for key, value in (('num_attention_heads', 0), ('hidden_size', -64), ('vocab_size', 1 << 40), ('num_hidden_layers', 'x'),
                       ('model_type', 'unheard-of')):
        folder = bend(tmp, name=key)
        path = os.path.join(folder, 'config.json')
        config = json.loads(read(path))
        config[key] = value
        if key == 'model_type':
            config['architectures'] = ['UnheardOfForCausalLM']
        write(path, json.dumps(config).encode())
        r = program(['-m', folder, '-p', 'a'])
        check(r.code == 3, key, r.code, r.err)
        refused(r, 3)
    refused(program(['-m', write(os.path.join(tmp, 'x.gguf'), b'GGUF\x03\0\0\0' + b'\xff' * 16), '-p', 'a']), 3, 'x.gguf')


@case
def files_that_are_not_there(tmp):
    out = os.path.join(tmp, 'out.jsonl')
    refused(program(['-m', '/no/model', '-p', 'a', '-o', out]), 3, '/no/model')
    refused(program(['-m', TINY, '/no/rows', '-o', out]), 3, '/no/rows')
    refused(program(['-m', TINY, tmp, '-o', out]), 3, os.path.basename(tmp))
    check(not os.listdir(tmp), 'something was opened', os.listdir(tmp))


def run_case(item):
    name, function = item
    tmp = tempfile.mkdtemp(prefix='llmbatch-')
    begin = time.monotonic()
    try:
        function(tmp)
        return name, 'ok', '', time.monotonic() - begin
    except Skip as e:
        return name, 'skip', str(e), time.monotonic() - begin
    except Exception as e:  # a case that breaks has failed
        return name, 'FAIL', f'{type(e).__name__}: {e}'[:4000], time.monotonic() - begin
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def main():
    if not os.access(PROGRAM, os.X_OK):
        sys.exit(__doc__)
    patterns, at_once = sys.argv[2:], 2
    # what these import as `run` is this
    sys.modules['run'] = sys.modules['__main__']
    if patterns and patterns[0].endswith('.py'):
        CASES.clear()
        at_once = getattr(importlib.import_module(os.path.basename(patterns.pop(0))[:-3]), 'AT_ONCE', at_once)
    else:
        for name in sorted(os.listdir(os.path.dirname(os.path.abspath(__file__)))):
            if name.startswith('test_') and name.endswith('.py'):
                importlib.import_module(name[:-3])
    picked = [c for c in CASES if not patterns or any(fnmatch.fnmatch(c[0], p) for p in patterns)]
    if os.environ.get('LB_TEST_SUBSET') == 'threads':
        picked = [c for c in picked if hasattr(c[1], 'threads')]
    if not FULL:
        picked = [c for c in picked if not hasattr(c[1], 'long')]
    every = os.environ.get('LB_TEST_SUBSET', '')
    if every.isdigit() and len(picked) > 2:
        picked = picked[::int(every)]
    count = {'ok': 0, 'FAIL': 0, 'skip': 0}
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        for name, end, text, seconds in pool.map(run_case, picked):
            count[end] += 1
            print(f'skip: cli {name}: {text}' if end == 'skip' else f'{end:4} {name} ({seconds:.1f} s)', flush=True)
            if end == 'FAIL':
                print('     ' + text, flush=True)
    print(f'{count["ok"]} passed, {count["FAIL"]} failed, {count["skip"]} skipped')
    sys.exit(1 if count['FAIL'] or not picked else 0)


if __name__ == '__main__':
    main()
