"""The trace and the report of several ranks: every rank's steps are there, and they add up to the statistics."""
import json
import os

from events import load, spans
from page import Page, check_numbers
from ranks import Run, local, needs_mpi
from run import SLOW, SMALL, case, check, equal, lines, read, write

LAYOUTS = [(3, 1), (4, 2)]  # ranks and --tp
N_ROW = 24 if SLOW else 60


@case
def steps_of_all_ranks(tmp):
    needs_mpi()
    rows = [{'prompt': 'Once upon a time ' * (i % 9 + 1), 'max_tokens': 2 + i % 20} for i in range(N_ROW)]
    path = write(os.path.join(tmp, 'in.jsonl'), lines(rows))
    out, page, trace = (os.path.join(tmp, name) for name in ('out', 'page', 'trace'))
    for n, tp in LAYOUTS:
        with Run(local(n), ['-m', SMALL, '-i', path, '-o', out, '--overwrite', '--audit', 'off', '--tp', str(tp),
                            '--report', page, '--trace', trace]) as r:
            equal(r.end(), 0, r.err)
        events, stats = load(trace), json.loads(read(out + '.stats.json'))
        host = stats['ranks'][0]['host']
        equal(sorted(e['args']['name'] for e in events if e['name'] == 'process_name'), [f'rank {i} on {host}' for i in range(n)],
              'processes')
        steps = [[e for e in spans(events, i, 1) if e['name'] == 'step'] for i in range(n)]
        equal(sum(map(len, steps[::tp])), stats['steps']['count'], f'{n} ranks, tp {tp}: steps')
        for i in range(n):
            lead = steps[i - i % tp]
            equal([(e['args']['step'], e['args']['n_tok']) for e in steps[i]],
                  [(e['args']['step'], e['args']['n_tok']) for e in lead], f'{n} ranks, tp {tp}: rank {i} takes the steps of its leader')
        total = sum(e['args']['n_tok'] for i in range(0, n, tp) for e in steps[i])
        check(abs(total - stats['steps']['tokens_mean'] * stats['steps']['count']) < 0.001 * total, total)
        in_time = [e for i in range(n) for e in steps[i] if e['ts'] + e['dur'] > 1e6 * stats['time_s']['total']]
        equal(in_time, [], 'steps after the end')
        equal(len({e['id'] for e in events if e['ph'] == 'b'}), N_ROW, 'rows')
        text = read(page).decode()
        check_numbers(Page(text), stats)
        check('For other ranks' in text, 'ranks of the page')
