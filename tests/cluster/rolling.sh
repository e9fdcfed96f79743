#!/bin/bash
# Two versions of the program on one empty PostgreSQL database under load: an upgrade of one
# server after the other, and the way back. Builds nothing.
#   tests/cluster/rolling.sh OLD NEW postgres://postmeter@localhost/empty
# OLD and NEW are programs. Needs curl and psql. Each server is a sandbox with a directory of its own.
set -euo pipefail
old=$(realpath "$1") new=$(realpath "$2") url=$3
work=$(mktemp -d)
declare -A pid http
export DATABASE_URL=$url RUST_LOG=${RUST_LOG:-warn}

clear_up() {
    touch "$work/over"
    for one in "${pid[@]}"; do kill -KILL "$one" 2>/dev/null || true; done
    wait || true
}
trap clear_up EXIT

# start NAME PROGRAM
start() {
    local out=$work/$1.out
    : >"$out"
    (cd "$work" && exec "$2" sandbox --smtp 127.0.0.1:0 --smtps 127.0.0.1:0 --http 127.0.0.1:0 \
        --data-dir "$work/$1" --database-url "$url") >"$out" 2>>"$work/$1.log" &
    pid[$1]=$!
    for _ in $(seq 600); do
        grep -q '^ready ' "$out" && break
        kill -0 "${pid[$1]}" 2>/dev/null || { tail -5 "$work/$1.log"; echo "$1 does not start with $2"; exit 1; }
        sleep 0.1
    done
    http[$1]=$(sed -n 's/^ready .*http=//p' "$out")
    echo "${http[$1]}" >"$work/$1.address"
    echo "$1 runs $2"
}

# end NAME SIGNAL
end() {
    kill -"$2" "${pid[$1]}"
    wait "${pid[$1]}" || true
}

# Sends to a server, whichever runs there, and notes what it has taken.
load() {
    local mail='{"to":"bob@example.net","from":"ann@example.com","subject":"s","text":"t"}'
    while [ ! -e "$work/over" ]; do
        curl -s -m 30 -u sandbox:sandbox-secret -H 'Content-Type: application/json' -d "$mail" \
            "http://$(cat "$work/$1.address")/send" | grep -o '"id":"[^"]*"' | cut -d'"' -f4 >>"$work/taken.$2" || true
    done
}

count() { cat "$work"/taken.* 2>/dev/null | wc -l; }

# More mail is taken than until now.
goes_on() {
    local before; before=$(count)
    for _ in $(seq 600); do
        [ "$(count)" -gt $((before + 40)) ] && { echo "$(count) taken: $*"; return; }
        sleep 0.1
    done
    echo "nothing is taken any more: $*"; exit 1
}

start one "$old"; start two "$old"
loads=()
for nth in 1 2 3; do
    load one "one$nth" & loads+=($!)
    load two "two$nth" & loads+=($!)
done
goes_on "by two old ones"
end one TERM; start one "$new"; goes_on "by a new one and an old one"
end two KILL; start two "$new"; goes_on "by two new ones"
end one TERM; start one "$old"; goes_on "by an old one, which went back, and a new one"
touch "$work/over"
wait "${loads[@]}"
left="SELECT count(*) FROM message WHERE final_at IS NULL"
for _ in $(seq 1200); do
    [ "$(psql "$url" -Atc "$left")" = 0 ] && break
    sleep 0.1
done
[ "$(psql "$url" -Atc "$left")" = 0 ] || { echo "not all has left"; exit 1; }
psql "$url" -Atc "SELECT message_id FROM recipient WHERE state = 'sent'" | sort >"$work/sent"
lost=$(cat "$work"/taken.* | sort | comm -23 - "$work/sent" | wc -l)
for program in "$old" "$new"; do (cd "$work" && "$program" audit); done
echo "$(count) taken, $lost lost"
[ "$lost" = 0 ] && rm -rf "$work/one" "$work/two"
exit "$((lost > 0))"
