"""Rows that are longer than the limit: what --overflow makes of them, and what the row says of it."""
import json

from run import GLM, SMALL, case, check, equal, good, program, refused

QUIET = ['--dtype', 'f32', '--audit', 'off', '--token-ids', '--max-model-len', '40', '--ignore-eos']
BOS = 696
IDS = [BOS, *range(3, 53)]  # 51 tokens


def cut(policy, n_keep, ids=IDS, n_lead=1):
    lead, rest = ids[:n_lead], ids[n_lead:]
    n = n_keep - n_lead
    return lead + (rest[len(rest) - n:] if policy == 'cut-left' else rest[:(n + 1) // 2] + rest[len(rest) - n // 2:])


def run(policy, *rows, model=SMALL, more=()):
    r = program(['-m', model, *QUIET, *more, '--overflow', policy], list(rows))
    equal(r.err, '', 'standard error')
    return r.rows


@case
def overflow_cuts_the_prompt(_):
    rows = [{'prompt_token_ids': IDS, 'max_tokens': n} for n in (1, 6, 7, 38)]
    for policy in ('cut-left', 'cut-middle'):
        for row, n in zip(run(policy, *rows), (1, 6, 7, 38)):
            want = cut(policy, 40 - n)
            equal(row['prompt_token_ids'], want, f'{policy}, {n} new tokens')
            equal((row['cut'], row['completion_tokens']), ({'policy': policy, 'tokens': 51 - len(want)}, n), policy)
            # what is left is a prompt like any other
            short = good(['-m', SMALL, *QUIET], [{'prompt_token_ids': want, 'max_tokens': n}]).rows[0]
            equal((short['token_ids'], short['text']), (row['token_ids'], row['text']), policy)
            check('cut' not in short, 'nothing was cut')
        keys = list(row)
        equal(keys[-1], 'cut', 'the last member')
        # no room for the prompt
        equal([r['error']['code'] for r in run(policy, *[{'prompt_token_ids': IDS, 'max_tokens': n} for n in (39, 40, 99)])],
              ['too_long'] * 3, 'max_tokens fills the limit')


@case
def overflow_without_max_tokens(_):
    """A limit that nobody set shrinks; a prompt that does not fit all the same is cut to half of the limit at least."""
    for policy in ('error', 'cut-left', 'cut-middle', 'shorten'):
        row = run(policy, {'prompt_token_ids': IDS[:30]})[0]
        equal((row['prompt_tokens'], row['completion_tokens'], row.get('cut')), (30, 10, None), policy)
        row = run(policy, {'prompt_token_ids': IDS})[0]
        if not policy.startswith('cut'):
            equal(row['error']['code'], 'too_long', policy)
            continue
        equal((row['prompt_token_ids'], row['completion_tokens']), (cut(policy, 20), 20), policy)
    r = program(['-m', SMALL, '--dtype', 'f32', '--audit', 'off', '--max-model-len', '600', '--ignore-eos', '--overflow', 'cut-left'],
                [{'prompt_token_ids': [BOS] + [5] * 700}])
    equal((r.rows[0]['prompt_tokens'], r.rows[0]['completion_tokens']), (344, 256), 'room for 256')


@case
def overflow_shortens_max_tokens(_):
    rows = run('shorten', {'prompt_token_ids': IDS[:30], 'max_tokens': 50}, {'prompt_token_ids': IDS[:30], 'max_tokens': 10},
               {'prompt_token_ids': IDS[:40], 'max_tokens': 1}, {'prompt_token_ids': IDS[:30], 'max_tokens': 50, 'min_tokens': 11})
    equal((rows[0]['completion_tokens'], rows[0]['cut']), (10, {'policy': 'shorten', 'tokens': 40}), 'shortened')
    equal((rows[1]['completion_tokens'], rows[1].get('cut')), (10, None), 'fits')
    equal([rows[i]['error']['code'] for i in (2, 3)], ['too_long'] * 2, 'no room')
    rows = run('error', {'prompt_token_ids': IDS[:30], 'max_tokens': 11}, {'prompt_token_ids': IDS[:30], 'max_tokens': 10})
    equal((rows[0]['error']['code'], rows[1]['completion_tokens']), ('too_long', 10), 'error')


@case
def overflow_keeps_the_beginning(_):
    """[gMASK]<sop> is two tokens; a text has it from the tokenizer."""
    text = ' '.join(['cat and dog'] * 30)
    full = good(['-m', GLM, '--dtype', 'f32', '--audit', 'off', '--token-ids', '--max-tokens', '0'], [{'prompt': text}]).rows[0]
    ids = full['prompt_token_ids']
    check(len(ids) > 60, ids)
    for policy in ('cut-left', 'cut-middle'):
        for row in run(policy, {'prompt': text, 'max_tokens': 5}, {'prompt_token_ids': ids, 'max_tokens': 5}, model=GLM):
            equal(row['prompt_token_ids'], cut(policy, 35, ids, 2), policy)
        # ids without it are cut from their first one on
        row = run(policy, {'prompt_token_ids': ids[2:], 'max_tokens': 5}, model=GLM)[0]
        equal(row['prompt_token_ids'], cut(policy, 35, ids[2:], 0), policy)


@case
def overflow_in_every_form(_):
    """Samples, several prompts, an echo, a rendered row, scored prompts."""
    rows = run('cut-left', {'prompt_token_ids': IDS, 'max_tokens': 5, 'n': 3, 'temperature': 1},
               {'prompt_token_ids': IDS, 'max_tokens': 0, 'prompt_logprobs': 0, 'prompt_logprobs_from': 45},
               {'custom_id': 'a', 'method': 'POST', 'url': '/v1/completions',
                'body': {'prompt': [IDS, IDS[:9]], 'max_tokens': 5, 'echo': True, 'n': 2, 'temperature': 1}})
    want = cut('cut-left', 35)
    equal((rows[0]['prompt_token_ids'], rows[0]['cut']['tokens'], len(rows[0]['choices'])), (want, 16, 3), 'samples')
    equal([c['completion_tokens'] for c in rows[0]['choices']], [5] * 3, 'samples')
    # position 45 is 34 behind eleven that went
    equal([x and x['id'] for x in rows[1]['prompt_logprobs']], [None] * 34 + IDS[45:], 'scored')
    body = rows[2]['response']['body']
    equal(rows[2]['cut'], {'policy': 'cut-left', 'tokens': 16}, 'cut')
    equal([c['prompt_token_ids'] for c in body['choices']], [want, want, IDS[:9], IDS[:9]], 'prompts')
    text = json.dumps
    shown = program(['-m', SMALL, '--audit', 'off', '--render', '--max-model-len', '40', '--overflow', 'cut-middle', '--max-tokens', '4'],
                    [{'prompt': 'Once upon a time there was a cat. ' * 9}]).rows[0]
    ids = shown['prompt_token_ids']
    equal(len(ids), 36, text(shown))
    check(shown['prompt'].startswith('<|begin_of_text|>Once upon') and shown['prompt'].endswith('cat. '), shown['prompt'])
    refused(program(['-m', SMALL, '-p', 'a', '--overflow', 'middle']), 2, 'cut-middle')
