#!/bin/sh
# The long run: fuzz/run.sh [seconds for all targets together] [target ...]; `make fuzz` calls it. An hour and all by default.
# Corpora stay in fuzz/corpus, findings in fuzz/artifacts: a later run goes on where this one ends. Prints what each
# target did; ends with 1 when there are findings.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-3600}
[ $# -eq 0 ] || shift

PATH=$PWD/target/test-tools/bin:$PATH
command -v cargo-fuzz >/dev/null || cargo install --quiet --locked cargo-fuzz@0.13.2 --root target/test-tools
[ $# -gt 0 ] || set -- $(cargo fuzz list)
each=$((seconds / $#))
[ "$each" -gt 0 ] || each=1

# Seeds: what the tests begin with, and more where the collection of recordings is at hand.
KEYTALLY_WRITE_SEEDS=$PWD/fuzz/corpus cargo test --quiet --locked --lib fuzzing::tests::seeds_are_written >/dev/null
# The flags of rustc that libFuzzer needs are unstable; the toolchain is the stable one that builds everything else. No
# sanitizer: keytally has no unsafe code, and the time is better spent on inputs.
RUSTC_BOOTSTRAP=1 cargo fuzz build --sanitizer none

mkdir -p fuzz/target/logs
host=$(rustc -vV | sed -n 's/^host: //p')
findings=0
printf '%-14s %12s %8s %8s %8s  %s\n' target executions edges corpus seconds findings
for target; do
    log=fuzz/target/logs/$target.log
    mkdir -p "fuzz/artifacts/$target" "fuzz/corpus/$target"
    "fuzz/target/$host/release/$target" "fuzz/corpus/$target" -dict=fuzz/dictionary.txt \
        -artifact_prefix="fuzz/artifacts/$target/" -max_total_time="$each" -max_len=65536 -timeout=25 \
        -rss_limit_mb=2048 -print_final_stats=1 >"$log" 2>&1 || true
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -1)
    edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
    found=$(find "fuzz/artifacts/$target" -type f | wc -l)
    findings=$((findings + found))
    printf '%-14s %12s %8s %8s %8s  %s\n' "$target" "${executions:--}" "${edges:--}" \
        "$(find "fuzz/corpus/$target" -type f | wc -l)" "$each" "$found"
done
[ "$findings" -eq 0 ] || { echo "the inputs are in fuzz/artifacts, what was said of them in fuzz/target/logs"; exit 1; }
