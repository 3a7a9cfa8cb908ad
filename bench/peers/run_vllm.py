"""vLLM's build for processors, in one process."""

import os
import sys
from pathlib import Path

from common import Job, longest, processor

DTYPE = {"amx": "bfloat16", "avx512bf16": "bfloat16", "avx512": "float32", "avx2": "float32", "other": "float32"}


def preload():
    """vLLM's manual asks for tcmalloc and Intel's OpenMP; the loader takes them only at the start of a process."""
    if "PEERS_PRELOADED" in os.environ:
        return
    found = [next((str(p) for d in folders for p in sorted(Path(d).glob(name))), None) for name, folders in (
        ("libtcmalloc_minimal.so.4", ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib")),
        ("libiomp5.so", (Path(sys.prefix) / "lib",)))]
    os.environ.update(PEERS_PRELOADED="1", LD_PRELOAD=":".join(filter(None, found)))
    os.execv(sys.executable, [sys.executable, *sys.argv])


def main():
    preload()
    job = Job()
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_NO_USAGE_STATS="1", VLLM_LOGGING_LEVEL="WARNING", HF_HUB_OFFLINE="1",
        VLLM_CPU_KVCACHE_SPACE=str(job.setting("kv_gib", 4)), OMP_NUM_THREADS=str(job.threads),
        VLLM_CPU_OMP_THREADS_BIND=",".join(map(str, sorted(os.sched_getaffinity(0))[:job.threads])),
        VLLM_CACHE_ROOT=str(Path(job.model).parents[1] / "vllm-cache"),
        TORCHINDUCTOR_CACHE_DIR=str(Path(job.model).parents[1] / "vllm-cache" / "inductor"))
    import vllm

    llm = vllm.LLM(
        model=job.model + "/hf", skip_tokenizer_init=True, dtype=job.setting("dtype", DTYPE[processor()[1]]),
        max_model_len=job.setting("max_len", max(2048, longest(job.rows))), max_num_seqs=job.setting("seqs", 256),
        max_num_batched_tokens=max(job.setting("tokens", 1024), 256), enforce_eager=job.setting("eager", False),
        enable_prefix_caching=job.prefix, enable_chunked_prefill=True, disable_log_stats=True,
        distributed_executor_backend="uni")
    prompts = [{"prompt_token_ids": r["prompt_token_ids"]} for r in job.rows]
    params = [vllm.SamplingParams(temperature=0, max_tokens=r["max_tokens"], ignore_eos=True, detokenize=False) for r in job.rows]
    job.start()
    out = llm.generate(prompts, params, use_tqdm=False)
    job.done(vllm.__version__, [o.outputs[0].token_ids for o in out])


if __name__ == "__main__":
    main()
