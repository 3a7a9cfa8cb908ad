#!/usr/bin/env python3
"""A paper model of a run on many hosts: tokens a second, and what share of perfect scaling that is, for 8, 64 and 512 hosts.

    python3 bench/scale.py [--rows N]

Steps are simulated as the scheduler makes them (decode tokens of all running rows, then prompt chunks up to the token
budget, longest prompts first); the time of a step comes from the bytes and operations of the model and from a host and a
network that are given, see HOST and NETWORKS: assumptions, each with its origin. Nothing is overlapped that the program
does not overlap."""
import argparse
import math
import random

# One host: 64 cores of EPYC Zen 5. Products: 507 GFLOP/s a core in registers (bench/peaks.tsv) at a clock that falls to
# 0.75 with all cores busy (assumed), of which a run reaches 0.85 (engine.md 6). Attention at 0.30 of the peak (RESULTS.md).
# Memory: 12 channels of DDR5-6000 are 576 GB/s, of which reading gives 0.75 (assumed). Files: 2 GB/s from a local disk, or
# 40 GB/s of a parallel file system that all hosts share (both assumed).
HOST = {'flops': 64 * 507e9 * 0.75, 'product': 0.85, 'attention': 0.30, 'memory': 0.75 * 576e9, 'bytes': 256e9,
        'disk': 2e9, 'shared_files': 40e9}
# Gb/s of a link, seconds a message takes besides its bytes, and the share of the line rate that one stream gets
# (25: TCP; 100 and 400: RDMA)
NETWORKS = {25: (30e-6, 0.80), 100: (4e-6, 0.90), 400: (3e-6, 0.90)}
ROW_S = 50e-6        # processor time of rank 0 a row, the limit that engine.md 4 sets
ROW_THREADS = 2      # that it may take beside the forward pass
BUDGET = 4096        # --batch-tokens
MAX_SEQS = 2048      # --max-seqs
ELEM = 2             # bf16


class Model:
    def __init__(self, name, n_layer, dim, n_head, n_kv_head, head_dim, ffn, vocab, tied=False, moe=None, n_dense=0, segments=8):
        """moe: experts, experts a token takes, width of one, shared experts; the first n_dense layers have none."""
        self.name, self.n_layer, self.dim, self.vocab, self.segments = name, n_layer, dim, vocab, segments
        self.attn = dim * (n_head + 2 * n_kv_head) * head_dim + n_head * head_dim * dim
        self.attn_flops = 4 * n_head * head_dim * n_layer             # a position that a token looks at, all layers
        self.kv_bytes = 2 * n_kv_head * head_dim * n_layer * ELEM     # a token
        self.moe, self.n_dense = moe, n_dense if moe else n_layer
        self.ffn = 3 * dim * ffn
        self.expert = 3 * dim * moe[2] if moe else 0
        self.head = dim * vocab
        self.weights = n_layer * self.attn + self.n_dense * self.ffn + self.head * (1 if tied else 2)
        if moe:
            self.weights += (n_layer - n_dense) * (moe[0] + moe[3]) * self.expert
        self.bytes = self.weights * ELEM

    def active(self):
        """Weights that a token meets in the layers."""
        w = self.n_layer * self.attn + self.n_dense * self.ffn
        return w + (self.n_layer - self.n_dense) * (self.moe[1] + self.moe[3]) * self.expert if self.moe else w

    def touched(self, n_tok):
        """Bytes of weights that a step reads: experts that none of its tokens takes stay where they are."""
        w = self.n_layer * self.attn + self.n_dense * self.ffn + self.head
        if self.moe:
            n, k, _, shared = self.moe
            w += (self.n_layer - self.n_dense) * (n * (1 - (1 - k / n) ** n_tok) + shared) * self.expert
        return w * ELEM

    def smallest_tp(self, host):
        """Ranks whose memory holds a copy, with a fifth left for the cache."""
        tp = 1
        while self.bytes / tp > 0.8 * host['bytes'] and tp < self.segments:
            tp *= 2
        return tp


MODELS = {m.name: m for m in (
    Model('Llama-3-8B', 32, 4096, 32, 8, 128, 14336, 128256, segments=8),
    Model('Llama-3-70B', 80, 8192, 64, 8, 128, 28672, 128256, segments=16),
    Model('GLM-4.5', 92, 5120, 96, 8, 128, 12288, 151552, moe=(160, 8, 1536, 1), n_dense=3, segments=16))}


def reduce_s(n_bytes, tp, net):
    """All ranks of a group add up n_bytes of f32: recursive doubling, the whole vector each round, both ways at once; then
    the addition, which reads two and writes one."""
    if tp == 1:
        return 0.0
    latency, share = NETWORKS[net]
    return math.log2(tp) * (latency + n_bytes / (share * net * 1e9 / 8) + 3 * n_bytes / HOST['memory'])


def step_s(m, tp, net, n_tok, n_wanted, positions, kv_read):
    """Seconds of a step, and of them in collectives: tokens, tokens whose logits are wanted, positions attended to over all
    tokens, bytes of cache read."""
    flops = HOST['flops'] * HOST['product'] * tp
    products = max(2 * (m.active() * n_tok + m.head * n_wanted) / flops, m.touched(n_tok) / (HOST['memory'] * tp))
    attention = max(m.attn_flops * positions / (HOST['flops'] * HOST['attention'] * tp), kv_read / (HOST['memory'] * tp))
    collective = (2 * m.n_layer + 1) * reduce_s(4 * n_tok * m.dim, tp, net)
    return products + attention + collective, collective


def ragged_rows(n, seed=1):
    """The ragged mix of make_mix.py: prompt and new tokens."""
    r = random.Random(seed)
    return [(min(1024, max(8, round(r.lognormvariate(math.log(120), 0.87)))), r.randint(16, 112)) for _ in range(n)]


def run_group(m, tp, net, rows):
    """Seconds of a group for these rows, and of them in collectives."""
    rows = sorted(rows, reverse=True)
    seqs = min(MAX_SEQS, int((tp * HOST['bytes'] * 0.95 - m.bytes) / (m.kv_bytes * 300)))
    total = collectives = 0.0
    ends, step, at = {}, 0, 0               # rows that decode, by the step that they end at; the next row
    n_decode = context = 0                  # of them, and of their positions
    left, begun = (rows[0][0], 0) if rows else (0, 0)   # of the prompt that is being read
    while at < len(rows) or n_decode:
        room, n_prompt, positions, finished = BUDGET - n_decode, 0, context, []
        while at < len(rows) and room > 0 and n_decode + len(finished) < seqs:
            part = min(room, left)
            positions += part * begun + part * (part + 1) // 2
            left, begun, room, n_prompt = left - part, begun + part, room - part, n_prompt + part
            if left:
                break
            finished.append(rows[at])
            at += 1
            left, begun = (rows[at][0], 0) if at < len(rows) else (0, 0)
        s, c = step_s(m, tp, net, n_decode + n_prompt, n_decode + len(finished), positions, context * m.kv_bytes)
        total, collectives = total + s, collectives + c
        context += n_decode
        step += 1
        for prompt, new in ends.pop(step, ()):
            n_decode, context = n_decode - 1, context - prompt - new
        for prompt, new in finished:
            if new > 1:
                n_decode, context = n_decode + 1, context + prompt + 1
                ends.setdefault(step + new - 1, []).append((prompt, new))
    return total, collectives


def run(m, hosts, tp, net, rows):
    """A whole run: tokens a second of all, what each kind of loss costs."""
    groups = hosts // tp
    mine = rows[::groups]
    work, collective = run_group(m, tp, net, mine)
    # rows are dealt on demand: all groups end together, and those of one stand for all
    tokens, host_work = sum(p + n for p, n in mine) * groups, len(rows) * ROW_S / ROW_THREADS
    seconds = max(work, host_work)
    load = {'disk': m.bytes / tp / HOST['disk'], 'shared': max(m.bytes / tp / HOST['disk'], groups * m.bytes / HOST['shared_files'])}
    return {'rate': tokens / seconds, 'seconds': seconds, 'collective': collective / work, 'load': load,
            'host_work': host_work / seconds, 'groups': groups}


def steady(m, tp, net, n=8000):
    """Tokens a second of a group that never runs dry, and the share of time in collectives."""
    few, many = ragged_rows(n, 2), ragged_rows(3 * n, 2)
    s, c = (b - a for a, b in zip(run_group(m, tp, net, few), run_group(m, tp, net, many)))
    return (sum(map(sum, many)) - sum(map(sum, few))) / s, c / s


def table(title, head, lines):
    print(f'\n{title}\n\n| ' + ' | '.join(head) + ' |\n|' + '---|' * len(head))
    for line in lines:
        print('| ' + ' | '.join(str(x) for x in line) + ' |')


def number(x):
    return f'{x:,.0f}' if x >= 100 else f'{x:.3g}'


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rows', type=int, default=1000000, help='of the job (1,000,000)')
    a = p.parse_args()
    rows = ragged_rows(a.rows)
    print(f'{a.rows:,} rows, {sum(p + n for p, n in rows) / len(rows):.0f} tokens each; a host: {HOST["flops"] / 1e12:.1f} TFLOP/s, '
          f'{HOST["memory"] / 1e9:.0f} GB/s, {HOST["bytes"] / 1e9:.0f} GB')
    for m in MODELS.values():
        tp, lines = m.smallest_tp(HOST), []
        one, _ = steady(m, tp, 100)
        for hosts in (8, 64, 512):
            r, few = run(m, hosts, tp, 100, rows), run(m, hosts, tp, 100, rows[:len(rows) // 10])
            lines.append((hosts, f'{tp} x {r["groups"]}', number(r['rate']), f'{100 * r["rate"] / one / r["groups"]:.0f} %',
                          f'{100 * few["rate"] / one / few["groups"]:.0f} %', number(r['seconds']),
                          number(r['load']['disk']), number(r['load']['shared']),
                          f'{100 * r["seconds"] / (r["seconds"] + r["load"]["shared"]):.0f} %', f'{100 * r["host_work"]:.1f} %'))
        table(f'{m.name}: {m.weights / 1e9:.1f}G weights, {m.active() / 1e9:.1f}G a token, {m.bytes / 1e9:.0f} GB; 100 Gb/s',
              ('hosts', 'tp x groups', 'tok/s', 'of perfect', 'a tenth of the rows', 'run s', 'load s, local', 'load s, shared files', 'share of the run, shared files',
               'rows, share of rank 0'), lines)
    lines = []
    for m in MODELS.values():
        for tp in (1, 2, 4, 8, 16):
            if tp < m.smallest_tp(HOST) or tp > m.segments:
                continue
            cells = []
            for net in NETWORKS:
                rate, share = steady(m, tp, net)
                cells += [number(rate / tp), f'{100 * share:.0f} %']
            lines.append((m.name, tp, *cells))
    table('One group: tok/s of each host, and the share of time in collectives', ('model', 'tp', *(c for net in NETWORKS for c in (f'{net} Gb/s', 'in collectives'))), lines)
    lines = []
    for m in MODELS.values():
        tp = max(m.smallest_tp(HOST), 2)
        for n_tok in (16, 128, 1024, 4096):
            cells = []
            for net in NETWORKS:
                s, c = step_s(m, tp, net, n_tok, n_tok, n_tok * 200, n_tok * 200 * m.kv_bytes)
                cells += [number(1000 * s), f'{100 * c / s:.0f} %']
            lines.append((m.name, tp, n_tok, *cells))
    table('One step of decode tokens, 200 positions each: ms, and the share in collectives', ('model', 'tp', 'tokens', *(c for net in NETWORKS for c in (f'{net} Gb/s', 'in collectives'))), lines)


if __name__ == '__main__':
    main()
