#!/usr/bin/env bash
# Runs a script in a guest with a real kernel that has an NFS server and an NFS client; this machine's may have none.
#
#   nfs-guest.sh SCRIPT [ARGUMENT...]
#
# Prints what the script prints, and ends with its status; with 125 when there was no guest to run it, or none to its
# end. The guest (QEMU) sees this machine's root, read-only, below a layer in its memory that takes what is written;
# /mnt, /srv and /run are empty. The script runs as root, and may source nfs-guest/serve.sh. Emulated, about ten times
# slower than here; ACCEL=kvm for more speed, where it works.
#
# Needs (apt): qemu-system-x86 busybox-static cpio kmod nfs-kernel-server nfs-common iproute2
# Variables: KERNEL, as in linux-image-KERNEL-amd64 [Debian's newest 6.1]; PATIENCE, for the guest, in seconds [600]
set -euo pipefail

work=${XDG_CACHE_HOME:-$HOME/.cache}/efs-autoscale/nfs-guest

. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/nfs-guest/kernel.sh"

failed() {
  echo "nfs-guest: $1" >&2
  exit 125
}

# One that was made, or the newest that there is.
kernel() {
  local made
  made=$(cd "$work" && ls -d 6.1.*/.done 2> /dev/null | sort -V | tail -1)
  [ -z "$made" ] || { dirname "$made"; return; }
  # Not the cloud kernels: they have no 9p.
  apt-cache search --names-only '^linux-image-6\.1\.[0-9]+[^ ]*-amd64$' | awk '{print $1}' |
    grep -vE 'cloud|rt|unsigned' | sort -V | tail -1 | sed 's/^linux-image-//; s/-amd64$//'
}

[ $# -gt 0 ] || { sed -n '2,13p' "$0"; exit 2; }
script=$(realpath "$1") || failed "there is no $1"
shift
for program in qemu-system-x86_64 busybox cpio depmod rpc.nfsd mount.nfs4 ip flock; do
  type "$program" > /dev/null 2>&1 || failed "there is no $program"
done
mkdir -p "$work"
kernel=${KERNEL:-$(kernel)}
[ -n "$kernel" ] || failed 'apt knows no kernel 6.1: apt-get update'
# Two at once make it once.
( flock 9 && build "$kernel" ) 9> "$work/lock" || failed "the kernel $kernel could not be fetched and unpacked"

run=$(mktemp -d) guest=
# Whoever ends this ends the guest.
trap '[ -z "$guest" ] || kill "$guest" 2> /dev/null; rm -rf "$run"' EXIT
trap 'exit 143' TERM INT HUP

{
  printf 'export PATH=%q HOME=%q MODULES=%q\n' "$PATH:/usr/sbin:/usr/bin:/sbin:/bin" "$HOME" "$work/$kernel"
  printf 'for module in nfsd nfs nfsv4; do modprobe -d "$MODULES" "$module" || exit 125; done\n'
  printf 'ln -s /proc/self/fd /dev/fd\nip link set lo up\ncd %q\nprintf "\\nguest: begins\\n"\n' "$(dirname "$script")"
  printf '%q ' bash "$script" "$@"
} > "$run/job"
timeout --kill-after 5 "${PATIENCE:-600}" qemu-system-x86_64 -accel "${ACCEL:-tcg,thread=multi}" -cpu max -smp 2 -m 2G \
  -nographic -no-reboot -nic none -kernel "$(echo "$work/$kernel"/boot/vmlinuz*)" -initrd "$work/$kernel/initial.gz" \
  -append "console=ttyS0 panic=-1 no_timer_check mitigations=off quiet loglevel=1 job=$run/job" \
  -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
  < /dev/null > >(tr -d '\r' > "$run/log") 2> "$run/errors" &
guest=$!
until [ -e "$run/log" ]; do sleep 0.05; done
# From one mark to the other. What the kernel says to the console beside it is few and loud.
tail --pid "$guest" -n +1 -s 0.2 -f "$run/log" 2> /dev/null |
  awk '/^guest: ended with/ { exit } on { print; fflush() } /^guest: begins/ { on = 1 }' &
wait $! || true
wait "$guest" || true
guest=
status=$(sed -n 's/^guest: ended with \([0-9]*\).*/\1/p' "$run/log" | tail -1)
grep -q '^guest: begins' "$run/log" && [ -n "$status" ] && exit "$status"
tail -n 40 "$run/errors" "$run/log" >&2
failed 'the guest did not come to its end; above is what it said last'
