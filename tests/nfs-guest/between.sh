# Runs in the guest (nfs-guest.sh): two tasks on one real NFS server, and what the service promises between them. The
# second one is in a network of its own, with a name of its own, so that to the server, and to itself, it is another
# client; with NFS 4.1, which EFS advises, and 4.0; and with the router's own client beside that of the kernel.
#
#   between.sh ROUTER
#
# Prints `ok:` or `FAILED:` for each thing that must be so, and after `#` what there is, for the record.
. "$(dirname "$0")/serve.sh"
. "$(dirname "$0")/service.sh"
router=$1

serve /srv/files
modprobe -d "$MODULES" veth
ip netns add other
ip link add here type veth peer name there netns other
for last in 1 2 3; do ip address add "10.9.0.$last/24" dev here; done
ip link set here up
ip -n other address add 10.9.0.9/24 dev there
ip -n other link set there up
ip -n other link set lo up

in_another_client() {
  exec ip netns exec other unshare --uts bash -c 'echo other > /proc/sys/kernel/hostname; exec "$@"' - "$@"
}

appends() { # NAME NUMBER
  local each
  for each in {1..25}; do
    request "$1" POST "/files/log-$((each % 3))?append" "$1 $2 $each $(printf '%0*d' $((each * 37)) 0)"$'\n'
    [[ $status == 20[14] ]] || echo "append: $status $answer"
  done
}

counts() { # NAME: adds 1 if nobody has meanwhile, until it has done so fifteen times
  local done=0 tries=0
  while [ $done -lt 15 ] && [ $tries -lt 300 ]; do
    tries=$((tries + 1))
    request "$1" GET /files/counter
    [ "$status" = 200 ] || { echo "$1: GET $status $answer"; continue; }
    request "$1" PUT /files/counter "$((answer + 1))" "if-match: $tag"
    case $status in 204) done=$((done + 1)) ;; 412 | 503) ;; *) echo "$1: PUT $status $answer" ;; esac
  done
}

replaces() { # HOW-OFTEN HEADER...
  local each times=$1
  shift
  for ((each = 0; each < times; each++)); do
    request one PUT /files/replaced "content $each" "$@"
    [ "$status" = 204 ] || echo "PUT: $status $answer" >&2
  done
}

# Somebody reads slowly, through the same target.
replaces_what_is_read() {
  local each
  for ((each = 0; each < $1; each++)); do
    cp /srv/files/large /srv/files/next && mv /srv/files/next /srv/files/replaced
    exec 4<> "/dev/tcp/${port[one]}"
    printf 'GET /files/replaced HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n' >&4
    read -r _ <&4
    request one PUT /files/replaced "content $each"
    exec 4>&-
  done
}

# COMMAND...: how often, while it runs, the file was looked for on the server and was not there.
misses() {
  local looked=0 away=0 running
  "$@" &
  running=$!
  while kill -0 $running 2> /dev/null; do
    for _ in {1..200}; do [ -e /srv/files/replaced ] || away=$((away + 1)); done
    looked=$((looked + 200))
  done
  wait $running
  echo "$away of $looked"
}

between() { # VERSION BACKEND: of the first one
  local v="$1 $2" number name each found
  options="MOUNT_OPTIONS=vers=$1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport"
  addresses=(127.0.0.2 127.0.0.3 127.0.0.4)
  check "$v: a task starts" start one 0 "$options" BACKEND="$2" || judge
  all_up one
  addresses=(10.9.0.1 10.9.0.2 10.9.0.3)
  within=in_another_client
  check "$v: another one starts, as another client" start two 1 "$options" LISTEN=10.9.0.9:0 AUTH=none || judge
  all_up two
  within=

  found=0
  for number in {1..10}; do
    for name in 'one two' 'two one'; do
      request "${name% *}" PUT /files/shared "$number by ${name% *}"
      each=$tag
      request "${name#* }" GET /files/shared
      [[ $answer == "$number by ${name% *}" && $tag == "$each" ]] && found=$((found + 1))
    done
  done
  check "$v: what one has written the other reads, with the same tag" [ $found = 20 ]

  rm -f /srv/files/log-?
  local appending=()
  for number in 1 2; do
    for name in one two; do appends $name $number & appending+=($!); done
  done > /run/appends
  wait "${appending[@]}"
  check "$v: appends of both are acknowledged" [ ! -s /run/appends ]
  head -3 /run/appends
  awk '{ print NF, length($4) == $3 * 37, $1, $2, $3 }' /srv/files/log-? | sort > /run/found
  for name in one two; do
    for number in 1 2; do for each in {1..25}; do echo "4 1 $name $number $each"; done; done
  done | sort > /run/wanted
  check "$v: all of them are there, each once and whole" cmp -s /run/found /run/wanted

  request one PUT /files/counter 0
  local counting=()
  for name in one two; do counts $name & counting+=($!); done > /run/counts
  wait "${counting[@]}"
  check "$v: they are told yes and no only" [ ! -s /run/counts ]
  head -3 /run/counts
  found=$(< /srv/files/counter)
  check "$v: of two that compare and replace, none covers what the other has done: $found of 30" [ "$found" = 30 ]

  request one PUT /files/replaced content
  found=$(misses replaces 30)
  check "$v: a file that is replaced is never away: $found times looked for" [ "${found%% *}" = 0 ]
  found=$(misses replaces 30 'if-match: *')
  check "$v: nor one that is replaced on a condition: $found" [ "${found%% *}" = 0 ]
  found=$(misses replaces_what_is_read 15)
  if [ "$2" = nfs ]; then
    check "$v: nor one that somebody reads slowly: $found" [ "${found%% *}" = 0 ]
  else
    # What a reader of this client has open Linux moves aside, in a call of its own.
    record "$v: one that somebody reads slowly was away" <<< "$found"
  fi

  for name in one two; do
    stop $name
    check "$v: SIGTERM ends $name well" [ $ended = 0 ]
  done
  all_unmounted
}

printf '%*s' 4000000 x > /srv/files/large
between 4.1 mounted
between 4.0 mounted
between 4.1 nfs
judge
