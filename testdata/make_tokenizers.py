#!/usr/bin/env python3
"""Writes testdata/tokenizers: two SentencePiece models with what sentencepiece makes of random texts, and tokenizer.json
files of many kinds with what the package tokenizers makes of them. Needs sentencepiece 0.2.3 and tokenizers 0.23.3."""
import base64
import json
import os
import random
import tempfile

import sentencepiece as spm
import sentencepiece.sentencepiece_model_pb2 as pb
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "tokenizers")
RULES = "FB01\t66 69\n3000\t20\nA0\t20\n65 301\tE9\n65 301 308\t65 65\n2460\t31\n41\t61\nFDFA\t635 20 627 20 639\n200B\t\n"
EXTRA = ["naïve café résumé", "中文字符测试", "Привет мир", "ﬁne ① Aé", "a\tb", "🙁 🦙 👍🏽", "x  y   z", "foo(bar, 1) == {2};"]
POOLS = [
    list("abcdefghijklmnopqrstuvwxyz"), list("ABC0123456789"), list(" .,;:!?'\"()-_/\\<>[]{}"), [" ", "  ", "   "],
    list("\t\n\r\xa0\u3000\u200b\u2028\x01"), list("éèüﬁ①½ﷺıßİ"), list("\u0301\u0308\u20dd"), ["e\u0301", "e\u0301\u0308"], list("中文字符測あア한국"),
    list("Приветмир"), list("🙁🦙👍🏽"), list("▁▁Ġ�"), ["foo", "bar", "the ", "What", "<t>", "<0x41>", " sad", "ing"],
]


def random_text(rng):
    pools = rng.sample(POOLS, rng.randint(1, 5))
    return "".join(rng.choice(rng.choice(pools)) for _ in range(rng.choice([1, 2, 3, 5, 8, 13, 21, 34])))


def corpus():
    with open(os.path.join(HERE, "corpus", "tiny.txt"), encoding="utf-8") as f:
        lines = [line for line in f.read().split("\n") if line and "<|" not in line]
    return lines[:600] + EXTRA * 20


def train_sentence(name, lines, **options):
    with tempfile.TemporaryDirectory() as tmp:
        with open(os.path.join(tmp, "rules.tsv"), "w", encoding="utf-8") as f:
            f.write(RULES)
        with open(os.path.join(tmp, "corpus.txt"), "w", encoding="utf-8") as f:
            f.write("\n".join(lines))
        if options.pop("rules"):
            options["normalization_rule_tsv"] = os.path.join(tmp, "rules.tsv")
        else:
            options["normalization_rule_name"] = "identity"
        spm.SentencePieceTrainer.train(
            input=os.path.join(tmp, "corpus.txt"), model_prefix=os.path.join(tmp, "m"), num_threads=1, minloglevel=2,
            character_coverage=0.98, hard_vocab_limit=False, **options)
        model = pb.ModelProto()
        with open(os.path.join(tmp, "m.model"), "rb") as f:
            model.ParseFromString(f.read())
    return model


def sentence_rows(data, lines, seed):
    """Texts without control pieces in them, with ids."""
    processor = spm.SentencePieceProcessor(model_proto=data)
    rng = random.Random(seed)
    texts = [random_text(rng) for _ in range(80)] + [rng.choice(lines)[:80] for _ in range(40)]
    return [[text, processor.encode(text)] for text in texts]


def sentence_models(lines):
    bpe = train_sentence("bpe", lines, rules=True, model_type="bpe", vocab_size=420, byte_fallback=True,
                         user_defined_symbols=["foo", "<t>", "  "])
    # some pieces are not used any more: they fall apart into what they were made of
    for piece in [p for p in bpe.pieces if p.type == 1 and len(p.piece) > 3][::5]:
        piece.type = 5
    unigram = train_sentence("unigram", lines, rules=True, model_type="unigram", vocab_size=260, user_defined_symbols=["bar"])
    plain = train_sentence("plain", lines, rules=False, model_type="bpe", vocab_size=440, byte_fallback=True,
                           remove_extra_whitespaces=False)
    out = []
    for seed, (name, model) in enumerate([("bpe", bpe), ("unigram", unigram), ("plain", plain)]):
        model.trainer_spec.input[:] = []
        model.trainer_spec.model_prefix = ""
        model.normalizer_spec.normalization_rule_tsv = ""
        data = model.SerializeToString()
        with open(os.path.join(OUT, name + ".model"), "wb") as f:
            f.write(data)
        out.append({"file": name + ".model", "rows": sentence_rows(data, lines, seed)})
    return out, bpe.normalizer_spec.precompiled_charsmap


def train(model, trainer, pre, lines):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre
    tokenizer.train_from_iterator(lines, trainer)
    return json.loads(tokenizer.to_str())["model"]


def json_models(lines):
    special = ["<unk>", "<s>", "</s>"]
    byte = [f"<0x{i:02X}>" for i in range(256)]
    bpe = train(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True),
                trainers.BpeTrainer(vocab_size=400, special_tokens=special + byte, limit_alphabet=60, show_progress=False),
                pre_tokenizers.Metaspace(), lines)
    holes = [k for k in sorted(bpe["vocab"], key=bpe["vocab"].get) if k not in ("<0xE4>", "<0xF0>")]
    unigram = train(models.Unigram(),
                    trainers.UnigramTrainer(vocab_size=130, special_tokens=special, unk_token="<unk>", show_progress=False),
                    pre_tokenizers.Metaspace(), lines)
    return {
        "bpe": bpe,
        "bpe holes": dict(bpe, vocab={k: i for i, k in enumerate(holes)}),
        "bpe unknown": dict(bpe, fuse_unk=False, byte_fallback=False),
        "bpe affixes": train(models.BPE(unk_token="<unk>"),
                             trainers.BpeTrainer(vocab_size=180, special_tokens=special, limit_alphabet=50,
                                                 continuing_subword_prefix="##", end_of_word_suffix="</w>",
                                                 show_progress=False), pre_tokenizers.Whitespace(), lines),
        "bpe bytes": train(models.BPE(),
                           trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False,
                                               initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
                           pre_tokenizers.ByteLevel(), lines),
        "unigram": unigram,
        "unigram bytes": dict(unigram, byte_fallback=True, vocab=unigram["vocab"] + [[b, -20.0] for b in byte]),
    }


def sequence(kind, *parts):
    return {"type": "Sequence", kind: list(parts)}


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def metaspace(scheme, split=True):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


def byte_level(space, regex):
    return {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": regex}


def parts(charsmap):
    chars = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}
    template = {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    normalizers = {
        "none": None, "llama": sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")),
        "charsmap": sequence("normalizers", chars, {"type": "Strip", "strip_left": False, "strip_right": True},
                             replace(" {2,}", "▁", "Regex")),
        "accents": sequence("normalizers", {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}),
        "nmt": sequence("normalizers", {"type": "Nmt"}, {"type": "NFKC"}), "nfd": {"type": "NFD"},
        "bytes": {"type": "ByteLevel"}, "empty": replace("x*", "-", "Regex"),
        "strip": {"type": "Strip", "strip_left": True, "strip_right": True}}
    pre = {
        "none": None, "always": metaspace("always"), "first": metaspace("first"), "never": metaspace("never"),
        "whole": metaspace("first", False), "white": {"type": "Whitespace"}, "bert": {"type": "BertPreTokenizer"},
        "marks": sequence("pretokenizers", {"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "Contiguous"},
                          {"type": "Digits", "individual_digits": False}),
        "delimiter": {"type": "CharDelimiterSplit", "delimiter": "e"}, "bytes": byte_level(True, True),
        "bytes first": sequence("pretokenizers", byte_level(False, False), metaspace("first")),
        "bytes amid": sequence("pretokenizers", {"type": "Punctuation", "behavior": "MergedWithPrevious"},
                               byte_level(False, True), {"type": "Split", "pattern": {"String": "Ġ"},
                                                         "behavior": "MergedWithNext", "invert": False}),
        "words": sequence("pretokenizers", {"type": "WhitespaceSplit"}, metaspace("first"))}
    decoders = {
        "none": None, "bytes": byte_level(True, True), "always": metaspace("always"), "never": metaspace("never"),
        "llama": sequence("decoders", replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                          {"type": "Strip", "content": " ", "start": 1, "stop": 0}),
        "fallback": {"type": "ByteFallback"}, "fallback first": sequence("decoders", {"type": "ByteFallback"}, metaspace("always")),
        "regex": replace("[aeiou]+", "*", "Regex"),
        "strip": sequence("decoders", {"type": "ByteFallback"}, replace("▁", "_"), {"type": "Fuse"},
                          {"type": "Strip", "content": "_", "start": 3, "stop": 0}),
        "written bytes": sequence("decoders", replace("Ġ", "ĊĠ"), byte_level(True, True))}
    post = {
        "none": None, "template": template, "bert": {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]},
        "roberta": {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1], "trim_offsets": True,
                    "add_prefix_space": True},
        "sequence": sequence("processors", byte_level(True, True), template)}
    return {"normalizer": normalizers, "pre_tokenizer": pre, "decoder": decoders, "post_processor": post}


CASES = """bpe|llama|none|llama|template
bpe|none|always|llama|none
bpe|none|first|always|roberta
bpe|llama|whole|fallback first|none
bpe|strip|marks|never|none
bpe|empty|delimiter|regex|none
bpe holes|llama|none|fallback|none
bpe unknown|none|first|strip|template
bpe affixes|none|white|none|bert
bpe affixes|accents|bert|none|sequence
bpe bytes|none|bytes first|bytes|template
bpe bytes|bytes|none|bytes|none
bpe bytes|none|bytes amid|written bytes|none
bpe bytes|nmt|bytes|none|none
unigram|charsmap|always|always|template
unigram|nmt|always|never|none
unigram|none|words|never|none
unigram|none|whole|always|none
unigram bytes|none|always|llama|none
unigram bytes|nfd|never|strip|sequence"""


def added_tokens(n, rng):
    def token(at, content, special):
        return {"id": at, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": special}

    own = [dict(token(n + i, content, i == 1), lstrip=rng.random() < 0.4, rstrip=rng.random() < 0.4,
                single_word=rng.random() < 0.4) for i, content in enumerate(["foo", "<t>", "bar"])]
    return [token(i, content, True) for i, content in enumerate(["<unk>", "<s>", "</s>"])] + own


def json_cases(all_models, all_parts):
    out = []
    for seed, line in enumerate(CASES.split("\n")):
        names = line.split("|")
        rng = random.Random(1000 + seed)
        model = all_models[names[0]]
        keys = ["normalizer", "pre_tokenizer", "decoder", "post_processor"]
        added = added_tokens(len(model["vocab"]), rng)
        spec = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "model": model}
        spec.update({key: all_parts[key][name] for key, name in zip(keys, names[1:])})
        tokenizer = Tokenizer.from_str(json.dumps(spec))
        rows = []
        for _ in range(24):
            text = random_text(rng)
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            picked = [rng.randrange(tokenizer.get_vocab_size() + 1) for _ in range(rng.randint(0, 12))]
            rows.append([text, ids, tokenizer.encode(text).ids, picked, tokenizer.decode(picked, skip_special_tokens=False),
                         tokenizer.decode(picked, skip_special_tokens=True)])
        out.append({"name": line, "model": names[0], "parts": dict(zip(keys, names[1:])), "added_tokens": added,
                    "rows": rows})
    return out


def main():
    os.makedirs(OUT, exist_ok=True)
    lines = corpus()
    sentence, charsmap = sentence_models(lines)
    all_models, all_parts = json_models(lines), parts(charsmap)
    with open(os.path.join(OUT, "kinds.json"), "w", encoding="ascii") as f:
        json.dump({"sentence": sentence, "models": all_models, "parts": all_parts,
                   "cases": json_cases(all_models, all_parts)}, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
