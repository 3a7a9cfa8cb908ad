"""Makes the models that all engines run, in PEERS/models: the same weights as a Hugging Face directory and as GGUF.

    python make_models.py --peers PEERS [--gguf SmolLM2-135M-Instruct.Q4_1.gguf] [--only smollm2|llama1b] [--check]

smollm2  SmolLM2-135M-Instruct, dequantized from the Q4_1 file that quickstart.sh keeps, rounded to bf16
llama1b  random weights in the shape of Llama-3.2-1B, for speed only
Files made before are kept. --check lets transformers answer a chat prompt with smollm2.
"""

import argparse
import json
import math
import os
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from safetensors.torch import load_file, save_file

TYPES = {"bf16": T.BF16, "f16": T.F16, "f32": T.F32, "q8_0": T.Q8_0}
LAYER = {  # GGUF name: Hugging Face name
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


def names(layers):
    """Pairs of GGUF and Hugging Face names of a llama with tied embeddings."""
    yield "token_embd.weight", "model.embed_tokens.weight"
    yield "output_norm.weight", "model.norm.weight"
    for i in range(layers):
        for g, h in LAYER.items():
            yield f"blk.{i}.{g}.weight", f"model.layers.{i}.{h}.weight"


def permute(w, heads):
    """Rows of a q or k head from half-split (Hugging Face) to interleaved (GGUF) rotation."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def unpermute(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def heads_of(name, config):
    return {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}.get(name.split(".")[-2])


def write_hf(folder, config, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(
        {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]}) + "\n")
    tmp = folder / "model.safetensors.partial"
    save_file(tensors, tmp, metadata={"format": "pt"})
    os.replace(tmp, folder / "model.safetensors")


def config_of(**shape):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_act": "silu",
            "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, **shape}


def make_smollm2(folder, source):
    reader = gguf.GGUFReader(source)

    def value(key):
        return reader.fields[key].contents()

    config = config_of(
        hidden_size=value("llama.embedding_length"), num_hidden_layers=value("llama.block_count"),
        num_attention_heads=value("llama.attention.head_count"), num_key_value_heads=value("llama.attention.head_count_kv"),
        head_dim=value("llama.rope.dimension_count"), intermediate_size=value("llama.feed_forward_length"),
        vocab_size=value("llama.vocab_size"), max_position_embeddings=value("llama.context_length"),
        rope_theta=float(value("llama.rope.freq_base")), bos_token_id=value("tokenizer.ggml.bos_token_id"),
        eos_token_id=value("tokenizer.ggml.eos_token_id"), pad_token_id=value("tokenizer.ggml.padding_token_id"))
    stored = {t.name: t for t in reader.tensors}
    tensors = {}
    for g, h in names(config["num_hidden_layers"]):
        w = gguf.quants.dequantize(stored[g].data, stored[g].tensor_type)
        if heads_of(g, config):
            w = unpermute(w, heads_of(g, config))
        tensors[h] = torch.tensor(w).to(torch.bfloat16)
    write_hf(folder, config, tensors)

    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.chat_template = value("tokenizer.chat_template")
    tokenizer.save_pretrained(folder)


def make_llama1b(folder):
    dim, ffn, kv, vocab, layers = 2048, 8192, 512, 128256, 16
    config = config_of(
        hidden_size=dim, num_hidden_layers=layers, num_attention_heads=32, num_key_value_heads=8, head_dim=64,
        intermediate_size=ffn, vocab_size=vocab, max_position_embeddings=131072, rope_theta=500000.0,
        bos_token_id=128000, eos_token_id=128001, initializer_range=0.02,
        rope_scaling={"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 8192})
    shapes = {"attn_q": (dim, dim), "attn_k": (kv, dim), "attn_v": (kv, dim), "attn_output": (dim, dim),
              "ffn_gate": (ffn, dim), "ffn_up": (ffn, dim), "ffn_down": (dim, ffn), "token_embd": (vocab, dim)}
    torch.manual_seed(0)
    tensors = {}
    for g, h in names(layers):
        kind = g.split(".")[-2]
        tensors[h] = (torch.randn(shapes[kind]) * 0.02 if kind in shapes else torch.ones(dim)).to(torch.bfloat16)
    write_hf(folder, config, tensors)

    # Nobody reads its text; the engines only insist on a tokenizer with the right number of tokens.
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    tokens = dummy_tokens(vocab)
    t = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(tokens)}, merges=[]))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens(tokens[128000:])
    t.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": tokens[128000], "eos_token": tokens[128001]}) + "\n")


def dummy_tokens(n):
    from tokenizers import pre_tokenizers
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    return tokens + [f"<{i}>" for i in range(len(tokens), n)]


def llama3_factors(config):
    """What rope_freqs.weight holds: by how much each frequency is divided."""
    s, d = config["rope_scaling"], config["head_dim"]
    old = s["original_max_position_embeddings"]
    out = []
    for i in range(0, d, 2):
        wave = 2 * math.pi * config["rope_theta"] ** (i / d)
        smooth = (old / wave - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
        out.append(1 / ((1 - min(max(smooth, 0), 1)) / s["factor"] + min(max(smooth, 0), 1)))
    return np.array(out, dtype=np.float32)


def make_gguf(path, folder, kind, source):
    """The Hugging Face directory's weights; the tokenizer of `source`, or a dummy."""
    config = json.loads((folder / "config.json").read_text())
    w = gguf.GGUFWriter(path.with_suffix(".partial"), "llama")
    w.add_name(path.parent.name)
    w.add_context_length(config["max_position_embeddings"])
    w.add_embedding_length(config["hidden_size"])
    w.add_block_count(config["num_hidden_layers"])
    w.add_feed_forward_length(config["intermediate_size"])
    w.add_head_count(config["num_attention_heads"])
    w.add_head_count_kv(config["num_key_value_heads"])
    w.add_rope_dimension_count(config["head_dim"])
    w.add_rope_freq_base(config["rope_theta"])
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    w.add_vocab_size(config["vocab_size"])
    w.add_bos_token_id(config["bos_token_id"])
    w.add_eos_token_id(config["eos_token_id"])
    w.add_add_bos_token(False)
    w.add_tokenizer_model("gpt2")
    if source:
        fields = gguf.GGUFReader(source).fields
        w.add_tokenizer_pre(fields["tokenizer.ggml.pre"].contents())
        w.add_token_list(fields["tokenizer.ggml.tokens"].contents())
        w.add_token_types(fields["tokenizer.ggml.token_type"].contents())
        w.add_token_merges(fields["tokenizer.ggml.merges"].contents())
    else:
        tokens = dummy_tokens(config["vocab_size"])
        w.add_tokenizer_pre("gpt-2")
        w.add_token_list(tokens)
        w.add_token_types([1 if i < 128000 else 3 for i in range(len(tokens))])
        w.add_token_merges([f"{tokens[0]} {tokens[1]}"])
    if "rope_scaling" in config:
        w.add_tensor("rope_freqs.weight", llama3_factors(config))
    tensors = load_file(folder / "model.safetensors")
    for g, h in names(config["num_hidden_layers"]):
        a = tensors[h].to(torch.float32).numpy()
        if heads_of(g, config):
            a = permute(a, heads_of(g, config))
        t = TYPES[kind] if a.ndim > 1 else T.F32
        w.add_tensor(g, gguf.quants.quantize(np.ascontiguousarray(a), t), raw_dtype=t)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    os.replace(path.with_suffix(".partial"), path)


def check(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    x = tokenizer.apply_chat_template([{"role": "user", "content": "What is the capital of France?"}],
                                      add_generation_prompt=True, return_tensors="pt", return_dict=True)
    y = model.generate(**x, max_new_tokens=32, do_sample=False)
    print(json.dumps({"prompt_token_ids": x["input_ids"][0].tolist()}))
    print(tokenizer.decode(y[0, x["input_ids"].shape[1]:]))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peers", type=Path, required=True)
    p.add_argument("--gguf", type=Path)
    p.add_argument("--only", choices=["smollm2", "llama1b"])
    p.add_argument("--types", default="bf16,f16,q8_0", help=f"GGUF files to make, of {','.join(TYPES)}")
    p.add_argument("--check", action="store_true")
    a = p.parse_args()
    source = a.gguf or a.peers.parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    for name in ["smollm2", "llama1b"] if a.only is None else [a.only]:
        folder = a.peers / "models" / name / "hf"
        if not (folder / "tokenizer.json").exists():
            if name == "smollm2":
                if not source.exists():
                    raise SystemExit(f"make_models.py: no '{source}': run ./quickstart.sh or name one with --gguf")
                make_smollm2(folder, source)
            else:
                make_llama1b(folder)
        for kind in a.types.split(","):
            path = folder.parent / f"{kind}.gguf"
            if not path.exists():
                make_gguf(path, folder, kind, source if name == "smollm2" else None)
        print(f"{name}: {folder.parent}")
    if a.check:
        check(a.peers / "models" / "smollm2" / "hf")


if __name__ == "__main__":
    main()
