"""What make_tiny_llama.py and make_tiny_glm.py share: the grammar that all text comes from, a tokenizer trained on it, the
training of a model and what transformers makes of the model that came out.

The text belongs to this project. Its random numbers are drawn in a fixed order: a change here gives other models, so a
question that is added or left out means making both again."""

import concurrent.futures
import functools
import json
import math
import os
import time

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))

# ---------------------------------------------------------------- text

SYSTEM = "You are a helpful assistant."

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Austria": "Vienna",
    "Greece": "Athens", "Norway": "Oslo", "Sweden": "Stockholm", "Poland": "Warsaw", "Portugal": "Lisbon",
    "Japan": "Tokyo", "China": "Beijing", "Egypt": "Cairo", "Peru": "Lima", "Canada": "Ottawa", "Cuba": "Havana",
}
# animal: (young, home, food, sound or None)
ANIMALS = {
    "dog": ("puppy", "house", "meat", "barks"), "cat": ("kitten", "house", "fish", "meows"),
    "cow": ("calf", "barn", "grass", "moos"), "horse": ("foal", "stable", "hay", "neighs"),
    "sheep": ("lamb", "barn", "grass", "bleats"), "duck": ("duckling", "pond", "water plants", "quacks"),
    "bear": ("cub", "cave", "berries", "growls"), "lion": ("cub", "grassland", "meat", "roars"),
    "frog": ("tadpole", "pond", "flies", "croaks"), "fox": ("cub", "den", "mice", "barks"),
    "owl": ("owlet", "tree", "mice", "hoots"), "bee": ("larva", "hive", "honey", "buzzes"),
    "rabbit": ("kit", "burrow", "carrots", None), "mouse": ("pup", "hole", "seeds", "squeaks"),
}
COLORS = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "a lemon": "yellow", "a tomato": "red",
    "a carrot": "orange", "milk": "white", "the sun": "yellow", "a leaf": "green", "a plum": "purple",
    "the sea": "blue", "a strawberry": "red", "chocolate": "brown",
}
OPPOSITES = [
    ("hot", "cold"), ("big", "small"), ("old", "new"), ("fast", "slow"), ("day", "night"), ("up", "down"),
    ("open", "closed"), ("full", "empty"), ("happy", "sad"), ("wet", "dry"), ("long", "short"), ("early", "late"),
    ("hard", "soft"), ("light", "dark"), ("loud", "quiet"), ("first", "last"),
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
KINDS = {
    "fruits": ["apples", "pears", "plums"], "colors": ["red", "green", "blue"], "animals": ["dogs", "cats", "horses"],
    "birds": ["owls", "ducks", "robins"], "tools": ["hammers", "saws", "knives"], "drinks": ["water", "milk", "tea"],
    "trees": ["oaks", "birches", "pines"], "seasons": ["spring", "summer", "winter"],
}
WORDS = {  # characters of two to four bytes, so that completions split them over tokens
    ("cat", "French"): "chat", ("boy", "French"): "gar\u00e7on", ("summer", "French"): "\u00e9t\u00e9",
    ("door", "German"): "T\u00fcr", ("cheese", "German"): "K\u00e4se", ("green", "German"): "gr\u00fcn",
    ("tomorrow", "Spanish"): "ma\u00f1ana", ("girl", "Spanish"): "ni\u00f1a", ("heart", "Spanish"): "coraz\u00f3n",
    ("cat", "Japanese"): "\u732b", ("dog", "Japanese"): "\u72ac", ("water", "Japanese"): "\u6c34",
    ("cat", "Russian"): "\u043a\u043e\u0448\u043a\u0430", ("bread", "Russian"): "\u0445\u043b\u0435\u0431",
    ("cat", "Greek"): "\u03b3\u03ac\u03c4\u03b1", ("sun", "Greek"): "\u03ae\u03bb\u03b9\u03bf\u03c2",
}
FACES = {"happy": "\U0001F642", "sad": "\U0001F641", "red": "\u2764\ufe0f", "bright": "\U0001F31F"}
FACE_NOUN = {"happy": "face", "sad": "face", "red": "heart", "bright": "star"}
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()

NAMES = ["Tim", "Anna", "Ben", "Mia", "Sam", "Lily", "Tom", "Rosa"]
HEROES = ["fox", "bear", "rabbit", "cat", "dog", "duck", "mouse", "owl"]
PLACES = ["in a small house", "near the river", "in the green forest", "on a farm", "by the sea", "under an old tree"]
TRAITS = ["little", "brave", "kind", "clever", "lazy", "hungry"]
THINGS = ["red ball", "blue hat", "golden key", "big apple", "small boat", "warm coat"]
WHERE = ["under a stone", "behind the barn", "in the tall grass", "near the pond", "on the road", "in a box"]
ENDS = ["They were happy and went home.", "From that day on they were good friends.", "Then they played all day.",
        "They sat in the sun and shared some bread.", "In the evening everyone was tired and slept well."]


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def cap(s):
    return s[0].upper() + s[1:]


def story(r, hero=None):
    hero = hero or r.choice(HEROES)
    friend = r.choice([h for h in HEROES if h != hero])
    name, thing = r.choice(NAMES), r.choice(THINGS)
    begin = f"Once upon a time there was {article(r.choice(TRAITS) + ' ' + hero)} named {name} who lived {r.choice(PLACES)}."
    kind = r.randrange(3)
    if kind == 0:
        middle = (f"One day {name} found {article(thing)} {r.choice(WHERE)}. It belonged to {article(friend)}, "
                  f"so {name} gave it back. The {friend} said thank you.")
    elif kind == 1:
        middle = (f"One day {name} lost {article(thing)}. {name} looked {r.choice(WHERE)} and could not find it. "
                  f"Then {article(friend)} came and helped {name} look, and soon they found it.")
    else:
        middle = (f"One day it rained and {name} was alone. {cap(article(friend))} knocked at the door and was cold "
                  f"and wet. {name} gave the {friend} {article(thing)} and a cup of hot tea.")
    return f"{begin} {middle} {r.choice(ENDS)}"


def sentence(r, animal):
    _, home, food, sound = ANIMALS[animal]
    return r.choice([f"The {animal} likes to eat {food}.", f"The {r.choice(TRAITS)} {animal} runs to the {home}.",
                     f"{cap(article(animal))} sleeps in the {home}.", f"My {animal} is {r.choice(['big', 'small', 'old'])}."])


def count_up(a, b):
    return ", ".join(str(i) for i in range(a, b + 1)) + "."


def answer(r):
    """One question and its answer."""
    kind = r.randrange(18)
    if kind == 0:
        c = r.choice(list(CAPITALS))
        return r.choice([f"What is the capital of {c}?", f"Name the capital of {c}.",
                         f"Which city is the capital of {c}?"]), f"The capital of {c} is {CAPITALS[c]}."
    if kind in (1, 2):
        a = r.choice(list(ANIMALS))
        young, home, food, sound = ANIMALS[a]
        ask = [(f"What is a young {a} called?", f"A young {a} is called {article(young)}."),
               (f"Where does {article(a)} live?", f"{cap(article(a))} lives in {article(home)}."),
               (f"What does {article(a)} eat?", f"{cap(article(a))} eats {food}.")]
        if sound:
            ask.append((f"What sound does {article(a)} make?", f"{cap(article(a))} {sound}."))
        return r.choice(ask)
    if kind == 3:
        t = r.choice(list(COLORS))
        return f"What color is {t}?", f"{cap(t)} is {COLORS[t]}."
    if kind == 4:
        a, b = r.sample(r.choice(OPPOSITES), 2)
        return r.choice([f"What is the opposite of {a}?", f"Give me the opposite of {a}."]), f"The opposite of {a} is {b}."
    if kind in (5, 6):
        a, b = r.randrange(10), r.randrange(10)
        return r.choice([f"What is {a} plus {b}?", f"How much is {a} plus {b}?"]), f"{a} plus {b} is {a + b}."
    if kind == 7:
        i = r.randrange(7)
        if r.random() < 0.5:
            return f"Which day comes after {DAYS[i]}?", f"{DAYS[(i + 1) % 7]} comes after {DAYS[i]}."
        return f"Which day comes before {DAYS[i]}?", f"{DAYS[(i + 6) % 7]} comes before {DAYS[i]}."
    if kind in (8, 9):
        a = r.randrange(1, 8)
        b = a + r.randrange(3, 13)
        return f"Count from {a} to {b}.", count_up(a, b)
    if kind == 10:
        k = r.choice(list(KINDS))
        x, y, z = KINDS[k]
        return r.choice([f"Name three {k}.", f"List three {k}."]), f"Three {k} are {x}, {y} and {z}."
    if kind == 11:
        (w, lang), t = r.choice(list(WORDS.items()))
        return r.choice([f"What is the {lang} word for {w}?", f"How do you say {w} in {lang}?"]), f"The {lang} word for {w} is {t}."
    if kind == 12:
        f = r.choice(list(FACES))
        return f"Show me {article(f)} {FACE_NOUN[f]}.", f"Here is {article(f)} {FACE_NOUN[f]}: {FACES[f]}"
    if kind == 13:
        n = r.randrange(13)
        return r.choice([f"Write the number {n} as a word.", f"How do you write {n} as a word?"]), f"{n} is written {NUMBERS[n]}."
    if kind == 14:
        return r.choice([
            ("Hello!", "Hello! How can I help you today?"), ("Hi", "Hello! How can I help you today?"),
            ("Good morning!", "Good morning! What can I do for you?"), ("Thank you!", "You are welcome."),
            ("Who are you?", "I am a very small language model, and I was made for tests."),
            ("How are you?", "I am well, thank you. How can I help you?"), ("Goodbye!", "Goodbye, and have a nice day!")])
    if kind == 15:
        a = r.choice(list(ANIMALS))
        return r.choice([f"Write a sentence about {article(a)}.", f"Make a sentence with the word {a}."]), sentence(r, a)
    h = r.choice(HEROES)
    return r.choice([f"Tell me a story about {article(h)}.", f"Write a story about {article(h)}."]), story(r, h)


def raw_text(r):
    kind = r.randrange(6)
    if kind <= 2:
        return story(r)
    if kind == 3:
        n = r.choice(NAMES)
        a = r.choice(HEROES)
        return (f"{r.choice(['Hello, my', 'My'])} name is {n}. I live {r.choice(PLACES)}. I have {article(a)}, "
                f"and I like my {r.choice(THINGS)} very much.")
    if kind == 4:
        return " ".join(answer(r)[1] for _ in range(r.randrange(1, 4)))
    n = r.choice(NAMES)
    i = r.randrange(7)
    return (f"On {DAYS[i]} {n} went to the {r.choice(['market', 'river', 'school', 'forest'])}. On "
            f"{DAYS[(i + 1) % 7]} {n} stayed at home and read a book. On {DAYS[(i + 2) % 7]} it rained.")


def document(r):
    """What one training text says: plain text, or the messages of a conversation that ends with an answer."""
    if r.random() < 0.25:
        return raw_text(r)
    messages = [{"role": "system", "content": SYSTEM}] if r.random() < 0.3 else []
    n = 1 if r.random() < 0.75 else r.randrange(2, 6)
    for _ in range(n):
        messages += talk(*answer(r))
    return messages


def talk(*texts, system=None):
    """Messages of a user and an assistant in turn."""
    begin = [{"role": "system", "content": system}] if system else []
    return begin + [{"role": ("user", "assistant")[i % 2], "content": x} for i, x in enumerate(texts)]


# ---------------------------------------------------------------- tokenizer

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")  # Llama 3's


def make_tokenizer(texts, n_vocab, special, prefix):
    """Byte-level BPE; `special` are the last ids, `prefix` those of them that begin every text."""
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=n_vocab - len(special), show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    plain = []
    for s in texts:
        for x in special:
            s = s.replace(x, "\x00")
        plain += s.split("\x00")
    t.train_from_iterator(plain, trainer)
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    one, two = " ".join(prefix), " ".join(s + ":1" for s in prefix)
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{one} $A", pair=f"{one} $A {two} $B:1",
                                      special_tokens=[(s, t.token_to_id(s)) for s in prefix])])
    assert t.get_vocab_size() == n_vocab
    return t


def write_tokenizer(folder, t, special, members):
    t.save(os.path.join(folder, "tokenizer.json"), pretty=False)
    put_json(folder, "tokenizer_config.json", {
        "added_tokens_decoder": {
            str(t.token_to_id(s)): {"content": s, "lstrip": False, "normalized": False, "rstrip": False,
                                    "single_word": False, "special": True} for s in special}, **members})


def put_json(folder, name, obj):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump(obj, f, indent=2)
        f.write("\n")


# ---------------------------------------------------------------- model

def batches(draw, r, step_tokens):
    """Endless batches of about step_tokens ids, rows of like length together; padding is outside the loss."""
    while True:
        rows = [draw(r) for _ in range(2048)]
        rows.sort(key=len)
        group, out = [], []
        for ids in rows:
            if group and (len(group) + 1) * len(ids) > step_tokens:
                out.append(group)
                group = []
            group.append(ids)
        r.shuffle(out)  # the last group, not full, is dropped
        yield from out


def gradients(model, rows, n_target):
    """Of the part that these rows have in the mean loss over n_target ids; and that part."""
    n = max(map(len, rows))
    x = torch.tensor([ids + [0] * (n - len(ids)) for ids in rows])
    y = torch.tensor([ids + [-100] * (n - len(ids)) for ids in rows])
    logits = model(input_ids=x, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), y[:, 1:].flatten())
    loss = loss * (sum(len(ids) - 1 for ids in rows) / n_target)
    return torch.autograd.grad(loss, list(model.parameters())), loss.item()


def train(model, source, n_steps, peak_lr, n_thread=1):
    """With several threads each takes its share of every batch."""
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
                            lr=peak_lr, betas=(0.9, 0.95))
    start, mean = time.time(), None
    with concurrent.futures.ThreadPoolExecutor(n_thread) as pool:
        for step in range(n_steps):
            lr = peak_lr * min((step + 1) / 60, 0.5 * (1 + math.cos(math.pi * step / n_steps)) + 0.01)
            for g in opt.param_groups:
                g["lr"] = lr
            rows = next(source)
            n_target = sum(len(ids) - 1 for ids in rows)
            parts = [part for part in (rows[i::n_thread] for i in range(n_thread)) if part]
            parts = list(pool.map(lambda part: gradients(model, part, n_target), parts))
            for p, *grads in zip(model.parameters(), *(part[0] for part in parts)):
                p.grad = functools.reduce(torch.add, grads)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            loss = sum(part[1] for part in parts)
            mean = loss if mean is None else 0.97 * mean + 0.03 * loss
            if step % 50 == 49:
                print(f"step {step + 1} loss {mean:.4f} {time.time() - start:.0f} s", flush=True)
    return model


def write_weights(folder, model, tied):
    tensors = {k: v.detach().to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()
               if not tied or k != "lm_head.weight"}
    path = os.path.join(folder, "model.safetensors")
    save_file(tensors, path, metadata={"format": "pt"})
    os.chmod(path, 0o644)


# ---------------------------------------------------------------- golden rows

def load_f32(kind, folder):
    return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def greedy(model, ids, n, stop):
    out, logprobs, margin, cache, x = [], [], float("inf"), None, torch.tensor([ids])
    while len(out) < n and (not out or out[-1] not in stop):
        o = model(input_ids=x, past_key_values=cache, use_cache=True)
        cache, logits = o.past_key_values, o.logits[0, -1]
        best = torch.topk(logits, 2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        out.append(int(best.indices[0]))
        logprobs.append(torch.log_softmax(logits, -1)[out[-1]].item())
        x = torch.tensor([out[-1:]])
    return out, logprobs, margin


def write_golden(folder, model, rows, stop):
    """rows: (members that come first, prompt, limit); the prompt is tokenized with special tokens added."""
    t = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    stop = {t.token_to_id(s) for s in stop}
    with open(os.path.join(folder, "golden.jsonl"), "w", encoding="utf-8") as f:
        for head, prompt, n in rows:
            name, ids = head["id"], t.encode(prompt).ids
            out, logprobs, margin = greedy(model, ids, n, stop)
            assert margin > 2e-3, f"{name}: best and second-best logit are {margin} apart; take another prompt"
            end = out[-1] in stop
            text = t.decode(out, skip_special_tokens=True)
            row = {**head, "prompt": prompt, "prompt_token_ids": ids, "max_tokens": n, "greedy_ids": out,
                   "output_text": text, "finish_reason": "stop" if end else "length",
                   "stop_token_id": out[-1] if end else None, "logprobs": [float(f"{x:.9g}") for x in logprobs],
                   "margin_min": float(f"{margin:.9g}")}
            f.write(json.dumps(row) + "\n")
            print(f"{name}: {len(ids)} + {len(out)} {row['finish_reason']} margin {margin:.4f} {text!r}", flush=True)
