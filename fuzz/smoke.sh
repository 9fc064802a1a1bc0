#!/usr/bin/env bash
# Builds every fuzz target, seeds it and runs it for a moment: that it works, not that nothing is left to find.
#     bash fuzz/smoke.sh [seconds for each target, 10 by default]
# Needs a nightly compiler and cargo-fuzz. To look for longer: cargo +nightly fuzz run operations
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
cargo run --locked --quiet --example seeds
cargo +nightly fuzz build
for target in $(cargo +nightly fuzz list); do
  printf -- '--- %s\n' "$target"
  cargo +nightly fuzz run "$target" -- -max_total_time="${1:-10}" -max_len=1024 -print_final_stats=1 2>&1 | tail -n 12
done
