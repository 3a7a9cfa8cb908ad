"""What the scripts of the peers share. A runner is started as `python run_X.py JOB.json`:

    JOB     {model, rows, out, result, threads, prefix, settings}
    out     one line a row: {"id", "token_ids"}; what was made, checked by drive.py
    result  {"version", "run_s", "settings"}; run_s is from handing over the rows to having the last one
"""

import json
import sys
import time


def processor():
    """Name, and the best of amx, avx512bf16, avx512, avx2 that it has, or other."""
    found = {}
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        for line in f:
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
    flags = found.get("flags", "").split()
    kinds = {"amx": "amx_bf16", "avx512bf16": "avx512_bf16", "avx512": "avx512f", "avx2": "avx2"}
    kind = next((k for k, flag in kinds.items() if flag in flags), "other")
    return (f"{found.get('model name', 'unknown')} (family {found.get('cpu family', '?')}, "
            f"model {found.get('model', '?')})"), kind


def read_lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def longest(rows):
    return max(len(r["prompt_token_ids"]) + r["max_tokens"] for r in rows)


class Job:
    def __init__(self):
        with open(sys.argv[1], encoding="utf-8") as f:
            self.__dict__.update(json.load(f))
        self.rows = read_lines(self.rows)

    def setting(self, name, default):
        """The value asked for, with the default's type; what was used ends up in the result."""
        if isinstance(default, bool):
            value = str(self.settings.get(name, default)).lower() in ("1", "true", "yes")
        else:
            value = type(default)(self.settings.get(name, default))
        self.settings[name] = value
        return value

    def start(self):
        self.began = time.perf_counter()

    def done(self, version, ids):
        """ids: the new ids of each row, in the order of the rows."""
        run_s = time.perf_counter() - self.began
        with open(self.out, "w", encoding="utf-8") as f:
            for row, new in zip(self.rows, ids, strict=True):
                f.write(json.dumps({"id": row["id"], "token_ids": list(new)}) + "\n")
        with open(self.result, "w", encoding="utf-8") as f:
            json.dump({"version": version, "run_s": run_s, "settings": self.settings}, f)
