#!/bin/sh
# Builds the image without a daemon, and prints its size and how long it takes to start.
#
#   deploy/image/build.sh [--profile PROFILE] [--tag NAME] [--containers DIR] [ARCH…]    ARCH: amd64, arm64; else this machine's
#
# Needs: rustup target add x86_64-unknown-linux-musl (or aarch64-…); Debian's buildah and musl-tools, and for arm64 on amd64
# gcc-aarch64-linux-gnu, libc6-dev-arm64-cross. In the release profile the program is built by guided.sh where this machine can run
# it and has what that needs. Out come target/image/keytally-ARCH.tar (for `docker load -i`, `podman load -i`,
# `kind load image-archive`), what is in it as keytally-ARCH.cdx.json (sbom.sh), and the image NAME in the local container storage, instead of which --containers names a directory.
set -eu
cd "$(dirname "$0")/../.."

fail() {
    echo "build.sh: $1" >&2
    exit 2
}

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
revision=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
profile=release
tag=localhost/keytally:$version
containers=''
arches=''
while [ $# -gt 0 ]; do
    case $1 in
    --profile | --tag | --containers)
        [ $# -gt 1 ] || fail "$1 needs a value"
        case $1 in
        --profile) profile=$2 ;;
        --tag) tag=$2 ;;
        --containers) containers=$2 ;;
        esac
        shift 2
        ;;
    amd64 | arm64) arches="$arches $1" && shift ;;
    *) fail "$1: neither an option nor an architecture; the head of this file has them" ;;
    esac
done
case $(uname -m) in
x86_64) own=amd64 ;;
aarch64) own=arm64 ;;
*) own=none ;;
esac
[ -n "$arches" ] || arches=$own

buildah_() {
    if [ -n "$containers" ]; then
        buildah --root "$containers/root" --runroot "$containers/run" --storage-driver vfs "$@"
    else
        buildah "$@"
    fi
}

mib() {
    awk -v bytes="$1" 'BEGIN { printf "%.1f MiB", bytes / 1048576 }'
}

# Milliseconds from starting the binary until its health check is answered; the median of five starts.
start_millis() {
    binary=$1
    for _ in 1 2 3 4 5; do
        began=$(date +%s%N)
        "$binary" serve --listen 127.0.0.1:0 --admin 127.0.0.1:4149 2>/dev/null &
        server=$!
        until "$binary" health --admin 127.0.0.1:4149 2>/dev/null; do
            kill -0 "$server" 2>/dev/null || fail 'the binary does not stay up; is port 4149 taken?'
        done
        echo $((($(date +%s%N) - began) / 1000000))
        kill "$server"
        wait "$server" || true
    done | sort -n | sed -n 3p
}

out=target/image
context=$out/context
mkdir -p "$context/state"
for arch in $arches; do
    case $arch in
    amd64) target=x86_64-unknown-linux-musl strip=x86_64-linux-gnu-strip ;;
    arm64)
        target=aarch64-unknown-linux-musl strip=aarch64-linux-gnu-strip
        if [ "$own" != arm64 ]; then
            export CC_aarch64_unknown_linux_musl=aarch64-linux-gnu-gcc
            export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld
            export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUSTFLAGS='-C link-self-contained=yes'
        fi
        ;;
    *) fail "no image for this machine's architecture; name amd64 or arm64" ;;
    esac
    export KEYTALLY_REVISION="$revision"
    if [ "$profile" = release ] && [ "$arch" = "$own" ] && deploy/image/guided.sh --can; then
        binary=$(deploy/image/guided.sh "$target")
    else
        cargo build --locked --quiet --profile "$profile" --bin keytally --target "$target"
        folder=$profile
        [ "$profile" != dev ] || folder=debug
        binary=target/$target/$folder/keytally
    fi
    mkdir -p "$context/$arch"
    # Nothing in the image could read symbols; the binary with them stays in target/.
    "$strip" -o "$context/$arch/keytally.new" "$binary"
    chmod 0555 "$context/$arch/keytally.new"
    mv -f "$context/$arch/keytally.new" "$context/$arch/keytally"
    bill=$(deploy/image/sbom.sh "$target")
    install -m 0444 "$bill" "$context/$arch/keytally.cdx.json"
    cp "$bill" "$out/keytally-$arch.cdx.json"

    name=$tag
    [ "$arch" = "$own" ] || name=$tag-$arch
    # In docker's format, since OCI's has no HEALTHCHECK.
    buildah_ bud --isolation chroot --format docker --quiet --platform "linux/$arch" --file deploy/image/Containerfile \
        --build-arg "TARGETARCH=$arch" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
        --build-arg "CREATED=$(date -u +%Y-%m-%dT%H:%M:%SZ)" --tag "$name" "$context" >/dev/null
    archive=$out/keytally-$arch.tar
    rm -f "$archive"
    buildah_ push --quiet "$name" "docker-archive:$archive:$name"
    echo "$name ($arch, profile $profile): image $(mib "$(wc -c <"$archive")"), compressed $(mib "$(gzip -c "$archive" | wc -c)"); $archive"
    [ "$arch" != "$own" ] ||
        echo "start to first answered health check: $(start_millis "$context/$arch/keytally") ms (median of 5)"
done
