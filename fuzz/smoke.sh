#!/usr/bin/env bash
# Builds every fuzz target, seeds it and runs it for a moment: that it works, not that nothing is left to find.
#     bash fuzz/smoke.sh [seconds for each target, 10 by default]
# Needs a nightly compiler and cargo-fuzz. To look for longer: cargo +nightly fuzz run operations
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
cargo run --locked --quiet --example seeds
cargo +nightly fuzz build
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for target in $(cargo +nightly fuzz list); do
  printf -- '--- %s\n' "$target"
  if ! cargo +nightly fuzz run "$target" -- -max_total_time="${1:-10}" -max_len=1024 >"$log" 2>&1; then
    grep -v '^#' "$log" | tail -n 120
    exit 1
  fi
  grep '^Done' "$log"
done
