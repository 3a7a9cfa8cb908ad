"""The stats file: its members are those that llmbatch-jsonl(5) lists, and its numbers fit each other and the output."""
import json
import math
import os
import re

from run import ROOT, SMALL, case, check, equal, program, read

# What the page lists and a plain run of one process does not have; it is absent then.
RANKS = {'time_s.collective', 'ranks.collective_s'}
ASKED_FOR = {'plan', 'scoring', 'verify', 'time_s.verify', 'model.quantization', 'model.adapters', 'model.name'}


def listed():
    """Members by the manual page: {'rows': {'total', ...}, 'version': set()}."""
    page = open(os.path.join(ROOT, 'man/llmbatch-jsonl.5'), encoding='utf-8').read()
    part = page.split('.Sh STATS FILE\n')[1].split('.Bl -tag', 1)[1].split('\n.El\n')[0]
    found = {}
    for item in part.split('\n.It Cm ')[1:]:
        names, _, text = item.partition('\n')
        members = {m for line in re.findall(r'^\.Cm (.*)', text, flags=re.M) for m in re.findall(r'[a-z]\w*', line)}
        names = names.split(' , ')
        for name in names:
            found[name] = members if len(names) == 1 else set()
    return found


def rows():
    made = [{'prompt': 'Once upon a time there was ' * (i % 5 + 1) + str(i), 'max_tokens': 3 + i % 7, 'ignore_eos': i % 2 == 0}
            for i in range(24)]
    return [*made, {'prompt': 'My name is', 'n': 3, 'temperature': 0.9, 'max_tokens': 5}, b'{bad', {'prompt': ''},
            {'prompt_token_ids': [5, 10 ** 6]}, {'prompt': 'a', 'max_tokens': -1}]


def close(a, b, what, share=1e-5):
    check(math.isclose(a, b, rel_tol=share, abs_tol=1e-9), f'{what}: {a} and {b}')


def run(tmp, *args, code=1, given=None):
    out = os.path.join(tmp, 'out.jsonl')
    r = program(['-m', SMALL, '-o', out, '--overwrite', *args], given if given is not None else rows())
    equal(r.code, code, r.err)
    text = read(out + '.stats.json').decode()
    return json.loads(text, parse_constant=lambda c: check(False, c)), [json.loads(line) for line in read(out).splitlines()]


@case
def stats_members(tmp):
    page, (stats, _) = listed(), run(tmp, '--verify', '3')
    equal(sorted(set(stats) - set(page)), [], 'members that the page does not list')
    equal(sorted(set(page) - set(stats) - ASKED_FOR), [], 'members of the page that are not there')
    free = {'sampling', 'errors_by_code'}  # their members are names of settings and codes
    for name, members in page.items():
        value = stats.get(name)
        if name in free or not isinstance(value, (dict, list)) or name == 'fingerprint':
            continue
        have = set().union(*value) if isinstance(value, list) else set(value)
        words = {'info', 'note', 'warn'} if name == 'audit' else set()
        equal(sorted(have - members), [], f'{name}: not on the page')
        equal(sorted(m for m in members - have - words if f'{name}.{m}' not in RANKS | ASKED_FOR), [], f'{name}: missing')
    for setting in stats['sampling'].values():
        equal(sorted(setting), ['origin', 'value'], 'a setting')
        check(setting['origin'] in ('model', 'command line', 'default'), setting)


@case
def stats_sums(tmp):
    stats, out = run(tmp)
    count, tokens, time = stats['rows'], stats['tokens'], stats['time_s']
    failed = [row['error']['code'] for row in out if row['finish_reason' if 'choices' not in row else 'index'] == 'error']
    equal(count['total'], len(out), 'rows')
    equal((count['ok'] + count['error'], count['stop'] + count['length']), (count['total'], count['ok']), 'ends')
    equal(count['errors_by_code'], {c: failed.count(c) for c in set(failed)}, 'codes')
    good = [row for row in out if 'error' not in row]
    choices = [c for row in good for c in row.get('choices', [row])]
    equal(tokens['prompt'], sum(row['prompt_tokens'] for row in good), 'prompt tokens')
    equal(tokens['completion'], sum(c['completion_tokens'] for c in choices), 'new tokens')
    # what a step took: of each prompt, whatever its samples, what no other row had computed; of each sequence every new
    # token but the last, and what was drafted in vain
    equal(tokens['prompt_computed'] + tokens['prefix_hit'], tokens['prompt'], 'prompts are computed or found')
    fed = tokens['prompt_computed'] + tokens['recomputed'] + tokens['completion'] - len(choices)
    fed += tokens['drafted'] - tokens['accepted']
    close(stats['steps']['tokens_mean'] * stats['steps']['count'], fed, 'tokens of all steps')
    close(stats['steps']['fill'], stats['steps']['tokens_mean'] / stats['engine']['batch_tokens'], 'fill')
    close(time['prefill'] + time['decode'], time['forward'], 'kinds of forward passes')
    check(time['load'] + time['forward'] + time['sample'] + time['host_wait'] <= time['total'], time)
    run_s = time['total'] - time['load']
    for name, n in (('prompt', tokens['prompt']), ('completion', tokens['completion'])):
        close(stats['throughput'][name + '_tok_s'], n / run_s, name, 1e-3)
    close(stats['throughput']['prompt_tok_s'] + stats['throughput']['completion_tok_s'],
          stats['throughput']['total_tok_s'], 'rates')
    late = stats['latency_s']
    check(0 < late['p50'] <= late['p90'] <= late['p99'] <= late['max'] <= run_s, late)
    check(0 < stats['kv']['peak_pages'] <= stats['engine']['kv_pages'], stats['kv'])
    one = stats['ranks'][0]
    check(time['forward'] <= one['busy_s'] <= one['busy_s'] + one['idle_s'] <= run_s * 1.001, one)


@case
def what_was_not_measured_is_absent(tmp):
    stats, _ = run(tmp, code=1, given=[b'{bad'])
    check('latency_s' not in stats, stats)
    equal(stats['steps'], {'count': 0}, 'steps')
    check('waste' not in stats['kv'] and 'model_tflops' not in stats['throughput'], stats)
    check(not RANKS & {f'{a}.{b}' for a in ('time_s',) for b in stats[a]}, stats['time_s'])


@case
def stats_that_are_asked_for(tmp):
    """Members that an option brings, and their sums."""
    given = [{'prompt': f'Once upon a time {i}' * 3, 'max_tokens': 5, 'prompt_logprobs': 0} for i in range(3)] * 2
    page, (stats, out) = listed(), run(tmp, '--verify', '2', code=0, given=given)
    for name in ('scoring', 'verify'):
        equal(set(stats[name]), page[name], name)
    equal((stats['rows']['folded'], stats['rows']['ok'], stats['verify']), (3, 6, {'rows': 2, 'differ': 0}), 'rows')
    close(stats['scoring']['nll'], sum(row['prompt_nll'] for row in out), 'nll')
    equal(stats['scoring']['tokens'], sum(len(row['prompt_logprobs']) - 1 for row in out), 'scored tokens')
    close(stats['scoring']['perplexity'], math.exp(stats['scoring']['nll'] / stats['scoring']['tokens']), 'perplexity')
    check(0 < stats['time_s']['verify'] < stats['time_s']['total'], stats['time_s'])
