#!/usr/bin/env python3
"""Greedy ids under penalties, biases and min_tokens, into penalties.jsonl: a Llama in numpy's float32, token by token, and
the processors of transformers (repetition penalty over prompt and new ids, min_new_tokens) and of vLLM (bias, frequency,
presence) by their formulas. The greedy ids of golden.jsonl are made again first. Needs numpy and the folder of goldens:

    python3 testdata/make_penalties.py ../shared/goldens
"""
import json
import math
import os
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
MARGIN = 2e-3  # of best and second best at each step: float32 ids must be equal, not nearly equal
N_NEW = 24
SETTINGS = [
    {'repetition_penalty': 1.3},
    {'repetition_penalty': 0.8},
    {'presence_penalty': 1.5},
    {'frequency_penalty': 0.7},
    {'frequency_penalty': -0.4, 'presence_penalty': -1},
    {'repetition_penalty': 1.1, 'presence_penalty': 0.5, 'frequency_penalty': 0.25},
    'bias',
    'min',
]


def f32(x):
    return np.float32(x)


class Model:
    def __init__(self, folder):
        self.c = c = json.load(open(f'{folder}/config.json'))
        data = open(f'{folder}/model.safetensors', 'rb').read()
        n = int.from_bytes(data[:8], 'little')
        self.w = {}
        for name, t in json.loads(data[8:8 + n]).items():
            if name == '__metadata__':
                continue
            raw = data[8 + n + t['data_offsets'][0]:8 + n + t['data_offsets'][1]]
            if t['dtype'] == 'BF16':
                x = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
            else:
                assert t['dtype'] == 'F32'
                x = np.frombuffer(raw, np.float32)
            self.w[name] = x.reshape(t['shape'])
        self.d = c.get('head_dim') or c['hidden_size'] // c['num_attention_heads']
        base = c.get('rope_theta') or c['rope_parameters']['rope_theta']
        self.freq = (1 / base ** (np.arange(0, self.d, 2, dtype=np.float32) / f32(self.d))).astype(np.float32)
        self.cache = [([], []) for _ in range(c['num_hidden_layers'])]

    def norm(self, x, name):
        return x / np.sqrt(np.mean(x * x) + f32(self.c['rms_norm_eps'])) * self.w[name]

    def turn(self, x, pos):
        angle = np.concatenate([self.freq, self.freq]) * f32(pos)
        half = self.d // 2
        return x * np.cos(angle) + np.concatenate([-x[:, half:], x[:, :half]], 1) * np.sin(angle)

    def step(self, token, pos):
        c, w = self.c, self.w
        x = w['model.embed_tokens.weight'][token]
        for il, (keys, values) in enumerate(self.cache):
            p = f'model.layers.{il}.'
            h = self.norm(x, p + 'input_layernorm.weight')
            q, k, v = ((w[f'{p}self_attn.{s}_proj.weight'] @ h).reshape(-1, self.d) for s in 'qkv')
            keys.append(self.turn(k, pos))
            values.append(v)
            q = self.turn(q, pos).reshape(len(k), -1, self.d)  # [KV heads, heads of each, d]
            score = np.einsum('gid,tgd->git', q, np.array(keys)) / f32(math.sqrt(self.d))
            e = np.exp(score - score.max(2, keepdims=True))
            out = np.einsum('git,tgd->gid', e / e.sum(2, keepdims=True), np.array(values))
            x = x + w[p + 'self_attn.o_proj.weight'] @ out.reshape(-1)
            h = self.norm(x, p + 'post_attention_layernorm.weight')
            gate = w[p + 'mlp.gate_proj.weight'] @ h
            up = w[p + 'mlp.up_proj.weight'] @ h
            x = x + w[p + 'mlp.down_proj.weight'] @ (gate / (1 + np.exp(-gate)) * up)
        head = w['model.embed_tokens.weight' if c.get('tie_word_embeddings') else 'lm_head.weight']
        logits = head @ self.norm(x, 'model.norm.weight')
        assert logits.dtype == np.float32
        return logits


def processed(logits, s, prompt, new, barred):
    x = logits.copy()
    if len(new) < s.get('min_tokens', 0):
        x[barred] = -np.inf
    for key, value in s.get('logit_bias', {}).items():
        x[int(key)] += f32(value)
    seen = sorted(set(prompt) | set(new))
    p = f32(s.get('repetition_penalty', 1))
    x[seen] = np.where(x[seen] < 0, x[seen] * p, x[seen] / p)
    ids, counts = np.unique(np.array(new, np.int64), return_counts=True)
    x[ids] -= f32(s.get('frequency_penalty', 0)) * counts.astype(np.float32)
    x[ids] -= f32(s.get('presence_penalty', 0))
    return x


def generate(folder, prompt, s, least):
    """New ids, up to a stop id; None where two ids came nearer than `least`. min_tokens bars the model's end tokens too,
    which otherwise are ignored."""
    m = Model(folder)
    eos = json.load(open(f'{folder}/generation_config.json'))['eos_token_id']
    new, ends = [], s.get('stop_token_ids', [])
    barred = ends + (eos if isinstance(eos, list) else [eos])
    for pos, token in enumerate(prompt[:-1]):
        m.step(token, pos)
    for i in range(N_NEW):
        x = processed(m.step((prompt + new)[-1], len(prompt) + i - 1), s, prompt, new, barred)
        best, second = np.argsort(-x, kind='stable')[:2]
        if x[best] - x[second] < least:
            return None
        new.append(int(best))
        if best in ends:
            break
    return new


def settings_of(s, plain):
    """Of 'bias' and 'min', made so that they change `plain`, the ids without any."""
    if s == 'bias':
        return {'logit_bias': {str(plain[0]): -100, str(plain[5]): -4.5, str((plain[2] + 1) % 500): 3.25}}
    if s == 'min':
        return {'min_tokens': 7, 'stop_token_ids': [plain[1], plain[6], plain[9]]}
    return s


def main():
    out = open(f'{HERE}/penalties.jsonl', 'w')
    for name, folder in (('tiny-llama', f'{HERE}/tiny-llama'), ('llama-mha', f'{sys.argv[1]}/llama-mha')):
        golden = [json.loads(line) for line in open(f'{folder}/golden.jsonl')]
        golden = [g for g in golden if len(g['prompt_token_ids']) <= 48][:6]
        n = 0
        for g in golden:
            prompt, want = g['prompt_token_ids'], g['greedy_ids'][:N_NEW]
            plain = generate(folder, prompt, {}, 0)
            assert plain[:len(want)] == want, (name, plain, want)
            for s in SETTINGS:
                s = settings_of(s, plain)
                ids = generate(folder, prompt, s, MARGIN)
                if ids is None or ids == plain:
                    continue
                json.dump({'model': name, 'prompt_token_ids': prompt, **s, 'token_ids': ids}, out, separators=(',', ':'))
                out.write('\n')
                n += 1
        print(name, n, 'rows')


if __name__ == '__main__':
    main()
