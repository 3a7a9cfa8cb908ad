"""Packed weights of every method, in models whose tensors are fused, experts' or latent: the bytes are those of the same
model with the weights written out, whatever the type and however many ranks slice them. Groups of 8 are unpacked when a
model is loaded, those of 32 (methods with an m) and FP8 of rows stay packed."""
import bisect
import json
import math
import os
import struct

from ranks import Run, local, needs_mpi
from run import GOLDENS, Skip, case, check, equal, good, lines, program, read, write

SIZE = {'F32': 4, 'F16': 2, 'BF16': 2, 'I32': 4, 'I64': 8, 'F8_E4M3': 1}
GROUP, WIDE = 8, 32
E4M3 = [(8 + b % 8) * 2.0 ** (b // 8 - 10) if b > 7 else b * 2.0 ** -9 for b in range(127)]
AWQ = [0, 2, 4, 6, 1, 3, 5, 7]


def tensors(folder):
    data = read(os.path.join(folder, 'model.safetensors'))
    n = struct.unpack('<Q', data[:8])[0]
    header = json.loads(data[8:8 + n])
    header.pop('__metadata__', None)
    return {name: (t['dtype'], t['shape'], data[8 + n + t['data_offsets'][0]:8 + n + t['data_offsets'][1]])
            for name, t in header.items()}


def write_model(source, folder, config, content):
    os.mkdir(folder)
    for file in os.listdir(source):
        if file not in ('config.json', 'model.safetensors'):
            os.symlink(os.path.join(source, file), os.path.join(folder, file))
    write(os.path.join(folder, 'config.json'), json.dumps(config).encode())
    header, body = {}, b''
    for name, (dtype, shape, data) in content.items():
        equal(len(data), SIZE[dtype] * math.prod(shape), name)
        header[name] = {'dtype': dtype, 'shape': shape, 'data_offsets': [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    write(os.path.join(folder, 'model.safetensors'), struct.pack('<Q', len(text)) + text + body)
    return folder


def words(lanes, bits=4):
    """Rows of numbers, 32 / bits of them a word."""
    per = 32 // bits
    return b''.join(struct.pack('<I', sum(x << bits * k for k, x in enumerate(row[at:at + per])))
                    for row in lanes for at in range(0, len(row), per))


def turned(rows):
    return [list(column) for column in zip(*rows)]


def half(rows):
    return b''.join(struct.pack('<e', x) for row in rows for x in row)


def bfloat(rows):
    return b''.join(struct.pack('<f', x)[2:] for row in rows for x in row)


def power(x):
    return 2.0 ** max(-14, math.ceil(math.log2(x)) if x > 0 else -14)


def quantized(w, group_of, top):
    """Numbers of `top` and less on both sides of a zero point, powers of two as scales: every product is exact."""
    n = max(group_of) + 1
    scale = [[power(max(abs(x) for x, g in zip(row, group_of) if g == k) / top) for k in range(n)] for row in w]
    zero = [[top + 1 - (i * 3 + k) % 3 for k in range(n)] for i in range(len(w))]
    q = [[max(0, min(2 * top + 1, round(x / scale[i][g]) + zero[i][g])) for x, g in zip(row, group_of)]
         for i, row in enumerate(w)]
    plain = [[(x - zero[i][g]) * scale[i][g] for x, g in zip(row, group_of)] for i, row in enumerate(q)]
    return q, zero, scale, plain


def gptq(w, bits=4, less=1, order=False, group=GROUP):
    n, m, per = len(w[0]), len(w), 32 // bits
    n_group = -(-n // group)
    group_of = [(i * 7 if order else i // group) % n_group for i in range(n)]
    q, zero, scale, plain = quantized(w, group_of, 2 ** (bits - 1) - 1)
    lanes = turned(q)  # a word has 32 / bits inputs of one output
    packed = [[lanes[r + k][c] for c in range(m) for k in range(per)] for r in range(0, n, per)]
    return plain, {'qweight': ('I32', [n // per, m], words(packed, bits)),
                   'qzeros': ('I32', [n_group, m // per], words(turned([[z - less for z in row] for row in zero]), bits)),
                   'scales': ('F16', [n_group, m], half(turned(scale))),
                   'g_idx': ('I32', [n], struct.pack(f'<{n}i', *group_of))}


def awq(w, group=GROUP):
    n, m = len(w[0]), len(w)
    n_group = -(-n // group)
    q, zero, scale, plain = quantized(w, [i // group for i in range(n)], 7)
    mixed = [[[row[at + k] for at in range(0, m, 8) for k in AWQ] for row in turned(rows)] for rows in (q, zero)]
    return plain, {'qweight': ('I32', [n, m // 8], words(mixed[0])), 'qzeros': ('I32', [n_group, m // 8], words(mixed[1])),
                   'scales': ('F16', [n_group, m], half(turned(scale)))}


def ints(w, group=GROUP):
    n, m = len(w[0]), len(w)
    n_group = -(-n // group)
    q, zero, scale, plain = quantized(w, [i // group for i in range(n)], 7)
    points = [[zero[r + k][g] for g in range(n_group) for k in range(8)] for r in range(0, m, 8)]
    return plain, {'weight_packed': ('I32', [m, n // 8], words(q)), 'weight_scale': ('BF16', [m, n_group], bfloat(scale)),
                   'weight_zero_point': ('I32', [m // 8, n_group], words(points)),
                   'weight_shape': ('I64', [2], struct.pack('<2q', m, n))}


def fp8(w, block):
    n, m = len(w[0]), len(w)
    high, wide = block or (1, n)
    scale = [[power(max(abs(x) for row in w[r:r + high] for x in row[c:c + wide]) / 448) for c in range(0, n, wide)]
             for r in range(0, m, high)]
    byte = [[min(126, bisect.bisect(E4M3, abs(x) / scale[r // high][c // wide]) - 1) | (x < 0) << 7
             for c, x in enumerate(row)] for r, row in enumerate(w)]
    plain = [[E4M3[b & 127] * (-1 if b > 127 else 1) * scale[r // high][c // wide] for c, b in enumerate(row)]
             for r, row in enumerate(byte)]
    rows = b''.join(struct.pack('<f', x) for row in scale for x in row)
    return plain, {'weight': ('F8_E4M3', [m, n], b''.join(bytes(row) for row in byte)),
                   'weight_scale_inv' if block else 'weight_scale': ('F32', [len(scale), len(scale[0])], rows)}


def compressed(form, **weights):
    return {'quant_method': 'compressed-tensors', 'format': form, 'config_groups': {'g': {'weights': weights}}}


GPTQ = {'quant_method': 'gptq', 'group_size': GROUP}
METHODS = {
    'gptq': (dict(GPTQ, bits=4), gptq),
    'gptq order': (dict(GPTQ, bits=4, desc_act=True), lambda w: gptq(w, order=True)),
    'gptq v2': (dict(GPTQ, bits=8, checkpoint_format='gptq_v2'), lambda w: gptq(w, 8, 0)),
    'awq': ({'quant_method': 'awq', 'bits': 4, 'group_size': GROUP}, awq),
    'int4': (compressed('pack-quantized', num_bits=4, type='int', strategy='group', group_size=GROUP, symmetric=False), ints),
    'gptq m': (dict(GPTQ, bits=4, group_size=WIDE), lambda w: gptq(w, group=WIDE)),
    'gptq v2 m': (dict(GPTQ, bits=8, checkpoint_format='gptq_v2', group_size=WIDE), lambda w: gptq(w, 8, 0, group=WIDE)),
    'awq m': ({'quant_method': 'awq', 'bits': 4, 'group_size': WIDE}, lambda w: awq(w, WIDE)),
    'int4 m': (compressed('pack-quantized', num_bits=4, type='int', strategy='group', group_size=WIDE, symmetric=False),
               lambda w: ints(w, WIDE)),
    'fp8 block': ({'quant_method': 'fp8', 'weight_block_size': [24, 20]}, lambda w: fp8(w, (24, 20))),
    'fp8 rows': (compressed('float-quantized', num_bits=8, type='float', strategy='channel'), lambda w: fp8(w, None)),
}
MODELS = {'llama-bias': ['gptq order', 'fp8 rows'], 'glm': ['gptq v2', 'int4', 'gptq v2 m'],
          'chatglm': ['awq', 'fp8 block'], 'glm4-moe': ['gptq', 'awq m'],
          'glm4-moe-lite': ['gptq order', 'fp8 block', 'int4 m', 'gptq m']}


def pack_model(tmp, model, method):
    """Two folders: packed, and the numbers that it stands for."""
    source, (quantization, pack) = os.path.join(GOLDENS, model), METHODS[method]
    config = json.loads(read(os.path.join(source, 'config.json')))
    packed, plain = {}, {}
    for name, (dtype, shape, data) in tensors(source).items():
        linear = len(shape) == 2 and 'layers.' in name and not name.endswith(('mlp.gate.weight', 'weights_proj.weight'))
        if not linear:
            packed[name] = plain[name] = (dtype, shape, data)
            continue
        equal(dtype, 'F32', name)
        numbers = struct.unpack(f'<{shape[0] * shape[1]}f', data)
        written, parts = pack([numbers[at:at + shape[1]] for at in range(0, len(numbers), shape[1])])
        plain[name] = (dtype, shape, b''.join(struct.pack('<f', x) for row in written for x in row))
        packed.update({name[:-len('weight')] + suffix: part for suffix, part in parts.items()})
    return (write_model(source, os.path.join(tmp, 'packed'), dict(config, quantization_config=quantization), packed),
            write_model(source, os.path.join(tmp, 'plain'), config, plain))


def rows():
    return [{'prompt_token_ids': [5 + (i * 7 + k * 11) % 480 for k in range(3 + 9 * i)], 'max_tokens': 4, 'logprobs': 4,
             'ignore_eos': True, 'temperature': 0} for i in range(4)]


def same_bytes(tmp, model, method):
    if not os.path.isdir(GOLDENS):
        raise Skip('no ../shared/goldens')
    packed, plain = pack_model(tmp, model, method)
    data = lines(rows())
    path, out = write(os.path.join(tmp, 'in.jsonl'), data), os.path.join(tmp, 'out.jsonl')
    for dtype in ('f32', 'bf16'):
        options = ['-i', path, '--dtype', dtype, '--audit', 'off']
        want = good(['-m', plain, *options]).out
        check(want.count(b'"length"') == 4, want)
        r = program(['-m', packed, *options, '--log-level', 'info'])
        check(r.out == want, f'{model}, {method}, {dtype}: other bytes')
        equal('matrices kept packed' in r.err, method.endswith(' m') or method == 'fp8 rows', r.err)
    needs_mpi()
    with Run(local(2), ['-m', packed, *options, '-o', out, '--tp', '2']) as r:
        equal(r.end(), 0, f'exit code ({r.err})')
    check(read(out) == want, f'{model}, {method}, tp 2: other bytes')


def add(model, method):
    def packed(tmp):
        same_bytes(tmp, model, method)
    packed.__name__ = f'{method} in {model}'
    case(packed)


for one, methods in MODELS.items():
    for other in methods:
        add(one, other)


@case
def superblocks_are_cut_between_ranks(tmp):
    """A rank's columns need not begin with a block of 256."""
    if not os.path.isdir(GOLDENS):
        raise Skip('no ../shared/goldens')
    needs_mpi()
    path, out = write(os.path.join(tmp, 'in.jsonl'), lines(rows())), os.path.join(tmp, 'out.jsonl')
    for name in ('llama-gguf-q4_k', 'llama-gguf-q6_k'):
        options = ['-m', os.path.join(GOLDENS, name, name + '.gguf'), '-i', path, '--audit', 'off']
        want = good(options).out
        for tp in (2, 4):
            with Run(local(tp), [*options, '-o', out, '--overwrite', '--tp', str(tp)]) as r:
                equal(r.end(), 0, f'{name}, tp {tp}: exit code ({r.err})')
            check(read(out) == want, f'{name}, tp {tp}: other bytes')
