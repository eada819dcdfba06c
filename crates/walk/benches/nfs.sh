#!/usr/bin/env bash
# Counts over NFS: what each tool costs in RPCs and, 2 ms away, in time. Prints Markdown.
#
#   nfs.sh BENCH [KERNEL...]   BENCH: the benchmark's program (it runs this as `count nfs`)
#                              KERNEL: as in linux-image-KERNEL-amd64; each is a boot
#
# A guest under QEMU has a kernel NFS server and mounts it with EFS's options, so that the calls are those of
# a real client. It sees this machine's root read-only, and has a disk with the trees on it, which the first
# run makes. Emulated (ACCEL=kvm for more speed, where it works): its times are for comparing, its RPCs are exact.
# OURS=1: without the tools of others.
#
# Needs (apt): qemu-system-x86 busybox-static cpio kmod nfs-kernel-server nfs-common iproute2 e2fsprogs
set -euo pipefail

self=$(realpath "${BASH_SOURCE[0]}")
work=${XDG_CACHE_HOME:-$HOME/.cache}/efs-autoscale/nfs-guest
trees=(flat-100k small flat)
# Milliseconds there and back.
latency=2
# Seconds for one tool.
patience=150

#### On this machine

# The newest of each line that Debian has, without the cloud kernels: they have no 9p.
kernels() {
  local line
  for line in 5.10 6.1 6.12; do
    apt-cache search --names-only "^linux-image-${line//./\\.}\.[0-9]+[^ ]*-amd64\$" | awk '{print $1}' |
      grep -vE 'cloud|rt|unsigned' | sort -V | tail -1 | sed 's/^linux-image-//; s/-amd64$//' || true
  done
}

. "$(dirname "$self")/../../../tests/nfs-guest/kernel.sh"

# KERNEL DISK-OPTIONS WHAT: boots, runs this script's WHAT in the guest, and passes on what it prints.
boot() {
  local job=$work/job log=$work/log
  printf 'export PATH=%q:/usr/sbin:/usr/bin:/sbin:/bin HOME=%q OURS=%q\n. %q guest %q %q %q %q\n' \
    "$PATH" "$HOME" "${OURS:-}" "$self" "$3" "$bench" "$python" "$work/$1" > "$job"
  timeout 1500 qemu-system-x86_64 -accel "${ACCEL:-tcg,thread=multi}" -cpu max -smp 2 -m 6G -nographic -no-reboot -nic none \
    -kernel "$(echo "$work/$1"/boot/vmlinuz*)" -initrd "$work/$1/initial.gz" \
    -append "console=ttyS0 panic=-1 no_timer_check mitigations=off quiet job=$job" \
    -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
    -drive "file=$work/trees.img,if=virtio,format=raw,$2" < /dev/null |
    stdbuf -oL tr -d '\r' | tee "$log" | grep --line-buffered -aE '^(\||#|making|$)' || true
  grep -aq '^guest: ended with 0' "$log" || { echo "the guest failed; $log has all that it said" >&2; return 1; }
}

host() {
  bench=$(realpath "$1") python=$(python3 -c 'import sys; print(sys.executable)')
  shift
  [ $# -gt 0 ] || mapfile -t chosen < <(kernels)
  [ $# -eq 0 ] || chosen=("$@")
  mkdir -p "$work"
  for kernel in "${chosen[@]}"; do build "$kernel"; done
  if [ ! -e "$work/trees.done" ]; then
    echo 'making the disk with the trees (some minutes)' >&2
    rm -f "$work/trees.img" && truncate -s 4G "$work/trees.img" && mkfs.ext4 -q -N 1600000 "$work/trees.img"
    boot "${chosen[0]}" cache=unsafe make >&2 && touch "$work/trees.done"
  fi
  for kernel in "${chosen[@]}"; do boot "$kernel" snapshot=on measure; done
}

#### In the guest

guest() {
  local what=$1 module
  bench=$2 python=$3 modules=$4
  for module in ext4 nfsd nfs nfsv4 sch_netem; do modprobe -d "$modules" "$module"; done
  ip link set lo up
  mkdir -p /srv/trees && mount /dev/vda /srv/trees
  "$what"
}

make() {
  local tree
  for tree in "${trees[@]}"; do "$bench" tree /srv/trees "$tree"; done
  umount /srv/trees
}

serve() {
  mkdir -p /var/lib/nfs/v4recovery && : > /var/lib/nfs/etab && : > /var/lib/nfs/rmtab
  mount -t nfsd nfsd /proc/fs/nfsd
  echo '/srv/trees *(ro,no_root_squash,no_subtree_check,insecure,fsid=0)' > /etc/exports
  echo 10 > /proc/fs/nfsd/nfsv4leasetime
  exportfs -ra && rpc.mountd && rpc.nfsd -N 3 64
}

# The calls so far, as `READDIR LOOKUP GETATTR ACCESS all`.
calls() {
  awk '$0 ~ "mounted on /mnt/efs " { of = 1; next } /^device/ { of = 0 } of && /^\t *[A-Z_]+:/ { n[$1] = $2; all += $2 }
    END { printf "%d %d %d %d %d", n["READDIR:"], n["LOOKUP:"], n["GETATTR:"], n["ACCESS:"], all }' /proc/self/mountstats
}

# TREE TOOL COMMAND...: a row. The mount is new, so that its client knows nothing; the server knows all. What
# mounting and going to the tree cost is not the tool's.
row() {
  local tree=$1 tool=$2 began ended files before after each cells=
  shift 2
  [ -z "$OURS" ] || [[ $tool = ours* ]] || return 0
  mkdir -p /mnt/efs && mount -i -t nfs4 -o \
    vers=4.1,addr=127.0.0.1,clientaddr=127.0.0.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport \
    127.0.0.1:/ /mnt/efs
  cd "/mnt/efs/$tree"
  read -ra before <<< "$(calls)"
  began=$EPOCHREALTIME
  files=$(timeout "$patience" "$@") || files="not within $patience s"
  ended=$EPOCHREALTIME
  read -ra after <<< "$(calls)"
  cd / && umount /mnt/efs
  for each in "${!after[@]}"; do cells+=" $((after[each] - before[each])) |"; done
  echo "| $tool | $files | $(awk "BEGIN { printf \"%.2f\", $ended - $began }") |$cells"
}

# What the server has heard: READDIRs, and calls.
heard() {
  awk '/^proc4ops/ { readdir = $(2 + 1 + 26) } /^rpc / { calls = $2 } END { printf "%d %d", readdir, calls }' /proc/net/rpc/nfsd
}

# TREE: a row of our own client, which needs no mount; as in `row`, but with what connecting costs. What its calls do
# besides READDIR they do in the same calls.
row_inside() {
  local began ended files before after
  read -ra before <<< "$(heard)"
  began=$EPOCHREALTIME
  files=$(timeout "$patience" "$bench" peer inside "/$1") || files="not within $patience s"
  ended=$EPOCHREALTIME
  read -ra after <<< "$(heard)"
  echo "| ours, no mount | $files | $(awk "BEGIN { printf \"%.2f\", $ended - $began }") |" \
    "$((after[0] - before[0])) | – | – | – | $((after[1] - before[1])) |"
}

heading() {
  printf '\n### %s\n\n| | files | seconds | READDIR | LOOKUP | GETATTR | ACCESS | all |\n|---|---|---|---|---|---|---|---|\n' "$1"
}

# What each prints ends with the number of files.
found() { find . -type f -printf x | wc -c; }
fds() { fd --no-ignore --hidden --type f "$@" . | wc -l; }
rgs() { rg --files --no-ignore --hidden "$@" | wc -l; }
rglob() { "$python" -c "from pathlib import Path; print(sum(1 for _ in Path('.').rglob('*') if _.is_file()))"; }
export -f found fds rgs rglob
export python

measure() {
  local tree
  serve
  # The server has it all in memory.
  find /srv/trees -size +1G
  printf '\n## Linux %s\n' "$(uname -r)"
  # The emulated processors are slow, and 64 threads in one directory get in each other's way on them.
  heading 'flat-100k, no latency'
  row flat-100k ours "$bench" peer ours .
  row flat-100k 'ours, in parts' "$bench" peer in-parts .
  row_inside flat-100k
  row flat-100k find bash -c found
  row flat-100k fd bash -c fds
  row flat-100k rg bash -c rgs
  row flat-100k ignore "$bench" peer ignore .
  row flat-100k jwalk "$bench" peer jwalk .
  row flat-100k walkdir "$bench" peer walkdir .
  row flat-100k rglob bash -c rglob
  heading 'small, no latency'
  row small ours "$bench" peer ours .
  row small 'ours, in parts' "$bench" peer in-parts .
  row_inside small
  row small find bash -c found
  row small fd bash -c fds
  row small ignore "$bench" peer ignore .
  row small rglob bash -c rglob
  tc qdisc add dev lo root netem delay "$((latency * 500))us" limit 100000
  heading "small, $latency ms"
  row small ours "$bench" peer ours .
  row_inside small
  row small find bash -c found
  row small 'fd -j64' bash -c 'fds -j64'
  row small 'rg -j64' bash -c 'rgs -j64'
  row small 'ignore, 64 threads' "$bench" peer ignore-64 .
  row small 'jwalk, 64 threads' "$bench" peer jwalk-64 .
  heading "flat-100k, $latency ms"
  row flat-100k ours "$bench" peer ours .
  row_inside flat-100k
  heading "flat (1,000,000), $latency ms"
  row flat ours "$bench" peer ours .
  row flat 'ours, in parts' "$bench" peer in-parts .
  row_inside flat
}

case ${1:-} in
  '') sed -n '2,12p' "$self"; exit 2 ;;
  guest) shift; guest "$@" ;;
  *) host "$@" ;;
esac
