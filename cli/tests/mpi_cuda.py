"""Ranks with a device each (stand-ins: kernels/tests/standin): the same rows from one rank and from groups that add up
through NCCL, and how a run ends when a device or a rank fails."""
import json
import os
import re
import signal

from adapters import adapter
from devices import MODEL, STANDIN, needs_standin
from ranks import Run, finished, local, needs_mpi
from run import FULL, case, check, equal, lines, read, write

ROWS, MANY = ([{'prompt_token_ids': [5 + i, 7, 9][:1 + i % 3], 'max_tokens': 2, 'ignore_eos': True} for i in range(n)]
              for n in (3, 50))


def on_devices(tmp, n, *more, rows=ROWS, launch=None, **env):
    needs_mpi()
    needs_standin()
    path = write(os.path.join(tmp, 'rows.jsonl'), lines(rows))
    out = os.path.join(tmp, 'out.jsonl')
    args = ['-m', MODEL, '-i', path, '-o', out, '--device', 'cuda', '--threads', '1', '--batch-tokens', '16',
            '--max-model-len', '64', '--rank-timeout', '60s', *more]
    return Run(launch or local(n), args, LLMBATCH_CUDA_LIBRARY=STANDIN, STANDIN_PROCESSES='1', **env), out


def bytes_of(tmp, n, *more, **env):
    r, out = on_devices(tmp, n, *more, '--overwrite', **env)
    with r:
        code = r.end(120)
    equal(code, 0, f'{n} ranks: {r.err}')
    return read(out)


@case
def groups_give_the_same_bytes(tmp):
    alone = bytes_of(tmp, 1)
    equal(bytes_of(tmp, 2, '--tp', '2'), alone, 'a group of two')
    equal(bytes_of(tmp, 2, '--tp', '1'), alone, 'two groups of one')


@case
def groups_record_their_steps(tmp):
    """Decode steps of a group come from graphs, collectives inside, on each rank: the bytes of one rank whose steps are
    launched. Rows end one after the other, and a graph is destroyed for the next: one alone is kept."""
    rows = [{'id': i, 'prompt_token_ids': [5 + i, 7, 9][:1 + i], 'max_tokens': n, 'temperature': 0.8, 'ignore_eos': True}
            for i, n in enumerate((17, 12, 7) if FULL else (14, 8, 5))]
    plain = bytes_of(tmp, 1, rows=rows, LLMBATCH_CUDA_GRAPHS='0')
    for kept in ('1', '64') if FULL else ('1',):
        r, out = on_devices(tmp, 2, '--tp', '2', '--overwrite', '--log-level', 'debug', rows=rows,
                            LLMBATCH_CUDA_GRAPHS=kept)
        with r:
            code = r.end(120)
        equal(code, 0, r.err)
        equal(read(out), plain, f'{kept} graphs kept')
        said = re.findall(r'graphs: (\d+) of (\d+) decode steps were queued from (\d+) graphs', r.err)
        check(said and all(int(n) >= 6 and int(made) >= 2 for n, _, made in said), r.err)


@case
def a_ring_is_another_run(tmp):
    """Its order of additions is its own, so that what another order began is not gone on with."""
    def fingerprint(**env):
        bytes_of(tmp, 2, '--tp', '2', '--stats', stats, **env)
        return json.loads(read(stats))['fingerprint']
    stats = os.path.join(tmp, 'stats.json')
    ordered, ring = fingerprint(), fingerprint(LLMBATCH_NCCL_RING='1')
    equal((ordered.get('tp'), ordered.get('nccl_ring')), (2, None), 'in order')
    equal((ring.get('tp'), ring.get('nccl_ring')), (2, True), 'in a ring')


@case
def a_device_fails(tmp):
    """That of one rank, while it opens and while it works: all end, and the error names the rank and the call."""
    script = 'test $OMPI_COMM_WORLD_RANK = 0 || export STANDIN_FAIL={} STANDIN_DEAD=1; exec "$@"'
    for n in (20, 900 if FULL else 300):
        r, _ = on_devices(tmp, 2, '--tp', '2', '--overwrite', '--restart', rows=MANY,
                          launch=[*local(2), 'sh', '-c', script.format(n), 'sh'])
        with r:
            code = r.end(60)
        equal(code, 4, f'exit code when call {n} fails: {r.err}')
        check(re.search('rank 1.*(cuda|nccl|kernel|product)', r.err), r.err)


@case
def a_rank_is_killed(tmp):
    """Finished rows are kept, and the same command goes on to what an undisturbed run makes."""
    r, out = on_devices(tmp, 2, '--tp', '2', '--max-seqs', '2', rows=MANY[:16])
    with r:
        r.wait_for(lambda: len(r.ranks()) == 2 and len(finished(out + '.partial')) >= 1, 'a finished row')
        before = finished(out + '.partial')
        os.kill(r.ranks()[1], signal.SIGKILL)
        code = r.end(60)
    check(code in (4, 137), f'exit {code}', r.err)
    kept = finished(out + '.partial')
    check(before.items() <= kept.items(), 'finished rows are lost')
    r, out = on_devices(tmp, 2, '--tp', '2', '--max-seqs', '2', rows=MANY[:16])
    with r:
        equal(r.end(120), 0, f'gone on with: {r.err}')
    equal(json.loads(read(out + '.stats.json'))['rows']['resumed'], len(kept), 'rows taken over')
    resumed = read(out)
    equal(bytes_of(tmp, 1, rows=MANY[:16]), resumed, 'rows')


@case
def adapters_in_groups(tmp):
    modules = ('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj')
    lora = [x for k in range(2)
            for x in ('--lora', f'a{k}=' + adapter(MODEL, os.path.join(tmp, f'a{k}'), rank=3 + 6 * k, seed=k, modules=modules))]
    rows = [dict(r, **({'lora': f'a{i % 2}'} if i else {})) for i, r in enumerate(ROWS)]
    alone = bytes_of(tmp, 1, *lora, rows=rows)
    equal(bytes_of(tmp, 2, '--tp', '2', *lora, rows=rows), alone, 'a group of two')
    check(alone != bytes_of(tmp, 1), 'adapters that do nothing')
