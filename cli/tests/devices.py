"""The stand-ins for CUDA's libraries (kernels/tests/standin), on which tests of the device run, and a model for them: they go
through a block thread by thread, a thousand times as slow as a processor."""
import os

from run import FULL, PROGRAM, ROOT, TINY, Skip, shallow

STANDIN = os.path.join(os.path.dirname(PROGRAM), 'llmbatch-cuda-standin.so')
# models are compared whole by test_golden_cuda_*; this one is half as wide as TINY, and as it has groups of heads
SMALLER = os.path.join(ROOT, '../shared/goldens/llama-gqa-tied')
MODEL = TINY if FULL else shallow(SMALLER if os.path.isdir(SMALLER) else TINY)


def needs_standin():
    if not os.path.exists(STANDIN):
        raise Skip('no CUDA headers')
