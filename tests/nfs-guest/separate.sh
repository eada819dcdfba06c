# Runs in the guest (nfs-guest.sh): several mount targets that are one real NFS server, and the service on them.
#
#   separate.sh ROUTER
#
# Prints `ok:` or `FAILED:` for each thing that must be so, and after `#` what there is, for the record.
. "$(dirname "$0")/serve.sh"
. "$(dirname "$0")/service.sh"
router=$1

the_mounts() { # WHAT
  record "$1: the mounts, as /proc/self/mountinfo has them" < <(grep ' - nfs4 ' /proc/self/mountinfo)
  record "$1: /proc/net/tcp, to and from port 2049" < <(grep -E ':0801 ' /proc/net/tcp)
  record "$1: /proc/net/tcp6, to and from port 2049" < <(grep -E ':0801 ' /proc/net/tcp6)
  record "$1: what each mount has sent (the ninth number is of requests)" \
    < <(awk '/^device/ { of = $5 } /xprt:/ { print of, $0 }' /proc/self/mountstats | grep /mnt/)
}

# Three, and the same ones probe after probe.
mounts_stay() {
  local first each
  first=$(awk '/ - nfs4 / { print $1, $5 }' /proc/self/mountinfo | sort)
  [ "$(wc -l <<< "$first")" = 3 ] || return 1
  for each in {1..12}; do
    sleep 0.4
    [ "$(awk '/ - nfs4 / { print $1, $5 }' /proc/self/mountinfo | sort)" = "$first" ] || return 1
  done
}

# NAME: every path is written and read back. The number of targets that answered is in $distinct.
goes_round() {
  local number targets=
  for number in {1..12}; do
    request "$1" PUT "/files/round/$1-$number" "content $number"
    [[ $status == 20[14] ]] || { echo "PUT $status $answer" >&2; return 1; }
    targets+="$target "
    request "$1" GET "/files/round/$1-$number"
    [[ $status == 200 && $answer == "content $number" ]] || { echo "GET $status $answer" >&2; return 1; }
    [ "$target" = "${targets: -7:6}" ] || { echo "$target, not ${targets: -7:6}" >&2; return 1; }
  done
  distinct=$(tr ' ' '\n' <<< "$targets" | sort -u | grep -c .)
}

serve /srv/files
record 'the kernel, and the versions that its server speaks' < <(uname -r; cat /proc/fs/nfsd/versions)

# The first mount of a guest loads what the others find, and takes long.
mkdir -p /run/first && mount -t nfs4 -o vers=4.1 127.0.0.1:/ /run/first && umount /run/first

#### NFS 4.1, as EFS advises: Linux folds

check 'with the default options it starts' start default 0
# Looked at when it starts, and every ten seconds: a target may begin to work between the two.
warned() {
  local each
  for each in {1..50}; do
    said "$1" 'Linux has folded mounts of one server into one connection' && return
    sleep 0.5
  done
  return 1
}
check 'and the log warns that the mounts are folded' warned default
record 'what it says of that' < <(grep -o '"folds":"[^"]*"' /run/default.log)
# Mounting takes its time here.
all_up default
check 'it serves all the same' goes_round default
check 'by three targets, as it believes' [ "$distinct" = 3 ]
check 'all of which work' [ "$(up default)" = 3 ]
check 'each on a mount that stays' mounts_stay
the_mounts 'NFS 4.1'
stop default
check 'SIGTERM ends it well' [ $ended = 0 ]
check 'and takes its mounts with it' [ "$(grep -c ' - nfs4 ' /proc/self/mountinfo)" = 0 ]
check 'it starts again' start default 0
check 'with all targets' all_up default
record 'what it says then' < <(grep -vE '"message":"(ready|a target works|the list)' /run/default.log)
stop default
all_unmounted

# At once, or when the second target comes.
start strict 0 REQUIRE_SEPARATE_MOUNTS=1
wait "${pid[strict]}"
check 'when they are required to be separate it ends with 1' [ $? = 1 ]
check 'and the code FoldedMounts' said strict '"code":"FoldedMounts"'
record 'its last words' < <(tail -1 /run/strict.log)
record 'the mounts that stay then' < <(grep ' - nfs4 ' /proc/self/mountinfo)
all_unmounted

#### NFS 4.0: a connection for each

apart='MOUNT_OPTIONS=vers=4.0,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport'
check 'with vers=4.0 it starts, separate as required' start one 0 "$apart" REQUIRE_SEPARATE_MOUNTS=1
check 'and says that the mounts are separate' said one 'the mounts are separate'
all_up one
check 'what is written is read back' goes_round one
check 'and the target differs by path' [ "$distinct" = 3 ]
the_mounts 'NFS 4.0'
stop one
check 'SIGTERM ends it well' [ $ended = 0 ]
check 'it starts again' start one 0 "$apart" REQUIRE_SEPARATE_MOUNTS=1
check 'with all targets' all_up one
stop one

#### Killed, and started again with the targets in another order

start one 0 "$apart" && all_up one
kill -KILL "${pid[one]}"
wait "${pid[one]}"
check 'a process that is killed leaves its mounts' [ "$(grep -c ' - nfs4 ' /proc/self/mountinfo)" = 3 ]
check 'with the addresses in another order it starts all the same' start one 1 "$apart"
check 'and no target keeps the mount of another' all_up one
record 'the mounts then' < <(grep ' - nfs4 ' /proc/self/mountinfo)
check 'with what is written read back' goes_round one
stop one

#### The server goes away: a hard mount hangs

check 'with a deadline of a second it starts' start one 0 "$apart" DEADLINE_SECONDS=1 SHUTDOWN_SECONDS=2
all_up one
rpc.nfsd 0
request one PUT /files/hung content
check 'a write that hangs is told to be uncertain' [ "$status" = 504 ]
record 'its answer' <<< "$status $answer"
check 'none is left out while all of them are silent' [ "$(up one)" = 3 ]
for _ in {1..450}; do [ "$(up one)" = 0 ] && break; sleep 0.1; done
check 'all targets are left out after half a minute' [ "$(up one)" = 0 ]
request one GET /files/hung
check 'and requests are told that no target works' [ "$status" = 503 ]
(sleep 20; kill -KILL "${pid[one]}") 2> /dev/null &
stop one
check 'SIGTERM ends it well all the same' [ $ended = 0 ]
check 'in time' [ "$took" -lt 60 ]
record 'after so many tenths of a second' <<< "$took"

judge
