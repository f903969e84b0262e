#!/usr/bin/env bash
# Two virtual machines talk through Turnpike: installs what is missing, builds, starts the switch, boots two guests, pings, streams
# TCP both ways, prints what it saw and stops everything. Root, Debian 12 or later; nothing is left running, only packages stay.
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive
if [ "$(id -u)" -ne 0 ]; then
    echo "quickstart: needs root (it installs packages and starts virtual machines); try: sudo $0" >&2
    exit 1
fi

missing=()
for package in gcc libc6-dev python3 ca-certificates curl; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "== installing ${missing[*]}"
    apt-get -q update >/dev/null
    apt-get -q install -y --no-install-recommends "${missing[@]}" >/dev/null
fi
export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
if ! command -v cargo >/dev/null; then
    echo "== installing Rust (the official installer, minimal profile)"
    curl -sSf --proto '=https' https://sh.rustup.rs | sh -s -- -q -y --profile minimal --default-toolchain 1.95.0
fi

echo "== building the switch, and meanwhile fetching what the guests need"
python3 tests/lab/prepare.py guests &
cargo build --release --package turnpike
wait $!

export TURNPIKE_BIN="${CARGO_TARGET_DIR:-$PWD/target}/release/turnpike"
python3 examples/quickstart.py "$@"
