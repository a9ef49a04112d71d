#!/bin/sh
# Installs what the tests drive besides Rust: Prometheus, Alertmanager and their tools, an OTLP receiver, the Python and Node SDKs.
# Everything but the Debian packages goes to target/test-tools; a second run with the same versions does nothing.
set -eu
cd "$(dirname "$0")/../.."
tools=target/test-tools
stamp=$(cat tests/tools/requirements.txt tests/tools/package.json tests/tools/install.sh | sha256sum | cut -c1-16)

if ! command -v promtool >/dev/null || ! command -v prometheus >/dev/null || ! command -v prometheus-alertmanager >/dev/null ||
    ! command -v amtool >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    as_root=''
    [ "$(id -u)" = 0 ] || as_root=sudo
    $as_root apt-get update -qq
    $as_root apt-get install -y -qq --no-install-recommends prometheus prometheus-alertmanager >/dev/null
fi

if ! [ -x "$tools/bin/cargo-deny" ]; then
    cargo install --quiet --locked cargo-deny@0.20.2 --root "$tools"
fi

[ "$(cat "$tools/stamp" 2>/dev/null)" = "$stamp" ] && exit 0
mkdir -p "$tools/node"
[ -x "$tools/venv/bin/python" ] || python3 -m venv "$tools/venv"
"$tools/venv/bin/pip" install -q --disable-pip-version-check -r tests/tools/requirements.txt
chmod +x "$tools"/venv/lib/python3*/site-packages/rotel/rotel-agent
cp tests/tools/package.json "$tools/node/"
(cd "$tools/node" && npm install --silent --no-audit --no-fund --ignore-scripts)
echo "$stamp" >"$tools/stamp"
