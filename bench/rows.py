#!/usr/bin/env python3
"""What a row costs beside the forward pass: 10^5 and 10^6 rows of 32 prompt ids and 8 new tokens on the null device.

    rows.py PROGRAM [MODEL] [--rows N,N] [-- OPTIONS of llmbatch]

Prints for each number of rows user and system time of all threads over the rows, and the peak of the resident memory.
Exit 1 when a bound of the engine's contract is not kept: 50 us a row, 200 MB beside 16 bytes a row, and the same cost of
a row for both numbers (within a fifth)."""
import argparse
import os
import random
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MAX_US, MAX_BYTES, ROW_BYTES, SPREAD = 50, 200e6, 16, 1.2


def make(path, n, n_vocab=512):
    """Ids of two digits or more, no two rows alike."""
    draw = random.Random(n)
    with open(path, 'w', encoding='ascii') as f:
        for i in range(n):
            ids = ','.join(map(str, draw.choices(range(10, n_vocab), k=32)))
            f.write('{"id":"row-%d","prompt_token_ids":[%s]}\n' % (i, ids))


def run(args):
    """Seconds of user and system time, bytes at the peak."""
    pid = os.spawnv(os.P_NOWAIT, args[0], args)
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f'{" ".join(args)}: status {status}')
    return usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('program')
    p.add_argument('model', nargs='?', default=os.path.join(ROOT, 'testdata/tiny-llama'))
    p.add_argument('--rows', default='100000,1000000')
    p.add_argument('options', nargs='*')
    a = p.parse_args()
    bad, costs = [], []
    print('rows      us a row (user + system)   peak MB   beside 16 bytes a row')
    with tempfile.TemporaryDirectory(prefix='llmbatch-') as tmp:
        for n in map(int, a.rows.split(',')):
            path = os.path.join(tmp, f'{n}.jsonl')
            make(path, n)
            user, system, peak = run([a.program, '-m', a.model, '--device', 'null', '-i', path, '-o', path + '.out',
                                      '--max-tokens', '8', '--progress', 'off', *a.options])
            cost, beside = 1e6 * (user + system) / n, peak - ROW_BYTES * n
            costs.append(cost)
            print(f'{n:<9} {cost:6.1f} ({1e6 * user / n:.1f} + {1e6 * system / n:.1f})   {peak / 1e6:14.0f} {beside / 1e6:10.0f}',
                  flush=True)
            if cost > MAX_US:
                bad.append(f'{n} rows: {cost:.1f} us a row, {MAX_US} are allowed')
            if beside > MAX_BYTES:
                bad.append(f'{n} rows: {beside / 1e6:.0f} MB, {MAX_BYTES / 1e6:.0f} are allowed')
            for name in os.listdir(tmp):
                os.remove(os.path.join(tmp, name))
    if costs and max(costs) > SPREAD * min(costs):
        bad.append(f'a row costs {min(costs):.1f} to {max(costs):.1f} us')
    print('\n'.join(bad) or 'all bounds are kept')
    sys.exit(1 if bad else 0)


if __name__ == '__main__':
    main()
