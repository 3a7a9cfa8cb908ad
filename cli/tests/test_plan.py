"""--plan: what it says of a run, beside what the run does; sizes that are chosen; --kv-memory."""
import glob
import json
import os
import shutil

from run import GOLDENS, SMALL, TINY, case, check, equal, good, lines, program, read, refused, write


def planned(tmp, model, rows, *options):
    stats = os.path.join(tmp, 'plan.json')
    r = good(['-m', model, '--plan', '--audit', 'off', '--stats', stats, *options], rows)
    return r.out.decode(), json.loads(read(stats))


def ran(tmp, model, rows, *options):
    path = write(os.path.join(tmp, 'in.jsonl'), lines(rows))
    out = os.path.join(tmp, 'out.jsonl')
    good(['-m', model, '-i', path, '-o', out, '--overwrite', '--audit', 'off', '--progress', 'off', *options])
    return read(out), json.loads(read(out + '.stats.json'))


def ragged(n, most=60):
    return [{'prompt_token_ids': [5 + (i * 7 + k) % 600 for k in range(1 + i * 37 % most)], 'max_tokens': 1 + i * 5 % 23}
            for i in range(n)]


@case
def the_steps_of_a_plan_are_the_runs(tmp):
    rows = ragged(40)
    for options in (['--batch-tokens', '16', '--max-seqs', '3'], ['--batch-tokens', '64', '--max-seqs', '64'],
                    ['--batch-tokens', '24', '--kv-memory', '128K']):
        options = [*options, '--ignore-eos', '--no-prefix-cache', '--no-draft']
        text, plan = planned(tmp, SMALL, rows, *options)
        _, run = ran(tmp, SMALL, rows, *options)
        plan, steps = plan['plan'], run['steps']
        check(abs(plan['steps']['count'] - steps['count']) <= 2, options, plan, steps)  # rows come one by one
        check(abs(plan['steps']['tokens_mean'] / steps['tokens_mean'] - 1) < 0.05, options, plan, steps)
        check(abs(plan['peak_pages'] - run['kv']['peak_pages']) <= 2, options, plan, run['kv'])
        equal(plan['kv_pages'], run['engine']['kv_pages'], 'pages')
        equal(plan['batch_tokens'], run['engine']['batch_tokens'], 'tokens of a step')
        check(plan['time_s']['run'] > 0 and 'about' in text, text)
        check(all(len(line) <= 80 for line in text.split('\n') if SMALL not in line), text)


@case
def beginnings_are_shared_in_a_plan(tmp):
    begin = [[5 + (k * (3 + g)) % 600 for k in range(150)] for g in range(4)]
    rows = [{'prompt_token_ids': begin[i % 4][:40 + 30 * (i % 3)] + [600 + i] * (1 + i % 50), 'max_tokens': 1 + i % 9}
            for i in range(40)]
    for options in ([], ['--max-seqs', '5', '--kv-memory', '200K']):
        options = ['--batch-tokens', '32', '--max-seqs', '12', '--ignore-eos', *options]
        _, plan = planned(tmp, SMALL, rows, *options)
        _, run = ran(tmp, SMALL, rows, *options)
        fed = plan['plan']['steps']['count'] * plan['plan']['steps']['tokens_mean']
        took = run['steps']['count'] * run['steps']['tokens_mean']
        check(abs(fed / took - 1) < 0.05, options, plan['plan'], run['tokens'], run['steps'])


@case
def every_family_is_planned(tmp):
    models = [os.path.dirname(c) for c in sorted(glob.glob(os.path.join(GOLDENS, '*/config.json')))]
    check(len(models) > 5, models)
    for model in models:
        _, s = planned(tmp, model, [{'prompt_token_ids': [5, 6, 7] * 9, 'max_tokens': 6}] * 3, '--ignore-eos')
        check(s['plan']['time_s']['run'] > 0 and s['plan']['steps']['count'] == 6, model, s['plan'])


@case
def a_plan_that_does_not_fit(tmp):
    options, says = ['--kv-memory', '100000G'], 'MiB would fit'
    r = program(['-m', SMALL, '--plan', *options], ragged(3))
    equal(r.code, 4, f'exit code ({r.err})')
    check(b'does not fit' in r.out and says in r.err and r.err.count('error:') == 1, r.out, r.err)
    refused(program(['-m', SMALL, *options], ragged(3)), 4, says)


@case
def a_plan_without_weights(tmp):
    model = os.path.join(tmp, 'model')
    shutil.copytree(SMALL, model)
    for f in glob.glob(os.path.join(model, '*.safetensors*')):
        os.remove(f)
    r = program(['-m', model, '--plan', '--audit', 'off'], ragged(3))
    equal(r.code, 0, 'exit code')
    check(b'rows        3' in r.out and b'memory' not in r.out and 'without the weights' in r.err, r.out, r.err)


@case
def sizes_are_chosen_and_say_why(tmp):
    rows = [{**r, 'max_tokens': 3} for r in ragged(130)]
    _, s = ran(tmp, TINY, rows)
    check('short' in s['engine']['auto']['batch_tokens'], s['engine'])
    equal(s['engine']['batch_tokens'], 512, 'what short runs take')
    # told that rows may go on for long, the run is long enough to measure
    rows = [{k: v for k, v in r.items() if k != 'max_tokens'} for r in rows]
    many, s = ran(tmp, TINY, rows, '--max-tokens', '1000', '--stop-token-ids', ','.join(map(str, range(700))))
    check('measured' in s['engine']['auto']['batch_tokens'], s['engine'])
    check(s['engine']['batch_tokens'] in (256, 512, 1024, 2048, 4096), s['engine'])
    fixed, s = ran(tmp, TINY, rows, '--max-tokens', '1000', '--stop-token-ids', ','.join(map(str, range(700))),
                   '--batch-tokens', '33', '--max-seqs', '7', '--kv-memory', '8M')
    check(many == fixed, 'sizes change rows')
    check('auto' not in s['engine'], s['engine'])
    r = program(['-m', TINY, '--kv-memory', 'auto', '--max-seqs', 'auto', '--batch-tokens', 'auto', '--log-level', 'info', '-p', 'a'])
    for says in ('kv-memory', 'max-seqs', 'batch-tokens'):
        check(f'info: {says} ' in r.err, r.err)


@case
def a_plan_without_a_device(tmp):
    text, s = planned(tmp, SMALL, ragged(9), '--device', 'null')
    check('computes nothing' in text and 'time_s' not in s['plan'] and s['plan']['steps']['count'] > 0, text, s)
    _, s = ran(tmp, SMALL, ragged(400), '--device', 'null', '--max-tokens', '1000')
    equal(s['engine']['batch_tokens'], 512, 'nothing to measure')


@case
def rows_are_verified(tmp):
    rows = [{**r, 'temperature': i % 2, 'n': 1 + i % 3} for i, r in enumerate(ragged(30))]
    plain, s = ran(tmp, SMALL, rows)
    check('verify' not in s, s)
    same, s = ran(tmp, SMALL, rows, '--verify', '8')
    equal((same == plain, s['verify'], s['exit_code']), (True, {'rows': 8, 'differ': 0}, 0), 'verify')
    _, s = ran(tmp, SMALL, rows, '--verify', '1000', '--kv-memory', '96K')
    equal(s['verify'], {'rows': 30, 'differ': 0}, 'all rows')
    r = program(['-m', SMALL, '--verify', '0'], rows)
    refused(r, 2, '--verify')
