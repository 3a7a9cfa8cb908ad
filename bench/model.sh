# Sourced by scripts with an optional MODEL argument: what was named, or the file that quickstart.sh keeps in
# ${XDG_CACHE_HOME:-$HOME/.cache}/llmbatch.

# model_or_smollm2 [MODEL]: prints the path
model_or_smollm2() {
    local model=${1:-} cache=${XDG_CACHE_HOME:-$HOME/.cache}/llmbatch
    [ -n "$model" ] || [ ! -d "$cache" ] || model=$(find "$cache" -name 'SmolLM2-135M-Instruct*.gguf' | sort | head -n 1)
    [ -n "$model" ] || { echo "${0##*/}: no SmolLM2 file in '$cache': run ./quickstart.sh or name one" >&2; return 2; }
    printf '%s\n' "$model"
}
