# Runs in the guest (tests/nfs-guest.sh), where the kernel has an NFS client: the benchmark, as it is given.
#
#   guest.sh BENCH [ARGUMENT...]
set -euo pipefail
# Where the server has its files, and where the benchmark makes its own.
mkdir -p /dev/shm && mount -t tmpfs -o size=1G shm /dev/shm
# It takes no address at all where the machine has none but 127.0.0.1.
ip address add 10.9.0.1/32 dev lo
exec "$@" --disk /dev/shm
