# To be sourced in the guest: the file service, requests to it, and what is told of it.

export LC_ALL=C
failures=0

check() { # WHAT COMMAND...
  local what=$1
  shift
  if "$@"; then echo "ok: $what"; else echo "FAILED: $what"; failures=$((failures + 1)); return 1; fi
}

record() { # WHAT, and the lines on standard input
  echo "# $1"
  sed 's/^/#   /'
}

# Ends a script that has checked something.
judge() {
  [ $failures = 0 ] || record 'the logs' < <(tail -n 8 /run/*.log)
  echo "failures: $failures"
  [ $failures = 0 ]
  exit
}

# The published list: the targets' addresses are those in $addresses, the first of which goes to the target ROTATED.
list() {
  local target entries=
  for target in 0 1 2; do
    entries+="${entries:+,}{\"mount_target_id\":\"fsmt-$target\",\"ip_address\":\"${addresses[(target + $1) % 3]}\","
    entries+="\"availability_zone\":\"zone-$target\",\"subnet_id\":\"subnet-$target\"}"
  done
  echo "{\"mount_targets\":[$entries]}"
}
addresses=(127.0.0.2 127.0.0.3 127.0.0.4)

declare -A pid port
# NAME ROTATED VARIABLE=VALUE...: a service with mounts of its own, until it is ready or has ended. With `within`, a
# command that runs another, it is run by that.
start() {
  local name=$1 log=/run/$1.log
  list "$2" > "/run/$name.json"
  shift 2
  : > "$log"
  ${within:-} env -i PATH="$PATH" TARGETS_FILE="/run/$name.json" MOUNT=kernel MOUNT_BASE="/mnt/$name" \
    LISTEN=127.0.0.1:0 PROBE_SECONDS=1 WORKERS=2 DEADLINE_SECONDS=20 "$@" "$router" serve > "$log" 2>&1 &
  pid[$name]=$!
  until grep -q '"message":"ready"' "$log"; do
    kill -0 "${pid[$name]}" 2> /dev/null || return 1
    sleep 0.1
  done
  port[$name]=$(sed -n 's|.*"message":"ready","address":"\([0-9.]*\):\([0-9]*\)".*|\1/\2|p' "$log")
}

stop() { # NAME: its status is in $ended, and in $took how many tenths of a second it took
  took=${EPOCHREALTIME/./}
  kill -TERM "${pid[$1]}"
  wait "${pid[$1]}"
  ended=$? took=$(((${EPOCHREALTIME/./} - took) / 100000))
}

all_unmounted() {
  local mount
  while read -r mount; do umount "$mount"; done < <(awk '/ - nfs4 / { print $5 }' /proc/self/mountinfo)
}

# NAME METHOD PATH BODY HEADER...: the answer is in $status, $target, $tag and $answer.
request() {
  local to=${port[$1]} method=$2 path=$3 body=${4-} line length=0
  shift $(($# < 4 ? $# : 4))
  status=000 target='' tag='' answer=''
  { exec 3<> "/dev/tcp/$to"; } 2> /dev/null || return 1
  printf '%s %s HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: %d\r\n' "$method" "$path" ${#body} >&3
  [ $# = 0 ] || printf '%s\r\n' "$@" >&3
  printf '\r\n%s' "$body" >&3
  read -r _ status _ <&3
  while IFS= read -r line <&3 && line=${line%$'\r'} && [ -n "$line" ]; do
    case ${line,,} in
      x-mount-target:*) target=${line#*: } ;;
      etag:*) tag=${line#*: } ;;
      content-length:*) length=${line#*: } ;;
    esac
  done
  [ "$method" = HEAD ] || [ "$length" = 0 ] || IFS= read -r -N "$length" answer <&3
  exec 3>&-
}

up() { # NAME: the number of targets that work
  request "$1" GET /targets
  grep -o '"up":true' <<< "$answer" | wc -l
}

all_up() { # NAME
  local tries
  for tries in {1..100}; do
    [ "$(up "$1")" = 3 ] && return
    kill -0 "${pid[$1]}" 2> /dev/null || return 1
    sleep 0.2
  done
  return 1
}

said() { # NAME TEXT
  grep -qF -- "$2" "/run/$1.log"
}
