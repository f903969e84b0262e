#!/usr/bin/env bash
# Fuzzes everything that reads bytes of a stranger, from the inputs in tests/fuzz/corpus.
#
#   tests/fuzz.sh [TARGET…]             all targets, or the named ones: wire, tunnel, pipeline, message, chain, state, extension, openflow
#   FUZZ_SECONDS=600 tests/fuzz.sh      time per target in seconds (default 10)
#   FUZZ_KEEP=1 tests/fuzz.sh           adds the smallest set of new inputs that reach new code to the corpus
#   tests/fuzz.sh TARGET --input FILE   runs one input again, to look into a crash
#
# Prints `fuzz TARGET: N inputs, ok` per target. A crash prints the path of its input; the exit code is then 1.
# Needs Rust 1.95 (stable) and a C++ compiler (`apt-get install -y g++`).
set -u
cd "$(dirname "$0")/.."

targets=() input=
while [ $# -gt 0 ]; do
    case $1 in
        wire | tunnel | pipeline | message | chain | state | extension | openflow) targets+=("$1") ;;
        --input) input=${2:?--input needs a file} && shift ;;
        *) echo "tests/fuzz.sh: '$1' is no target; valid: wire, tunnel, pipeline, message, chain, state, extension, openflow" >&2 && exit 2 ;;
    esac
    shift
done
[ ${#targets[@]} -gt 0 ] || targets=(wire tunnel pipeline message chain state extension openflow)
if [ -n "$input" ] && [ ${#targets[@]} -ne 1 ]; then
    echo "tests/fuzz.sh: --input needs exactly one target" >&2 && exit 2
fi
if ! command -v c++ >/dev/null; then
    echo "tests/fuzz.sh: the fuzzing engine needs a C++ compiler; apt-get install -y g++" >&2 && exit 1
fi

seconds=${FUZZ_SECONDS:-10}
runs=${FUZZ_RUNS:-1000000000}
out=${FUZZ_DIR:-$PWD/target/fuzz}
host=$(rustc -vV | sed -n 's/^host: //p')
mkdir -p "$out"

# What cargo-fuzz sets with `--sanitizer none`, which works with a stable compiler too. `--target` keeps the flags from
# build scripts and macros.
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
flags+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
flags+=" --cfg fuzzing -Cdebug-assertions -Coverflow-checks -Ccodegen-units=16"
log="$out/build.log"
if ! RUSTFLAGS=$flags CARGO_TARGET_DIR="$out" cargo build --release --locked --target "$host" \
    --manifest-path tests/fuzz/Cargo.toml >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "tests/fuzz.sh: the build failed; see $log" >&2 && exit 1
fi

status=0
for target in "${targets[@]}"; do
    binary="$out/$host/release/$target" seeds=tests/fuzz/corpus/$target found="$out/found/$target" log="$out/$target.log"
    mkdir -p "$found" "$out/crashes"
    if [ -n "$input" ]; then
        "$binary" "$input" || status=1
        continue
    fi
    # New inputs go to the first directory, never to the committed one.
    "$binary" -max_total_time="$seconds" -runs="$runs" -timeout=20 -rss_limit_mb=2048 -max_len=8192 -print_final_stats=1 \
        -artifact_prefix="$out/crashes/$target-" "$found" "$seeds" >"$log" 2>&1
    code=$?
    count=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
    if [ $code -ne 0 ] || [ -z "$count" ]; then
        grep -aE "panicked|ERROR:|assertion|^ *(left|right):" -A 2 "$log" | head -n 20 >&2
        where=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
        echo "fuzz $target: FAILED, exit code $code, input ${where:-not written}, log $log"
        status=1
        continue
    fi
    if [ "${FUZZ_KEEP:-0}" = 1 ]; then
        "$binary" -merge=1 -max_len=8192 "$seeds" "$found" >>"$log" 2>&1 || status=1
    fi
    echo "fuzz $target: $count inputs, ok"
done
exit $status
