#!/usr/bin/env python3
"""bench_jinja.py TEMPLATE.jinja...: the chat of bench_jinja.c through Jinja2, set up as transformers sets it up."""
import os
import sys
import time

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEXT = ['Why is the sky blue, and why is it red in the evening?', 'Small particles scatter blue light more than red light.']
N_MESSAGE = 10


def best(call, runs=15, seconds=0.05):
    fastest = 1e9
    for _ in range(runs):
        begin, n = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            call()
            n += 1
        fastest = min(fastest, (time.perf_counter() - begin) / n)
    return fastest


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
env.globals.update(raise_exception=raise_exception, strftime_now=lambda f: time.strftime(f, time.gmtime(1735786800)))
messages = [{'role': 'system', 'content': 'Answer briefly.'}]
messages += [{'role': 'user' if i % 2 else 'assistant', 'content': TEXT[(i - 1) % 2]} for i in range(1, N_MESSAGE)]
context = dict(messages=messages, add_generation_prompt=True, tools=None, documents=None, bos_token='<s>', eos_token='</s>')
for path in sys.argv[1:]:
    source = open(path, encoding='utf-8').read()
    template = env.from_string(source)
    compiling = best(lambda: env.from_string(source), 3)
    rendering = best(lambda: template.render(**context))
    n_bytes = len(template.render(**context).encode())
    print(f'{os.path.basename(path):<48} compile {1e6 * compiling:8.1f} us  render {1e6 * rendering:8.2f} us  {n_bytes} bytes')
