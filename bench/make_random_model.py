#!/usr/bin/env python3
"""Writes a model of random bf16 weights as Hugging Face stores it: config.json and model.safetensors. Only for speed.

python3 bench/make_random_model.py [--tokenizer DIR] OUT

The shape is that of Llama 3.2 1B (2.5 GB) unless options say otherwise; a fixed seed, so the same arguments give the
same bytes. --tokenizer copies tokenizer.json and tokenizer_config.json from DIR; without them rows must be token ids.
Weights are normal with deviation 0.02, norms 1. Numbers come again: a pool of a few million of them, from other places
for each tensor, because making billions would take an hour."""

import argparse
import array
import json
import os
import random
import shutil
import struct
import sys

POOL = 1 << 21  # numbers


def bf16(x):
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def tensors(o):
    head = o.dim // o.heads
    yield "model.embed_tokens.weight", [o.vocab, o.dim]
    for i in range(o.layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", [o.dim]
        yield p + "mlp.down_proj.weight", [o.dim, o.ffn]
        yield p + "mlp.gate_proj.weight", [o.ffn, o.dim]
        yield p + "mlp.up_proj.weight", [o.ffn, o.dim]
        yield p + "post_attention_layernorm.weight", [o.dim]
        yield p + "self_attn.k_proj.weight", [o.kv_heads * head, o.dim]
        yield p + "self_attn.o_proj.weight", [o.dim, o.dim]
        yield p + "self_attn.q_proj.weight", [o.dim, o.dim]
        yield p + "self_attn.v_proj.weight", [o.kv_heads * head, o.dim]
    yield "model.norm.weight", [o.dim]


def config(o):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_act": "silu",
        "hidden_size": o.dim, "num_hidden_layers": o.layers, "num_attention_heads": o.heads,
        "num_key_value_heads": o.kv_heads, "head_dim": o.dim // o.heads, "intermediate_size": o.ffn,
        "vocab_size": o.vocab, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "bos_token_id": 128000,
        "eos_token_id": 128001,
        "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192},
    }


def write_weights(path, o):
    rng = random.Random(20)
    pool = array.array("H", (bf16(rng.gauss(0, 0.02)) for _ in range(POOL)))
    ones = array.array("H", [bf16(1.0)]) * o.dim
    if sys.byteorder == "big":
        pool.byteswap()
        ones.byteswap()
    pool, ones = pool.tobytes(), ones.tobytes()
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors(o):
        n_bytes = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + n_bytes]}
        at += n_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors(o):
            if len(shape) == 1:
                f.write(ones)
                continue
            left = 2 * shape[0] * shape[1]
            while left > 0:
                begin = 2 * rng.randrange(POOL // 2)
                piece = pool[begin:begin + min(left, POOL)]
                f.write(piece)
                left -= len(piece)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--tokenizer", metavar="DIR")
    for name, value in (("dim", 2048), ("layers", 16), ("heads", 32), ("kv-heads", 8), ("ffn", 8192),
                        ("vocab", 128256)):
        p.add_argument("--" + name, type=int, default=value, metavar="N", help=f"({value})")
    o = p.parse_args()
    os.makedirs(o.out, exist_ok=True)
    with open(os.path.join(o.out, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config(o), f, indent=2)
        f.write("\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if o.tokenizer:
            shutil.copyfile(os.path.join(o.tokenizer, name), os.path.join(o.out, name))
    path = os.path.join(o.out, "model.safetensors")
    write_weights(path + ".part", o)
    os.replace(path + ".part", path)


if __name__ == "__main__":
    main()
