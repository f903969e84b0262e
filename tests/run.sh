#!/usr/bin/env bash
# Installs what the tests need and runs all of them: format, lints, unit and scripted tests, networks, real guests, live migration.
# The last line is `N passed, N failed, N skipped`; the exit code is 1 if anything failed. Root, Debian 12 or later.
set -u
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=never CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}" DEBIAN_FRONTEND=noninteractive
passed=0 failed=0 skipped=0
logs=$(mktemp -d /tmp/turnpike-tests-XXXXXX)

finish() {
    trap - EXIT INT TERM HUP
    # Whatever a killed test left behind is a child of ours or of init in our process group.
    local child
    for child in $(jobs -p); do kill -- "-$child" 2>/dev/null || kill "$child" 2>/dev/null; done
    wait 2>/dev/null
    rm -rf "$logs"
}
trap finish EXIT
trap 'finish; exit 130' INT TERM HUP

title() { printf '\n== %s (%d:%02d)\n' "$1" $((SECONDS / 60)) $((SECONDS % 60)); }
pass() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); echo "FAILED: $1" | tee -a "$logs/failures"; }
count() { grep -cE "$1" "$2" || true; }
sum() { awk -v key="$1" '/^test result:|^counted:/ { for (i = 2; i <= NF; i++) if ($i ~ "^" key) n += $(i - 1) } END { print n + 0 }' "$2"; }

# check NAME COMMAND…: a command that is one test.
check() {
    local name=$1
    shift
    title "$name"
    if "$@"; then pass; else fail "$name"; fi
}

# suite NAME COMMAND…: a command that counts its own tests, as cargo does or with a line `counted: N passed, N failed, N skipped`.
suite() {
    local name=$1 log status f p s
    shift
    title "$name"
    log="$logs/${name// /-}"
    "$@" 2>&1 | tee "$log" | grep --line-buffered -vE '^(running [0-9]+ tests?|test result: ok.*|)$'
    status=${PIPESTATUS[0]}
    s=$(($(count '(^|\.\.\. )skipped: ' "$log") + $(sum ignored "$log")))
    p=$(($(sum passed "$log") - $(count '(^|\.\.\. )skipped: ' "$log"))) # for cargo a test that skips itself has passed
    f=$(sum failed "$log")
    if grep -q '^counted:' "$log"; then s=$(sum skipped "$log") p=$(sum passed "$log"); fi
    if [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then
        f=1
        echo "FAILED: $name ended with exit code $status" | tee -a "$logs/failures"
    fi
    grep -E '^test .* \.\.\. FAILED' "$log" >>"$logs/failures"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

title "packages"
if [ "$(id -u)" -ne 0 ]; then
    echo "tests/run.sh: root is needed for TAPs, network namespaces and packages; run it as root" >&2
    exit 1
fi
missing=()
for package in g++ gcc libc6-dev clang lld python3 ethtool iproute2 iputils-ping iperf3 procps tshark; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    apt-get -q -o DPkg::Lock::Timeout=300 update &&
        apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}" || fail "installing ${missing[*]}"
fi
python3 tests/lab/prepare.py || fail "preparing the lab"
# Unpacked, not installed: the package would start a service.
etcd=$(cd tests && python3 -c 'from lab import host; print(host.unpack("etcd", ["etcd-server", "etcd-client"]))' | tail -n 1)
if [ -x "$etcd/usr/bin/etcd" ]; then export ETCD="$etcd/usr/bin/etcd" ETCDCTL="$etcd/usr/bin/etcdctl"; fi

check "format" cargo fmt --check
check "licences" python3 tests/licences.py
check "lints" cargo clippy --workspace --all-targets --quiet -- -D warnings
title "build"
if cargo build --workspace --quiet; then
    export TURNPIKE_BIN="$CARGO_TARGET_DIR/debug/turnpike"
    suite "unit and scripted tests" cargo test --workspace --no-fail-fast
    check "fuzz, briefly" tests/fuzz.sh
    suite "networks" python3 tests/networks.py
    suite "real guests" python3 tests/real_guests.py
    suite "live migration" python3 tests/migration.py
    suite "live migration of cloud-hypervisor" python3 tests/cloud_migration.py
    suite "many moves" python3 tests/migration_many.py
    suite "moves with deaths" python3 tests/migration_faults.py
    suite "moves with a bad network" python3 tests/migration_network.py
    suite "network virtualization" python3 tests/nv.py
    suite "AF_XDP uplinks" python3 tests/uplink_xdp.py
    suite "OpenFlow" python3 tests/openflow.py
    suite "take-over" python3 tests/take_over.py
    suite "policy store" python3 tests/nv_store.py
    suite "moves across subnets" python3 tests/nv_migration.py
else
    fail "build"
fi

title "done"
[ -s "$logs/failures" ] && cat "$logs/failures"
finish
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
