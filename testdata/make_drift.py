#!/usr/bin/env python3
"""Texts of 400 new ids, into drift.jsonl: what transformers makes of each id in float32 (eager attention, one row at a time,
never padded, the prompt in one forward call, then one id a call with the cache), and how far its own bf16 is from that.

Greedy texts repeat themselves sooner or later, so others are drawn from the model's own distribution or stand in a corpus.
Needs the folder of goldens, and what README.md names for making models:

    python3 testdata/make_drift.py ../shared/goldens
"""
import json
import os
import sys
import tempfile

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
N_NEW, PART = 400, 100
MARGIN = 2e-3         # of best and second best where the best is taken
ROUTER_MARGIN = 1e-5  # of the last expert chosen and the first one left out

QUESTION = "What is the capital of France?"
LLAMA_CHAT = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
GLM_CHAT = f"<|user|>\n{QUESTION}<|assistant|>"
WINDOW = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 48}

# model, members that replace those of config.json, rows of (how the ids come about, prompt or seed)
MODELS = [
    ("tiny-llama", {}, [("greedy", "Once upon a time"), ("greedy", LLAMA_CHAT), ("sampled", LLAMA_CHAT), ("text", None)]),
    ("tiny-llama", WINDOW, [("greedy", "Once upon a time"), ("sampled", LLAMA_CHAT), ("text", None)]),
    ("tiny-glm", {}, [("greedy", "Once upon a time"), ("greedy", GLM_CHAT), ("sampled", GLM_CHAT), ("text", None)]),
    ("glm4-moe-lite", {"max_position_embeddings": 512}, [("greedy", 1), ("sampled", 100), ("random", 200)]),
]


def load(folder, change, dtype):
    with tempfile.TemporaryDirectory() as bent:
        for name in os.listdir(folder):
            if name.startswith("model"):
                os.symlink(os.path.join(os.path.abspath(folder), name), os.path.join(bent, name))
        with open(os.path.join(folder, "config.json")) as f:
            config = {**json.load(f), **change}
        with open(os.path.join(bent, "config.json"), "w") as f:
            json.dump(config, f)
        return AutoModelForCausalLM.from_pretrained(bent, dtype=dtype, attn_implementation="eager").eval()


class Close(Exception):
    """Two numbers of which the larger one is taken are too near each other."""


def check_router(router, inputs, _):
    """For mixtures without groups."""
    x = inputs[0].reshape(-1, router.weight.shape[1])
    best = torch.topk(torch.sigmoid(x @ router.weight.T) + router.e_score_correction_bias, router.top_k + 1).values
    if (best[:, -2] - best[:, -1]).min() < ROUTER_MARGIN:
        raise Close


def greedy(_, logits):
    best = torch.topk(logits, 2)
    if best.values[0] - best.values[1] < MARGIN:
        raise Close
    return int(best.indices[0])


@torch.no_grad()
def run(model, prompt, choose):
    """ids and logits[N_NEW, n_vocab]; choose: from a step and its logits to an id."""
    ids, logits, cache, x = [], [], None, torch.tensor([prompt])
    while len(ids) < N_NEW:
        o = model(input_ids=x, past_key_values=cache, use_cache=True)
        cache = o.past_key_values
        logits.append(o.logits[0, -1].float())
        ids.append(choose(len(ids), logits[-1]))
        x = torch.tensor([ids[-1:]])
    return ids, torch.stack(logits)


def begin(folder, how, seed):
    """Prompt and, where they are given beforehand, the new ids."""
    file = os.path.join(folder, "tokenizer.json")
    if how == "text":
        with open(os.path.join(HERE, "corpus", "tiny.txt"), encoding="utf-8") as f:
            ids = Tokenizer.from_file(file).encode(f.read()).ids
        return ids[:7], ids[7:7 + N_NEW]
    if isinstance(seed, str):
        return Tokenizer.from_file(file).encode(seed).ids, None
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 500, (9 + N_NEW,), generator=g).tolist()
    return ids[:9], ids[9:] if how == "random" else None


def draw(seed):
    g = torch.Generator().manual_seed(seed)
    return lambda _, logits: int(torch.multinomial(torch.softmax(logits, -1), 1, generator=g))


def digits(x):
    return float(f"{x:.9g}")


def record(model, half, folder, how, seed):
    prompt, given = begin(folder, how, seed)
    choose = greedy if how == "greedy" else draw(7) if how == "sampled" else lambda i, _: given[i]
    ids, logits = run(model, prompt, choose)
    best = torch.topk(logits, 8)
    chosen = torch.log_softmax(logits, -1)[torch.arange(N_NEW), torch.tensor(ids)]
    _, other = run(half, prompt, lambda i, _: ids[i])
    parts = [slice(at, at + PART) for at in range(0, N_NEW, PART)]
    flips = other.argmax(-1) != logits.argmax(-1)
    return {
        "prompt_token_ids": prompt, "ids": ids, "logprobs": [digits(x) for x in chosen.tolist()],
        "top8": [[[int(best.indices[p.stop - 1, k]), digits(best.values[p.stop - 1, k])] for k in range(8)] for p in parts],
        "bf16_rms": [digits((other[p] - logits[p]).square().mean().sqrt()) for p in parts],
        "bf16_flips": [int(flips[p].sum()) for p in parts]}


def first(make, seed):
    """What the first seed from this one on gives whose numbers are far enough apart; another text has one try."""
    while True:
        try:
            return make(seed)
        except Close:
            assert isinstance(seed, int), "numbers are too close; take another prompt"
            seed += 1


def main():
    torch.set_num_threads(1)
    with open(os.path.join(HERE, "drift.jsonl"), "w") as f:
        for name, change, rows in MODELS:
            folder = os.path.join(HERE if name.startswith("tiny") else sys.argv[1], name)
            model, half = load(folder, change, torch.float32), load(folder, change, torch.bfloat16)
            for router in model.modules():
                if type(router).__name__.endswith("TopkRouter"):
                    router.register_forward_hook(check_router)
            for how, seed in rows:
                row = first(lambda s: record(model, half, folder, how, s), seed)
                f.write(json.dumps({"model": name, "change": change, "how": how, **row}) + "\n")
                print(name, how, "distinct ids", [len(set(row["ids"][i:i + PART])) for i in range(0, N_NEW, PART)],
                      "bf16", row["bf16_rms"], row["bf16_flips"], flush=True)


main()
