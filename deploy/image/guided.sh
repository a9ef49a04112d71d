#!/bin/sh
# Builds the program as it is in the image: a first build counts what it does under traffic, a second one is laid out and
# optimized by those counts (profile-guided optimization). Prints the path of the second.
#
#   deploy/image/guided.sh [TARGET]    TARGET: as of `rustc --print target-list`, one that this machine can run
#   deploy/image/guided.sh --can       whether this machine has what it needs
#
# Needs a llvm-profdata that reads the profiles of this rustc: `rustup component add llvm-tools`, or Debian's llvm-19.
# The traffic is the demo's and the tests': no account, no network.
set -eu
cd "$(dirname "$0")/../.."

fail() {
    echo "guided.sh: $1" >&2
    exit 2
}

target=${1:-$(rustc -vV | sed -n 's/^host: //p')}
work=$PWD/target/guided
merge=''
for tool in "$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin/llvm-profdata" \
    llvm-profdata-22 llvm-profdata-21 llvm-profdata-20 llvm-profdata-19; do
    [ -n "$merge" ] || merge=$(command -v "$tool" || true)
done
[ -n "$merge" ] || fail 'there is no llvm-profdata that is new enough: rustup component add llvm-tools'
[ "$target" != --can ] || exit 0

# In the first pass no `cargo test` may inherit the flags, or it would build and count itself.
build() {
    RUSTFLAGS="${RUSTFLAGS:-} $1" cargo build --release --locked --quiet --bin keytally --target "$target" --target-dir "$work"
}

export KEYTALLY_REVISION=${KEYTALLY_REVISION:-$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)}
rm -rf "$work/counts" "$work"/*.profdata
build "-Cprofile-generate=$work/counts"
install "$work/$target/release/keytally" "$work/counting"
# Recorded answers of eleven providers and their errors; then every kind of call that the soak test knows, with ledger, traces and
# scrapes; then the ways in and out that are rarer: HTTP/2, TLS to providers, upgrades.
"$work/counting" demo --duration 20s --minute 1s --no-color >/dev/null
KEYTALLY_BINARY=$work/counting cargo test --locked --quiet --test tests -- --test-threads 2 \
    soak::a_minute_and_a_half transparency:: upstream_failures::own_authorities >&2
# With the functions that never ran: those become small. By its content the file is named, since cargo does not look into it.
"$merge" merge -o "$work/counts.profdata" "$work/counts"
profile=$work/$(sha256sum "$work/counts.profdata" | cut -c1-16).profdata
mv "$work/counts.profdata" "$profile"
# What runs often stands together in the file.
build "-Cprofile-use=$profile -Clink-arg=-Wl,-z,keep-text-section-prefix"
echo "$work/$target/release/keytally"
