#!/usr/bin/env bash
# Turnpike against its peers on this machine: alternating runs, medians, ratios. `benches/compare.sh --help` explains.
set -eu
cd "$(dirname "$0")/.."
command -v python3 >/dev/null || { apt-get -q update && apt-get -q install -y --no-install-recommends python3; }
exec python3 benches/compare.py "$@"
