#!/usr/bin/env python3
"""What adapters cost: the same rows without one, with one for all, and dealt over several; medians of interleaved runs.

    bench/lora.py [-n RUNS] [--adapters N] [--rank R] [--rows N] [--prompt N] [--new N] [--threads N] PROGRAM MODEL

MODEL is a folder with model.safetensors, or a .gguf file, of a family with Llama's names. The adapters' numbers are
random and have every projection of every layer. Rows share nothing, so that all of them are computed. On a busy machine `--threads 1` and the processor's time, loading
included, tell more than the rate."""
import argparse
import json
import os
import random
import re
import statistics
import struct
import subprocess
import tempfile

GGUF = {'attn_q': 'self_attn.q_proj', 'attn_k': 'self_attn.k_proj', 'attn_v': 'self_attn.v_proj', 'attn_output': 'self_attn.o_proj',
        'ffn_gate': 'mlp.gate_proj', 'ffn_up': 'mlp.up_proj', 'ffn_down': 'mlp.down_proj'}
KINDS = tuple(name.split('.')[1] for name in GGUF.values())


def gguf_shapes(path):
    with open(path, 'rb') as f:
        def number(form):
            return struct.unpack('<' + form, f.read(struct.calcsize(form)))[0]

        def text():
            return f.read(number('Q')).decode()

        def skip(kind):
            if kind == 8:
                text()
            elif kind == 9:
                kind, n = number('I'), number('Q')
                for _ in range(n):
                    skip(kind)
            else:
                f.read([1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][kind])
        f.read(8)
        n_tensor, n_member = number('Q'), number('Q')
        for _ in range(n_member):
            text()
            skip(number('I'))
        for _ in range(n_tensor):
            name, n_dim = text(), number('I')
            dims = [number('Q') for _ in range(n_dim)]
            number('I'), number('Q')
            m = re.fullmatch(r'blk\.(\d+)\.(\w+)\.weight', name)
            if m and m[2] in GGUF:
                yield f'model.layers.{m[1]}.{GGUF[m[2]]}', dims[::-1]


def shapes(model):
    if model.endswith('.gguf'):
        return dict(gguf_shapes(model))
    with open(os.path.join(model, 'model.safetensors'), 'rb') as f:
        header = json.loads(f.read(struct.unpack('<Q', f.read(8))[0]))
    return {name[:-7]: t['shape'] for name, t in header.items() if name.endswith(tuple(f'{kind}.weight' for kind in KINDS))}


def write_adapter(folder, modules, rank, seed):
    draw, header, body = random.Random(seed), {}, []
    pool = b''.join(struct.pack('<f', draw.uniform(-.02, .02))[2:] for _ in range(65536)) * 8  # bf16 numbers
    at = 0
    for name, (m, n) in sorted(modules.items()):
        for ab, dim in (('A', [rank, n]), ('B', [m, rank])):
            size, first = 2 * dim[0] * dim[1], 2 * draw.randrange(65536)
            header[f'base_model.model.{name}.lora_{ab}.weight'] = {'dtype': 'BF16', 'shape': dim, 'data_offsets': [at, at + size]}
            body.append((pool * (1 + size // len(pool)))[first:first + size] if size > len(pool) - first else pool[first:first + size])
            body[-1] = (body[-1] + pool * (1 + size // len(pool)))[:size]
            at += size
    text = json.dumps(header).encode()
    with open(os.path.join(folder, 'adapter_model.safetensors'), 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text + b''.join(body))
    with open(os.path.join(folder, 'adapter_config.json'), 'w', encoding='utf-8') as f:
        json.dump({'peft_type': 'LORA', 'r': rank, 'lora_alpha': rank, 'target_modules': list(KINDS)}, f)


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    for name, value in (('adapters', 8), ('rank', 16), ('rows', 64), ('prompt', 64), ('new', 64), ('threads', 0)):
        p.add_argument(f'--{name}', type=int, default=value)
    p.add_argument('-n', type=int, default=5)
    p.add_argument('program')
    p.add_argument('model')
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        modules = shapes(a.model)
        for k in range(a.adapters):
            os.mkdir(os.path.join(tmp, f'a{k}'))
            write_adapter(os.path.join(tmp, f'a{k}'), modules, a.rank, k)
        lora = [f'--lora=a{k}={tmp}/a{k}' for k in range(a.adapters)]
        draw, rates = random.Random(1), {'none': [], 'one': [], f'{a.adapters}': []}
        prompts = [[draw.randrange(1000, 20000) for _ in range(a.prompt)] for _ in range(a.rows)]
        for _ in range(a.n):
            for kind, rate in rates.items():
                path, out = os.path.join(tmp, 'in.jsonl'), os.path.join(tmp, 'out.jsonl')
                with open(path, 'w', encoding='utf-8') as f:
                    for i, ids in enumerate(prompts):
                        row = {'prompt_token_ids': ids, 'max_tokens': a.new, 'ignore_eos': True, 'temperature': 0}
                        if kind != 'none':
                            row['lora'] = 'a0' if kind == 'one' else f'a{i % a.adapters}'
                        f.write(json.dumps(row) + '\n')
                command = [a.program, '-m', a.model, '-i', path, '-o', out, '--overwrite', '--progress', 'off', '--audit', 'off', '--log-level',
                           'error', '--batch-tokens', '512', *([] if kind == 'none' else lora)]
                before = os.times().children_user
                subprocess.run([*command, *([f'--threads={a.threads}'] if a.threads else [])], check=True)
                cpu = os.times().children_user - before
                with open(out + '.stats.json', encoding='utf-8') as f:
                    stats = json.load(f)
                rate.append((stats['throughput']['total_tok_s'], stats['time_s']['prefill'], stats['time_s']['decode'], cpu))
        base, base_cpu = (statistics.median(r[k] for r in rates['one']) for k in (0, 3))
        print(f'{os.path.basename(a.model)}, rank {a.rank}, {a.rows} rows of {a.prompt} + {a.new} tokens, {a.n} runs')
        for kind, rate in rates.items():
            mid = [statistics.median(column) for column in zip(*rate)]
            print(f'{kind:>5} adapter{"s" if kind not in ("one", "none") else " "}: {mid[0]:9.1f} tokens/s, {mid[0] / base:.3f} of one; '
                  f'prefill {mid[1]:.2f} s, decode {mid[2]:.2f} s; processor {mid[3]:.2f} s, {base_cpu / mid[3]:.3f} of one')


if __name__ == '__main__':
    main()
