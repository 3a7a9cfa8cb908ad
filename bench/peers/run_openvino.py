"""OpenVINO GenAI's pipeline with continuous batching."""

import numpy as np
import openvino
import openvino_genai as ov

from common import Job, processor

HINT = {"amx": "bf16", "avx512bf16": "bf16", "avx512": "f32", "avx2": "f32", "other": "f32"}


def main():
    job = Job()
    hint = job.setting("dtype", HINT[processor()[1]])
    s = ov.SchedulerConfig()
    s.max_num_batched_tokens = job.setting("tokens", 1024)
    s.max_num_seqs = job.setting("seqs", 256)
    s.enable_prefix_caching = job.prefix
    kv_gib = job.setting("kv_gib", 0)  # 0: grows as needed
    if kv_gib:
        s.cache_size = kv_gib
    properties = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": job.threads,
                  "KV_CACHE_PRECISION": job.setting("kv", hint)}
    pipe = ov.ContinuousBatchingPipeline(job.model + "/openvino", s, "CPU", properties)

    def config(n):
        c = ov.GenerationConfig()
        c.max_new_tokens, c.ignore_eos, c.do_sample, c.apply_chat_template = n, True, False, False
        return c

    prompts = [openvino.Tensor(np.array([r["prompt_token_ids"]], dtype=np.int64)) for r in job.rows]
    configs = [config(r["max_tokens"]) for r in job.rows]
    job.start()
    out = pipe.generate(prompts, configs)
    job.done(ov.__version__, [r.m_generation_ids[0] for r in out])


if __name__ == "__main__":
    main()
