"""Runs llmbatch and the peers in turn on the same rows (A B C, A B C ...) and appends a line a run to OUT/results.jsonl.

An engine is NAME or NAME:key=value,key=value: any setting of its runner, e.g. llamacpp:dtype=q8_0,slots=32; for llmbatch
any long option, e.g. llmbatch:dtype=f32. One that does not run is in the results with its reason."""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import processor, read_lines

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VENV = {"vllm": "vllm", "transformers": "vllm", "openvino": "openvino", "llamacpp": "llama"}
MODELS = {  # ids to draw from, and rows of each workload
    "smollm2": (["--vocab", "49152", "--first", "17"], {}),
    "llama1b": (["--vocab", "128000"], {"ragged": 24, "prefill": 8, "decode": 16, "shared": 16}),
}


def run_one(command, env, log, limit):
    """Exit code (None: took too long), seconds, and peak memory of the largest process."""
    began = time.perf_counter()
    with open(log, "wb") as f:
        p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=f, stderr=subprocess.STDOUT, env=env, start_new_session=True)
        while True:
            pid, status, usage = os.wait4(p.pid, os.WNOHANG)
            seconds = time.perf_counter() - began
            if pid:
                p.returncode = os.waitstatus_to_exitcode(status)
                return p.returncode, seconds, usage.ru_maxrss * 1024
            if seconds > limit:
                os.killpg(p.pid, 9)
                os.wait4(p.pid, 0)
                p.returncode = -9
                return None, seconds, 0
            time.sleep(0.005)


def last_words(log):
    """The end of a log from its last line about an error on."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [i for i, line in enumerate(lines) if "error" in line.lower() and not line.startswith(("Traceback", "File"))]
    text = " ".join(lines[errors[-1] if errors else -1:]) or "no output"
    return text.replace(str(Path.home()), "~")[:400]


def check(rows, out):
    """Why the output does not count, or None. Each row must be there once with exactly its number of new ids."""
    made = {}
    for line in read_lines(out):
        if line["id"] in made:
            return f"row {line['id']} came twice"
        made[line["id"]] = len(line.get("token_ids") or [])
    wrong = [r["id"] for r in rows if made.get(r["id"]) != r["max_tokens"]]
    return f"{len(wrong)} rows with a wrong number of new ids, the first {wrong[0]}" if wrong else None


def llmbatch_command(a, job):
    options = [x for k, v in job["settings"].items() for x in (["--" + k.replace("_", "-")] + ([v] if v else []))]
    return [a.llmbatch, "-m", job["model"] + "/hf", "-i", job["rows"], "-o", job["out"], "--stats", job["result"],
            "--overwrite", "--restart", "--ignore-eos", "--token-ids", "--threads", str(job["threads"]), "--progress", "off", *options]


def llmbatch_result(a, stats):
    t, e = stats["time_s"], stats["engine"]
    version = subprocess.run([a.llmbatch, "--version"], capture_output=True, text=True).stdout.split("\n")[0]
    return {"version": version.removeprefix("llmbatch").strip(), "run_s": t["total"] - t["load"],
            "settings": {"dtype": stats["model"].get("dtype"), "isa": e.get("isa"), "batch_tokens": e.get("batch_tokens")}}


def measure(a, spec, model, workload, rows_file, tmp):
    name, _, rest = spec.partition(":")
    settings = dict(part.partition("=")[::2] for part in rest.split(",") if part)
    job = {"model": str(a.peers / "models" / model), "rows": str(rows_file), "out": str(tmp / "out.jsonl"),
           "result": str(tmp / "result.json"), "threads": a.threads, "prefix": workload == "shared", "settings": settings}
    for f in (job["out"], job["result"]):
        Path(f).unlink(missing_ok=True)
    if name == "llmbatch":
        command = llmbatch_command(a, job)
    elif name in VENV:
        (tmp / "job.json").write_text(json.dumps(job))
        command = [str(a.peers / VENV[name] / "bin" / "python"), str(HERE / f"run_{name}.py"), str(tmp / "job.json")]
    else:
        return {"error": f"unknown engine '{name}'"}
    if not os.access(command[0], os.X_OK):
        return {"error": f"not installed: no '{command[0]}'"}
    env = {**os.environ, "OMP_NUM_THREADS": str(a.threads), "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
    log = tmp / "log"
    code, wall, rss = run_one(command, env, log, a.timeout)
    if code is None:
        return {"error": f"not finished after {a.timeout} s"}
    if code < 0 or (code and not Path(job["result"]).exists()):
        keep = a.out / f"{model}-{workload}-{name}.log"
        keep.write_bytes(log.read_bytes())
        return {"error": f"exit {code}: {last_words(log)}", "log": keep.name}
    rows = read_lines(rows_file)
    wrong = check(rows, job["out"])
    if wrong:
        return {"error": wrong}
    result = json.loads(Path(job["result"]).read_text())
    if name == "llmbatch":
        result = llmbatch_result(a, result)
    return {**result, "wall_s": wall, "peak_rss_bytes": rss, "rows": len(rows), "new_tokens": sum(r["max_tokens"] for r in rows),
            "prompt_tokens": sum(len(r["prompt_token_ids"]) for r in rows)}


def make_rows(path, model, workload, count):
    ids, default = MODELS[model]
    count = count or default.get(workload)
    with open(path, "wb") as f:
        subprocess.run([sys.executable, str(ROOT / "bench" / "make_mix.py"), *ids, "--kind", workload,
                        *(["--rows", str(count)] if count else [])], stdout=f, check=True)


def arguments():
    p = argparse.ArgumentParser(prog="run.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    p.add_argument("out", type=Path, help="folder for raw results, outside the tree")
    p.add_argument("--models", default="smollm2,llama1b")
    p.add_argument("--workloads", default="ragged,prefill,decode", help="also: shared")
    p.add_argument("--engines", nargs="+", default=["llmbatch", "vllm", "openvino", "llamacpp", "transformers"])
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--rows", type=int, help="rows of each workload (the first ones)")
    p.add_argument("--threads", type=int, help="(one for each processor this may run on)")
    p.add_argument("--timeout", type=float, default=1800, help="seconds a run may take")
    p.add_argument("--llmbatch", default=str(ROOT / "build" / "release" / "llmbatch"), help="the program")
    p.add_argument("--peers", type=Path, default=Path(os.environ.get("PEERS") or cache / "llmbatch" / "peers"))
    a = p.parse_args()
    a.models, a.workloads = a.models.split(","), a.workloads.split(",")
    unknown = set(a.models) - set(MODELS)
    if unknown:
        p.error(f"unknown model '{unknown.pop()}'")
    if ROOT in [a.out.resolve(), *a.out.resolve().parents]:
        p.error(f"'{a.out}' lies in the tree")
    return a


def main():
    a = arguments()
    mine = sorted(os.sched_getaffinity(0))
    a.threads = a.threads or len(mine)
    os.sched_setaffinity(0, mine[:a.threads])
    a.out.mkdir(parents=True, exist_ok=True)
    name, kind = processor()
    about = {"processor": name, "kind": kind, "threads": a.threads, "command": shlex.join(sys.argv[1:]),
             "sitting": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    with tempfile.TemporaryDirectory() as t, open(a.out / "results.jsonl", "a", encoding="utf-8") as results:
        for model in a.models:
            for workload in a.workloads:
                rows_file = Path(t) / "rows.jsonl"
                make_rows(rows_file, model, workload, a.rows)
                failed = set()
                for run in range(1, a.runs + 1):
                    for spec in a.engines:
                        if spec in failed:
                            continue
                        r = measure(a, spec, model, workload, rows_file, Path(t))
                        if "error" in r:
                            failed.add(spec)
                        results.write(json.dumps({**about, "model": model, "workload": workload, "run": run, "engine": spec, **r}) + "\n")
                        results.flush()
                        said = r.get("error") or (f"run {r['run_s']:.2f} s, whole {r['wall_s']:.2f} s, "
                                                  f"{(r['prompt_tokens'] + r['new_tokens']) / r['run_s']:.0f} tok/s")
                        print(f"{model} {workload} {run}/{a.runs} {spec}: {said}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
