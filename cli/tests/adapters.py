"""Adapters for the tests: directories as PEFT writes them, drawn from a seed."""
import json
import math
import os
import random
import re
import struct

from run import read, write

# ending of a weight's name: of the module that has an adapter
LLAMA = ('q_proj', 'v_proj', 'o_proj', 'gate_proj', 'down_proj')


def shapes(model):
    """Of the weights of the layers that the configuration has."""
    data = read(os.path.join(model, 'model.safetensors'))
    n = struct.unpack('<Q', data[:8])[0]
    n_layer = json.loads(read(os.path.join(model, 'config.json')))['num_hidden_layers']

    def has(name):
        layer = re.search(r'\.layers\.(\d+)\.', name)
        return name != '__metadata__' and (not layer or int(layer[1]) < n_layer)
    return {name: t['shape'] for name, t in json.loads(data[8:8 + n]).items() if has(name)}


def adapter(model, folder, rank=4, seed=1, modules=LLAMA, size=1.0, **config):
    """Random A and B for these modules of every layer; returns the folder."""
    draw = random.Random(seed)
    header, body = {}, b''
    for name, shape in sorted(shapes(model).items()):
        module = name[:-len('.weight')]
        if len(shape) != 2 or '.layers.' not in name or not module.endswith(modules):
            continue
        for ab, dim, most in (('A', [rank, shape[1]], 1 / math.sqrt(shape[1])), ('B', [shape[0], rank], size)):
            data = struct.pack(f'<{dim[0] * dim[1]}f', *(draw.uniform(-most, most) for _ in range(dim[0] * dim[1])))
            header[f'base_model.model.{module}.lora_{ab}.weight'] = {
                'dtype': 'F32', 'shape': dim, 'data_offsets': [len(body), len(body) + len(data)]}
            body += data
    os.makedirs(folder, exist_ok=True)
    text = json.dumps(header).encode()
    write(os.path.join(folder, 'adapter_model.safetensors'), struct.pack('<Q', len(text)) + text + body)
    config = {'peft_type': 'LORA', 'r': rank, 'lora_alpha': 2 * rank, 'target_modules': list(modules), **config}
    write(os.path.join(folder, 'adapter_config.json'), json.dumps(config).encode())
    return folder
