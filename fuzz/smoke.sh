#!/usr/bin/env bash
# Builds every fuzz target, seeds it and runs it: for a minute each to see that it works, for longer to look for more.
#     bash fuzz/smoke.sh [seconds for each target, 60 by default] [target ...]
# Inputs that reach something new stay in fuzz/corpus, and the next run begins with them; what fails stays in fuzz/artifacts. At the end stands
# a line for each target: executions, those a second, edges and inputs at the start and at the end. To look for long, and all night:
#     nice bash fuzz/smoke.sh 3600 forged crashes
# Needs a nightly compiler and cargo-fuzz. One failure again: cargo +nightly fuzz run TARGET fuzz/artifacts/TARGET/FILE
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
seconds=${1:-60}
shift || true
cargo run --locked --quiet --example seeds
cargo +nightly fuzz build
[ $# -gt 0 ] || mapfile -t all < <(cargo +nightly fuzz list)
[ $# -gt 0 ] || set -- "${all[@]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
totals=()
for target; do
  printf -- '--- %s\n' "$target"
  # An input that takes ten seconds hangs; those of a few kilobytes reach all that longer ones do.
  options=(-max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1)
  [ ! -f "dictionaries/$target.dict" ] || options+=(-dict="dictionaries/$target.dict")
  if ! cargo +nightly fuzz run "$target" -- "${options[@]}" >"$log" 2>&1; then
    grep -v '^#' "$log" | tail -n 120
    exit 1
  fi
  totals+=("$(awk -v target="$target" '
    $2 == "INITED" || $2 == "DONE" { split($8, corpus, "/"); seen[$2] = $4 " edges by " corpus[1] " inputs" }
    /^stat::number_of_executed_units/ { runs = $2 }
    /^stat::average_exec_per_sec/ { rate = $2 }
    END {
      printf "%-16s %10d executions, %6d a second; from %s", target, runs, rate, seen["INITED"]
      printf " to %s", seen["DONE"]
    }' "$log")")
  printf '%s\n' "${totals[-1]}"
done
printf '\n'
printf '%s\n' "${totals[@]}"
