#!/usr/bin/env bash
# Builds kustomize into .cache/bin with Go; without Go it says so, and what needs it is skipped. kubectl has it built in.
set -euo pipefail
cd "$(dirname "$0")/.."
version=v5.7.1
bin=$PWD/.cache/bin
if [ -x "$bin/kustomize" ] || command -v kustomize >/dev/null || command -v kubectl >/dev/null; then
  exit 0
fi
if ! command -v go >/dev/null; then
  echo "kustomize: not installed, there is no Go here; its tests are skipped"
  exit 0
fi
GOBIN="$bin" go install "sigs.k8s.io/kustomize/kustomize/v5@$version"
