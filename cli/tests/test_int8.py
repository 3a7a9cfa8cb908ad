"""Layers in int8: the option, what is said of it, and that scoring a text hardly notices."""
import json
import os
import re

from run import GOLDENS, MHA, ROOT, TINY, Skip, case, check, equal, good, lines, program, read, write


def rows():
    return [{'prompt_token_ids': [5 + (i * 7 + k * 11) % 480 for k in range(3 + 9 * i)], 'max_tokens': 6, 'logprobs': 2,
             'ignore_eos': True, 'temperature': 0} for i in range(6)]


def told(tmp, args, stdin=None):
    stats = os.path.join(tmp, 'stats.json')
    r = good(['--audit', 'off', *args, '--stats', stats], rows() if stdin is None else stdin)
    return r, json.loads(read(stats))


@case
def quantize_int8(tmp):
    for dtype in ('bf16', 'f32'):
        plain, stats = told(tmp, ['-m', MHA, '--dtype', dtype])
        check('quantization' not in stats['model'], stats['model'])
        for option in ('--quantize', '--quantization'):
            r, stats = told(tmp, ['-m', MHA, '--dtype', dtype, option, 'int8'])
            equal((stats['model']['dtype'], stats['model']['quantization']), (dtype, 'int8'), 'stats')
            check(r.out != plain.out, 'nothing is quantized')
        none, stats = told(tmp, ['-m', MHA, '--dtype', dtype, '--quantize', 'none'])
        check(none.out == plain.out and 'quantization' not in stats['model'], stats['model'])
    r = program(['-m', MHA, '-p', 'a', '--quantize', 'int4'])
    equal(r.code, 2, r.err)
    check('int8' in r.err and 'w4a8' in r.err, r.err)


@case
def int8_is_said(_):
    r = program(['-m', MHA, '--quantize', 'int8', '--log-level', 'info'], rows())
    equal(r.code, 0, r.err)
    check('int8' in r.err, r.err)
    r = program(['-m', MHA, '--quantize', 'int8', '--progress', 'on'], rows(), quiet=False)
    check(re.search(r'model .*bf16, layers in int8', r.err), r.err)


@case
def int8_of_a_mixture(tmp):
    model = os.path.join(GOLDENS, 'glm4-moe')
    if not os.path.isdir(model):
        raise Skip('no ../shared/goldens')
    plain, _ = told(tmp, ['-m', model])
    r, stats = told(tmp, ['-m', model, '--quantize', 'int8', '--threads', '1'])
    equal(stats['tokens']['padding'], 0, 'padding')
    again, _ = told(tmp, ['-m', model, '--quantize', 'int8', '--threads', '2', '--batch-tokens', '16', '--max-seqs', '2'])
    check(r.out == again.out and r.out != plain.out, 'other bytes')


@case
def w4a8(tmp):
    """Codes of 4 bits stay as they are: what is said, and that log-probabilities are near those without int8, on average
    about as near as numbers quantized by row, or nearer."""
    folder = os.path.join(GOLDENS, 'llama-gguf-q4_k')
    if not os.path.isdir(folder):
        raise Skip('no ../shared/goldens')
    model = os.path.join(folder, 'llama-gguf-q4_k.gguf')
    prompts = [{**row, 'max_tokens': 0, 'prompt_logprobs': 0} for row in rows()]

    def scores(*more):
        r = good(['-m', model, '--audit', 'off', *more], prompts)
        return [one['logprob'] for line in r.out.splitlines() for one in json.loads(line)['prompt_logprobs'] if one]
    for isa in ('ref', None):
        chosen = ['--isa', isa] if isa else []
        plain, whole = scores(*chosen), scores('--quantize', 'w4a8', *chosen)
        off = sum(abs(a - b) for a, b in zip(plain, whole)) / len(plain)
        check(len(plain) == len(whole) > 100 and 0 < off < 0.15, off)
    r = program(['-m', model, '--quantize', 'w4a8', '--isa', 'ref', '--log-level', 'info'], rows())
    check(re.search(r'but for those of 4 bits', r.err), r.err)
    _, stats = told(tmp, ['-m', model, '--quantize', 'w4a8'])
    equal(stats['model']['quantization'], 'w4a8', 'stats')
    check(re.search(r'kept packed, those of layers for activations of 8 bits: .*Q4_K', r.err), r.err)


@case
def int8_on_the_null_device(_):
    same = [good(['-m', TINY, '--device', 'null', *more], rows()).out for more in ([], ['--quantize', 'int8'])]
    check(same[0] == same[1], 'it matters')


@case
def plans_know_int8(tmp):
    data = write(os.path.join(tmp, 'in.jsonl'), lines(rows()))
    need = [float(re.search(rb'weights, packed +([0-9.]+) MiB', good(['-m', TINY, '-i', data, '--plan', *more]).out)[1])
            for more in ([], ['--quantize', 'int8'])]
    check(0.5 * need[0] < need[1] < 0.95 * need[0], need)


@case
def scores_in_int8(tmp):
    """tiny-llama has learned this text; its perplexity is that of bf16 within 1 %."""
    text = read(os.path.join(ROOT, 'testdata/corpus/tiny.txt')).decode()
    prompts = [{'prompt': text[at:at + 300], 'max_tokens': 0, 'prompt_logprobs': 0} for at in range(0, 12000, 1000)]
    nll = []
    for more in ([], ['--quantize', 'int8']):
        _, stats = told(tmp, ['-m', TINY, *more], prompts)
        nll.append(stats['scoring']['nll'] / stats['scoring']['tokens'])
    check(nll[0] != nll[1] and abs(nll[1] - nll[0]) < 0.01, nll)
