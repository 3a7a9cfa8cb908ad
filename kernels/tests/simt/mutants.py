#!/usr/bin/env python3
"""mutants.py BUILD COMPILER: bugs put into the real kernels one at a time; checkcuda has to fail on each. Takes BUILD's
objects of everything else. A sample of them, or all with LB_TEST_FULL=1."""
import glob
import os
import subprocess
import sys
import tempfile

root = os.path.abspath(os.path.join(os.path.dirname(__file__), '../../..'))
build, compiler = os.path.abspath(sys.argv[1]), sys.argv[2]
FLAGS = ['-std=c++17', '-x', 'c++', '-O1', '-ffp-contract=off', '-fsanitize=thread', '--param',
         'tsan-instrument-func-entry-exit=0', '-DLK_SIMT', '-D_GLIBCXX_BITS_SPECFUN_H', '-I' + root, '-w']

# kind of bug, file, checks that meet it, text and what stands in its place (the first match)
MUTANTS = [
    ('missing barrier', 'cuda_linear', 'linear', '        __syncthreads();\n', ''),
    ('wrong fragment row', 'cuda_attend', 'attention', 'lane % 16 * ld + lane / 16 * 8', '(lane + 1) % 16 * ld + lane / 16 * 8'),
    ('off-by-one lane', 'cuda_util', 'rows', 'x += lk_shuffle_f32(x, lk_lane() ^ step)',
     'x += lk_shuffle_f32(x, (lk_lane() + step + 1) % 32)'),
    ('page out of bounds', 'cuda_attend', 'attention', 'a.page[first_id + item.page_begin + i]',
     'a.page[first_id + item.page_begin + i + 1]'),
    ('missing barrier', 'cuda_attend', 'attention', '        wait_copies(ahead - 1);\n        __syncthreads();\n',
     '        wait_copies(ahead - 1);\n'),
    ('shared-memory race', 'cuda_attend', 'attention', '    __syncthreads();\n#pragma unroll\n    for (int t = 0; t < 4; t++) {',
     '#pragma unroll\n    for (int t = 0; t < 4; t++) {'),
    ('shared-memory race', 'cuda_linear', 'linear', '(i + STAGES - 1) % STAGES * STAGE', 'i % STAGES * STAGE'),
    ('copy not waited for', 'cuda_linear', 'linear', 'lk_cp_wait<STAGES - 2>()', 'lk_cp_wait<STAGES - 1>()'),
    ('unaligned vector', 'cuda_act', 'rows', 'if (dim % 4 == 0)', 'if (dim > 512)'),
    ('unaligned vector', 'cuda_attend', 'attention', '#define STATE_HEAD 4', '#define STATE_HEAD 3'),
    ('divergent barrier', 'cuda_order', 'candidates', '    x = lk_warp_total(x);\n    __syncthreads();\n',
     '    x = lk_warp_total(x);\n    if (lk_warp() > 0)\n        __syncthreads();\n'),
    ('divergent warp', 'cuda_moe', 'experts', 'begin < a.n_expert; begin += LK_WARP', 'begin + lk_lane() < a.n_expert; begin += LK_WARP'),
    ('missing warp barrier', 'cuda_moe', 'experts', '        key[at] = mark;\n    __syncwarp();\n', '        key[at] = mark;\n'),
    ('row out of bounds', 'cuda_linear', 'linear', 'bool real = row < s.end;', 'bool real = row <= s.end;'),
    ('column out of bounds', 'cuda_linear', 'linear', 'if (col >= a.n_out)', 'if (col > a.n_out)'),
    ('window off by one', 'cuda_attend', 'attention', 'last - a.window + 1', 'last - a.window'),
    ('missing barrier', 'cuda_lora', 'adapters', '        fetch_rows<T>(x, a, t, k, n);\n        __syncthreads();\n',
     '        fetch_rows<T>(x, a, t, k, n);\n'),
    ('row out of bounds', 'cuda_lora', 'adapters', 'r < t.n ? l.row', 'r <= t.n ? l.row'),
    ('window off by one', 'cuda_lora', 'adapters', 'row < a.y.n_row', 'row <= a.y.n_row'),
    ('causal off by one', 'cuda_attend', 'attention', 'at <= r.last ?', 'at < r.last ?'),
    ('split merged wrongly', 'cuda_attend', 'attention', 'return all * f.x + one * f.y', 'return all * f.x + one * f.x'),
    ('transposed fragment', 'cuda_attend', 'attention', 'lk_ldmatrix4_t(fv', 'lk_ldmatrix4(fv'),
    ('swizzle', 'cuda_weight', 'linear', 'return row * 64 + (chunk ^ (row / 2 % 4)) * 16',
     'return row * 64 + (chunk & (row / 2 % 4)) * 16'),
    ('tie to the higher id', 'cuda_order', 'candidates', '(0xffffffffu - index)', 'index'),
    ('share of top_p', 'cuda_sample', 'candidates', 'lk_mass_share(top_p,', 'lk_mass_share(0.5 * top_p,'),
    ('rotation', 'cuda_rope', 'rope', 'y * h.cos[j] + x * h.sin[j]', 'y * h.cos[j] - x * h.sin[j]'),
    ('slot of a page', 'cuda_rope', 'rope', 'a.pos[t] % LK_PAGE_TOKENS', '(a.pos[t] + 1) % LK_PAGE_TOKENS'),
    ('tree order', 'cuda_act', 'rows', 's += 2 * step)\n            v[s] += v[s + step]', 's += 2 * step)\n            v[s] += v[N - 1 - s]'),
]


def objects(name):
    return sorted(glob.glob(f'{build}/.ci/cmake/CMakeFiles/{name}.dir/**/*.o', recursive=True))


def users(name):
    """Kernel files that a mutation of this one reaches."""
    if os.path.exists(f'{root}/kernels/cuda/{name}.cu') and not name == 'cuda_attend':
        return [name]
    return {'cuda_util': ['cuda_act'], 'cuda_weight': ['cuda_linear'], 'cuda_order': ['cuda_top', 'cuda_sample'],
            'cuda_attend': ['cuda_attend']}[name]


def survives(mutant, folder):
    kind, name, checks, old, new = mutant
    place = next((p for p in (f'{name}.cu', f'{name}.cuh')
                  if os.path.exists(f'{root}/kernels/cuda/{p}') and old in open(f'{root}/kernels/cuda/{p}').read()), None)
    if not place:
        return 'its text is not there'
    tree = os.path.join(folder, 'kernels/cuda')
    os.makedirs(tree, exist_ok=True)
    for path in glob.glob(f'{root}/kernels/cuda/*.cu*'):
        text = open(path, encoding='utf-8').read()
        if os.path.basename(path) == place:
            text = text.replace(old, new, 1)
        open(os.path.join(tree, os.path.basename(path)), 'w', encoding='utf-8').write(text)
    made = []
    for user in users(name):
        made.append(os.path.join(folder, f'{user}.o'))
        subprocess.run([compiler, '-I' + folder, *FLAGS, '-c', f'{tree}/{user}.cu', '-o', made[-1]], check=True)
    rest = [o for o in objects('lk_cuda_hooked') if os.path.basename(o).split('.')[0] not in users(name)]
    program = os.path.join(folder, 'mutant')
    checkers = [*objects('lk_cuda_checks'), *objects('lk_cuda_modeled'), *objects('lk_simt'), *objects('lk_simt_switch')]
    subprocess.run([compiler, '-o', program, *made, *rest, *checkers, f'{build}/liblk.a', '-lm'], check=True)
    run = subprocess.run([program, '--first', *checks.split()], capture_output=True, text=True,
                         env={**os.environ, 'LB_TEST_FULL': '0'})
    first = next((line for line in run.stdout.split('\n') if line.startswith('FAILED')), '')
    print(f'{kind} in {place}: {first or "found nothing"}'[:200], flush=True)
    return None if run.returncode == 1 and first else 'was not found'


chosen = MUTANTS if os.environ.get('LB_TEST_FULL') == '1' else MUTANTS[:2]
bad = 0
for m in chosen:
    with tempfile.TemporaryDirectory() as folder:
        why = survives(m, folder)
        if why:
            print(f'FAILED: {m[0]} in {m[1]}: {why}')
            bad += 1
print(f'{len(chosen)} of {len(MUTANTS)} mutants, {bad} not found')
sys.exit(1 if bad else 0)
