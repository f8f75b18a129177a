#!/usr/bin/env bash
# Builds Loki. It takes a quarter of an hour, so `make stack` does not do it by itself, but uses it when it is there.
exec "$(dirname "$0")/from-module.sh" loki github.com/grafana/loki/v3@v3.7.8 ./cmd/loki github.com/grafana/loki/pkg/push
