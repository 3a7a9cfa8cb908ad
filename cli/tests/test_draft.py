"""Drafts: rows that repeat themselves take several tokens a pass, and nobody can tell but by the statistics. What is expected
when, and what the scheduler makes of it, is for core/tests/test_run_draft.c."""
import json
import os

from adapters import adapter
from run import SMALL, case, check, equal, good, lines, program, read, write

QUIET = ['-m', SMALL, '--audit', 'off', '--token-ids']


def repeating(n, **more):
    """Rows whose prompts end as they began, and which go on for long enough to go round."""
    return [{'prompt_token_ids': [5 + (i * 7 + k % (3 + i)) % 600 for k in range(40)], 'max_tokens': 120, 'ignore_eos': True, **more}
            for i in range(n)]


def counted(tmp, rows, *options):
    """OUT and the counts of tokens."""
    path, out = write(os.path.join(tmp, 'in.jsonl'), lines(rows)), os.path.join(tmp, 'out.jsonl')
    good([*QUIET, *options, '-i', path, '-o', out, '--overwrite', '--restart'])
    stats = json.loads(read(out + '.stats.json'))
    return read(out), stats['tokens'], stats['steps']['count']


@case
def drafts_change_no_byte(tmp):
    rows = repeating(6)
    for options in ([], ['--dtype', 'f32'], ['--max-seqs', '2'], ['--batch-tokens', '9'], ['--quantize', 'int8'], ['--verify', '6'],
                    ['--kv-memory', '500K']):
        want, without, steps = counted(tmp, rows, *options, '--no-draft')
        got, tokens, fewer = counted(tmp, rows, *options)
        check(got == want, options, 'other bytes')
        equal([without['drafted'], without['accepted']], [0, 0], '--no-draft')
        check(tokens['drafted'] >= tokens['accepted'] > 50, options, tokens)
        check(fewer < steps or '--batch-tokens' in options, options, fewer, steps)  # full steps have no room for more
        equal(tokens['completion'], without['completion'], 'new tokens')


@case
def rows_that_sample_or_tell_more(tmp):
    some = [*repeating(3, temperature=0.05), *repeating(3, temperature=0.2, top_k=5, logprobs=2), *repeating(3, logprobs=0),
            *({**row, 'n': 3} for row in repeating(2, temperature=0.3)), *repeating(2, prompt_logprobs=1)]
    for options in ([], ['--max-seqs', '3'], ['--dtype', 'f32', '--batch-tokens', '20']):
        want, without, _ = counted(tmp, some, *options, '--no-draft')
        got, tokens, _ = counted(tmp, some, *options)
        check(got == want and tokens['accepted'] > 50, options, tokens)
    for more in ({'repetition_penalty': 1.01}, {'logit_bias': {'7': 0.5}}, {'min_tokens': 120}):  # changed by what was said
        _, tokens, _ = counted(tmp, repeating(3, **more))
        equal([tokens['drafted'], tokens['accepted']], [0, 0], more)


@case
def rows_of_several_adapters(tmp):
    named = [f'{name}={adapter(SMALL, os.path.join(tmp, name), seed=k, rank=2)}' for k, name in enumerate('ab', 1)]
    options = [a for name in named for a in ('--lora', name)]
    rows = [{**row, 'lora': (None, 'a', 'b')[i % 3]} for i, row in enumerate(repeating(9))]
    want, _, _ = counted(tmp, rows, *options, '--no-draft')
    got, tokens, _ = counted(tmp, rows, *options)
    check(got == want and tokens['accepted'] > 50, tokens)


@case
def ends_inside_a_draft(tmp):
    """An end token, a stop string or the limit may come in the middle of what was expected."""
    first = json.loads(good(QUIET, repeating(1)).out)['token_ids']
    for k in range(60, 90):
        rows = [*repeating(1, stop_token_ids=[first[k]]), *repeating(1, max_tokens=k), *repeating(1, stop=['e'], min_tokens=0)]
        want, got = good([*QUIET, '--no-draft', '--no-fold'], rows).out, good([*QUIET, '--no-fold'], rows).out
        check(got == want, k, want, got)


@case
def the_summary_tells(tmp):
    for more, told in (([], True), (['--no-draft'], False)):
        r = program([*QUIET, *more, '-o', os.path.join(tmp, f'out{told}')], lines(repeating(2)), quiet=False)
        equal((r.code, 'accepted' in r.err), (0, told), r.err)
