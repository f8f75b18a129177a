#!/usr/bin/env bash
# Takes promtool and prometheus out of Debian's package into .cache/bin, where neither is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .cache/bin
PATH="$PWD/.cache/bin:$PATH"
command -v promtool >/dev/null && command -v prometheus >/dev/null && exit 0
give_up() { echo "no promtool: $1; the tests of rules and alerts are skipped"; exit 0; }
command -v apt-get >/dev/null || give_up "this is not Debian"
[ "$(id -u)" != 0 ] || apt-get update -qq || give_up "Debian's packages cannot be reached"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
(cd "$work" && apt-get download -qq prometheus) || give_up "Debian's packages cannot be reached"
dpkg-deb -x "$work"/prometheus_*.deb "$work/unpacked"
cp "$work"/unpacked/usr/bin/{promtool,prometheus} .cache/bin/
