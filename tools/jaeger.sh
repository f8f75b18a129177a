#!/usr/bin/env bash
# Builds Jaeger, without the pages that a browser shows. The image in docker-compose.yml is 2.13.0, which as a module is 1.76.0.
exec "$(dirname "$0")/from-module.sh" jaeger github.com/jaegertracing/jaeger@v1.76.0 ./cmd/jaeger
