"""The job scripts of man/examples under a real Slurm, on three hosts of this machine's own, and what it does to ranks."""
import os
import re
import signal

import hosts
import slurm
from ranks import LSAN, SLOW, alone, finished, mixed_rows, needs_mpi
from run import PROGRAM, ROOT, TINY, Skip, case, check, equal, lines, read, write

EXAMPLES = os.path.join(ROOT, 'man/examples')
# of Open MPI's ways between hosts, the one that these have; ranks share processors and must not spin
MPI = {'OMPI_MCA_pml': 'ob1', 'OMPI_MCA_btl': 'self,vader,tcp', 'OMPI_MCA_mpi_yield_when_idle': '1', 'LSAN_OPTIONS': LSAN}
RING = {'SLURM_PMIX_FENCE': 'ring'}     # what the scripts set by themselves: see llmbatch-mpi(7)


def on_slurm(function):
    def wrapped(tmp):
        needs_mpi()
        try:
            with slurm.Slurm(['ash', 'birch', 'cedar']) as s:
                function(tmp, s)
        except hosts.NotAllowed as e:
            raise Skip(str(e)) from e
    wrapped.__name__ = function.__name__
    return case(wrapped)


def example(s, name, options=(), args=(), **env):
    """A script of man/examples as a job; its number."""
    env = {**MPI, 'PATH': os.path.dirname(PROGRAM) + ':/usr/bin:/bin', 'MODEL': TINY, **env}
    with open(os.path.join(EXAMPLES, name), encoding='utf-8') as f:
        return s.submit(f.read(), *options, args=args, env=env)


def made(s, job, out):
    """The bytes of OUT of a job, once it has ended."""
    s.done(job)
    check(os.path.exists(out), 'no OUT:', s.report(job))
    return read(out)


@on_slurm
def slurm_runs_the_examples(tmp, s):
    rows, out = write(os.path.join(tmp, 'rows.jsonl'), mixed_rows()), os.path.join(tmp, 'out.jsonl')
    want = alone(['-m', TINY, '-i', rows], tmp)
    env = {'IN': rows, 'OUT': out, 'OPTIONS': '--progress off'}

    job = example(s, 'slurm.sh', ['--nodes=2', '--cpus-per-task=1'], **env)
    equal(made(s, job, out), want, f'slurm.sh ({s.said(job)})')
    os.remove(out)

    job = example(s, 'slurm.sh', ['--nodes=3', '--ntasks-per-node=2', '--cpus-per-task=1'], **{**env, 'OPTIONS': '--tp 2 --progress off'})
    equal(made(s, job, out), want, f'slurm.sh with --tp 2 ({s.said(job)})')
    os.remove(out)

    job = example(s, 'slurm-array.sh', ['--array=0-2', '--cpus-per-task=1'], **env)
    after = example(s, 'slurm-array.sh', ['--array=0-2', '--cpus-per-task=1', f'--dependency=afterany:{job}'], ['merge'], **env)
    equal(made(s, after, out), want, f'slurm-array.sh ({s.said(job)}, {s.said(after)})')
    check(os.path.exists(os.path.join(tmp, 'out.2-of-3.jsonl')), os.listdir(tmp))


@on_slurm
def no_task_overtakes_a_late_one(tmp, s):
    """The late one and its neighbor are in MPI_Init while the other nodes' tasks could be out of it, and talk to them."""
    rows, out = write(os.path.join(tmp, 'rows.jsonl'), mixed_rows(6)), os.path.join(tmp, 'out.jsonl')
    late = f'#!/bin/sh\n[ "$SLURM_PROCID" != 1 ] || sleep {5 if SLOW else 1}\nexec {PROGRAM} "$@"\n'
    os.chmod(write(os.path.join(tmp, 'llmbatch'), late.encode()), 0o755)
    job = example(s, 'slurm.sh', ['--nodes=3', '--ntasks-per-node=2', '--cpus-per-task=1'],
                  PATH=tmp + ':/usr/bin:/bin', IN=rows, OUT=out, OPTIONS='--progress off')
    want = alone(['-m', TINY, '-i', rows], tmp)
    equal(made(s, job, out), want, s.said(job))
    os.remove(out)
    # where nobody asks for the ring, and in the mode in which no node waits for another, Open MPI is told not to look too early
    job = s.submit(f'#!/bin/sh\nsrun -K --mpi=pmix {tmp}/llmbatch --progress off -m {TINY} -i {rows} -o {out}\n', '-N3', '-n6',
                   '--ntasks-per-node=2', env={**MPI, 'SLURM_PMIX_DIRECT_CONN': 'false'})
    equal(made(s, job, out), want, s.said(job))


@on_slurm
def a_step_whose_ranks_do_not_find_each_other(tmp, s):
    rows, out = write(os.path.join(tmp, 'rows.jsonl'), mixed_rows(4)), os.path.join(tmp, 'out.jsonl')
    job = s.submit(f'#!/bin/sh\nsrun -N 2 -n 2 --mpi=none {PROGRAM} -m {TINY} -i {rows} -o {out}; echo code $?\n', '-N2', '-n2', env=MPI)
    s.done(job)
    said = s.said(job)
    check('code 2' in said and len(re.findall(r'llmbatch[^\n]*: error: [^\n]*--mpi=pmix', said)) == 1, said)
    check(not os.path.exists(out), 'OUT is there')
    job = s.submit(f'#!/bin/sh\nsrun -N 2 -n 2 --mpi=none sh -c "exec {PROGRAM} --no-mpi --progress off -m {TINY} -i {rows} '
                   f'-o {out}.\\$SLURM_PROCID"; echo code $?\n', '-N2', '-n2', env=MPI)
    s.done(job)
    want = alone(['-m', TINY, '-i', rows], tmp)
    for rank in '01':
        equal(read(f'{out}.{rank}'), want, f'--no-mpi, task {rank} ({s.said(job)})')


def long_job(tmp, s, name, options=()):
    rows = [{'prompt_token_ids': [5 + i % 50, 7, 9], 'max_tokens': 2 if i % 4 == 0 else 60 if SLOW else 500, 'ignore_eos': True} for i in range(200)]
    path, out = write(os.path.join(tmp, 'long.jsonl'), lines(rows)), os.path.join(tmp, 'long.out')
    job = example(s, name, ['--nodes=2', '--cpus-per-task=1', *options], IN=path, OUT=out, OPTIONS='--progress off --rank-timeout 30s')
    check(s.wait(lambda: len(finished(out + '.partial')) >= 5), 'no finished rows:', s.report(job))
    return job, path, out


@on_slurm
def slurm_stops_a_run_and_starts_it_again(tmp, s):
    """USR1, which Slurm sends before the limit, comes from scancel here: Slurm's own clock counts minutes."""
    job, rows, out = long_job(tmp, s, 'slurm-requeue.sh')
    s.command('scancel', '--signal=USR1', job)
    check(s.comes_to(job, lambda task: task.get('Restarts') == '1'), 'is not in the queue again:', s.report(job))
    before = finished(out + '.partial')
    check(before and not os.path.exists(out), 'nothing is kept', s.report(job))
    s.start_again(job)
    equal(made(s, job, out), alone(['-m', TINY, '-i', rows], tmp), f'OUT after the second start ({s.report(job)})')


@on_slurm
def a_task_is_killed_under_slurm(tmp, s):
    """srun without -K leaves the others alone: they notice by themselves, or Slurm's PMIx does first."""
    rows = [{'prompt_token_ids': [5 + i % 50, 7, 9], 'max_tokens': 2 if i % 4 == 0 else 1500, 'ignore_eos': True} for i in range(400)]
    path, out = write(os.path.join(tmp, 'long.jsonl'), lines(rows)), os.path.join(tmp, 'long.out')
    for where in ('-N1', '-N2'):
        if os.path.exists(out + '.partial'):
            os.remove(out + '.partial')
        job = s.submit(f'#!/bin/sh\nsrun {where} -n 2 --kill-on-bad-exit=0 --mpi=pmix sh -c "{PROGRAM} --progress off --restart -m {TINY} '
                       f'-i {path} -o {out} --threads 1 --rank-timeout {30 if SLOW else 5}s; echo task \\$SLURM_PROCID code \\$?"; echo step $?\n', where, '-n2',
                       env={**MPI, **RING})
        check(s.wait(lambda: len(finished(out + '.partial')) >= 5), 'no finished rows:', s.report(job))
        before = finished(out + '.partial')
        found = tasks(s)
        pid = [p for p, rank in found.items() if rank == '1']
        check(len(pid) == 1, 'tasks', found)
        os.kill(pid[0], signal.SIGKILL)
        s.done(job)
        said = s.said(job)
        check('task 1 code 137' in said and re.search('step (4|137)\n', said), where, said)
        check(re.search(r'rank 1 on (host )?' + ('ash' if where == '-N1' else 'birch'), said), where, said)
        check(before.items() <= finished(out + '.partial').items(), where, 'finished rows are lost')


def tasks(s):
    """{pid: SLURM_PROCID} of the program's processes of this Slurm."""
    found = {}
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            if os.readlink(f'/proc/{pid}/exe') != os.path.realpath(PROGRAM):
                continue
            env = dict(e.partition('=')[::2] for e in read(f'/proc/{pid}/environ').decode('utf-8', 'replace').split('\0'))
        except OSError:
            continue
        if env.get('SLURM_CONF') == s.path('slurm.conf'):
            found[int(pid)] = env['SLURM_PROCID']
    return found
