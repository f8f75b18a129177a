#!/usr/bin/env bash
# Installs grpcurl into .cache/bin with Go; without Go it says so, and what needs it is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
version=v1.9.3
bin=$PWD/.cache/bin
if [ -x "$bin/grpcurl" ] || command -v grpcurl >/dev/null; then
  exit 0
fi
if ! command -v go >/dev/null; then
  echo "grpcurl: not installed, there is no Go here; its tests are skipped"
  exit 0
fi
GOBIN="$bin" go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$version"
