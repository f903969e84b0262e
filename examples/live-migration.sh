#!/usr/bin/env bash
# A virtual machine moves between two Turnpike switches and its network does not notice: two network namespaces joined by a veth pair as
# the physical network, a guest under iperf3 and numbered datagrams at 1 kHz, and a table of what was lost. Installs what is missing,
# builds, and stops everything. Root, Debian 12 (QEMU 10 is fetched from its backports and unpacked, not installed); only packages stay.
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive
if [ "$(id -u)" -ne 0 ]; then
    echo "live-migration: needs root (it installs packages and starts virtual machines); try: sudo $0" >&2
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

echo "== building the switch and the prober, and meanwhile fetching what the guest needs"
python3 tests/lab/prepare.py migration &
cargo build --release --package turnpike --package turnpike-benches
wait $!

export TURNPIKE_BIN="${CARGO_TARGET_DIR:-$PWD/target}/release/turnpike"
python3 examples/live-migration.py "$@"
