#!/bin/sh
# Writes what is in the binary for TARGET (x86_64-unknown-linux-musl if left out), as CycloneDX JSON: every crate with its version,
# license, source and checksum. Printed is the file: target/sbom/keytally-TARGET.cdx.json.
# Needs cargo-cyclonedx, which is installed into target/test-tools where it is not there.
set -eu
cd "$(dirname "$0")/../.."
target=${1:-x86_64-unknown-linux-musl}
version=0.5.9
tool=target/test-tools/bin/cargo-cyclonedx
[ -x "$tool" ] || cargo install --quiet --locked "cargo-cyclonedx@$version" --root target/test-tools
out=target/sbom
mkdir -p "$out"
# The tool writes beside Cargo.toml; the number and the time that it makes up would make every run another file.
name=.sbom.$$
trap 'rm -f "$name.json"' EXIT
# Build scripts and macros run at build time; they are not in the binary.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0) "$tool" cyclonedx --quiet --format json --spec-version 1.5 \
    --target "$target" --no-build-deps --override-filename "$name"
# Nobody needs to know where it was built.
sed "s#path+file://$PWD#path+file:///keytally#g" "$name.json" >"$out/keytally-$target.cdx.json"
echo "$out/keytally-$target.cdx.json"
