#!/usr/bin/env bash
# chat-gateway with curl 7.84 or newer.
#
#   TOKEN=... ./curl.sh https://gateway.example/api/account/123/chat/ID poll
#   TOKEN=... ./curl.sh https://gateway.example/api/account/123/chat/ID wait
#   TOKEN=... ./curl.sh https://gateway.example/api/account/123/chat/ID follow
#   TOKEN=... ./curl.sh https://gateway.example/api/account/123/chat/ID say "Hello"
#
# poll prints the chat's info whenever it has changed, asking once a second; wait does so with long polls;
# follow prints the messages of the chat's stream of events. All go on until the chat has ended or is gone.
set -euo pipefail

chat=$1 verb=$2 text=${3:-}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# The token is in no command line, where everybody on the machine could read it.
ask() {
  curl --silent --show-error --config <(printf 'header = "Authorization: Bearer %s"\n' "$TOKEN") "$@"
}

# The seconds that the last answer asks to be waited for, if it does.
retry_after() {
  sed -n 's/^retry-after: *\([0-9]*\).*/\1/Ip' "$folder/head"
}

# Prints the info if it is another than the last one; fails once there is nothing more to come.
info() {
  local status wait
  : > "$folder/head"
  status=$(ask --etag-compare "$folder/etag" --etag-save "$folder/etag" --dump-header "$folder/head" \
    --output "$folder/body" --write-out '%{http_code}' -H 'Accept: application/json' "$@" "$chat/info") || status=000
  case $status in
    200)
      cat "$folder/body" && echo
      ! grep -Eq '"state": ?"ended"' "$folder/body"
      ;;
    304) ;;
    # Too many requests, or the chat service is not there: as long as the gateway says, else a few seconds.
    000 | 429 | 502 | 503 | 504)
      wait=$(retry_after)
      sleep "${wait:-3}"
      ;;
    404) return 1 ;;
    *)
      cat "$folder/body" >&2
      exit 1
      ;;
  esac
}

follow() {
  local last="" retry=1000 kind id data may_return line status wait
  while true; do
    : > "$folder/head"
    kind="" id="" data="" may_return=""
    while IFS= read -r line; do
      line=${line%$'\r'}
      case $line in
        "event: "*) kind=${line#event: } ;;
        "id: "*) id=${line#id: } ;;
        "retry: "*) retry=${line#retry: } may_return=yes ;;
        "data: "*) data+=${line#data: } ;;
        "")
          # Only now it is whole, and had.
          [ -n "$data" ] || continue
          echo "$kind $data"
          last=${id:-$last}
          # For good, unless it says when to come back.
          [ "$kind$may_return" != closed ] || exit 1
          [ "$kind" != ended ] || return 0
          id="" data="" may_return=""
          ;;
      esac
      # Who is silent for 15 seconds is gone: there is a comment every few seconds.
    done < <(ask --no-buffer --fail --speed-time 15 --speed-limit 1 --dump-header "$folder/head" \
      -H 'Accept: text/event-stream' ${last:+-H "Last-Event-ID: $last"} "$chat/events" || true)
    status=$(sed -n 's/^HTTP[^ ]* \([0-9]*\).*/\1/p' "$folder/head" | tail -n 1)
    case $status in
      204) return 0 ;;
      "" | 200 | 429 | 502 | 503 | 504) wait=$(retry_after) ;;
      *) exit 1 ;;
    esac
    sleep "${wait:-$(printf '%d.%03d' $((retry / 1000)) $((retry % 1000)))}"
  done
}

case $verb in
  poll) while info; do sleep 1; done ;;
  wait) while info -H 'Prefer: wait=20'; do :; done ;;
  follow) follow ;;
  say)
    # JSON needs quotes and backslashes escaped.
    text=${text//\\/\\\\}
    printf '{"event": {"@type": "line", "text": "%s"}}' "${text//\"/\\\"}" |
      ask --fail-with-body --output /dev/null --write-out '%header{location}\n' \
        -H 'Content-Type: application/json' --data-binary @- "$chat/events"
    ;;
  *)
    echo "expected poll, wait, follow or say, got $verb" >&2
    exit 2
    ;;
esac
