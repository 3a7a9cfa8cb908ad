#!/usr/bin/env python3
"""mpi_fault.py MPIRUN PROGRAM: runs mpi_fault with a victim in every way and looks at what is said, at the exit code and
at how soon all processes have gone."""
import os
import re
import subprocess
import sys
import time

mpirun, program = sys.argv[1], os.path.abspath(sys.argv[2])
TIMEOUT_S = 4  # mpi_fault.c's
bad = []


def processes():
    """Those of this program that are there, zombies not counted."""
    found = []
    for pid in os.listdir('/proc'):
        try:
            if pid.isdigit() and os.readlink(f'/proc/{pid}/exe') == program:
                found.append(int(pid))
        except OSError:
            pass
    return found


def case(ranks, per_host, what, victim, pattern, within):
    args = [mpirun, '-n', str(ranks), '--oversubscribe', '--bind-to', 'none', program, str(ranks), str(per_host), what,
            str(victim)]
    if what == 'kill':  # the launcher leaves the end of the others to themselves, and exits 0 then
        args.insert(1, '--enable-recovery')
    begin = time.monotonic()
    done = subprocess.run(args, capture_output=True, text=True, timeout=120)
    took = time.monotonic() - begin
    name = f'{ranks} ranks, {per_host or ranks} a host, {what} rank {victim}'
    left = processes()
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
    print(f'{name}: exit {done.returncode} after {took:.1f} s {said}', flush=True)


START_S = 8  # of a launcher on a busy machine
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
for one in SAMPLE + (MORE if os.environ.get('LB_TEST_FULL') == '1' else []):
    case(*one)
print('\n'.join(bad) or 'faults: all named, all processes gone')
sys.exit(1 if bad else 0)
