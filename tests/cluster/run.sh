#!/usr/bin/env bash
# What a failover of PostgreSQL costs: three nodes under Patroni, two servers of Postmeter, clients
# that queue, and one fault after another. README.md says what is measured and how to read it.
#
#   POSTMETER=target/release/postmeter tests/cluster/run.sh [--way hosts|haproxy|both] [SCENARIO…]
#
# Scenarios: kill cut split standby meter switchover (all of them by default). Root; Debian's packages
# patroni etcd-server etcd-client haproxy postgresql iproute2 curl openssl python3 (`run.sh install`).
# `run.sh clear` takes away what a run has left that was killed.
# shellcheck disable=SC2317 # scenarios and conditions are called by their names
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Patroni before 3.0.3 does not compare before it writes its leader key by etcd's API v3: a primary
# that was cut off takes the key from its successor when it is joined again, and what was
# acknowledged meanwhile is gone. By API v2 it compares.
PATRONI_DCS=${PATRONI_DCS:-etcd}
PATRONI_TTL=${PATRONI_TTL:-20}
PATRONI_LOOP_WAIT=${PATRONI_LOOP_WAIT:-5}
PATRONI_RETRY_TIMEOUT=${PATRONI_RETRY_TIMEOUT:-5}
WAL_SENDER_TIMEOUT=${WAL_SENDER_TIMEOUT:-5s}
SYNC_STRICT=${SYNC_STRICT:-false}
CONNECTIONS=${CONNECTIONS:-16}
RATE=${RATE:-50}
POSTMETER=$(realpath -m "${POSTMETER:-target/release/postmeter}")
# shellcheck source=cluster.sh
source "$HERE/cluster.sh"

readonly PACKAGES=(patroni etcd-server etcd-client haproxy postgresql iproute2 curl openssl python3)
readonly ALL=(kill cut split standby meter switchover)
# Mail before a fault, and after everything is whole again.
readonly BEFORE_S=10 AFTER_S=10

# --- the scenarios: each sets FAULT to when it begins, and returns when all is whole again

fault() { FAULT=$(date +%s.%N); say "$*"; }

# The primary's node is gone, with all its processes, and comes back.
scenario_kill() {
    local node; node=$(primary)
    fault "kill -9 to all of $node, the primary"
    kill_all "$node"
    until_true 120 "another primary" is_another "$node"
    sleep "$AFTER_S"
    say "$node is started again"
    start_etcd "${node#db}"; start_patroni "${node#db}"
    until_true 120 "the cluster to be whole" is_whole
}

# The primary lives on, and nobody hears it; later it is joined again.
scenario_cut() {
    local node; node=$(primary)
    fault "the cable of $node, the primary, is cut"
    cable "$node" down
    until_true 120 "another primary" is_another "$node"
    sleep "$AFTER_S"
    say "the cable of $node is mended"
    cable "$node" up
    until_true 120 "the cluster to be whole" is_whole
}

# The primary does not reach the other two; servers of Postmeter reach all three.
scenario_split() {
    local node; node=$(primary)
    fault "$node, the primary, does not reach the other databases any more"
    apart "$node" add
    until_true 120 "another primary" is_another "$node"
    sleep "$AFTER_S"
    say "$node reaches the others again"
    apart "$node" del
    until_true 120 "the cluster to be whole" is_whole
}

# The standby that every commit waits for is cut off.
scenario_standby() {
    local node; node=$(standby sync_standby)
    fault "the cable of $node, the synchronous standby, is cut"
    cable "$node" down
    sleep 40
    say "the cable of $node is mended"
    cable "$node" up
    until_true 120 "the cluster to be whole" is_whole
}

# One server of Postmeter does not reach the databases; clients and Resend it does.
scenario_meter() {
    fault "the cable of pm1 to the databases is cut"
    cable pm1 down
    sleep 60
    say "the cable of pm1 is mended"
    cable pm1 up
    until_true 60 "pm1 to recover" is_ready 1
}

scenario_switchover() {
    local node other; node=$(primary); other=$(standby sync_standby)
    fault "switchover from $node to $other"
    in_ns hub runuser -u "$PG_USER" -- env LC_ALL=C.UTF-8 patronictl -c "$HOME_DIR/db1/patroni.yml" \
        switchover --master "$node" --candidate "$other" --force >&2
    until_true 120 "another primary" is_another "$node"
    until_true 120 "the cluster to be whole" is_whole
}

is_another() { local now; now=$(primary) && [[ $now != "$1" ]]; }

# --- one scenario under load, and what came of it

measure() {
    local name=$1 way=$2 load owed audit=0
    local events=$HOME_DIR/$way-$name.jsonl
    until_true 120 "the cluster to be whole" is_whole
    ip netns exec "$HUB" python3 "$HERE/load.py" --name "$name-$way" --out "$events" --ca "$HOME_DIR/cert.pem" \
        --credential "$HOME_DIR/credential.json" --nodes "$FRONT_NET.11:465,$FRONT_NET.12:465" \
        --connections "$CONNECTIONS" --rate "$RATE" </dev/null >>"$HOME_DIR/load.log" 2>&1 &
    load=$!
    sleep "$BEFORE_S"
    "scenario_$name"
    sleep "$AFTER_S"
    kill -TERM "$load"
    wait "$load" || die "the clients failed: $(tail -3 "$HOME_DIR/load.log")"
    until_true 180 "all mail to be final and settled" is_drained
    owed=$(sql mail "SELECT coalesce(sum(owed), 0) FROM account")
    meter 1 audit >"$HOME_DIR/$way-$name.audit" 2>&1 || audit=$?
    ((audit == 0)) || cat "$HOME_DIR/$way-$name.audit" >&2
    python3 "$HERE/judge.py" --name "$name-$way" --way "$way" --events "$events" --upstream "$HOME_DIR/upstream.jsonl" \
        --logs "$HOME_DIR/db*/patroni.log" --results "$HOME_DIR/results.jsonl" --fault "$FAULT" --owed "$owed" \
        --audit "$audit" >&2
}

is_drained() {
    [[ $(sql mail "SELECT (SELECT count(*) FROM message WHERE final_at IS NULL)
        + (SELECT count(*) FROM account WHERE held <> 0 OR owed <> 0)
        + (SELECT count(*) FROM entry WHERE state = 'open')" 2>/dev/null) == 0 ]]
}

# --- all of it

# finish: nothing of ours stays, unless KEEP names where logs are to be kept.
finish() {
    local code=$?
    trap - EXIT INT TERM
    clear_up
    # It ended in the middle: what there is.
    [[ -n ${TOLD:-} || ! -s $HOME_DIR/results.jsonl ]] || tell || true
    [[ -z ${KEEP:-} ]] || keep_logs || true
    rm -rf "$HOME_DIR"
    exit "$code"
}

# The table; fails if something is wrong.
tell() {
    TOLD=yes
    say "ttl $PATRONI_TTL s, loop_wait $PATRONI_LOOP_WAIT s, retry_timeout $PATRONI_RETRY_TIMEOUT s," \
        "wal_sender_timeout $WAL_SENDER_TIMEOUT; $RATE mails/s over $CONNECTIONS connections"
    python3 "$HERE/judge.py" --table "$HOME_DIR/results.jsonl"
}

keep_logs() {
    cd "$HOME_DIR"
    find . -maxdepth 2 -type f \( -name '*.log' -o -name log -o -name '*.jsonl' -o -name '*.audit' \) \
        -exec cp --parents -t "$KEEP" {} +
}

main() {
    local ways=(hosts haproxy) way name
    case ${1:-} in
        install) apt-get install -y --no-install-recommends "${PACKAGES[@]}"; exit ;;
        clear) clear_up; exit ;;
        --way) [[ $2 == both ]] || ways=("$2"); shift 2 ;;
    esac
    local scenarios=("$@")
    (($# > 0)) || scenarios=("${ALL[@]}")
    [[ -x $POSTMETER ]] || die "no program at $POSTMETER: POSTMETER=…"
    ((EUID == 0)) || die "namespaces take root"
    ip netns list | grep -q "^$PREFIX" && die "namespaces $PREFIX… are there already: another run, or one that was killed (run.sh clear)"
    [[ -z ${KEEP:-} ]] || { mkdir -p "$KEEP"; KEEP=$(realpath "$KEEP"); }
    HOME_DIR=$(mktemp -d "${TMPDIR:-/tmp}/pmcluster.XXXXXX")
    chmod 755 "$HOME_DIR"
    trap finish EXIT
    trap 'exit 130' INT TERM
    say "everything is in $HOME_DIR"
    make_network
    start_databases
    start_haproxy
    start_standins
    for way in "${ways[@]}"; do
        case $way in
            hosts) DATABASE_URL="postgres://postmeter@$DB_NET.1:5432,$DB_NET.2:5432,$DB_NET.3:5432/mail?sslmode=disable" ;;
            haproxy) DATABASE_URL="postgres://postmeter@$DB_NET.254:5000/mail?sslmode=disable" ;;
            *) die "no way $way: hosts, haproxy" ;;
        esac
        [[ $way != "${ways[0]}" ]] || prepare_meters
        start_meters
        for name in "${scenarios[@]}"; do measure "$name" "$way"; done
        stop_meters
    done
    tell
}

main "$@"; exit
