#!/usr/bin/env bash
# Builds docker-compose, which reads docker-compose.yml without docker.
exec "$(dirname "$0")/from-module.sh" docker-compose github.com/docker/compose/v2@v2.40.3 ./cmd
