"""Log-probabilities of prompts on the command line: native rows, requests as the API and vLLM shape them, statistics.
What the numbers are is core/tests/golden's to say; here a token's number in the prompt is compared with the one that it
had when the model wrote it."""
import json
import os

from run import SMALL, case, check, equal, good, lines, program, read, write

QUIET = ['-m', SMALL, '--dtype', 'f32', '--audit', 'off']
TEXT = 'Once upon a time'


def request(name, url, **body):
    return {'custom_id': name, 'method': 'POST', 'url': url, 'body': {'model': 'm', **body}}


@case
def a_completion_is_scored_as_it_was_written(_):
    made = good([*QUIET, '--token-ids', '--logprobs', '2', '--max-tokens', '20'], [{'prompt': TEXT}]).rows[0]
    n = made['prompt_tokens']
    row = {'prompt_token_ids': made['prompt_token_ids'] + made['token_ids'], 'prompt_logprobs_from': n}
    got = good([*QUIET, '--prompt-logprobs', '2', '--max-tokens', '0'], [row]).rows[0]
    equal(list(got), ['id', 'index', 'text', 'finish_reason', 'prompt_tokens', 'completion_tokens', 'prompt_logprobs', 'prompt_nll'],
          'members')
    equal((got['text'], got['finish_reason'], got['completion_tokens']), ('', 'length', 0), 'nothing was generated')
    equal(got['prompt_logprobs'], [None] * n + made['logprobs'], 'log-probabilities')
    nll = -sum(x['logprob'] for x in made['logprobs'])
    check(abs(got['prompt_nll'] - nll) < 1e-5 * nll, got['prompt_nll'], nll)


@case
def scoring_in_the_statistics(tmp):
    out = os.path.join(tmp, 'out.jsonl')
    path = write(os.path.join(tmp, 'in.jsonl'), lines([{'prompt': TEXT}, {'prompt': 'The dog'}, {'prompt': 'bad', 'n': 0}]))
    r = program([*QUIET, '--prompt-logprobs', '0', '--max-tokens', '0', '-i', path, '-o', out])
    equal(r.code, 1, 'one row is no good')
    rows = [json.loads(line) for line in read(out).splitlines()][:2]
    scoring = json.loads(read(out + '.stats.json'))['scoring']
    equal(list(scoring), ['tokens', 'nll', 'perplexity'], 'members')
    equal(scoring['tokens'], sum(row['prompt_tokens'] - 1 for row in rows), 'tokens')
    nll = sum(row['prompt_nll'] for row in rows)
    check(abs(scoring['nll'] - nll) < 1e-6 * nll, scoring, nll)
    check(abs(scoring['perplexity'] - 2.718281828459045 ** (nll / scoring['tokens'])) < 1e-5 * scoring['perplexity'], scoring)
    good([*QUIET, '-p', TEXT, '--max-tokens', '2', '--stats', os.path.join(tmp, 'none')])
    check('scoring' not in json.loads(read(os.path.join(tmp, 'none'))), 'nothing was scored')


@case
def echo_with_logprobs(_):
    """The prompt's tokens stand before the new ones, as evaluation programs ask for them."""
    body = {'prompt': TEXT, 'echo': True, 'logprobs': 2, 'max_tokens': 4}
    native = good([*QUIET, '--token-ids'], [{'prompt': TEXT, 'prompt_logprobs': 2, 'logprobs': 2, 'max_tokens': 4}]).rows[0]
    url = '/v1/completions'
    got = good(QUIET, [request('a', url, **body), request('b', url, **{**body, 'max_tokens': 0}),
                       request('c', url, **{**body, 'prompt': native['prompt_token_ids']}),
                       request('d', url, **{**body, 'prompt': [TEXT, 'The dog'], 'n': 2, 'temperature': 1}),
                       request('e', url, **{k: v for k, v in body.items() if k != 'logprobs'})]).rows
    bodies = [row['response']['body'] for row in got]
    choice = bodies[0]['choices'][0]
    lp, n = choice['logprobs'], native['prompt_tokens']
    equal(choice['text'], TEXT + native['text'], 'text')
    equal(lp['token_logprobs'], [None] + [x['logprob'] for x in native['prompt_logprobs'][1:] + native['logprobs']], 'numbers')
    check(lp['top_logprobs'][0] is None and all(lp['top_logprobs'][1:]), lp['top_logprobs'])
    for top, x in zip(lp['top_logprobs'][1:], native['prompt_logprobs'][1:] + native['logprobs']):
        equal(sorted(top.values(), reverse=True)[:2], [p for _, p in x['top']], 'best')
        check(x['logprob'] in top.values(), top, x)
    equal((lp['tokens'][0], ''.join(lp['tokens'][1:])), ('<|begin_of_text|>', choice['text']), 'tokens')
    for token, offset in list(zip(lp['tokens'], lp['text_offset']))[1:]:
        check(choice['text'].startswith(token, offset), token, offset)
    equal(bodies[0]['usage'], {'prompt_tokens': n, 'completion_tokens': 4, 'total_tokens': n + 4}, 'usage')
    only = bodies[1]['choices'][0]
    equal((only['text'], only['finish_reason']), (TEXT, 'length'), 'the prompt alone')
    equal(only['logprobs'], {k: v[:n] for k, v in lp.items()}, 'its log-probabilities')
    equal(bodies[2]['choices'][0]['logprobs']['token_logprobs'], lp['token_logprobs'], 'of ids')
    equal(len(bodies[3]['choices']), 4, 'choices')
    for c in bodies[3]['choices'][:2]:
        equal({k: v[:n] for k, v in c['logprobs'].items()}, only['logprobs'], 'each sample has those of its prompt')
        equal(len(c['logprobs']['text_offset']), len(c['logprobs']['tokens']), 'offsets')
    check(bodies[3]['choices'][3]['text'].startswith('The dog'), bodies[3]['choices'][3])
    equal(bodies[4]['choices'][0]['logprobs'], None, 'without logprobs')


@case
def prompt_logprobs_as_vllm_writes_them(_):
    chat = [{'role': 'user', 'content': 'Hi'}]
    native = good(QUIET, [{'messages': chat, 'prompt_logprobs': 1, 'max_tokens': 2}]).rows[0]['prompt_logprobs']
    got = good(QUIET, [request('a', '/v1/chat/completions', messages=chat, prompt_logprobs=1, max_tokens=2),
                       request('b', '/v1/completions', prompt='The dog', prompt_logprobs=1, max_tokens=2),
                       request('c', '/v1/completions', prompt='The dog', prompt_logprobs=False, max_tokens=2)]).rows
    body, choice, none = (row['response']['body'] for row in got)
    equal(body['choices'][0]['logprobs'], None, 'those of the answer were not asked for')
    check(body['prompt_logprobs'][0] is None, body)
    for vllm, mine in zip(body['prompt_logprobs'][1:], native[1:]):
        want = {mine['id']: (mine['logprob'], mine['rank']), **{i: (p, k + 1) for k, (i, p) in enumerate(mine['top'])}}
        want[mine['id']] = (mine['logprob'], mine['rank'])
        equal({int(i): (x['logprob'], x['rank']) for i, x in vllm.items()}, want, 'by id')
        equal(int(next(iter(vllm))), mine['id'], 'the token itself comes first')
        check(all(isinstance(x['decoded_token'], str) for x in vllm.values()), vllm)
    check(choice['choices'][0]['prompt_logprobs'][1] and 'prompt_logprobs' not in choice, choice)
    check('prompt_logprobs' not in none['choices'][0], none)


@case
def the_cache_has_the_type_of_the_weights(_):
    for more in (['--dtype', 'f32', '--kv-dtype', 'f32'], ['--dtype', 'f32', '--kv-cache-dtype', 'float32'], ['--dtype', 'f32', '--kv-dtype', 'auto'],
                 ['--kv-dtype', 'bf16'], ['--dtype', 'bfloat16', '--kv-dtype', 'bfloat16']):
        good(['-m', SMALL, '--audit', 'off', '--max-tokens', '2', '-p', TEXT, *more])
