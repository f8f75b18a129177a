#!/usr/bin/env bash
# The second half of image.sh, in namespaces of its own: $root is the image's file system, the arguments are its environment.
set -euo pipefail
log=$(mktemp)
trap 'rm -f "$log"' EXIT
give_up() { echo "image: $1"; cat "$log"; exit 1; }

ip link set lo up
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o "mode=700,uid=${user%:*},gid=${user#*:}" data "$root/var/lib/orderflow"
mount -o remount,bind,ro "$root"
inside=(env -i "$@" chroot --userspec="$user" --groups= "$root" sh -c 'cd /var/lib/orderflow && exec "$@"' sh)

# shellcheck disable=SC2086  # they are words
"${inside[@]}" $entrypoint >"$log" 2>&1 &
server=$!
answer=
for _ in $(seq 60); do
  # shellcheck disable=SC2086  # likewise
  answer=$("${inside[@]}" $health 2>&1) && break
  kill -0 $server 2>/dev/null || give_up "$entrypoint has ended"
  sleep 0.5
done
[ "$answer" = SERVING ] || give_up "the health check says: $answer"
uid=$(awk '/^Uid/ {print $2}' "$root/proc/$server/status")
[ "$uid" = "${user%:*}" ] || give_up "it runs as uid $uid"
echo "image: '$entrypoint' runs as uid $uid, '$health' says $answer"
# As root: anybody else may not write there anyway.
if chroot "$root" touch /written 2>>"$log"; then give_up "its root can be written to"; fi
state=$("${inside[@]}" orderflow order create --customer alice --item BOOK-1:2:12.50 --payment-token tok_visa --wait --json |
  grep -o 'ORDER_STATE_[A-Z_]*')
echo "image: an order is $state"
kill "-${stop#SIG}" $server
wait $server || give_up "it ended with $? after $stop"
echo "image: ended with 0 after $stop"
