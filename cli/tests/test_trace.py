"""--trace: the file by the rules of the trace event format, and what it tells against the stats and the output."""
import json
import os

from events import load, spans
from run import MHA, SMALL, case, check, equal, program, read, refused, threads, write

STAGES = ['pack', 'forward', 'sample', 'stops']


@case
@threads
def trace_of_a_run(tmp):
    out, path = os.path.join(tmp, 'out.jsonl'), os.path.join(tmp, 'trace.json')
    rows = [{'prompt': 'Once upon a time ' * (i % 4 + 1) + str(i), 'max_tokens': 2 + i % 9} for i in range(40)] + [b'{bad']
    r = program(['-m', SMALL, '-o', out, '--trace', path, '--batch-tokens', '64'], rows)
    equal((r.code, sorted(os.listdir(tmp))), (1, ['out.jsonl', 'out.jsonl.stats.json', 'trace.json']), r.err)
    events, stats = load(path), json.loads(read(out + '.stats.json'))
    names = {e['args']['name']: e['tid'] for e in events if e['name'] == 'thread_name'}
    equal(sorted(names), ['forward', 'reader', 'tokenizer', 'window', 'writer'], 'threads')
    forward = spans(events, 0, names['forward'])
    steps = [e for e in forward if e['name'] == 'step']
    equal(len(steps), stats['steps']['count'], 'steps')
    for name in STAGES:
        check(len([e for e in forward if e['name'] == name]) >= (name == 'forward') * len(steps), name)
    total = sum(e['args']['n_tok'] for e in steps)
    check(abs(total - stats['steps']['tokens_mean'] * len(steps)) < 0.01 * total, 'tokens of steps')
    equal(sum(e['args']['n_prompt'] for e in steps), stats['tokens']['prompt_computed'], 'tokens of prompts')
    check(all(abs(e['args']['fill'] - e['args']['n_tok'] / 64) < 1e-3 and e['args']['n_seq'] > 0 for e in steps), 'fill')
    in_passes = 1e-6 * sum(e['dur'] for e in forward if e['name'] == 'forward')
    check(abs(in_passes - stats['time_s']['forward']) < 1e-3 * in_passes + 1e-4, in_passes, stats['time_s'])
    for name, n in (('reader', 41), ('tokenizer', 41), ('window', 40), ('writer', 41)):
        equal(sum(e['args']['rows'] for e in spans(events, 0, names[name])), n, name)
    lives = [e for e in events if e['ph'] == 'b']
    equal(sorted({int(e['id']) for e in lives}), list(range(40)), 'rows')
    equal(sum(e['args']['new'] for e in lives if e['name'] == 'waits'), stats['tokens']['completion'], 'new tokens')
    check(max(e['ts'] + e.get('dur', 0) for e in events if 'ts' in e) <= 1e6 * stats['time_s']['total'] * 1.001, 'time')
    peak = max(e['args']['value'] for e in events if e['ph'] == 'C')
    equal(peak, stats['kv']['peak_pages'], 'pages')


@case
def trace_changes_nothing(tmp):
    rows = [{'prompt': 'Once ' * (i + 1), 'max_tokens': 8, 'temperature': 0.8} for i in range(8)]
    plain = program(['-m', SMALL], rows)
    told = program(['-m', SMALL, '--trace', os.path.join(tmp, 't'), '--report', os.path.join(tmp, 'r')], rows)
    equal((told.code, told.out), (0, plain.out), told.err)


@case
def files_beside_out_are_refused_and_kept(tmp):
    rows = write(os.path.join(tmp, 'in.jsonl'), b'{"prompt":"Hello","max_tokens":2}\n')
    link, out = os.path.join(tmp, 'link'), os.path.join(tmp, 'out.jsonl')
    os.symlink(rows, link)
    base = ['-m', SMALL, '-i', rows, '-o', out]
    before = sorted(os.listdir(tmp))
    for option in ('--report', '--trace'):
        for path, holds in ((rows, 'input'), (link, 'input'), (out, 'output'), (out + '.stats.json', '--stats'),
                            (tmp, 'directory'), (os.path.join(tmp, 'no', 'file'), 'cannot write')):
            refused(program([*base, option, path]), 2, holds)
        refused(program([*base, option, os.path.join(tmp, 'x'), '--stats', os.path.join(tmp, 'x')]), 2, 'also that of')
        for other in ('--plan', '--render'):
            refused(program([*base, option, os.path.join(tmp, 'x'), other]), 2, f'{other} runs no model')
        refused(program(['--merge', '-o', out, rows, option, os.path.join(tmp, 'x')]), 2, f'--merge [^:]*: it excludes {option}')
    refused(program([*base, '--report', os.path.join(tmp, 'x'), '--trace', os.path.join(tmp, 'x')]), 2, 'also that of --report')
    given = write(os.path.join(tmp, 'out.jsonl.stats.json'), read(rows))
    refused(program(['-m', SMALL, '-i', given, '-o', out]), 2, "--stats '[^']*' is an input")
    os.remove(given)
    equal(sorted(os.listdir(tmp)), before, 'files')


@case
def files_beside_out_after_a_failure(tmp):
    """They are there after a stop, and one that cannot be written keeps neither the rows nor the others away."""
    def names():
        return sorted(os.listdir(tmp))
    out, page, trace = (os.path.join(tmp, n) for n in ('out.jsonl', 'page.html', 'trace.json'))
    base = ['-m', MHA, '-o', out, '--report', page, '--trace', trace]
    r = program([*base, '--max-errors', '0'], [b'{bad', {'prompt_token_ids': [5, 6], 'max_tokens': 2}])
    equal((r.code, names()), (5, ['out.jsonl.partial', 'out.jsonl.stats.json', 'page.html', 'trace.json']), r.err)
    check(b'data-key="exit_code" value="5"' in read(page), 'exit code')
    load(trace)
    os.remove(page)
    args = ['-m', MHA, '-o', out, '--restart', '--report', page, '--trace', '/dev/full']
    refused(program(args, [{'prompt_token_ids': [5, 6], 'max_tokens': 2}]), 4, '/dev/full')
    equal(names(), ['out.jsonl.partial', 'out.jsonl.stats.json', 'page.html', 'trace.json'], 'files')
    check(b'data-key="exit_code" value="4"' in read(page), 'exit code')
    equal(json.loads(read(out + '.stats.json'))['exit_code'], 4, 'exit code')


@case
def shards_have_files_of_their_own(tmp):
    rows = [{'prompt': 'Hello', 'max_tokens': 2}] * 4
    args = ['-m', SMALL, '--shard', '1/2', '-o', os.path.join(tmp, 'o.%s'), '--report', os.path.join(tmp, 'r.%s'),
            '--trace', os.path.join(tmp, 't.%s')]
    equal(program(args, rows).code, 0, 'run')
    equal(sorted(os.listdir(tmp)), ['o.1-of-2', 'o.1-of-2.stats.json', 'r.1-of-2', 't.1-of-2'], 'files')
