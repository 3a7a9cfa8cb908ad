#!/usr/bin/env python3
"""Writes a model of random weights: bf16 as Hugging Face stores it (config.json and model.safetensors), or quantized.
Only for speed.

python3 bench/make_random_model.py [--tokenizer DIR] [--format FORMAT] OUT

FORMAT: bf16; gptq (int4, groups of 128) or fp8 (blocks of 128 x 128), whose embedding stays bf16; or a type of GGUF's
blocks (q8_0, q4_0, q4_1, q2_k to q6_k, iq4_xs), all matrices of it, as OUT/model.gguf; q4_k_m has V and down in q6_k.

The shape is that of Llama 3.2 1B (2.5 GB) unless options say otherwise; a fixed seed, so the same arguments give the
same bytes. --tokenizer copies tokenizer.json and tokenizer_config.json from DIR; without them rows must be token ids.
Weights are normal with deviation 0.02, norms 1. Numbers come again: a pool of a few million of them, from other places
for each tensor, because making billions would take an hour."""

import argparse
import array
import json
import math
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


def half(x):
    return struct.pack("<e", x)


# ggml's number, elements and parts of a block: bytes that are the same in all, or how many are drawn. Scales are such
# that weights have about the deviation of the bf16 ones.
BLOCKS = {
    "q4_0": (2, 32, [half(0.0043), 16]),
    "q4_1": (3, 32, [half(0.0043), half(-0.032), 16]),
    "q8_0": (8, 32, [half(0.00027), 32]),
    "q2_k": (10, 256, [80, half(0.0025), half(0.0035)]),
    "q3_k": (11, 256, [108, half(0.0005)]),
    "q4_k": (12, 256, [half(0.00008), half(0.0006), 140]),
    "q5_k": (13, 256, [half(0.00004), half(0.0006), 172]),
    "q6_k": (14, 256, [208, half(0.000015)]),
    "iq4_xs": (23, 256, [half(0.00002), 134]),
}


class Pool:
    """Numbers of some kind, `unit` bytes each, that come again from other places."""

    def __init__(self, rng, unit, data):
        self.rng, self.unit, self.data = rng, unit, data

    def write(self, f, n):
        left = n * self.unit
        while left > 0:
            begin = self.unit * self.rng.randrange(len(self.data) // self.unit // 2)
            piece = self.data[begin:begin + min(left, len(self.data) // self.unit // 2 * self.unit)]
            f.write(piece)
            left -= len(piece)


def pool_of(rng, kind):
    if kind == "BF16":
        data = array.array("H", (bf16(rng.gauss(0, 0.02)) for _ in range(POOL)))
        if sys.byteorder == "big":
            data.byteswap()
        return Pool(rng, 2, data.tobytes())
    if kind == "I32":
        return Pool(rng, 4, rng.randbytes(4 * POOL))
    if kind == "F8_E4M3":
        return Pool(rng, 1, bytes(b if b & 127 < 127 else 0 for b in rng.randbytes(POOL)))
    _, _, parts = BLOCKS[kind]
    block = [b"".join(p if isinstance(p, bytes) else rng.randbytes(p) for p in parts) for _ in range(POOL // 64)]
    return Pool(rng, len(block[0]), b"".join(block))


def constant(pattern):
    return lambda f, n: f.write(pattern * n)


def parts_of(o, name, shape):
    """Tensors that a weight is stored as: name, type, shape, bytes a number, what writes n of them."""
    if len(shape) == 1:
        return [(name, "BF16", shape, 2, constant(struct.pack("<H", bf16(1.0))))]
    if o.format == "bf16" or "embed" in name:
        return [(name, "BF16", shape, 2, o.pool["BF16"].write)]
    m, n = shape
    if o.format == "fp8":
        blocks = [-(-m // 128), -(-n // 128)]
        return [(name, "F8_E4M3", shape, 1, o.pool["F8_E4M3"].write),
                (name + "_scale_inv", "F32", blocks, 4, constant(struct.pack("<f", 0.0002)))]
    base, group = name.removesuffix(".weight"), min(128, n)
    g_idx = struct.pack(f"<{n}i", *(i // group for i in range(n)))
    return [(base + ".qweight", "I32", [n // 8, m], 4, o.pool["I32"].write),
            (base + ".qzeros", "I32", [-(-n // group), m // 8], 4, constant(b"\x77" * 4)),
            (base + ".scales", "F16", [-(-n // group), m], 2, constant(half(0.0043))),
            (base + ".g_idx", "I32", [n], 4, lambda f, _: f.write(g_idx))]


def write_weights(path, o):
    stored = [part for name, shape in tensors(o) for part in parts_of(o, name, shape)]
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, kind, shape, size, _ in stored:
        n_bytes = size * math.prod(shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + n_bytes]}
        at += n_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, _, shape, _, write in stored:
            write(f, math.prod(shape))


def gguf_name(name):
    layer = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "q_proj": "attn_q",
             "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
             "up_proj": "ffn_up", "down_proj": "ffn_down"}
    part = name.split(".")
    if part[1] == "layers":
        return f"blk.{part[2]}.{layer[part[-2]]}.weight"
    return {"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[part[1]]


def text_of(text):
    return struct.pack("<Q", len(text)) + text.encode()


def write_gguf(path, o):
    """No tokenizer: rows are token ids. Without llama3's scaling of RoPE, which GGUF has as a tensor."""
    def kind_of(name):
        return "q6_k" if o.format == "q4_k_m" and ("v_proj" in name or "down_proj" in name) else o.format.removesuffix("_m")

    whole = {"block_count": o.layers, "context_length": 131072, "embedding_length": o.dim, "feed_forward_length": o.ffn,
             "attention.head_count": o.heads, "attention.head_count_kv": o.kv_heads, "vocab_size": o.vocab,
             "rope.dimension_count": o.dim // o.heads}
    real = {"attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 500000.0}
    meta = [text_of("general.architecture") + struct.pack("<I", 8) + text_of("llama")]
    meta += [text_of("llama." + key) + struct.pack("<II", 4, x) for key, x in whole.items()]
    meta += [text_of("llama." + key) + struct.pack("<If", 6, x) for key, x in real.items()]
    info, sizes, at = [], [], 0
    for name, shape in tensors(o):
        n = math.prod(shape)
        vector = len(shape) == 1
        number, elems, _ = BLOCKS[kind_of(name)]
        sizes.append(4 * n if vector else n // elems * o.pool[kind_of(name)].unit)
        info.append(text_of(gguf_name(name)) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape),
                                                           0 if vector else number, at))
        at += -(-sizes[-1] // 32) * 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(info), len(meta)) + b"".join(meta) + b"".join(info)
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % 32))
        for (name, shape), size in zip(tensors(o), sizes):
            if len(shape) == 1:
                f.write(struct.pack("<f", 1.0) * shape[0])
            else:
                o.pool[kind_of(name)].write(f, math.prod(shape) // BLOCKS[kind_of(name)][1])
            f.write(bytes(-size % 32))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--tokenizer", metavar="DIR")
    p.add_argument("--format", choices=["bf16", "gptq", "fp8", "q4_k_m", *BLOCKS], default="bf16")
    for name, value in (("dim", 2048), ("layers", 16), ("heads", 32), ("kv-heads", 8), ("ffn", 8192),
                        ("vocab", 128256)):
        p.add_argument("--" + name, type=int, default=value, metavar="N", help=f"({value})")
    o = p.parse_args()
    os.makedirs(o.out, exist_ok=True)
    rng = random.Random(20)
    kinds = {"bf16": ["BF16"], "gptq": ["BF16", "I32"], "fp8": ["BF16", "F8_E4M3"],
             "q4_k_m": ["q4_k", "q6_k"]}.get(o.format, [o.format])
    o.pool = {kind: pool_of(rng, kind) for kind in kinds}
    if o.format in BLOCKS or o.format == "q4_k_m":
        path = os.path.join(o.out, "model.gguf")
        write_gguf(path + ".part", o)
        os.replace(path + ".part", path)
        return
    own = {"gptq": {"quant_method": "gptq", "bits": 4, "group_size": min(128, o.dim), "desc_act": False, "sym": True},
           "fp8": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}}.get(o.format)
    with open(os.path.join(o.out, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config(o) | ({"quantization_config": own} if own else {}), f, indent=2)
        f.write("\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if o.tokenizer:
            shutil.copyfile(os.path.join(o.tokenizer, name), os.path.join(o.out, name))
    path = os.path.join(o.out, "model.safetensors")
    write_weights(path + ".part", o)
    os.replace(path + ".part", path)


if __name__ == "__main__":
    main()
