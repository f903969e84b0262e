#!/usr/bin/env bash
# Network virtualization: customers with the same addresses on one physical network. Hosts are network namespaces with a switch each, joined
# by a routed physical network of different subnets; customers' machines are namespaces behind the switches' ports. Two examples, each
# command shown as it is given: Blue and Yellow Corp, by IP rewrite and by NVGRE, and a virtual subnet over two physical ones. Installs
# what is missing, builds, and stops everything. Root, Debian 12; only packages stay.
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive
if [ "$(id -u)" -ne 0 ]; then
    echo "two-hosts: needs root (it installs packages and makes network namespaces); try: sudo $0" >&2
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

echo "== building the switch"
cargo build --release --package turnpike

export TURNPIKE_BIN="${CARGO_TARGET_DIR:-$PWD/target}/release/turnpike"
python3 examples/two-hosts.py "$@"
