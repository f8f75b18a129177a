#!/usr/bin/env bash
# Builds the OpenTelemetry Collector from deploy/collector/builder.yaml into .cache/bin, where Go is present.
set -euo pipefail
cd "$(dirname "$0")/.."
version=v0.150.0
binary=$PWD/.cache/bin/otelcol
stamp=$PWD/.cache/bin/otelcol.sha256
[ -x "$binary" ] && sha256sum --status -c "$stamp" 2>/dev/null && exit 0
command -v go >/dev/null || { echo "no Go: the OpenTelemetry Collector is not built, its tests are skipped"; exit 0; }
mkdir -p .cache/bin
GOBIN=$PWD/.cache/bin go install "go.opentelemetry.io/collector/cmd/builder@$version"
.cache/bin/builder --config deploy/collector/builder.yaml
mv .cache/collector/otelcol "$binary"
rm -rf .cache/collector
sha256sum deploy/collector/builder.yaml >"$stamp"
