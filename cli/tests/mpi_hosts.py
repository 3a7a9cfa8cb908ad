"""Three hosts as network namespaces: the same bytes over TCP as on one rank, and what happens when a host is cut off."""
import json
import os
import re
import time

import hosts
from ranks import SLOW, Run, alone, finished, mixed_rows, needs_mpi
from run import TINY, Skip, case, check, equal, lines, long, read, sample, write

NAMES = ['ash', 'birch', 'cedar']
TIMEOUT_S, RETRIES = (8, 5) if SLOW else (4, 4)    # --rank-timeout, sooner than TCP gives up
AT_ONCE = 3    # cases, which wait


def cluster():
    needs_mpi()
    return hosts.Hosts(NAMES, RETRIES)


def on_hosts(function):
    """A case that gets the hosts; without them it is skipped."""
    def wrapped(tmp):
        try:
            with cluster() as c:
                function(tmp, c)
        except hosts.NotAllowed as e:
            raise Skip(str(e)) from e
    wrapped.__name__ = function.__name__
    return case(wrapped)


@on_hosts
def groups_over_hosts_give_the_same_bytes(tmp, c):
    for dtype in ('f32', 'bf16')[:1 if SLOW else 2]:
        rows = write(os.path.join(tmp, 'rows.jsonl'), mixed_rows(20 if SLOW else 40, dtype == 'f32'))
        want = alone(['-m', TINY, '-i', rows, '--dtype', dtype], tmp)
        for where, tp in sample((('ash:1,birch:2,cedar:1', 2), ('ash:2,birch:2', 4), ('ash,birch,cedar', 1), ('ash,birch', 2)), 2):
            what, out = f'{where}, tp {tp}, {dtype}', os.path.join(tmp, 'out.jsonl')
            with Run(c.mpirun('-H', where), ['-m', TINY, '-i', rows, '-o', out, '--overwrite', '--tp', str(tp), '--dtype', dtype,
                                             '--threads', '1']) as r:
                check(r.end() in (0, 1), what, r.err)
            equal(read(out), want, what)
            named = {h.split(':')[0] for h in where.split(',')}
            ranks = json.loads(read(out + '.stats.json'))['ranks']
            equal({r['host'] for r in ranks}, named, 'hosts in the stats')


def under_way(tmp, c, where, tp, n_rank):
    out = os.path.join(tmp, 'out.jsonl')
    rows = [{'prompt_token_ids': [5 + i % 50, 7, 9], 'max_tokens': 2 if i % 4 == 0 else 1500, 'ignore_eos': True} for i in range(400)]
    path = write(os.path.join(tmp, 'rows.jsonl'), lines(rows))
    r = Run(c.mpirun('-H', where), ['-m', TINY, '-i', path, '-o', out, '--restart', '--tp', str(tp), '--threads', '1',
                                    '--rank-timeout', f'{TIMEOUT_S}s'])
    r.wait_for(lambda: len(r.ranks()) == n_rank and len(finished(out + '.partial')) >= 5, 'finished rows')
    return r, out


def cut_off(tmp, layout, lost, says):
    """The link of a host goes down in mid-run: the ranks end by themselves, mpirun may still wait for the host's daemon."""
    try:
        with cluster() as c:
            where, tp, n_rank = layout
            r, out = under_way(tmp, c, where, tp, n_rank)
            with r:
                before = finished(out + '.partial')
                begin = time.monotonic()
                c.cut(lost)
                gone = r.wait_until(lambda: not r.ranks(), TIMEOUT_S + 10)
                took = time.monotonic() - begin
                check(gone, lost, f'is cut off, after {took:.1f} s ranks are left:', r.ranks())
                code = r.end(60)
    except hosts.NotAllowed as e:
        raise Skip(str(e)) from e
    what = f'{lost} is cut off from {where}, tp {tp}'
    check(re.search(says, r.err), what, 'is not said:', r.err)
    equal(code, 4, f'{what}: exit code ({r.err})')
    check(not os.path.exists(out), what, 'OUT is there')
    after = finished(out + '.partial')
    check(before.items() <= after.items(), what, 'finished rows are lost', len(before), len(after))


@case
@long
def a_host_of_a_group_of_its_own_is_cut_off(tmp):
    cut_off(tmp, ('ash,birch,cedar', 1, 3), 'cedar', r'rank 2 on (host )?cedar')


@case
def a_host_inside_a_group_is_cut_off(tmp):
    cut_off(tmp, ('ash,birch', 2, 2), 'birch', r'rank 1 on (host )?birch')


@case
@long
def a_host_inside_another_group_is_cut_off(tmp):
    cut_off(tmp, ('ash:2,birch,cedar', 2, 4), 'cedar', r'rank [23] on (host )?(birch|cedar)')


@on_hosts
def hosts_with_different_files(tmp, c):
    """The file that a host has in the same place is another one."""
    model = os.path.join(tmp, 'model')
    os.mkdir(model)
    for name in os.listdir(TINY):
        write(os.path.join(model, name), read(os.path.join(TINY, name)))
    other = write(os.path.join(tmp, 'config.json'), read(os.path.join(model, 'config.json')).replace(b'10000.0', b'20000.0'))
    c.on('birch', 'mount', '--bind', other, os.path.join(model, 'config.json'))
    rows = write(os.path.join(tmp, 'rows.jsonl'), lines([{'prompt_token_ids': [5, 6, 7], 'max_tokens': 3}] * 4))
    for tp in (1, 2):
        out = os.path.join(tmp, 'out.jsonl')
        with Run(c.mpirun('-H', 'ash,birch'), ['-m', model, '-i', rows, '-o', out, '--tp', str(tp)]) as r:
            equal(r.end(60), 2, f'exit code ({r.err})')
        errors = re.findall(r'^llmbatch[^\n]*: error: [^\n]*', r.err, flags=re.M)
        check(len(errors) == 1 and re.search(r'rank 1 on (host )?birch', errors[0]), errors, r.err)
        check(not os.path.exists(out), 'OUT is there')
