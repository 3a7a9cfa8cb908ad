"""--lora and the row member lora: which rows run with which adapter, and what is refused. What adapters make of the numbers
is for core/tests/golden/test_lora.c."""
import json
import os

from adapters import adapter
from run import SMALL, case, check, equal, good, lines, program, read, refused, write

QUIET = ['-m', SMALL, '--dtype', 'f32', '--audit', 'off', '--token-ids', '--max-tokens', '12', '--ignore-eos']
PROMPT = {'prompt_token_ids': [696, *range(20, 70)]}


def ids(r):
    return [row['token_ids'] for row in r.rows]


def distance(x, y):
    return sum((a - b) ** 2 for a, b in zip(x, y)) ** 0.5


def two(tmp):
    return [f'{name}={adapter(SMALL, os.path.join(tmp, name), seed=k, rank=3 + k)}' for k, name in enumerate(('a', 'b'), 1)]


@case
def lora_of_runs_and_rows(tmp):
    a, b = two(tmp)
    only_a, only_b = a.split('=')[1], b.split('=')[1]
    plain, with_a, with_b = (ids(good([*QUIET, *more], [PROMPT]))[0] for more in ([], ['--lora', only_a], ['--lora', only_b]))
    check(plain != with_a and with_a != with_b and plain != with_b, 'adapters that do nothing', plain, with_a, with_b)
    # named ones are for rows that ask, the same prompt again and again: nothing is folded, no page is another's
    rows = [PROMPT, dict(PROMPT, lora='a'), dict(PROMPT, lora='b'), dict(PROMPT, lora=None), dict(PROMPT, lora='a')]
    want = [plain, with_a, with_b, plain, with_a]
    equal(ids(good([*QUIET, '--lora', a, '--lora', b], rows)), want, 'rows that name theirs')
    # the one without a name is that of the others
    want = [with_b, with_a, with_b, with_b, with_a]
    equal(ids(good([*QUIET, '--lora', only_b, '--lora', a, '--lora', b], rows)), want, 'one without a name')
    equal(ids(good([*QUIET, '--no-fold', '--no-prefix-cache', '--verify', '5', '--lora', only_b, '--lora', a, '--lora', b], rows)),
          want, 'nothing shared')
    # the OpenAI form
    body = {'custom_id': 'x', 'method': 'POST', 'url': '/v1/completions',
            'body': {'prompt': PROMPT['prompt_token_ids'], 'max_tokens': 12, 'lora': 'b', 'ignore_eos': True}}
    row = good([*QUIET, '--lora', a, '--lora', b], [body]).rows[0]
    equal(row['response']['body']['choices'][0]['token_ids'], with_b, 'a request')


@case
def lora_that_was_not_given(tmp):
    a, _ = two(tmp)
    for more in ([], ['--lora', a]):
        r = program([*QUIET, *more], [dict(PROMPT, lora='c'), PROMPT, dict(PROMPT, lora=3), dict(PROMPT, lora='')])
        equal(r.code, 1, 'exit code')
        equal([row['error']['code'] if 'error' in row else 'ok' for row in r.rows], ['bad_param', 'ok', 'bad_param', 'bad_param'],
              'codes')
        check('"c"' in r.rows[0]['error']['message'] and '--lora' in r.rows[0]['error']['message'], r.rows[0])
    # no model is needed to see it
    r = program(['-m', SMALL, '--render', '--audit', 'off', '--lora', a], [dict(PROMPT, lora='c'), dict(PROMPT, lora='a')])
    equal([('error' in row) for row in r.rows], [True, False], '--render')


@case
def lora_options(tmp):
    a, b = two(tmp)
    path = a.split('=')[1]
    for options, says in ((['--lora', path, '--lora', b.split('=')[1]], 'both without a name'), (['--lora', a, '--lora', a], "'a' is given twice"),
                          (['--lora', '=' + path], 'empty'), (['--lora', 'a='], 'no directory')):
        refused(program([*QUIET, *options], [PROMPT]), 2, says)
    refused(program([*QUIET, '--lora', os.path.join(tmp, 'none')], [PROMPT]), 3, 'adapter_config.json')
    os.mkdir(os.path.join(tmp, 'x=y'))
    adapter(SMALL, os.path.join(tmp, 'x=y'))
    good([*QUIET, '--lora', os.path.join(tmp, 'x=y')], [PROMPT])
    # no weights, no adapters
    good(['-m', SMALL, '--device', 'null', '--audit', 'off', '--lora', 'a=' + os.path.join(tmp, 'none')], [dict(PROMPT, lora='a')])
    # one line names what is wrong
    for change, says in (({'use_dora': True}, 'use_dora'), ({'modules_to_save': ['lm_head']}, 'modules_to_save'), ({'r': 5}, 'lora_A.weight'),
                         ({'target_modules': ['k_proj']}, 'target_modules')):
        refused(program([*QUIET, '--lora', adapter(SMALL, os.path.join(tmp, 'bad'), **change)], [PROMPT]), 3, says)
    for cut in (0, 7, 100, -1):
        bad = adapter(SMALL, os.path.join(tmp, 'cut'))
        file = os.path.join(bad, 'adapter_model.safetensors')
        write(file, read(file)[:cut])
        refused(program([*QUIET, '--lora', bad], [PROMPT]), 3, 'adapter_model.safetensors')


@case
def lora_beside_int8(tmp):
    """An adapter's part is that of a run without int8: what an adapter changes is far more than what int8 does. A row is
    the one that it is alone."""
    lora = [x for pair in two(tmp) for x in ('--lora', pair)]
    args = ['-m', SMALL, '--audit', 'off', '--temperature', '0']
    prompt = {'prompt_token_ids': [696, *range(20, 70)], 'max_tokens': 0, 'prompt_logprobs': 0}
    rows = [dict(prompt, **({'lora': name} if name else {})) for name in (None, 'a', 'b')]

    def scores(more):
        return [[p['logprob'] for p in row['prompt_logprobs'] if p] for row in good([*args, *lora, *more], rows).rows]
    for dtype in ('f32', 'bf16'):
        plain, whole = scores(['--dtype', dtype]), scores(['--dtype', dtype, '--quantize', 'int8'])
        off = [distance(x, y) for x, y in zip(plain, whole)]
        by_adapter = [distance(plain[0], plain[1]), distance(whole[0], whole[1])]
        check(max(off[1:]) < 3 * off[0] + 0.02 and 0 < off[0] and 4 * max(off) < min(by_adapter), dtype, off, by_adapter)
    some = [dict(PROMPT, prompt_token_ids=PROMPT['prompt_token_ids'][:3 + 7 * i], logprobs=2, max_tokens=5,
                 **({'lora': 'ab'[i % 2]} if i % 3 else {})) for i in range(7)]
    whole = good([*args, *lora, '--quantize', 'int8', '--batch-tokens', '24'], some)
    check(whole.out == good([*args, *lora, '--quantize', 'int8', '--max-seqs', '1', '--no-fold'], some).out, 'other bytes')


@case
def lora_in_stats_plan_and_fingerprint(tmp):
    a, b = two(tmp)
    out = os.path.join(tmp, 'out.jsonl')
    path = write(os.path.join(tmp, 'in.jsonl'), lines([PROMPT, dict(PROMPT, lora='a')]))
    options = [*QUIET, '-i', path, '-o', out, '--lora', a]
    good(options)
    stats = json.loads(read(out + '.stats.json'))
    equal(stats['model']['adapters'], [{'name': 'a', 'path': a.split('=')[1]}], 'stats')
    r = program(options)
    check(r.code == 0 and 'already complete' in r.err, 'run again', r.err)
    for other in (['--lora', a, '--lora', b], ['--lora', 'c=' + a.split('=')[1]]):
        refused(program([*QUIET, '-i', path, '-o', out, *other]), 2, 'out.jsonl')
    # the same name and place, other numbers
    adapter(SMALL, a.split('=')[1], seed=9, rank=4)
    refused(program(options), 2, 'out.jsonl')

    def weights(more):
        plan = os.path.join(tmp, 'plan.json')
        good(['-m', SMALL, '--dtype', 'f32', '--audit', 'off', '--plan', '-i', path, '--stats', plan, *more])
        return json.loads(read(plan))['plan']['bytes']['weights']
    big = adapter(SMALL, os.path.join(tmp, 'big'), rank=64)
    n = os.path.getsize(os.path.join(big, 'adapter_model.safetensors'))
    more = weights(['--lora', 'a=' + big]) - weights(['--lora', a])
    small = os.path.getsize(os.path.join(a.split('=')[1], 'adapter_model.safetensors'))
    check(abs(more - (n - small)) < 8192, f'the plan has {more} bytes more for files of {n} and {small}')
