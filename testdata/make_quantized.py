#!/usr/bin/env python3
"""Writes a model in several weight formats by plain rounding: what a format costs, nothing done to make it cheaper.

    python3 testdata/make_quantized.py MODEL.gguf OUT

MODEL is a Llama whose matrices are F32, F16, BF16, Q8_0 or Q4_1, such as the SmolLM2 that quickstart.sh fetches. Its
numbers in bf16 are the baseline of all others:

    OUT/bf16/       Hugging Face directory, config.json and model.safetensors; no tokenizer, so rows are token ids
    OUT/q8_0.gguf   all matrices Q8_0
    OUT/q4_0.gguf   matrices of layers Q4_0, the embedding Q8_0
    OUT/gptq/       symmetric int4, groups of 64 inputs, zero points stored less one
    OUT/awq/        int4 with zero points, groups of 64, version gemm
    OUT/fp8/        E4M3 with scales of blocks of 128 x 128

A scale is the largest magnitude (with zero points: the range) over the largest code; no calibration, no search. Needs
numpy. Embedding, norms and biases of the directories stay bf16."""

import argparse
import json
import mmap
import os
import struct

import numpy as np

GROUP, FP8_BLOCK, ALIGN = 64, 128, 32
F32, F16, Q4_0, Q4_1, Q8_0, BF16 = 0, 1, 2, 3, 8, 30
VALUE = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def to_bf16(x):
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def of_bf16(h):
    return (h.astype(np.uint32) << 16).view(np.float32)


class Gguf:
    """Metadata, the bytes they stand in, and tensors as float32 [out, in]."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        self.at = 8
        n_tensor, self.n_meta = self.take("QQ")
        begin = self.at
        self.meta = {}
        for _ in range(self.n_meta):
            key = self.text()
            self.meta[key] = self.value(self.take("I")[0])
        self.meta_bytes = self.data[begin:self.at]
        self.tensor = {}
        for _ in range(n_tensor):
            name = self.text()
            dim = self.take("Q" * self.take("I")[0])
            kind, offset = self.take("IQ")
            self.tensor[name] = (kind, dim[::-1], offset)
        self.base = -(-self.at // ALIGN) * ALIGN

    def take(self, form):
        out = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return out

    def text(self):
        n, = self.take("Q")
        self.at += n
        return self.data[self.at - n:self.at].decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            item, n = self.take("IQ")
            return [self.value(item) for _ in range(n)]
        return self.take(VALUE[kind])[0]

    def read(self, name):
        kind, shape, offset = self.tensor[name]
        n = int(np.prod(shape))
        size = {F32: 4 * n, F16: 2 * n, BF16: 2 * n, Q8_0: n // 32 * 34, Q4_1: n // 32 * 20}[kind]
        raw = np.frombuffer(self.data, np.uint8, size, self.base + offset)
        if kind == F32:
            x = raw.view(np.float32)
        elif kind == F16:
            x = raw.view(np.float16).astype(np.float32)
        elif kind == BF16:
            x = of_bf16(raw.view(np.uint16))
        elif kind == Q8_0:
            b = raw.reshape(-1, 34)
            x = b[:, 2:].view(np.int8).astype(np.float32) * b[:, :2].copy().view(np.float16).astype(np.float32)
        else:
            b = raw.reshape(-1, 20)
            d, m = (b[:, i:i + 2].copy().view(np.float16).astype(np.float32) for i in (0, 2))
            x = np.concatenate([b[:, 4:] & 15, b[:, 4:] >> 4], 1).astype(np.float32) * d + m
        return x.reshape(shape)


def q8_0(w):
    b = w.reshape(-1, 32)
    d = (np.abs(b).max(1, keepdims=True) / 127).astype(np.float16)
    s = d.astype(np.float32)
    q = np.rint(np.divide(b, s, out=np.zeros_like(b), where=s > 0)).clip(-127, 127).astype(np.int8)
    return np.concatenate([d.view(np.uint8), q.view(np.uint8)], 1)


def q4_0(w):
    """ggml's: the number of the largest magnitude, with its sign, becomes code 0."""
    b = w.reshape(-1, 32)
    top = np.take_along_axis(b, np.abs(b).argmax(1)[:, None], 1)
    d = (top / -8).astype(np.float16)
    s = d.astype(np.float32)
    q = (np.rint(np.divide(b, s, out=np.zeros_like(b), where=s != 0)) + 8).clip(0, 15).astype(np.uint8)
    return np.concatenate([d.view(np.uint8), q[:, :16] | q[:, 16:] << 4], 1)


def pack_words(q, order=range(8)):
    """[n, 8 m] codes -> [n, m] words, code order[i] of eight in bits 4 i."""
    q = q.reshape(q.shape[0], -1, 8).astype(np.uint32)
    return sum(q[:, :, o] << np.uint32(4 * i) for i, o in enumerate(order)).astype(np.uint32)


def int4(w, zero_points):
    """Codes [out, in], scales and zero points [out, groups]."""
    g = w.reshape(w.shape[0], -1, GROUP)
    if zero_points:
        low, high = np.minimum(g.min(2), 0), np.maximum(g.max(2), 0)
        scale = ((high - low) / 15).astype(np.float16)
        s = np.maximum(scale.astype(np.float32), 1e-8)
        zero = np.rint(-low / s).clip(0, 15)
    else:
        scale = (np.abs(g).max(2) / 7).astype(np.float16)
        s = np.maximum(scale.astype(np.float32), 1e-8)
        zero = np.full(scale.shape, 8.0)
    q = (np.rint(g / s[:, :, None]) + zero[:, :, None]).clip(0, 15)
    return q.reshape(w.shape).astype(np.uint8), scale, zero.astype(np.uint8)


def gptq(name, w):
    q, scale, zero = int4(w, False)
    base = name.removesuffix(".weight")
    yield base + ".qweight", "I32", pack_words(q).T
    yield base + ".qzeros", "I32", pack_words(zero.T - 1)
    yield base + ".scales", "F16", scale.T
    yield base + ".g_idx", "I32", (np.arange(w.shape[1]) // GROUP).astype(np.int32)


def awq(name, w):
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    q, scale, zero = int4(w, True)
    base = name.removesuffix(".weight")
    yield base + ".qweight", "I32", pack_words(q.T, order)
    yield base + ".qzeros", "I32", pack_words(zero.T, order)
    yield base + ".scales", "F16", scale.T


def e4m3(x):
    """Bytes of float32 rounded to E4M3, ties to even, |x| at most 448."""
    e = np.clip(np.floor(np.log2(np.maximum(np.abs(x), 2.0**-30))), -6, 8)
    m = np.rint(np.abs(x) * 2.0**(3 - e))  # 8..16, below 8 where subnormal
    code = np.where(m < 8, m, (e + 7) * 8 + m - 8)
    return (code.clip(0, 0x7E) + np.where(x < 0, 128, 0)).astype(np.uint8)


def fp8(name, w):
    n = [-(-d // FP8_BLOCK) for d in w.shape]
    scale = np.zeros(n, np.float32)
    code = np.zeros(w.shape, np.uint8)
    for r in range(n[0]):
        for c in range(n[1]):
            at = np.s_[r * FP8_BLOCK:(r + 1) * FP8_BLOCK, c * FP8_BLOCK:(c + 1) * FP8_BLOCK]
            scale[r, c] = np.abs(w[at]).max() / 448
            code[at] = e4m3(w[at] / scale[r, c])
    yield name, "F8_E4M3", code
    yield name + "_scale_inv", "F32", scale


def plain(name, w):
    yield name, "BF16", to_bf16(w)


def write_dir(out, config, weights, of_matrix):
    os.makedirs(out, exist_ok=True)
    tensors = []
    for name, w in weights.items():
        matrix = w.ndim == 2 and "embed" not in name
        tensors += (of_matrix if matrix else plain)(name, w)
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, kind, x in tensors:
        header[name] = {"dtype": kind, "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(out, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, _, x in tensors:
            f.write(np.ascontiguousarray(x).tobytes())
    with open(os.path.join(out, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, indent=2)
        f.write("\n")


def write_gguf(path, src, weights, of_layer):
    head, body, at = b"GGUF" + struct.pack("<IQQ", 3, len(weights), src.n_meta) + src.meta_bytes, [], 0
    for name, w in weights.items():
        kind, x = (F32, w.astype(np.float32)) if w.ndim == 1 else (Q8_0, q8_0(w)) if "embd" in name else of_layer(w)
        head += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", w.ndim)
        head += struct.pack(f"<{w.ndim}QIQ", *w.shape[::-1], kind, at)
        body.append(x.tobytes())
        at += -(-x.nbytes // ALIGN) * ALIGN
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % ALIGN))
        for x in body:
            f.write(x + bytes(-len(x) % ALIGN))


def hf_name(name):
    layer = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
             "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    part = name.split(".")
    if part[0] == "blk":
        return f"model.layers.{part[1]}.{layer[part[2]]}.weight"
    return {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}[part[0]] + ".weight"


def unpermute(w, n_head):
    """llama.cpp stores rows 2i + b of a head of Q and K for row b * D/2 + i."""
    return w.reshape(n_head, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("out")
    o = p.parse_args()
    src = Gguf(o.model)
    m = {k.removeprefix("llama."): v for k, v in src.meta.items()}
    as_file = {name: of_bf16(to_bf16(src.read(name))) for name in src.tensor}
    as_hf = {}
    for name, w in as_file.items():
        n_head = m["attention.head_count"] if "attn_q." in name else m["attention.head_count_kv"]
        as_hf[hf_name(name)] = unpermute(w, n_head) if ".attn_q." in name or ".attn_k." in name else w
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_act": "silu",
        "hidden_size": m["embedding_length"], "num_hidden_layers": m["block_count"],
        "num_attention_heads": m["attention.head_count"], "num_key_value_heads": m["attention.head_count_kv"],
        "intermediate_size": m["feed_forward_length"], "vocab_size": len(as_file["token_embd.weight"]),
        "max_position_embeddings": m["context_length"], "rms_norm_eps": m["attention.layer_norm_rms_epsilon"],
        "rope_theta": m["rope.freq_base"], "tie_word_embeddings": "output.weight" not in as_file,
        "bos_token_id": m["tokenizer.ggml.bos_token_id"], "eos_token_id": m["tokenizer.ggml.eos_token_id"],
    }
    own = {
        "gptq": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True},
        "awq": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"},
        "fp8": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                "weight_block_size": [FP8_BLOCK, FP8_BLOCK]},
    }
    write_dir(os.path.join(o.out, "bf16"), config, as_hf, plain)
    for name, of_matrix in (("gptq", gptq), ("awq", awq), ("fp8", fp8)):
        write_dir(os.path.join(o.out, name), config | {"quantization_config": own[name]}, as_hf, of_matrix)
    write_gguf(os.path.join(o.out, "q8_0.gguf"), src, as_file, lambda w: (Q8_0, q8_0(w)))
    write_gguf(os.path.join(o.out, "q4_0.gguf"), src, as_file, lambda w: (Q4_0, q4_0(w)))


if __name__ == "__main__":
    main()
