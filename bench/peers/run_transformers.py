"""Hugging Face transformers: left-padded batches of rows of similar length.

A batch runs to the longest max_tokens in it; what a row made beyond its own is cut off and not counted."""

import torch
import transformers

from common import Job, processor

DTYPE = {"amx": "bfloat16", "avx512bf16": "bfloat16", "avx512": "float32", "avx2": "float32", "other": "float32"}


def main():
    job = Job()
    torch.set_num_threads(job.threads)
    dtype = getattr(torch, job.setting("dtype", DTYPE[processor()[1]]))
    model = transformers.AutoModelForCausalLM.from_pretrained(job.model + "/hf", dtype=dtype, attn_implementation="sdpa")
    model.generation_config.eos_token_id = None
    size = job.setting("batch", 16)
    order = sorted(range(len(job.rows)), key=lambda i: -len(job.rows[i]["prompt_token_ids"]))
    out = [None] * len(order)
    job.start()
    for at in range(0, len(order), size):
        batch = order[at:at + size]
        prompts = [job.rows[i]["prompt_token_ids"] for i in batch]
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        new = max(job.rows[i]["max_tokens"] for i in batch)
        made = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0)
        for i, row in zip(batch, made[:, width:].tolist()):
            out[i] = row[:job.rows[i]["max_tokens"]]
    job.done(f"{transformers.__version__}, torch {torch.__version__}", out)


if __name__ == "__main__":
    main()
