#!/usr/bin/env bash
# Builds the image from the Dockerfile without a daemon, and runs it as docker-compose.yml does: as its own user, on a read-only
# root, with no network but its own loopback. It must say SERVING, take an order, and end with 0 after SIGTERM.
#
# PYTHON_IMAGE names the image to build on; without one a local one is made of Debian's packages.
# Needs root, buildah and, for the local one, debootstrap: apt-get install buildah debootstrap
set -euo pipefail
cd "$(dirname "$0")/.."
give_up() { echo "image: not built, $1"; exit 77; }
[ "$(id -u)" = 0 ] || give_up "this is not root"
command -v buildah >/dev/null || give_up "there is no buildah"

# vfs: slow, but it works inside of any container.
export STORAGE_DRIVER=${STORAGE_DRIVER:-vfs}
storage=$PWD/.cache/buildah
b() { buildah --root "$storage/root" --runroot "$storage/run" "$@"; }
mkdir -p "$storage"

base=${PYTHON_IMAGE:-localhost/orderflow-python}
if [ -z "${PYTHON_IMAGE:-}" ] && ! b inspect --type image "$base" >/dev/null 2>&1; then
  command -v debootstrap >/dev/null || give_up "there is neither PYTHON_IMAGE nor debootstrap"
  echo "image: making $base of Debian's packages"
  system=$(mktemp -d)
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$system" >"$storage/debootstrap.log"
  # As this machine trusts whom it downloads from, the build does.
  cp /etc/ssl/certs/ca-certificates.crt "$system/etc/ssl/certs/"
  container=$(b from scratch)
  b add --quiet "$container" "$system" / >/dev/null
  b config --env PIP_CERT=/etc/ssl/certs/ca-certificates.crt --env SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt "$container"
  b commit --quiet --rm "$container" "$base" >/dev/null
  rm -rf "$system"
fi

began=$SECONDS
b bud --quiet --isolation chroot --network host --format docker --build-arg PYTHON_IMAGE="$base" --tag localhost/orderflow . >/dev/null
echo "image: built in $((SECONDS - began)) s"

container=$(b from localhost/orderflow)
root=$(b mount "$container")
# Of the images only the last one stays.
trap 'b rm "$container" >/dev/null; b rmi --prune >/dev/null' EXIT
size() { du -sm --apparent-size "$1" | cut -f1; }
echo "image: $(size "$root") MB, of which the environment is $(size "$root/opt/orderflow") MB"
of_image() { b inspect --type image --format "{{$1}}" localhost/orderflow; }
user=$(of_image .OCIv1.Config.User) stop=$(of_image .OCIv1.Config.StopSignal)
words() { b inspect --type image --format "{{range .Docker.Config.$1}}{{.}} {{end}}" localhost/orderflow; }
entrypoint="$(words Entrypoint)$(words Cmd)"
health=$(words Healthcheck.Test)
mapfile -t environment < <(b inspect --type image --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' localhost/orderflow | sed '/^$/d')
root=$root user=$user stop=$stop entrypoint=$entrypoint health=${health#CMD } \
  unshare --mount --net --pid --fork --kill-child tools/image-run.sh "${environment[@]}"
