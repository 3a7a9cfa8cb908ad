#!/usr/bin/env python3
"""Trains testdata/tiny-glm, a very small GLM-4 (0414) model for tests and for the demo without a network.

    python3 testdata/make_tiny_glm.py

Python 3.11, torch 2.15.0, transformers 5.23.0, tokenizers 0.23.3, safetensors 0.8.0; two CPU threads, about 10 minutes.
The text is that of make_tiny_llama.py in GLM-4's form. Seeds are fixed: the same versions on the same kind of processor
give the same files; elsewhere the weights differ in their last bits and then in everything.

--golden computes only golden.jsonl again, from the files that are there. chat_template.jinja is written by hand.
"""

import argparse
import os
import random

import tiny_common as tiny
import torch
from transformers import AutoTokenizer, Glm4Config, Glm4ForCausalLM

OUT = os.path.join(tiny.HERE, "tiny-glm")

SEED = 20251126
N_TOKEN = 700
N_VOCAB = 704  # rows of the embedding, padded as GLM-4's are: four ids have no token
N_STEPS = 800
N_ROUNDS = 2  # the learning rate rises and falls in each
STEP_TOKENS = 1024
N_THREAD = 2
PEAK_LR = 3e-3

END, USER, ASSISTANT, OBSERVATION = "<|endoftext|>", "<|user|>", "<|assistant|>", "<|observation|>"
PREFIX = ["[gMASK]", "<sop>"]
SPECIAL = [END, "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", USER, ASSISTANT, OBSERVATION]
STOP = [END, USER, OBSERVATION]


# ---------------------------------------------------------------- text

def turns(messages):
    """Without the prefix that the tokenizer adds. A turn has no end of its own: it ends where the next one begins."""
    return "".join(f"<|{m['role']}|>\n{m['content']}" for m in messages)


def training_text(d):
    return d + END if isinstance(d, str) else turns(d) + USER


# ---------------------------------------------------------------- files

def write_tokenizer(t):
    tiny.write_tokenizer(OUT, t, SPECIAL, {
        "eos_token": END, "pad_token": END, "padding_side": "left", "clean_up_tokenization_spaces": False,
        "additional_special_tokens": SPECIAL, "model_max_length": 2048, "model_input_names": ["input_ids", "attention_mask"],
        "tokenizer_class": "PreTrainedTokenizerFast"})


def write_config(t):
    stop = [t.token_to_id(s) for s in STOP]
    tiny.put_json(OUT, "config.json", {
        "architectures": ["Glm4ForCausalLM"], "model_type": "glm4", "attention_bias": True, "attention_dropout": 0.0,
        "hidden_act": "silu", "hidden_size": 128, "intermediate_size": 248, "num_hidden_layers": 4,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24, "partial_rotary_factor": 0.5,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "vocab_size": N_VOCAB, "torch_dtype": "bfloat16", "eos_token_id": stop, "pad_token_id": t.token_to_id(END)})
    tiny.put_json(OUT, "generation_config.json", {
        "do_sample": False, "eos_token_id": stop, "pad_token_id": t.token_to_id(END)})


def draw(r):
    """One training text; stories take most of a text's tokens and are learned soonest, so that fewer of them do."""
    while True:
        text = training_text(tiny.document(r))
        if "Once upon a time" not in text or r.random() < 0.25:
            return text


def train(t):
    torch.manual_seed(SEED)
    model = Glm4ForCausalLM(Glm4Config.from_pretrained(OUT)).float()
    for i in range(N_ROUNDS):
        source = tiny.batches(lambda r: t.encode(draw(r)).ids, random.Random(SEED + 1 + i), STEP_TOKENS)
        tiny.train(model, source, N_STEPS, PEAK_LR, N_THREAD)
    return model


# ---------------------------------------------------------------- golden rows

TALKS = [
    ("hello", tiny.talk("Hello!"), 40), ("who", tiny.talk("Who are you?"), 40),
    ("capital", tiny.talk("What is the capital of France?"), 40), ("count", tiny.talk("Count from 3 to 12."), 60),
    ("puppy", tiny.talk("What is a young dog called?", system=tiny.SYSTEM), 40),
    ("opposite", tiny.talk("What is the opposite of hot?"), 40),
    ("japanese", tiny.talk("What is the Japanese word for cat?"), 40), ("face", tiny.talk("Show me a happy face."), 40),
    ("follow-up", tiny.talk("Name three fruits.", "Three fruits are apples, pears and plums.", "What color is a plum?"), 40),
    ("story-24", tiny.talk("Tell me a story about a fox."), 24), ("story", tiny.talk("Write a story about an owl."), 160),
    ("day", tiny.talk("Which day comes after Friday?"), 40),
]
TEXTS = [("raw-text", "Once upon a time", 160), ("raw-name", "My name is", 60)]


def golden_rows():
    """The template and the form that the model was trained on are two spellings of one thing: each row proves it."""
    chat = AutoTokenizer.from_pretrained(OUT)
    for name, messages, n in TALKS:
        rendered = chat.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompt = turns(messages) + ASSISTANT
        assert rendered == "".join(PREFIX) + prompt
        yield {"id": name, "messages": messages, "rendered": rendered}, prompt, n
    for name, prompt, n in TEXTS:
        yield {"id": name}, prompt, n


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--golden", action="store_true", help="only golden.jsonl")
    args = p.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # takes time, and nothing reads it
    if not args.golden:
        r = random.Random(SEED)
        t = tiny.make_tokenizer([training_text(tiny.document(r)) for _ in range(6000)], N_TOKEN, SPECIAL, PREFIX)
        write_tokenizer(t)
        write_config(t)
        tiny.write_weights(OUT, train(t), tied=False)
    tiny.write_golden(OUT, tiny.load_f32(Glm4ForCausalLM, OUT), golden_rows(), STOP)


if __name__ == "__main__":
    main()
