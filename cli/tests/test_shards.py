"""Shards of a run, and their outputs put together: what the whole run makes."""
import gzip
import json
import os

from run import SMALL, case, check, equal, good, lines, program, read, refused, write
from test_resume import keep_partial, mixed_rows

QUIET = ['--progress', 'off', '--audit', 'off']


def whole(tmp, rows, *options, out='whole.jsonl'):
    path = write(os.path.join(tmp, 'in.jsonl'), lines(rows))
    args = ['-m', SMALL, '--audit', 'off', *options, '-i', path]
    equal(program([*args, '-o', os.path.join(tmp, out)]).code, 1, 'the whole run')
    return args, os.path.join(tmp, out)


def shards(tmp, args, n, out='part-%s.jsonl'):
    made = []
    for i in range(n):
        r = program([*args, '--shard', f'{i}/{n}', '-o', os.path.join(tmp, out)])
        check(r.code in (0, 1) and not r.err, r.code, r.err)
        made.append(os.path.join(tmp, out.replace('%s', f'{i}-of-{n}')))
    return made


@case
def shards_make_the_whole(tmp):
    args, out = whole(tmp, mixed_rows(46)[1:])
    for n in (1, 3, 7):
        parts = shards(tmp, args, n)
        stats = [json.loads(read(p + '.stats.json')) for p in parts]
        equal(sum(s['rows']['total'] for s in stats), 46, f'rows of {n} shards')
        for i, p in enumerate(parts):
            want = read(out).splitlines()[i::n]
            equal(read(p).splitlines(), want, f'shard {i}/{n}')
        merged = os.path.join(tmp, f'merged-{n}.jsonl')
        good(['--merge', '-o', merged, *parts])
        check(read(merged) == read(out), n, 'shards do not make the whole')
        check(good(['--merge', *parts]).out == read(out), n, 'on standard output')
        check(not os.path.exists(merged + '.partial'), os.listdir(tmp))


@case
def shards_of_few_rows(tmp):
    rows = [{'prompt': 'a', 'max_tokens': 2}, {'prompt': 'b', 'max_tokens': 2}]
    path = write(os.path.join(tmp, 'in.jsonl'), lines(rows))
    args = ['-m', SMALL, '--audit', 'off', '-i', path]
    want = good(args).out
    made = []
    for i in range(4):
        made.append(os.path.join(tmp, f'p{i}.jsonl.gz'))
        r = program([*args, '--shard', f'{i}/4', '-o', made[-1]])
        check(r.code == 0 and (not r.err) == (i < 2), r.err)
    equal(good(['--merge', *made]).out, want, 'merged')
    packed = os.path.join(tmp, 'all.jsonl.gz')
    good(['--merge', '-o', packed, *made])
    equal(gzip.decompress(read(packed)), want, 'merged and compressed')


@case
def shards_that_do_not_fit_together(tmp):
    args, _ = whole(tmp, mixed_rows(20)[1:])
    a, b, c = shards(tmp, args, 3)
    out = os.path.join(tmp, 'merged.jsonl')
    text = read(c)
    short = write(os.path.join(tmp, 'short.jsonl'), text[:text[:-1].rindex(b'\n') + 1])
    shorter = write(os.path.join(tmp, 'shorter.jsonl'), b''.join(text.splitlines(True)[:-2]))
    torn = write(os.path.join(tmp, 'torn.jsonl'), text[:-20])
    other = write(os.path.join(tmp, 'other.jsonl'), b'no JSON\n' * 6)
    for files, says in (([a, c, b], 'order'), ([a, b], 'row'), ([a, b, shorter], 'ends after'), ([a, b, torn], 'no row'),
                        ([a, b, c, c], 'row'), ([a, b, other], 'other.jsonl:1'), ([a, b, '/no/file'], '/no/file')):
        refused(program(['--merge', '-o', out, *files]), 3, says)
        check(not os.path.exists(out) and not os.path.exists(out + '.partial'), files, os.listdir(tmp))
    # 20 rows are 7, 7 and 6: five rows in the last are too few, and one row less everywhere is a whole
    refused(program(['--merge', '-o', out, a, b, short]), 3, 'ends after')
    refused(program(['--merge', '-o', a, b, c]), 2, 'exists')
    refused(program(['--merge', '-o', a, '--overwrite', a, b, c]), 2, 'input')
    refused(program(['--merge']), 2, 'outputs of all shards')
    refused(program(['--merge', '-m', SMALL, '-p', 'a']), 2, '--prompt')


@case
def merging_leaves_what_a_run_left(tmp):
    args, _ = whole(tmp, mixed_rows(12)[1:])
    parts = shards(tmp, args, 2)
    out = os.path.join(tmp, 'out.jsonl')
    partial = keep_partial([*args, '-o', out])
    before = read(partial)
    refused(program(['--merge', '-o', out, *parts]), 2, 'partial')
    check(read(partial) == before, 'OUT.partial has changed')
    good(['--merge', '--restart', '-o', out, *parts])
    check(not os.path.exists(partial), os.listdir(tmp))


@case
def a_shard_is_resumed(tmp):
    args, _ = whole(tmp, mixed_rows(40)[1:])
    out = os.path.join(tmp, 'part.jsonl')
    mine = [*args, '--shard', '1/3', '-o', out]
    equal(program(mine).code in (0, 1), True, 'exit')
    want = read(out)
    os.remove(out)
    partial = keep_partial(mine)
    text = read(partial).splitlines(True)
    write(partial, b''.join(text[:6]))
    r = program([*args, '--shard', '2/3', '-o', out])
    refused(r, 2, 'shard')
    check(program(mine).code in (0, 1), 'exit')
    check(read(out) == want, 'the shard differs after resuming')
    equal(json.loads(read(out + '.stats.json'))['rows']['resumed'], 5, 'resumed')
    check(program(mine).code in (0, 1), 'already complete')
    check(program([*mine, '--retry-errors']).code in (0, 1), 'retry')
    check(read(out) == want, 'the shard differs after --retry-errors')


@case
def bad_shards(tmp):
    for text in ('3', '3/3', '-1/3', '0/0', 'a/b', '1/2/3', '0/', '/2', ' 0/2'):
        refused(program(['-m', SMALL, '-p', 'a', '--shard', text]), 2, '--shard')
    refused(program(['-m', SMALL, '-p', 'a', '--shard', '0/2']), 2, 'prompt')
