# Sourced by tests/nfs-guest.sh and crates/walk/benches/nfs.sh: the kernel that a guest boots. Both keep what it makes in
# $work, so that one uses what the other made.
#
# Needs (apt): busybox-static cpio kmod, and apt-get to fetch the kernel

# KERNEL: its image, and an initial file system that mounts this machine's root and goes there.
build() {
  local kernel=$work/$1 initial=$work/$1/initial modules release module
  [ -e "$kernel/.done" ] && return
  rm -rf "$kernel" && mkdir -p "$kernel" "$initial"/{bin,proc,sys,dev,host,upper,new}
  (cd "$kernel" && apt-get download "linux-image-$1-amd64" && dpkg -x linux-image-*.deb . && rm linux-image-*.deb) >&2
  release=$(ls "$kernel/lib/modules") modules=$kernel/lib/modules/$release
  depmod -b "$kernel" "$release"
  cp /bin/busybox "$initial/bin/"
  mkdir -p "$initial/lib/modules/$release"
  cp "$modules"/modules.* "$initial/lib/modules/$release/"
  for module in fs/9p fs/netfs fs/fscache net/9p drivers/virtio drivers/block fs/overlayfs lib crypto; do
    [ -d "$modules/kernel/$module" ] || continue
    mkdir -p "$initial/lib/modules/$release/kernel/$module"
    cp -r "$modules/kernel/$module/." "$initial/lib/modules/$release/kernel/$module/"
  done
  cat > "$initial/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
for module in virtio_pci 9pnet_virtio 9p overlay virtio_blk; do $b modprobe $module; done
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose host /host
$b mount -t tmpfs tmp /upper; $b mkdir /upper/files /upper/work
$b mount -t overlay -o lowerdir=/host,upperdir=/upper/files,workdir=/upper/work root /new
for each in proc sysfs:sys devtmpfs:dev tmpfs:run tmpfs:srv tmpfs:mnt; do
  $b mount -t ${each%:*} none /new/${each#*:}; done
for word in $($b cat /proc/cmdline); do case $word in job=*) job=${word#job=};; esac; done
$b chroot /new /bin/bash $job; echo "guest: ended with $?"
$b poweroff -f
INIT
  chmod +x "$initial/init"
  (cd "$initial" && find . | cpio -o -H newc --quiet | gzip -1) > "$kernel/initial.gz"
  rm -r "$initial" && touch "$kernel/.done"
}
