#!/usr/bin/env bash
# Fuzzes the rooms that meet hostile octets, two at a time, and prints how many inputs each
# target took. Needs cargo-fuzz (cargo install cargo-fuzz) and a C++ compiler; stable Rust does.
#
#   tests/fuzz/run.sh [SECONDS [TARGET...]]     default: 600 each, all targets
#
# What it learns stays in target/; an input that fails is left in artifacts/, and
# `cargo fuzz run -D -s none --fuzz-dir tests/fuzz TARGET FILE` plays it again.
set -euo pipefail
cd "$(dirname "$0")"

seconds="${1:-600}"
shift || true
targets=("$@")
if ((${#targets[@]} == 0)); then
    targets=(line data bdat command sasl proxy session mime envelope tree)
fi
binaries="target/$(rustc -vV | sed -n 's/^host: //p')/debug"

# None of our code is unsafe, so no sanitizer: a broken promise is a panic.
cargo fuzz build --dev --sanitizer none --fuzz-dir .

fuzz() {
    local target="$1" learnt="target/learnt/$1" log="target/$1.log" end=0
    mkdir -p "$learnt" "artifacts/$target"
    nice -n 19 "$binaries/$target" "$learnt" "seeds/$target" -dict=words.dict -max_len=4096 \
        -max_total_time="$seconds" -timeout=60 -rss_limit_mb=1024 -print_final_stats=1 \
        -artifact_prefix="artifacts/$target/" >"$log" 2>&1 || end=$?
    local executions
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    if ((end == 0)); then
        printf '%-8s %12s executions in %s s, nothing found\n' "$target" "$executions" "$seconds"
    else
        printf '%-8s FAILED, see tests/fuzz/%s\n' "$target" "$log"
    fi
    return "$end"
}

failed=0
for target in "${targets[@]}"; do
    while (($(jobs -pr | wc -l) >= 2)); do
        wait -n || failed=1
    done
    fuzz "$target" &
done
while (($(jobs -p | wc -l) > 0)); do
    wait -n || failed=1
done
exit "$failed"
