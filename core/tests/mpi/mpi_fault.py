#!/usr/bin/env python3
"""mpi_fault.py MPIRUN PROGRAM: runs mpi_fault with a victim in every way and looks at what is said, at the exit code and
at how soon all processes have gone. Its cases wait for deadlines, and do so at once; each process has its case's name in the
environment."""
import concurrent.futures
import os
import re
import subprocess
import sys
import time
import uuid

mpirun, program = sys.argv[1], os.path.abspath(sys.argv[2])
TIMEOUT_S = 4  # mpi_fault.c's
if not os.access(program, os.X_OK):  # a launcher that is to recover would wait for it
    sys.exit(f'{program} is not there: build the target mpi_fault')


def processes(tag):
    """Those of this program and case that are there, zombies not counted."""
    found = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/environ', 'rb') as f:
                if os.readlink(f'/proc/{pid}/exe') == program and tag.encode() in f.read().split(b'\0'):
                    found.append(int(pid))
        except OSError:
            pass
    return found


def case(ranks, per_host, what, victim, pattern, within):
    """What is wrong, and a line that says how it went."""
    tag = f'LLMBATCH_TEST_FAULT={uuid.uuid4()}'
    name, _, value = tag.partition('=')
    args = [mpirun, '-x', name, '-n', str(ranks), '--oversubscribe', '--bind-to', 'none', program, str(ranks), str(per_host), what,
            str(victim)]
    if what == 'kill':  # the launcher leaves the end of the others to themselves, and exits 0 then
        args.insert(1, '--enable-recovery')
    begin = time.monotonic()
    done = subprocess.run(args, capture_output=True, text=True, timeout=120, env={**os.environ, name: value})
    took = time.monotonic() - begin
    bad, name = [], f'{ranks} ranks, {per_host or ranks} a host, {what} rank {victim}'
    left = processes(tag)
    said = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    if left:
        bad.append(f'{name}: processes {left} are still there')
    code = 4 if pattern and what != 'kill' else 0
    if done.returncode != code:
        bad.append(f'{name}: exit code {done.returncode} instead of {code}')
    if pattern:
        if len(said) != 1 or not re.search(pattern, said[0]):
            bad.append(f'{name}: said {said}, {done.stderr[-2000:]}')
        if not re.search('^late: rank 0 was told' if victim != 0 else '^late: rank 1 was told', done.stderr, re.M):
            bad.append(f'{name}: the run was not told')
    if took > within:
        bad.append(f'{name}: took {took:.1f} s')
    return bad, f'{name}: exit {done.returncode} after {took:.1f} s {said}'


START_S = 8  # of a launcher on a busy machine
AT_ONCE = 6
STILL_S = START_S + TIMEOUT_S + 4
SAMPLE = [  # 5 faults; LB_TEST_FULL=1 has all
    (3, 0, 'idle', 0, None, START_S + 10),
    (3, 0, 'kill', 0, r'rank 0 on host \S+ is gone .*layer 2 of step 5', START_S + 3),
    (2, 1, 'kill', 1, r'rank 1 on host \S+\.1 is gone: its connection', START_S + 8),
    (2, 0, 'stop', 1, r'rank 1 on host \S+ gives no sign of life .*layer 2 of step 5', STILL_S),
    (2, 0, 'hang', 1, r'rank 1 on host \S+ is late: .*layer 2 of step 5', STILL_S),
    (2, 1, 'stop', 0, r'rank 0 on host \S+\.0 gives no sign of life', STILL_S),
]
MORE = [
    (2, 0, 'kill', 1, r'rank 1 on host \S+ is gone .*layer 2 of step 5', START_S + 3),
    (4, 2, 'kill', 0, r'rank 0 on host \S+\.0 is gone', START_S + 8),
    (3, 1, 'kill', 2, r'rank 2 on host \S+\.2 is gone: its connection', START_S + 8),
    (3, 0, 'stop', 0, r'rank 0 on host \S+ gives no sign of life .*layer 2 of step 5', STILL_S),
    (4, 2, 'stop', 3, r'rank 3 on host \S+\.1 gives no sign of life .*layer 2 of step 5', STILL_S),
    (2, 1, 'stop', 1, r'rank 1 on host \S+\.1 gives no sign of life', STILL_S),
    (4, 2, 'hang', 0, r'rank 0 on host \S+\.0 is late: .*layer 2 of step 5', STILL_S),
]
bad = []
with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
    for wrong, line in pool.map(lambda one: case(*one), SAMPLE + (MORE if os.environ.get('LB_TEST_FULL') == '1' else [])):
        bad += wrong
        print(line, flush=True)
print('\n'.join(bad) or 'faults: all named, all processes gone')
sys.exit(1 if bad else 0)
