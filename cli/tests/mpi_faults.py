"""Runs of several ranks that are harmed: whatever happens to a rank or to mpirun, finished rows are in OUT.partial, no
process is left, and what the program says names rank and host."""
import concurrent.futures
import os
import re
import signal
import socket
import tempfile
import time

from ranks import SLOW, Run, alone, finished, local, needs_mpi
from run import PROGRAM, TINY, Skip, case, check, equal, lines, long, read, sample, write

HOST = socket.gethostname()
TIMEOUT_S = 20 if SLOW else 4   # --rank-timeout
AT_ONCE = 3    # cases, which wait
LAYOUTS = {'dp 3': (3, 1), 'tp 2': (2, 2)}


def many_rows(tmp, n=400):
    """Rows for a minute, the first of which are done at once."""
    rows = [{'prompt_token_ids': [5 + i % 50, 7, 9], 'max_tokens': 2 if i % 4 == 0 else 1500, 'ignore_eos': True} for i in range(n)]
    return write(os.path.join(tmp, 'rows.jsonl'), lines(rows))


def under_way(tmp, layout, *more, launch=()):
    n, tp = LAYOUTS[layout]
    out = os.path.join(tmp, 'out.jsonl')
    for name in os.listdir(tmp):
        if name.startswith('out.jsonl'):
            os.remove(os.path.join(tmp, name))
    r = Run(local(n, *launch), ['-m', TINY, '-i', many_rows(tmp), '-o', out, '--tp', str(tp), '--threads', '1',
                                '--rank-timeout', f'{TIMEOUT_S}s', *more])
    r.wait_for(lambda: len(r.ranks()) == n and len(finished(out + '.partial')) >= 5, 'finished rows')
    return r, out


def kept(out, before, what):
    """What was finished is still there, as whole lines, and the run does not look done."""
    check(not os.path.exists(out), what, 'OUT is there')
    after = finished(out + '.partial')
    check(before.items() <= after.items(), what, 'finished rows are lost', len(before), len(after))
    return after


def harm(tmp, layout, rank, number, codes, says, seconds):
    what = f'{layout}, {signal.Signals(number).name} of rank {rank}'
    r, out = under_way(tmp, layout)
    with r:
        before = finished(out + '.partial')
        begin = time.monotonic()
        os.kill(r.ranks()[rank], number)
        code = r.end(60)
        took = time.monotonic() - begin
    check(took < (3 * seconds if SLOW else seconds), what, f'took {took:.1f} s', r.err)
    check(code in codes, what, f'exit {code}', r.err)
    kept(out, before, what)
    check(re.search(says.format(rank=rank, host=re.escape(HOST)), r.err), what, 'is not said:', r.err)
    return r


def every_rank(tmp, *args):
    needs_mpi()
    victims = [(layout, rank) for layout, (n, _) in LAYOUTS.items() for rank in (range(n) if not SLOW else (n - 1,))]

    def one(victim):
        return harm(tempfile.mkdtemp(dir=tmp), *victim, *args)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:  # most of their time they wait
        return list(pool.map(one, victims))


@case
def a_rank_is_killed(tmp):
    # mpirun sees it too, ends the others and exits with what killed the rank, if it comes first
    every_rank(tmp, signal.SIGKILL, (4, 137), r'rank {rank} (on|with PID \d+ on node) (host )?{host}', 10)


@case
def a_rank_stands_still(tmp):
    for r in every_rank(tmp, signal.SIGSTOP, (4,), r'rank {rank} on (host )?{host}', TIMEOUT_S + 10):
        check(len(r.said()) == 1, 'error lines:', r.said())


@case
@long
def a_rank_is_asked_to_end(tmp):
    for number in (signal.SIGTERM, signal.SIGUSR1):
        every_rank(tmp, number, (130,), '', 10)


@case
def mpirun_is_interrupted(tmp):
    needs_mpi()
    for layout in sample(sorted(LAYOUTS, reverse=True), 1):
        for number, codes in ((signal.SIGINT, (1, 130)), (signal.SIGTERM, (1, 130, 143)), (signal.SIGUSR1, (130,)), (signal.SIGKILL, (-9,))):
            what = f'{layout}, mpirun gets {signal.Signals(number).name}'
            r, out = under_way(tmp, layout)
            with r:
                before = finished(out + '.partial')
                os.kill(r.launcher(), number)
                code = r.end(30)
            check(code in codes, what, f'exit {code}', r.err)
            kept(out, before, what)


@case
def a_run_goes_on_after_a_fault(tmp):
    needs_mpi()
    tokens = 60 if SLOW else 400
    rows = [{'prompt_token_ids': [5 + i % 50, 7, 9], 'max_tokens': 2 if i % 4 == 0 else tokens, 'ignore_eos': True} for i in range(60)]
    path = write(os.path.join(tmp, 'few.jsonl'), lines(rows))
    want = alone(['-m', TINY, '-i', path, '--dtype', 'f32'], tmp)
    out = os.path.join(tmp, 'out.jsonl')
    args = ['-m', TINY, '-i', path, '-o', out, '--tp', '2', '--threads', '1', '--rank-timeout', '20s', '--dtype', 'f32']
    with Run(local(2), args) as r:
        r.wait_for(lambda: len(r.ranks()) == 2 and len(finished(out + '.partial')) >= 5, 'finished rows')
        os.kill(r.ranks()[1], signal.SIGKILL)
        check(r.end(30) in (4, 137), 'exit', r.err)
    with Run(local(3), [*args[:4], *args[4:6], '--tp', '1', *args[8:]]) as r:  # other ranks, the same bytes
        equal(r.end(), 0, f'exit of the second run ({r.err})')
    equal(read(out), want, 'OUT')


def several(first, second):
    """Two programs in one world."""
    launch = ['mpirun', '--allow-run-as-root', '--oversubscribe', '--bind-to', 'none']
    return [*launch, '-n', '1', *first, ':', '-n', '1', *second]


def refused_together(tmp, what, code, says, first, second, prefix=()):
    """One line names the rank that is at fault, nothing is written, all exit with the same code."""
    needs_mpi()
    out = os.path.join(tmp, 'out.jsonl')
    rows = write(os.path.join(tmp, 'in.jsonl'), lines([{'prompt_token_ids': [5, 6, 7], 'max_tokens': 3}] * 4))
    common = ['--progress', 'off', '--threads', '1', '-i', rows, '-o', out]
    with Run(several([PROGRAM, *common, *first], [*prefix, PROGRAM, *common, *second]), [], program=False) as r:
        equal(r.end(60), code, f'{what}: exit code ({r.err})')
    check(not os.path.exists(out), what, 'OUT is there')
    errors = re.findall(r'^llmbatch[^\n]*: error: [^\n]*', r.err, flags=re.M)
    check(len(errors) == 1 and re.search(says.format(host=re.escape(HOST)), errors[0]), what, 'error lines:', errors, r.err)


@case
def a_rank_that_cannot_read_the_model(tmp):
    for tp in ('1', '2'):
        refused_together(tmp, f'tp {tp}', 3, r'rank 1 on (host )?{host}.*/no/model', ['-m', TINY, '--tp', tp], ['-m', '/no/model', '--tp', tp])


@case
def a_rank_without_memory(tmp):
    if SLOW:
        raise Skip('sanitizers need their own memory')
    for tp in ('1', '2'):
        for what, limit in (('--data', 60000000), ('--as', 400000000)):
            refused_together(tmp, f'tp {tp}, {what}', 4, r'error: rank 1 on (host )?{host}: (out of memory|cannot map)', ['-m', TINY, '--tp', tp],
                             ['-m', TINY, '--tp', tp], ['prlimit', f'{what}={limit}'])


@case
def ranks_with_different_models(tmp):
    other = os.path.join(tmp, 'other')
    os.mkdir(other)
    for name in os.listdir(TINY):
        write(os.path.join(other, name), read(os.path.join(TINY, name)))
    config = read(os.path.join(other, 'config.json'))
    write(os.path.join(other, 'config.json'), config.replace(b'"rope_theta": 10000.0', b'"rope_theta": 20000.0'))
    for tp in ('1', '2'):
        refused_together(tmp, f'tp {tp}', 2, r'rank 1 on (host )?{host}', ['-m', TINY, '--tp', tp], ['-m', other, '--tp', tp])


@case
def ranks_with_different_kernels(tmp):
    """The run takes what all have, and says it once."""
    needs_mpi()
    path = write(os.path.join(tmp, 'rows.jsonl'), lines([{'prompt_token_ids': [5 + i, 6, 7], 'max_tokens': 20} for i in range(30)]))
    want = alone(['-m', TINY, '-i', path, '--isa', 'ref'], tmp)
    for tp in ('1', '2'):
        out = os.path.join(tmp, 'out.jsonl')
        common = [PROGRAM, '--progress', 'off', '--overwrite', '--log-level', 'info', '-m', TINY, '-i', path, '-o', out, '--tp', tp]
        for first, second in (([], ['--isa', 'ref']), (['--isa', 'ref'], [])):
            with Run(several([*common, *first], [*common, *second]), [], program=False) as r:
                equal(r.end(60), 0, f'exit code ({r.err})')
            equal(read(out), want, f'OUT with {second} on rank 1, tp {tp}')
