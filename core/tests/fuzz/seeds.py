#!/usr/bin/env python3
"""First inputs of the fuzz targets: seeds.py FOLDER writes FOLDER/<target>/*, small files that use each feature of a
format once. corpus/ is what remains of them, and of what the fuzzer made of them, after merging (README.md)."""
import base64
import json
import os
import struct
import sys

out = sys.argv[1]


def put(target, name, data):
    os.makedirs(os.path.join(out, target), exist_ok=True)
    with open(os.path.join(out, target, name), 'wb') as f:
        f.write(data.encode() if isinstance(data, str) else data)


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(',', ':'))


# ---- rows ----

talk = [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'What is 2 + 2?'}]
tool = {'type': 'function', 'function': {'name': 'add', 'description': 'adds', 'parameters': {
    'type': 'object', 'properties': {'a': {'type': 'integer'}, 'b': {'type': 'integer'}}, 'required': ['a', 'b']}}}
call = {'role': 'assistant', 'content': None, 'tool_calls': [
    {'id': 'c1', 'type': 'function', 'function': {'name': 'add', 'arguments': '{"a": 2, "b": 2}'}}]}
answer = {'role': 'tool', 'tool_call_id': 'c1', 'content': '4'}
settings = {'max_tokens': 8.0, 'temperature': 0.5, 'top_p': 0.9, 'top_k': -1, 'min_p': 0.1, 'seed': 7, 'n': 2,
            'stop': ['\n', 'END'], 'stop_token_ids': [2, 3], 'ignore_eos': False, 'logprobs': 3,
            'skip_special_tokens': True, 'presence_penalty': 0, 'frequency_penalty': 1.5, 'repetition_penalty': 1.1, 'min_tokens': 2,
            'include_stop_str_in_output': True, 'logit_bias': {'50256': -100, '0': 1.5}, 'response_format': {'type': 'text'}, 'max_token': 4}
native = {
    'text': {'id': 'a17', 'prompt': 'Once upon\u00a0a \U0001f600'},
    'ids': {'id': 9223372036854775807, 'prompt_token_ids': [1, 2, 3.0]},
    'chat': {'messages': talk},
    'parts': {'messages': [{'role': 'user', 'content': [{'type': 'text', 'text': 'a'}, {'type': 'text', 'text': 'b'}]}]},
    'tools': {'messages': talk + [call, answer], 'tools': [tool], 'documents': [{'title': 't', 'text': 'x'}],
              'chat_template_kwargs': {'thinking': True}, 'add_generation_prompt': False},
    'continued': {'messages': talk + [{'role': 'assistant', 'content': 'It is'}], 'continue_final_message': True,
                  'add_generation_prompt': False, 'tool_choice': 'none'},
    'settings': dict(settings, prompt='x'),
    'question': {'question': 'Why?', 'lora': None, 'best_of': 1},
    'wrong': {'prompt': 5, 'temperature': 'hot'},
    'unknown': {'prompt': 'x', 'logit_bias': {'05': 1}, 'extra': {'deep': [[[{}]]], 'big': 10 ** 30}},
}
for name, row in native.items():
    put('row', name, compact(row))
put('row', 'escapes', '{"prompt":"\\u0000\\ud83d\\ude00\\n\\"","id":"\\u00e9","id":1}')
put('row', 'bytes', b'{"prompt":"\xff\xc0\x80"}')
put('row', 'number', '{"prompt":"x","temperature":1e400}')
put('row', 'surrogate', '{"prompt":"\\ud800"}')
put('row', 'list', '[1]')
chat_body = {'model': 'm', 'messages': talk}
openai = {
    'chat': ('/v1/chat/completions', chat_body),
    'all': ('/v1/chat/completions', dict(chat_body, max_completion_tokens=5, n=2, logprobs=True, top_logprobs=4, seed=1,
                                         stop='x', tools=[tool], tool_choice='auto', stream=False, user='u')),
    'call': ('/v1/chat/completions', {'model': 'm', 'messages': talk + [call, answer], 'reasoning_effort': 'none'}),
    'developer': ('/v1/chat/completions', {'messages': [{'role': 'developer', 'content': 'x'}] + talk[1:]}),
    'text': ('/v1/completions', {'model': 'm', 'prompt': 'x', 'logprobs': 2, 'echo': True, 'best_of': 1}),
    'texts': ('/v1/completions', {'model': 'm', 'prompt': ['x', 'y'], 'n': 2, 'suffix': None}),
    'token': ('/v1/completions', {'model': 'm', 'prompt': [1, 2]}),
    'tokens': ('/v1/completions', {'model': 'm', 'prompt': [[1, 2], [3]], 'max_tokens': 0}),
    'elsewhere': ('/v1/embeddings', {'model': 'm', 'input': 'x'}),
}
for name, (url, body) in openai.items():
    put('row', 'openai_' + name, compact({'custom_id': name, 'method': 'POST', 'url': url, 'body': body}))

# ---- tokenizer.json ----

BYTES = [chr(b) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b else None for b in range(256)]
spare = 256
for at in range(256):
    if BYTES[at] is None:
        BYTES[at] = chr(spare)
        spare += 1
SPACE = '\u2581'


def tokenizer(model, normalizer=None, pre=None, decoder=None, post=None, added=()):
    return {'version': '1.0', 'added_tokens': list(added), 'normalizer': normalizer, 'pre_tokenizer': pre,
            'post_processor': post, 'decoder': decoder, 'model': model}


def added(ident, content, **flags):
    return {'id': ident, 'content': content, 'single_word': False, 'lstrip': False, 'rstrip': False,
            'normalized': False, 'special': True, **flags}


def bpe(pieces, merges, **more):
    vocab = {piece: i for i, piece in enumerate(list(pieces) + [''.join(m) for m in merges])}
    return {'type': 'BPE', 'vocab': vocab, 'merges': [' '.join(m) for m in merges], **more}


letters = [c for c in 'Helo, wrd!abc01\u0120\u010a']
byte_model = bpe(letters, [('l', 'l'), ('ll', 'o'), ('H', 'e'), ('\u0120', 'w')])
all_bytes = bpe(BYTES, [('l', 'l')], ignore_merges=True)
fallback = [f'<0x{b:02X}>' for b in range(256)]
spm_model = bpe(['<unk>', '<s>', '</s>'] + fallback + [SPACE, 'H', 'e', 'l', 'o'], [('l', 'l'), (SPACE, 'H')],
                unk_token='<unk>', fuse_unk=True, byte_fallback=True)
unigram = {'type': 'Unigram', 'unk_id': 0, 'byte_fallback': False,
           'vocab': [['<unk>', 0], ['<s>', 0], [SPACE, -2.5], ['l', -3], ['ll', -3.5], [SPACE + 'He', -4.25], ['o', -2]]}
byte_level = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': True}
byte_decoder = {'type': 'ByteLevel'}
metaspace = {'type': 'Metaspace', 'replacement': SPACE, 'prepend_scheme': 'always', 'split': True}
spm_norm = {'type': 'Sequence', 'normalizers': [{'type': 'Prepend', 'prepend': SPACE}, {
    'type': 'Replace', 'pattern': {'String': ' '}, 'content': SPACE}]}
spm_decoder = {'type': 'Sequence', 'decoders': [
    {'type': 'Replace', 'pattern': {'String': SPACE}, 'content': ' '}, {'type': 'ByteFallback'}, {'type': 'Fuse'},
    {'type': 'Strip', 'content': ' ', 'start': 1, 'stop': 0}]}
template = {'type': 'TemplateProcessing', 'single': [{'SpecialToken': {'id': '<s>', 'type_id': 0}},
                                                     {'Sequence': {'id': 'A', 'type_id': 0}}],
            'pair': [], 'special_tokens': {'<s>': {'id': '<s>', 'ids': [1], 'tokens': ['<s>']}}}
config = {'bos_token': '<s>', 'eos_token': {'content': '</s>'}, 'pad_token': None, 'add_bos_token': True,
          'add_eos_token': False, 'model_max_length': 10 ** 30, 'legacy': False, 'tokenizer_class': 'LlamaTokenizer',
          'added_tokens_decoder': {'300': {'content': '<extra>', 'special': True}}}


def put_json(name, file, conf=None):
    put('tokfile', name, compact(file) + '\0' + (compact(conf) if conf else ''))


# a charsmap of one rule: "\ufb01" becomes "fi" (a double array of five levels is too much to write by hand: the fuzzer
# gets an empty one and one of garbage)
charsmap = base64.b64encode(struct.pack('<I', 1024) + bytes(1024) + b'fi\0').decode()
normalizers = [{'type': t} for t in ('NFC', 'NFD', 'NFKC', 'NFKD', 'Lowercase', 'StripAccents', 'Nmt', 'ByteLevel')] + [
    {'type': 'Replace', 'pattern': {'String': 'a'}, 'content': 'bb'},
    {'type': 'Replace', 'pattern': {'Regex': ' {2,}'}, 'content': SPACE}, {'type': 'Prepend', 'prepend': 'x'},
    {'type': 'Strip', 'strip_left': True, 'strip_right': False},
    {'type': 'Precompiled', 'precompiled_charsmap': charsmap}, {'type': 'BertNormalizer'}]
for n, part in enumerate(normalizers):
    put_json(f'normalizer_{n}', tokenizer(byte_model, part, byte_level, byte_decoder))
    put_json(f'normalizer_text_{n}', tokenizer(unigram, part, metaspace, metaspace))
pre = [{'type': 'Split', 'pattern': {'Regex': r'(?i:\'s)|\p{L}+|\p{N}{1,3}|\s+(?!\S)|\s+'}, 'behavior': b, 'invert': i}
       for b in ('Removed', 'Isolated', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous') for i in (False, True)] + [
    {'type': 'Split', 'pattern': {'String': 'l'}, 'behavior': 'Isolated', 'invert': False},
    {'type': 'Split', 'pattern': {'Regex': r'[^\w\h]+\b|\B\W'}, 'behavior': 'Isolated', 'invert': False},
    {'type': 'Digits', 'individual_digits': True}, {'type': 'Punctuation', 'behavior': 'Contiguous'},
    {'type': 'CharDelimiterSplit', 'delimiter': ','}, {'type': 'Whitespace'}, {'type': 'WhitespaceSplit'},
    {'type': 'BertPreTokenizer'}, dict(metaspace, prepend_scheme='first'), dict(metaspace, split=False),
    {'type': 'UnicodeScripts'}]
for n, part in enumerate(pre):
    put_json(f'pre_{n}', tokenizer(byte_model, None, {'type': 'Sequence', 'pretokenizers': [part, byte_level]},
                                   byte_decoder))
decoders = [metaspace, {'type': 'ByteFallback'}, {'type': 'Fuse'}, {'type': 'Strip', 'content': 'H', 'start': 1, 'stop': 1},
            {'type': 'Replace', 'pattern': {'String': 'l'}, 'content': ''}, spm_decoder, {'type': 'WordPiece'}]
for n, part in enumerate(decoders):
    put_json(f'decoder_{n}', tokenizer(spm_model, spm_norm, None, part, template), config)
posts = [template, {'type': 'Sequence', 'processors': [{'type': 'ByteLevel'}, template]},
         {'type': 'BertProcessing', 'sep': ['</s>', 2], 'cls': ['<s>', 1]},
         {'type': 'RobertaProcessing', 'sep': ['</s>', 2], 'cls': ['<s>', 1], 'trim_offsets': True,
          'add_prefix_space': False}]
for n, part in enumerate(posts):
    put_json(f'post_{n}', tokenizer(spm_model, spm_norm, None, spm_decoder, part), config)
more = [added(400, '<s>'), added(401, '<|x|>', lstrip=True, rstrip=True), added(402, ' lo', special=False, normalized=True),
        added(403, 'world', single_word=True), added(0, 'H')]
put_json('bytes', tokenizer(all_bytes, None, byte_level, byte_decoder, None, more), config)
put_json('unigram', tokenizer(unigram, None, metaspace, metaspace, template, more), config)
put_json('unigram_bytes', tokenizer(dict(unigram, byte_fallback=True, vocab=unigram['vocab'] + [
    [b, -9] for b in fallback]), spm_norm, None, spm_decoder), config)
put_json('merges', tokenizer(dict(byte_model, merges=[['l', 'l'], ['ll', 'o']]), None, byte_level, byte_decoder))
put_json('affixes', tokenizer(dict(byte_model, continuing_subword_prefix='##', end_of_word_suffix='</w>'), None,
                              byte_level, byte_decoder))
put_json('unknown', tokenizer(bpe(['<unk>', 'H', 'l'], [], unk_token='<unk>', fuse_unk=True), None, metaspace, metaspace))
put_json('wordpiece', tokenizer({'type': 'WordPiece', 'vocab': {'a': 0}}))

# ---- tokenizer.model ----


def varint(n):
    n &= (1 << 64) - 1
    done = b''
    while n > 127:
        done += bytes([n & 127 | 128])
        n >>= 7
    return done + bytes([n])


def field(number, value):
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack('<f', value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def sentencepiece(kind, pieces, trainer=b'', normalizer=b''):
    message = b''.join(field(1, field(1, p) + field(2, float(s)) + (field(3, t) if t != 1 else b'')) for p, s, t in pieces)
    return message + field(2, field(3, kind) + field(40, 0) + field(41, 1) + field(42, 2) + field(43, -1) + trainer) + \
        field(3, field(1, 'identity') + normalizer)


control = [('<unk>', 0, 2), ('<s>', 0, 3), ('</s>', 0, 3)]
byte_pieces = [(b, 0, 6) for b in fallback]
text_pieces = [(SPACE, -2, 1), ('H', -3, 1), ('e', -3, 1), ('l', -4, 1), ('ll', -1, 1), ('o', -4, 1), ('llo', -2, 1),
               (SPACE + 'He', -5, 1), ('He', -2.5, 1), ('<user>', 0, 4), ('unused', 0, 5)]
flags = [b'', field(3, 0), field(4, 0), field(5, 0), field(2, struct.pack('<I', 1024) + bytes(1024) + b'fi\0')]
for kind in (1, 2, 3, 4):
    for n, flag in enumerate(flags if kind < 3 else flags[:1]):
        put('tokmodel', f'spm_{kind}_{n}', b'\0' + sentencepiece(kind, control + text_pieces, b'', flag))
    put('tokmodel', f'spm_bytes_{kind}', compact(config).encode() + b'\0' + sentencepiece(
        kind, control + byte_pieces + text_pieces, field(35, 1) + field(24, 1)))
put('tokmodel', 'spm_chatglm', compact({'tokenizer_class': 'ChatGLMTokenizer'}).encode() + b'\0' +
    sentencepiece(2, control + byte_pieces + text_pieces, field(35, 1)))
put('tokmodel', 'spm_unknown_fields', b'\0' + sentencepiece(2, control + text_pieces) + field(5, b'\x0a\x00') +
    varint(9 << 3 | 1) + bytes(8) + field(99, 'x'))
put('tokmodel', 'special_not_utf8', b'\0' + sentencepiece(1, [(b'<unk\xff', 0, 2)] + control[1:] + text_pieces))
ranks = [bytes([b]) for b in range(256)] + [b'He', b'll', b'llo', b' w', 'é'.encode()]
lines = ''.join(f'{base64.b64encode(p).decode()} {i}\n' for i, p in enumerate(ranks))
put('tokmodel', 'tiktoken', '\0' + lines)
put('tokmodel', 'tiktoken_config', compact(dict(config, tokenizer_class='PreTrainedTokenizerFast')) + '\0' +
    lines.replace('\n', '\r\n'))
put('tokmodel', 'tiktoken_few', '\0SGU= 0\nbGw= 1\nSA== 2\n')

# ---- GGUF ----

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
FORM = {U8: 'B', I8: 'b', U16: 'H', I16: 'h', U32: 'I', I32: 'i', F32: 'f', BOOL: '?', U64: 'Q', I64: 'q', F64: 'd'}


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return struct.pack('<Q', len(value)) + value


def value_of(kind, value):
    if kind == STR:
        return text(value)
    if kind == ARR:
        return struct.pack('<IQ', value[0], len(value[1])) + b''.join(value_of(value[0], v) for v in value[1])
    return struct.pack('<' + FORM[kind], value)


def gguf(keys, tensors=(), version=3):
    """tensors: (name, dimensions, type, bytes)"""
    head = b'GGUF' + struct.pack('<IQQ', version, len(tensors), len(keys))
    for key, (kind, value) in keys.items():
        head += text(key) + struct.pack('<I', kind) + value_of(kind, value)
    body = b''
    for name, dims, kind, data in tensors:
        body += bytes(-len(body) % 32)
        head += text(name) + struct.pack(f'<I{len(dims)}QIQ', len(dims), *dims, kind, len(body))
        body += data
    return head + bytes(-len(head) % 32) + body


def tokens(model, pieces, merges=None, **keys):
    k = 'tokenizer.ggml.'
    meta = {'general.architecture': (STR, 'llama'), k + 'model': (STR, model), k + 'tokens': (ARR, (STR, [p for p, _, _ in pieces])),
            k + 'scores': (ARR, (F32, [s for _, s, _ in pieces])), k + 'token_type': (ARR, (I32, [t for _, _, t in pieces]))}
    if merges is not None:
        meta[k + 'merges'] = (ARR, (STR, merges))
    return {**meta, **{k + n: v for n, v in keys.items()}}


ends = {'bos_token_id': (U32, 1), 'eos_token_id': (U32, 2), 'eot_token_id': (U32, 2), 'unknown_token_id': (U32, 0),
        'padding_token_id': (U32, 0)}
byte_tokens = [(c, 0, 1) for c in letters] + [('ll', 0, 1), ('<|im_end|>', 0, 3), ('<tool>', 0, 4)]
weights = [('w', (32, 2), 0, bytes(256)), ('h', (32,), 1, bytes(64)), ('q', (64, 1), 8, bytes(68)), ('b', (2, 2, 2), 30, bytes(16)),
           ('r', (32, 1), 2, bytes(18)), ('p', (32, 1), 3, bytes(20)), ('k', (256,), 12, bytes(144)), ('i', (4,), 26, bytes(16))]


def model_keys(arch, **more):
    sizes = {'context_length': (U32, 64), 'embedding_length': (U32, 32), 'block_count': (U32, 1), 'feed_forward_length': (U32, 32),
             'attention.head_count': (U32, 2), 'attention.head_count_kv': (U32, 1), 'attention.layer_norm_rms_epsilon': (F32, 1e-5),
             'rope.freq_base': (F32, 1e4)}
    return {'general.architecture': (STR, arch), **{f'{arch}.{k.replace("__", ".")}': v for k, v in {**sizes, **more}.items()}}


def matrices(shapes, kinds=(0, 1, 30, 8, 2, 3)):
    """Tensors of these dimensions, a type after the other where rows are whole blocks."""
    size = {0: 4, 1: 2, 30: 2, 8: 34 / 32, 2: 18 / 32, 3: 20 / 32}
    done = []
    for n, (name, dims) in enumerate(shapes.items()):
        kind = kinds[n % len(kinds)] if len(dims) > 1 and dims[0] % 32 == 0 else 0
        count = 1
        for d in dims:
            count *= d
        done.append((name, dims, kind, bytes(i * 31 % 60 for i in range(int(count * size[kind])))))
    return done


ends_of_model = {'token_embd.weight': (32, 8), 'output_norm.weight': (32,), 'blk.0.attn_norm.weight': (32,)}
plain_attention = {'blk.0.attn_q.weight': (32, 32), 'blk.0.attn_k.weight': (32, 16), 'blk.0.attn_v.weight': (32, 16),
                   'blk.0.attn_output.weight': (32, 32)}
plain_ffn = {'blk.0.ffn_norm.weight': (32,), 'blk.0.ffn_gate.weight': (32, 32), 'blk.0.ffn_up.weight': (32, 32),
             'blk.0.ffn_down.weight': (32, 32)}
fused = {'blk.0.attn_qkv.weight': (32, 64), 'blk.0.attn_qkv.bias': (64,), 'blk.0.attn_output.weight': (32, 32),
         'blk.0.ffn_norm.weight': (32,), 'blk.0.ffn_up.weight': (32, 64), 'blk.0.ffn_down.weight': (32, 32)}
mixture = {'blk.0.ffn_norm.weight': (32,), 'blk.0.ffn_gate_inp.weight': (32, 2), 'blk.0.exp_probs_b.bias': (2,),
           'blk.0.ffn_gate_exps.weight': (32, 8, 2), 'blk.0.ffn_up_exps.weight': (32, 8, 2), 'blk.0.ffn_down_exps.weight': (8, 32, 2),
           'blk.0.ffn_gate_shexp.weight': (32, 8), 'blk.0.ffn_up_shexp.weight': (32, 8), 'blk.0.ffn_down_shexp.weight': (8, 32)}
mla = {'blk.0.attn_q_a.weight': (32, 16), 'blk.0.attn_q_a_norm.weight': (16,), 'blk.0.attn_q_b.weight': (16, 24),
       'blk.0.attn_kv_a_mqa.weight': (32, 20), 'blk.0.attn_kv_a_norm.weight': (16,), 'blk.0.attn_output.weight': (16, 32)}
parted = {'blk.0.attn_k_b.weight': (8, 16, 2), 'blk.0.attn_v_b.weight': (16, 8, 2)}
chooser = {'blk.0.indexer.attn_q_b.weight': (16, 16), 'blk.0.indexer.attn_k.weight': (32, 8), 'blk.0.indexer.k_norm.weight': (8,),
           'blk.0.indexer.k_norm.bias': (8,), 'blk.0.indexer.proj.weight': (32, 2)}
mixed = {'expert_count': (U32, 2), 'expert_used_count': (U32, 1), 'expert_shared_count': (U32, 1), 'expert_feed_forward_length': (U32, 8),
         'expert_weights_norm': (BOOL, True), 'expert_weights_scale': (F32, 1.8), 'expert_gating_func': (U32, 2),
         'expert_group_count': (U32, 1), 'expert_group_used_count': (U32, 1), 'leading_dense_block_count': (U32, 0)}
latent_keys = {'attention__q_lora_rank': (U32, 16), 'attention__kv_lora_rank': (U32, 16), 'attention__key_length_mla': (U32, 12),
               'attention__value_length_mla': (U32, 8), 'rope__dimension_count': (U32, 4)}
chosen = {'attention__indexer__head_count': (U32, 2), 'attention__indexer__key_length': (U32, 8), 'attention__indexer__top_k': (U32, 4)}
put('gguf', 'model_llama', gguf(model_keys('llama'), matrices({**ends_of_model, **plain_attention, **plain_ffn, 'rope_freqs.weight': (8,)})))
put('gguf', 'model_yarn', gguf(model_keys('qwen3', rope__scaling__type=(STR, 'yarn'), rope__scaling__factor=(F32, 4.0),
                                          rope__scaling__original_context_length=(U32, 16), attention__sliding_window=(U32, 8)),
                               matrices({**ends_of_model, **plain_attention, **plain_ffn, 'blk.0.attn_q_norm.weight': (16,),
                                         'blk.0.attn_k_norm.weight': (16,), 'output.weight': (32, 8)})))
put('gguf', 'model_chatglm', gguf(model_keys('chatglm', rope__dimension_count=(U32, 8)), matrices({**ends_of_model, **fused})))
moe_norm = {('blk.0.post_attention_norm.weight' if k == 'blk.0.ffn_norm.weight' else k): v for k, v in mixture.items()}
put('gguf', 'model_glm4moe', gguf(model_keys('glm4moe', rope__dimension_count=(U32, 8), **mixed),
                                  matrices({**ends_of_model, **plain_attention, **moe_norm})))
put('gguf', 'model_deepseek2', gguf(model_keys('deepseek2', **mixed, **latent_keys), matrices({**ends_of_model, **mla, **parted, **mixture})))
put('gguf', 'model_whole_kv', gguf(model_keys('deepseek2', **mixed, **latent_keys),
                                   matrices({**ends_of_model, **mla, 'blk.0.attn_kv_b.weight': (16, 32), **mixture})))
put('gguf', 'model_dsa', gguf(model_keys('glm-dsa', **mixed, **latent_keys, **chosen, attention__indexer__types=(ARR, (BOOL, [True]))),
                              matrices({**ends_of_model, **mla, **parted, **chooser, **mixture})))
put('gguf', 'empty', gguf({}))
put('gguf', 'v2', gguf({'general.architecture': (STR, 'llama')}, weights[:1], 2))
put('gguf', 'types', gguf({f'k{kind}': (kind, 1) for kind in FORM} | {'nested': (ARR, (ARR, [(U8, [1, 2]), (STR, ['x'])])),
                          'none': (ARR, (STR, [])), 'general.alignment': (U32, 32), 'text': (STR, b'\xff\x00')}, weights))
put('gguf', 'spm', gguf(tokens('llama', control + byte_pieces + text_pieces, add_bos_token=(BOOL, True),
                               add_space_prefix=(BOOL, False), **ends)))
put('gguf', 'spm_few', gguf(tokens('llama', control + text_pieces, **ends)))
for n, name in enumerate(('llama-bpe', 'qwen2', 'gpt-2', 'default', 'chatglm-bpe', 'qwen35', 'nobody')):
    put('gguf', f'bpe_{n}', gguf(tokens('gpt2', byte_tokens, ['l l'], pre=(STR, name), add_bos_token=(BOOL, False))))
put('gguf', 'template', gguf(tokens('gpt2', byte_tokens, ['l l', 'H e']) | {
    'tokenizer.chat_template': (STR, '{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}')}))
put('gguf', 'special_bytes', gguf(tokens('llama', [('<unk>', 0, 2), (b'\xff\x00', 0, 3), (b'\xe2\x96', 0, 3)] + text_pieces, **ends) | {
    'tokenizer.chat_template': (STR, '{{ bos_token }}{{ eos_token }}')}))
put('gguf', 'ugm', gguf(tokens('t5', control + text_pieces)))
put('gguf', 'split', gguf({'split.count': (U16, 2)}))

# ---- config.json ----

sizes = {'vocab_size': 90, 'hidden_size': 64, 'intermediate_size': 96, 'num_hidden_layers': 3, 'num_attention_heads': 4,
         'num_key_value_heads': 2, 'max_position_embeddings': 256, 'rms_norm_eps': 1e-5, 'hidden_act': 'silu',
         'tie_word_embeddings': False, 'bos_token_id': 1, 'eos_token_id': [2, 3], 'pad_token_id': None, 'torch_dtype': 'bfloat16'}
experts = {'n_routed_experts': 8, 'num_experts_per_tok': 3, 'moe_intermediate_size': 24, 'n_shared_experts': 1, 'n_group': 2,
           'topk_group': 2, 'routed_scaling_factor': 1.8, 'norm_topk_prob': True, 'first_k_dense_replace': 1,
           'num_nextn_predict_layers': 1, 'topk_method': 'noaux_tc', 'scoring_func': 'sigmoid'}
latent = {'kv_lora_rank': 24, 'q_lora_rank': 32, 'qk_nope_head_dim': 12, 'qk_rope_head_dim': 8, 'v_head_dim': 20, 'head_dim': 8,
          'mlp_layer_types': ['dense', 'sparse', 'sparse'], 'rope_interleave': True, 'attention_bias': True}
index = {'index_topk': 24, 'index_n_heads': 8, 'index_head_dim': 24}
chatglm = {'num_layers': 3, 'padded_vocab_size': 90, 'hidden_size': 64, 'ffn_hidden_size': 96, 'kv_channels': 16,
           'num_attention_heads': 4, 'seq_length': 256, 'layernorm_epsilon': 1e-5, 'rmsnorm': True, 'post_layer_norm': True,
           'apply_residual_connection_post_layernorm': False, 'add_bias_linear': False, 'add_qkv_bias': True,
           'multi_query_attention': True, 'multi_query_group_num': 2, 'rope_ratio': 500, 'original_rope': True,
           'quantization_bit': 0, 'pre_seq_len': None}
ropes = {
    'linear': {'type': 'linear', 'factor': 2.0}, 'dynamic': {'rope_type': 'dynamic', 'factor': 4},
    'llama3': {'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0,
               'original_max_position_embeddings': 64},
    'yarn': {'rope_type': 'yarn', 'factor': 4, 'original_max_position_embeddings': 64, 'attention_factor': 1.1, 'beta_fast': 32,
             'beta_slow': 1, 'mscale': 1, 'mscale_all_dim': 0.7, 'truncate': False},
    'longrope': {'rope_type': 'longrope', 'short_factor': [1.0], 'long_factor': [2.0]}}
configs = {
    'llama': dict(sizes, architectures=['LlamaForCausalLM'], model_type='llama', attention_bias=True, mlp_bias=True, head_dim=16),
    'mistral': dict(sizes, model_type='mistral', sliding_window=20),
    'qwen2': dict(sizes, model_type='qwen2', use_sliding_window=True, sliding_window=20, max_window_layers=1),
    'qwen3': dict(sizes, model_type='qwen3', use_sliding_window=True, sliding_window=20,
                  layer_types=['full_attention', 'sliding_attention', 'full_attention']),
    'glm': dict(sizes, model_type='glm', head_dim=16, partial_rotary_factor=0.5),
    'glm4': dict(sizes, model_type='glm4', head_dim=16, rope_parameters={'partial_rotary_factor': 0.5, 'rope_theta': 1e6}),
    'glm4_moe': dict(sizes, **experts, model_type='glm4_moe', use_qk_norm=True, partial_rotary_factor=0.5),
    'glm4_moe_lite': dict(sizes, **experts, **latent, model_type='glm4_moe_lite'),
    'dsa_types': dict(sizes, **experts, **latent, **index, model_type='glm_moe_dsa', indexer_types=['full', 'shared', 'full']),
    'dsa_pattern': dict(sizes, **experts, **latent, **index, model_type='glm_moe_dsa', index_topk_pattern='FSF'),
    'dsa_freq': dict(sizes, **experts, **latent, **index, model_type='glm_moe_dsa', index_topk_freq=2, index_skip_topk_offset=1),
    'chatglm': dict(chatglm, architectures=['ChatGLMModel'], model_type='chatglm'),
    'quantized': dict(sizes, model_type='llama', quantization_config={'quant_method': 'gptq', 'bits': 4, 'group_size': 8}),
    'classes': {'model_type': 'glm4_moe'}, 'nothing': {}, 'unknown': {'architectures': ['GPT2LMHeadModel']},
    'words': dict(sizes, model_type='llama', hidden_size='64'), 'big': dict(sizes, model_type='llama', vocab_size=10 ** 18),
}
generation = {'do_sample': True, 'temperature': 0.8, 'top_p': 0.9, 'top_k': 50, 'min_p': 0.05, 'repetition_penalty': 1.1,
              'bos_token_id': 1, 'eos_token_id': [2, 89, 90], 'pad_token_id': 0}
for name, value in configs.items():
    put('config', name, compact(value) + '\0' + (compact(generation) if len(name) % 2 else ''))
for name, rope in ropes.items():
    put('config', 'rope_' + name, compact(dict(configs['llama'], rope_theta=500000.0, rope_scaling=rope)))
    put('config', 'latent_' + name, compact(dict(configs['dsa_types'], rope_parameters=dict(rope, rope_theta=1e6))))
put('config', 'twice', '{"model_type":"llama","model_type":"glm"}')
put('config', 'deep', '[' * 3000)
put('config', 'generation', compact(configs['llama']) + '\0' + '{"eos_token_id":[[1]],"top_p":2}')

# ---- safetensors ----

layer = 'model.layers.0.'
llama = {'model.embed_tokens.weight': [4, 8], 'model.norm.weight': [8], layer + 'input_layernorm.weight': [8],
         layer + 'post_attention_layernorm.weight': [8], layer + 'self_attn.q_proj.weight': [8, 8],
         layer + 'self_attn.k_proj.weight': [4, 8], layer + 'self_attn.v_proj.weight': [4, 8],
         layer + 'self_attn.o_proj.weight': [8, 8], layer + 'self_attn.q_proj.bias': [8], layer + 'self_attn.k_proj.bias': [4],
         layer + 'self_attn.v_proj.bias': [4], layer + 'self_attn.o_proj.bias': [8], layer + 'mlp.gate_proj.weight': [16, 8],
         layer + 'mlp.up_proj.weight': [16, 8], layer + 'mlp.down_proj.weight': [8, 16]}
WIDTH = {'F32': 4, 'F16': 2, 'BF16': 2, 'I64': 8, 'F8_E4M3': 1, 'F4': 0.5, 'F6_E2M3': 0.75}


def safetensors(tensors, dtype='BF16', **more):
    head, at = dict(more), 0
    for name, shape in tensors.items():
        n = WIDTH[dtype]
        for d in shape:
            n *= d
        head[name] = {'dtype': dtype, 'shape': shape, 'data_offsets': [at, at + int(n)]}
        at += int(n)
    text = compact(head).encode()
    return struct.pack('<Q', len(text)) + text + bytes(i * 37 % 61 for i in range(at))


without = {k: v for k, v in llama.items() if k != 'model.norm.weight'}
for dtype in ('F32', 'BF16', 'I64'):
    put('safetensors', 'whole_' + dtype, b'\0' + safetensors(llama, dtype, __metadata__={'format': 'pt'}))
put('safetensors', 'missing', b'\0' + safetensors(without))
put('safetensors', 'odd', b'\0' + safetensors({'scalar': [], 'none': [0, 5], 'deep': [1, 2, 1, 2, 1, 2]}, 'F16'))
for dtype in ('F8_E4M3', 'F4', 'F6_E2M3'):
    put('safetensors', dtype, b'\0' + safetensors({'a': [4, 2], 'b': [16]}, dtype))
files = {**{name: 'a.safetensors' for name in without}, 'model.norm.weight': 'b.safetensors'}
put('safetensors', 'sharded', compact({'metadata': {'total_size': 1.5}, 'weight_map': files}).encode() + b'\0' + safetensors(without))
put('safetensors', 'both', compact({'metadata': {}, 'weight_map': files}).encode() + b'\0' + safetensors(llama))
put('safetensors', 'outside', compact({'metadata': {}, 'weight_map': {'x': '../a.safetensors'}}).encode() + b'\0' + safetensors({}))
put('safetensors', 'absent', compact({'metadata': {}, 'weight_map': {'x': 'c.safetensors'}}).encode() + b'\0' + safetensors({}))
put('safetensors', 'escaped', b'\0' + safetensors({'\u00e9\u2028\n': [1]}, 'F32'))
put('safetensors', 'long', b'\0' + struct.pack('<Q', 2 ** 63) + b'{}')

# ---- packed weights ----

SIZE = {'F32': 4, 'F16': 2, 'I32': 4, 'I64': 8, 'F8_E4M3': 1}
packed_sizes = {'model_type': 'llama', 'hidden_size': 16, 'intermediate_size': 32, 'vocab_size': 4, 'num_hidden_layers': 1,
                'num_attention_heads': 2, 'num_key_value_heads': 1, 'tie_word_embeddings': True}
linears = {'self_attn.q_proj': (16, 16), 'self_attn.k_proj': (8, 16), 'self_attn.v_proj': (8, 16),
           'self_attn.o_proj': (16, 16), 'mlp.gate_proj': (32, 16), 'mlp.up_proj': (32, 16), 'mlp.down_proj': (16, 32)}


def words(*numbers):
    return struct.pack(f'<{len(numbers)}i', *numbers)


def put_packed(name, quantization, parts):
    head, body = {}, b''
    tensors = {'model.embed_tokens.weight': ('F16', [4, 16], None), 'model.norm.weight': ('F16', [16], None),
               layer + 'input_layernorm.weight': ('F16', [16], None), layer + 'post_attention_layernorm.weight': ('F16', [16], None)}
    for linear, (m, n) in linears.items():
        tensors.update({f'{layer}{linear}.{suffix}': part for suffix, part in parts(m, n).items()})
    for key, (dtype, shape, content) in tensors.items():
        n = SIZE[dtype]
        for d in shape:
            n *= d
        content = bytes(i * 37 % 61 for i in range(n)) if content is None else content
        head[key] = {'dtype': dtype, 'shape': shape, 'data_offsets': [len(body), len(body) + n]}
        body += content
    text = compact(head).encode()
    put('packed', name, compact(dict(packed_sizes, quantization_config=quantization)).encode() + b'\0' +
        struct.pack('<Q', len(text)) + text + body)


def ct(form, **weights):
    return {'quant_method': 'compressed-tensors', 'format': form, 'config_groups': {'g': {'weights': weights}}}


for bits, form in ((4, 'gptq'), (8, 'gptq_v2'), (2, 'gptq')):
    put_packed(f'gptq_{bits}', {'quant_method': 'gptq', 'bits': bits, 'group_size': 8, 'checkpoint_format': form},
               lambda m, n, per=32 // bits: {
                   'qweight': ('I32', [n // per, m], None), 'qzeros': ('I32', [n // 8, m // per or 1], None),
                   'scales': ('F16', [n // 8, m], None), 'g_idx': ('I32', [n], words(*((i * 3) % (n // 8) for i in range(n))))})
put_packed('awq', {'quant_method': 'awq', 'bits': 4, 'group_size': -1, 'version': 'gemm'}, lambda m, n: {
    'qweight': ('I32', [n, m // 8], None), 'qzeros': ('I32', [1, m // 8], None), 'scales': ('F16', [1, m], None)})
put_packed('fp8_block', {'quant_method': 'fp8', 'weight_block_size': [8, 12]}, lambda m, n: {
    'weight': ('F8_E4M3', [m, n], None), 'weight_scale_inv': ('F32', [-(-m // 8), -(-n // 12)], None)})
put_packed('fp8_row', ct('float-quantized', num_bits=8, type='float', strategy='channel'), lambda m, n: {
    'weight': ('F8_E4M3', [m, n], None), 'weight_scale': ('F16', [m, 1], None)})
put_packed('fp8_all', {'quant_method': 'fp8', 'activation_scheme': 'static'}, lambda m, n: {
    'weight': ('F8_E4M3', [m, n], None), 'weight_scale': ('F32', [], None), 'input_scale': ('F32', [], None)})
put_packed('int4', ct('pack-quantized', num_bits=4, type='int', strategy='group', group_size=16, symmetric=False), lambda m, n: {
    'weight_packed': ('I32', [m, n // 8], None), 'weight_scale': ('F16', [m, n // 16], None),
    'weight_zero_point': ('I32', [m // 8, n // 16], None), 'weight_shape': ('I64', [2], struct.pack('<2q', m, n)),
    'weight_g_idx': ('I32', [n], bytes(4 * n))})
put_packed('int8', ct('pack-quantized', num_bits=8, type='int', strategy='tensor'), lambda m, n: {
    'weight_packed': ('I32', [m, n // 4], None), 'weight_scale': ('F32', [1], None)})
put_packed('none', None, lambda m, n: {'weight': ('F16', [m, n], None)})

# ---- adapters ----


def put_adapter(name, config, modules, dtype='F32'):
    header, body = {}, b''
    size = {'F32': 4, 'F16': 2, 'BF16': 2}[dtype]
    for module, r, m, n in modules:
        for ab, dim in (('A', [r, n]), ('B', [m, r])):
            end = len(body) + dim[0] * dim[1] * size
            header[f'base_model.model.model.layers.{module}.lora_{ab}.weight'] = {
                'dtype': dtype, 'shape': dim, 'data_offsets': [len(body), end]}
            body += bytes(range(256)) * 8
            body = body[:end]
    text = compact(header).encode()
    config = dict({'peft_type': 'LORA', 'r': 2, 'lora_alpha': 4}, **config)
    put('adapter', name, compact(config).encode() + b'\0' + struct.pack('<Q', len(text)) + text + body)


put_adapter('llama', {'target_modules': ['q_proj', 'mlp.down_proj'], 'bias': 'none', 'modules_to_save': None, 'use_dora': False},
            [('0.self_attn.q_proj', 2, 12, 8), ('1.mlp.down_proj', 2, 8, 12)])
put_adapter('all', {'use_rslora': True, 'target_modules': 'all-linear', 'init_lora_weights': 'gaussian'},
            [('0.self_attn.' + p, 2, m, n) for p, m, n in (('q_proj', 12, 8), ('k_proj', 6, 8), ('v_proj', 6, 8), ('o_proj', 8, 12))] +
            [('0.mlp.gate_proj', 2, 12, 8), ('0.mlp.up_proj', 2, 12, 8)], 'BF16')
put_adapter('patterns', {'rank_pattern': {'k_proj': 1, '.*layers\\.1.*': 3}, 'alpha_pattern': {'(q|k)_proj': 0.5}, 'exclude_modules': ['x'],
                         'target_modules': '.*\\.(k|v)_proj', 'layers_to_transform': [0, 1]},
            [('0.self_attn.k_proj', 1, 6, 8), ('1.self_attn.v_proj', 3, 6, 8)], 'F16')
put_adapter('latent', {'target_modules': ['q_a_proj', 'q_b_proj', 'kv_a_proj_with_mqa', 'gate_proj', 'down_proj'], 'layers_to_transform': 0},
            [('0.self_attn.q_a_proj', 2, 4, 8), ('0.self_attn.q_b_proj', 2, 12, 4), ('0.self_attn.kv_a_proj_with_mqa', 2, 6, 8),
             ('0.mlp.gate_proj', 2, 12, 8), ('0.mlp.down_proj', 2, 8, 12)])
put_adapter('experts', {}, [('1.mlp.experts.0.up_proj', 2, 4, 8)])
put_adapter('absorbed', {}, [('0.self_attn.kv_b_proj', 2, 16, 4)])
put_adapter('refused', {'use_dora': True, 'modules_to_save': ['lm_head'], 'bias': 'all', 'layer_replication': [[0, 1]]}, [])

# ---- texts ----

for n, line in enumerate(('Hello, world! It\'s 12345 o\'clock', '  two\n\n\n three \t', 'a\u0301 \u4f60\u597d \U0001f600',
                          '<|begin_of_text|><|im_start|>user\nx<|im_end|>', 'x' * 300, 'ab ' * 100, '\u00a0\u3000\u180e',
                          '0' * 50, '!?' * 40, 'caf\u00e9 na\u00efve \u0915\u094d\u0937')):
    put('encode', f'text_{n}', line)
put('encode', 'bytes', bytes(range(256)))

# ---- templates ----

templates = {
    'print': 'x {{ s }} {{ i + 1 }} {{ f * 2 }} {{- l -}} {{ d }} {{ nothing }} {{ none }} {{ true }}',
    'if': '{% if i > 0 %}a{% elif e %}b{% else %}c{% endif %}{{ "y" if b else "n" }}{{ "z" if e }}',
    'for': '{% for x in l if x != 3 %}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.revindex0 }}{{ loop.length }}'
           '{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle("a", "b") }}{{ loop.changed(x) }}{{ loop.depth }}'
           '{% else %}none{% endfor %}',
    'loops': '{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}',
    'unpack': '{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% set a, b = 1, 2 %}{{ a + b }}',
    'recursive': '{% for x in [[1, [2]], 3] recursive %}{{ loop(x) if x is iterable else x }}{{ loop.depth0 }}{% endfor %}',
    'set': '{% set x = 5 %}{% set y %}a{{ x }}{% endset %}{% set z | upper %}q{% endset %}{{ y ~ z }}',
    'namespace': '{% set ns = namespace(n=0, t="") %}{% for x in l %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}',
    'macro': '{% macro m(a, b="x", c=none) %}{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}{{ caller() if caller }}{% endmacro %}'
             '{{ m(1) }}{{ m(1, c=2) }}{% call m(3) %}in{% endcall %}{% call(u) m(4) %}{{ u }}{% endcall %}{{ m.name }}',
    'filter': '{% filter upper | replace("A", "b") %}a text{% endfilter %}',
    'with': '{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}',
    'generation': '{% generation %}{{ s }}{% endgeneration %}{% raw %}{{ no }}{% endraw %}{# a comment #}',
    'space': 'a\n  {%- if b -%}  \n x {%+ endif %}\n  {% set q = 1 %}\n{{- q }}  {#- c -#}\n  end\n',
    'numbers': '{{ 1_000 + 0x1F + 0b11 + 0o17 }} {{ 1.5e-3 }} {{ 7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 7 / 2 }} {{ +i }}',
    'strings': "{{ 'a\\n\\x41\\u00e9\\'' \"b\" }} {{ 'ab' * 3 }} {{ '%s-%05.2f-%d' % (s, f, i) }} {{ '{} {a!r:>5}'.format(1, a=2) }}",
    'compare': '{{ 1 < 2 <= 2 != 3 }} {{ 1 in l and 5 not in l or not b }} {{ [1, 2] < [1, 3] }} {{ "a" ~ 1 ~ none }}',
    'index': '{{ l[0] }}{{ l[-1] }}{{ l[1:3] }}{{ l[::-1] }}{{ s[2:] }}{{ d["k"] }}{{ d.k }}{{ d.a[1].x }}{{ messages[0].role }}'
             '{{ l[99] }}{{ s.nothing }}',
    'literals': '{{ [1, "a", none] }}{{ (1,) }}{{ () }}{{ {"a": 1, 2: [3]} }}{{ {} }}{{ range(5) | list }}{{ range(0, 9, 2)[1] }}',
    'dict': '{{ dict(a=1, b=2) }}{{ d.get("x", 5) }}{{ d.keys() | list }}{{ d.values() | list }}{{ d | items | list }}'
            '{{ d | dictsort }}{{ d.copy() }}',
    'methods': '{{ s.upper().lower().title().strip().split() }}{{ s.split(",", 1) }}{{ s.startswith(("S", "x")) }}{{ s.replace("a", "b", 1) }}'
               '{{ s.find("e") }}{{ s.count("e") }}{{ "x".join(["a", "b"]) }}{{ s.rstrip("\n") }}{{ s.splitlines() }}{{ s.partition(",") }}'
               '{{ s.zfill(20) }}{{ s.center(30, "*") }}{{ s.isdigit() }}{{ s.capitalize() }}{{ s.swapcase() }}{{ s.encode }}',
    'filters_text': '{{ s | trim | lower | capitalize | title }}{{ s | length }}{{ s | replace("e", "E", 2) }}{{ s | indent(2, true) }}'
                    '{{ s | truncate(5) }}{{ s | wordcount }}{{ s | wordwrap(5) }}{{ s | center(20) }}{{ s | escape }}{{ s | striptags }}'
                    '{{ s | urlencode }}{{ s | string | safe }}{{ s | reverse }}{{ s | first }}{{ s | format }}{{ "<b>x</b>" | e }}',
    'filters_list': '{{ l | sort(reverse=true) | unique | list | join("-") }}{{ l | sum }}{{ l | min }}{{ l | max }}{{ l | last }}'
                    '{{ l | batch(2, 0) | list }}{{ l | slice(2) | list }}{{ l | reverse | list }}{{ l | map("string") | list }}'
                    '{{ l | select("odd") | list }}{{ l | reject("gt", 1) | list }}{{ l | random }}',
    'filters_object': '{{ messages | map(attribute="role") | list }}{{ messages | selectattr("role", "equalto", "user") | list }}'
                      '{{ messages | rejectattr("content", "string") | list }}{{ messages | groupby("role") }}{{ d | attr("k") }}'
                      '{{ messages | sort(attribute="role") | first }}{{ d | xmlattr }}',
    'filters_number': '{{ f | round(1, "ceil") }}{{ f | int }}{{ "12" | int(0, 16) }}{{ "x" | float(1.0) }}{{ i | abs }}'
                      '{{ 123456 | filesizeformat }}{{ e | default("d", true) }}{{ nothing | d("x") }}',
    'json': '{{ d | tojson }}{{ s | tojson(indent=2) }}{{ messages | tojson(ensure_ascii=true, separators=(",", ":"), sort_keys=true) }}{{ d | pprint }}',
    'tests': '{{ i is odd }}{{ i is even }}{{ i is divisibleby(7) }}{{ nothing is defined }}{{ e is undefined }}{{ s is string }}{{ d is mapping }}'
             '{{ l is sequence }}{{ l is iterable }}{{ i is number }}{{ i is integer }}{{ f is float }}{{ b is true }}{{ b is boolean }}'
             '{{ none is none }}{{ 1 is eq 1 }}{{ 1 is in l }}{{ s is lower }}{{ s is upper }}{{ i is sameas i }}{{ range is callable }}'
             '{{ "upper" is filter }}{{ "odd" is test }}{{ not i is not none }}',
    'globals': '{{ strftime_now("%Y-%m-%d %H:%M:%S %j %A %b %%") }}{{ lipsum is defined }}{% set c = cycler("a", "b") %}{{ c.next() }}{{ c.current }}'
               '{{ c.reset() }}{% set j = joiner(", ") %}{{ j() }}{{ j() }}',
    'raise': '{% if messages | length > 1 %}{{ raise_exception("only one, " ~ s) }}{% endif %}',
    'hidden': '{{ s.__class__ }}{{ l.append(1) }}{{ "".__class__.__mro__ }}{{ d.update({}) }}',
    'chat': "{%- for m in messages %}{{ '<|' + m['role'] + '|>' }}{% if m['content'] is string %}{{ m['content'] | trim }}"
            "{% else %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endif %}{{ '</s>' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
    'call_args': '{{ dict(*[], **{"a": 1}) }}{{ namespace(**d) }}{{ range(*[1, 3]) | list }}',
    'unclosed': '{% for x in l %}{{ x', 'tag': '{% nonsense %}', 'deep': '{{ ' + '(' * 40 + '1' + ')' * 40 + ' }}',
    'slow': '{% for a in range(99999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}',
    'big': '{{ "x" * 100000000 }}',
}
for name, source in templates.items():
    put('jinja', name, source + '\0')
put('jinja', 'context', '{{ x }}{{ y.z }}{{ s }}\0{"x":1e300,"y":{"z":[1,2,{"k":"\\u0000"}]},"s":null}')

special = {'bos_token': '<s>', 'eos_token': {'content': '</s>'}}
chats = {
    'file': (templates['chat'], '', {'messages': talk}),
    'config': ('', dict(special, chat_template=templates['chat'] + '{{ bos_token }}'), {'messages': talk}),
    'named': ('', dict(special, chat_template=[{'name': 'default', 'template': templates['chat']},
                                               {'name': 'tool_use', 'template': '{{ tools | tojson }}{{ messages[2].tool_calls }}'}]),
              native['tools']),
    'broken_for_tools': ('', {'chat_template': [{'name': 'tool_use', 'template': '{% if %}'}]}, {'messages': talk}),
    'plain': (templates['chat'], '', {'prompt': 'x'}),
    'continued': (templates['chat'], special, native['continued']),
    'parts': ('{% for m in messages %}{{ m.content }}{% endfor %}', '', native['parts']),
    'kwargs': ('{{ thinking }}{{ bos_token }}{{ documents }}', special, native['tools']),
    'openai': ('{% for m in messages %}{{ m.tool_calls }}{{ m.tool_call_id }}{% endfor %}', '',
               {'custom_id': 'x', 'method': 'POST', 'url': '/v1/chat/completions',
                'body': {'model': 'm', 'messages': talk + [call, answer], 'tools': [tool]}}),
    'fails': ('{{ raise_exception("no") }}', '', {'messages': talk}),
    'none': ('', special, {'messages': talk}),
}
for name, (source, conf, row) in chats.items():
    put('chat', name, source + '\0' + (compact(conf) if conf else '') + '\0' + compact(row))
