#!/bin/sh
# Fuzzes one target: run.sh TARGET SECONDS [LIBFUZZER_OPTION ...]. It begins with corpus/TARGET and the seeds of seeds.py;
# what it finds gathers in build/fuzz/corpus/TARGET, crashes in build/fuzz/crashes. Needs clang with its runtime library.
set -eu
target=${1:?usage: run.sh TARGET SECONDS [LIBFUZZER_OPTION ...]}
seconds=${2:?usage: run.sh TARGET SECONDS [LIBFUZZER_OPTION ...]}
shift 2
cd "$(dirname "$0")/../../.."
here=core/tests/fuzz found=build/fuzz/corpus/$target
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz --target "fuzz_$target"
mkdir -p "$found" build/fuzz/crashes "$here/corpus/$target"
"$here/seeds.py" build/fuzz/seeds
case $target in
adapter | gguf | packed | safetensors | tokfile | tokmodel) max_len=24576 ;;
*) max_len=4096 ;;
esac
dict=
[ ! -f "$here/$target.dict" ] || dict=-dict=$here/$target.dict
# leaks are looked for at the end of each run; freeing memory at once keeps a long run below its limit
exec env ASAN_OPTIONS="allocator_may_return_null=1:${ASAN_OPTIONS:-}" "build/fuzz/.ci/cmake/fuzz_$target" \
    -max_total_time="$seconds" -max_len=$max_len -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="build/fuzz/crashes/$target-" $dict "$@" "$found" "$here/corpus/$target" "build/fuzz/seeds/$target"
