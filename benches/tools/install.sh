#!/bin/sh
# Installs what keytally is measured beside: nginx and HAProxy from Debian; mitmproxy, LiteLLM and Portkey into
# target/bench-tools. A second run does nothing.
set -eu
cd "$(dirname "$0")/../.."
tools=target/bench-tools

packages=''
for wanted in nginx:nginx-light haproxy:haproxy; do
    [ -x "/usr/sbin/${wanted%%:*}" ] || packages="$packages ${wanted#*:}"
done
if [ -n "$packages" ]; then
    export DEBIAN_FRONTEND=noninteractive
    as_root=''
    [ "$(id -u)" = 0 ] || as_root=sudo
    $as_root apt-get update -qq
    # shellcheck disable=SC2086
    $as_root apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi

python() { # NAME PACKAGE: in an environment of its own
    [ -e "$tools/$1/installed" ] && return
    python3 -m venv "$tools/$1"
    "$tools/$1/bin/pip" install -q --disable-pip-version-check "$2"
    touch "$tools/$1/installed"
}
python mitmproxy mitmproxy==11.0.2
python litellm 'litellm[proxy]<1.110'
if ! [ -e "$tools/portkey/installed" ]; then
    mkdir -p "$tools/portkey"
    (cd "$tools/portkey" && npm install --silent --no-audit --no-fund @portkey-ai/gateway@1.15.2)
    touch "$tools/portkey/installed"
fi
