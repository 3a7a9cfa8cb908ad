"""Runs of several ranks for the tests: start one, look at its processes, do them harm, and see how it ends."""
import json
import os
import re
import shutil
import signal
import subprocess
import time
import uuid

import run
from run import CLEAN_ENV, PROGRAM, SLOW, TINY, WAIT_S, Skip, check, equal, lines, read

GONE_S = 10     # processes left after the end of a run
# What Open MPI leaves behind, known by the libraries' names: those of functions, which a rank at its end would look for in
# all debugging information, take half of its time. A report has addresses in their place, for addr2line.
LSAN = f'suppressions={run.ROOT}/core/tests/mpi/lsan.supp:print_suppressions=0:symbolize=0'
TAG = 'LLMBATCH_TEST_RUN'


def needs_mpi():
    if not shutil.which('mpirun'):
        raise Skip('no mpirun')
    if b'--tp' not in run.program(['--help'], quiet=False).out:
        raise Skip('no ranks in this build')


def local(n, *args):
    """mpirun on this machine."""
    return ['mpirun', '--allow-run-as-root', '--oversubscribe', '--bind-to', 'none', *args, '-n', str(n)]


class Run:
    """A launcher's command that is under way. Every process of it is known by a variable in its environment."""

    def __init__(self, launch, args, program=True, **env):
        self.tag = f'{TAG}={uuid.uuid4()}'
        name, _, value = self.tag.partition('=')
        # Open MPI waits for work in a spin; sharing two processors it must not
        env = {**CLEAN_ENV, name: value, 'OMPI_MCA_mpi_yield_when_idle': '1', 'LSAN_OPTIONS': LSAN, **env}
        words = [*launch, *([PROGRAM, '--progress', 'off'] if program else []), *args]
        at = words.index('mpirun') + 1
        words[at:at] = ['-x', name, '-x', 'OMPI_MCA_mpi_yield_when_idle', '-x', 'LSAN_OPTIONS']
        self.p = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)

    def processes(self):
        """{pid: environment} of all that belongs to it."""
        found = {}
        for pid in filter(str.isdigit, os.listdir('/proc')):
            try:
                with open(f'/proc/{pid}/environ', 'rb') as f:
                    env = f.read().decode('utf-8', 'replace').split('\0')
            except OSError:
                continue
            if self.tag in env:
                found[int(pid)] = dict(e.partition('=')[::2] for e in env)
        return found

    def ranks(self):
        """{rank: pid}"""
        found = {}
        for pid, env in self.processes().items():
            try:
                if os.readlink(f'/proc/{pid}/exe') == os.path.realpath(PROGRAM):
                    found[int(env['OMPI_COMM_WORLD_RANK'])] = pid
            except (OSError, KeyError):
                continue
        return found

    def launcher(self):
        for pid in self.processes():
            try:
                if re.fullmatch(r'mpirun|orterun', os.path.basename(os.readlink(f'/proc/{pid}/exe'))):
                    return pid
            except OSError:
                continue
        raise AssertionError('no mpirun among its processes')

    def wait_for(self, condition, what, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            if self.p.poll() is not None:
                out, err = self.p.communicate()
                raise AssertionError(f'ended with {self.p.returncode} before {what}: {err.decode()}')
            check(time.monotonic() < end, what, 'does not come')
            time.sleep(0.02)

    def wait_until(self, condition, seconds):
        """Whether it came true in time; the run may end meanwhile."""
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            time.sleep(0.05)
        return condition()

    def end(self, seconds=WAIT_S):
        """Exit code and lines of standard error, once all of its processes are gone."""
        try:
            out, err = self.p.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            left = {rank: stack(pid) for rank, pid in self.ranks().items()}
            self.kill()
            out, err = self.p.communicate()
            raise AssertionError(f'still there after {seconds} s: {left}, {err.decode()}') from None
        self.out, self.err = out, err.decode('utf-8', 'replace')
        end = time.monotonic() + GONE_S
        while time.monotonic() < end and self.processes():
            time.sleep(0.05)
        left = self.processes()
        self.kill()
        check(not left, 'processes are left', [f'{pid}: rank {env.get("OMPI_COMM_WORLD_RANK")}' for pid, env in left.items()], self.err)
        return self.p.returncode

    def kill(self):
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.p.kill()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.p.wait()

    def said(self, level='error'):
        """[(rank, host, text)] of its lines of that level."""
        return [(int(r), h, t) for r, h, t in re.findall(rf'llmbatch\[(\d+)@([^\]]*)\]: {level}: ([^\n]*)', self.err)]


def stack(pid):
    """Where the threads of a process wait, for the message of a test."""
    found = []
    for task in sorted(os.listdir(f'/proc/{pid}/task')):
        try:
            found.append(read(f'/proc/{pid}/task/{task}/comm').decode().strip() + ':' + read(f'/proc/{pid}/task/{task}/wchan').decode())
        except OSError:
            continue
    return ' '.join(found)


def finished(partial):
    """{index: line} of the rows in OUT.partial; a torn last line does not count."""
    try:
        text = read(partial).decode()
    except FileNotFoundError:
        return {}
    body = text.split('\n')[1:-1]
    return {int(line.split('\t', 2)[0]): line.split('\t', 2)[2] for line in body}


def rows_of(path):
    return [json.loads(line) for line in read(path).decode().split('\n')[:-1]]


def alone(args, tmp, name='alone'):
    """The bytes of OUT of the same rows on one rank without a launcher."""
    out = os.path.join(tmp, name)
    r = run.program([*args, '-o', out, '--overwrite'])
    check(r.code in (0, 1), r.code, r.err)
    return read(out)


def mixed_rows(n=40, fails=True):
    """Rows of all kinds: greedy and sampled, short and long, text and ids, several samples, one that fails. Behind an exit code
    of 1 mpirun waits for seconds before it ends."""
    rows = []
    for i in range(n):
        row = {'prompt_token_ids': [3 + (7 * i + j) % 90 for j in range(1 + i * 5 % 37)], 'max_tokens': 1 + i * 3 % 29}
        row.update([{}, {'temperature': 0.9, 'seed': i}, {'logprobs': 3}, {'temperature': 1.1, 'top_p': 0.8, 'n': 2},
                    {'prompt_token_ids': [], 'max_tokens': 4} if fails else {}, {'stop': ['e']}, {'ignore_eos': True}][i % 7])
        if i % 5 == 0:
            row['id'] = f'row {i}'
        rows.append(row)
    return lines(rows)


__all__ = ['Run', 'alone', 'equal', 'finished', 'local', 'mixed_rows', 'needs_mpi', 'rows_of', 'TINY']
