# To be sourced in the guest: an NFS server that is a file system in memory, as EFS is one: version 4 only.

# DIRECTORY: from now on served on every address of this machine; 127.0.0.2, 127.0.0.3 and so on are one server.
serve() {
  mkdir -p "$1" /var/lib/nfs/v4recovery && : > /var/lib/nfs/etab && : > /var/lib/nfs/rmtab
  mount -t tmpfs -o size=256M files "$1"
  mount -t nfsd nfsd /proc/fs/nfsd
  echo "$1 *(rw,no_root_squash,no_subtree_check,insecure,fsid=0)" > /etc/exports
  # A server that was just started gives no locks before its clients of before have had their time.
  echo 10 > /proc/fs/nfsd/nfsv4leasetime
  echo 10 > /proc/fs/nfsd/nfsv4gracetime
  exportfs -ra && rpc.mountd && rpc.nfsd -N 3 8
}
