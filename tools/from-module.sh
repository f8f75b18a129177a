#!/usr/bin/env bash
# Builds a program from a Go module into .cache/bin, where Go is present. Takes minutes, once.
#
# Not `go install`: that refuses modules that replace some of those they need.
#
#   tools/from-module.sh NAME MODULE@VERSION PACKAGE [OUTSIDE]
#
# OUTSIDE is a module that is replaced by a part of the source that no module contains: it is taken as it was published.
set -euo pipefail
cd "$(dirname "$0")/.."
name=$1 module=$2 package=$3 outside=${4:-}
binary=$PWD/.cache/bin/$name
stamp=$binary.version
[ -x "$binary" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$module" ] && exit 0
command -v go >/dev/null || { echo "$name: not built, there is no Go here; what needs it is skipped"; exit 0; }
echo "$name: building $module"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
source=$(cd "$work" && go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
cp -r "$source" "$work/source"
chmod -R u+w "$work/source"
mkdir -p .cache/bin
if [ -n "$outside" ]; then
  (cd "$work/source" && go mod edit "-dropreplace=$outside" && GOFLAGS=-mod=mod go get "$outside@latest")
fi
(cd "$work/source" && CGO_ENABLED=0 go build -buildvcs=false -o "$binary.new" "$package")
mv "$binary.new" "$binary"
echo "$module" >"$stamp"
