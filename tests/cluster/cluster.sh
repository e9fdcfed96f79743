# shellcheck shell=bash
# A network of namespaces on one machine, and in it three PostgreSQL nodes under Patroni with an
# etcd member each, haproxy, the stand-ins and two servers of Postmeter. Sourced by run.sh.
#
#   pmc-hub          two bridges: `db` 10.77.0.254 and `front` 10.78.0.254; haproxy, stand-ins, clients
#   pmc-db1 … db3    10.77.0.1 … 3: etcd, Patroni, PostgreSQL
#   pmc-pm1, pm2     10.77.0.11, 12 towards the databases, 10.78.0.11, 12 towards everybody else
#
# A cable is cut at the bridge, so that the node itself notices nothing but silence.

readonly PREFIX=pmc-
readonly DATABASES=(1 2 3)
readonly METERS=(1 2)
readonly HUB=${PREFIX}hub
readonly DB_NET=10.77.0 FRONT_NET=10.78.0
readonly PG_USER=postgres
PG_BIN=$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -1)
readonly PG_BIN

say() { printf '%(%H:%M:%S)T %s\n' -1 "$*" >&2; }
die() { say "$*"; exit 1; }

# in_ns NAME COMMAND…: in the namespace of that name, without its prefix.
in_ns() { local ns=$1; shift; ip netns exec "$PREFIX$ns" "$@"; }

# until_true SECONDS WHAT COMMAND…: waits for it, or ends everything.
until_true() {
    local patience=$1 what=$2 deadline; shift 2
    deadline=$((SECONDS + patience))
    until "$@"; do
        ((SECONDS < deadline)) || die "waited ${patience} s in vain for $what"
        sleep 0.2
    done
}

# --- the network

make_network() {
    ip netns add "$HUB"
    in_ns hub ip link set lo up
    local bridge
    for bridge in db front; do in_ns hub ip link add "$bridge" type bridge; done
    in_ns hub ip addr add "$DB_NET.254/24" dev db
    in_ns hub ip addr add "$FRONT_NET.254/24" dev front
    for bridge in db front; do in_ns hub ip link set "$bridge" up; done
    local n
    for n in "${DATABASES[@]}"; do
        ip netns add "${PREFIX}db$n"
        in_ns "db$n" ip link set lo up
        plug "db$n" db "$DB_NET.$n"
    done
    for n in "${METERS[@]}"; do
        ip netns add "${PREFIX}pm$n"
        in_ns "pm$n" ip link set lo up
        plug "pm$n" db "$DB_NET.1$n"
        plug "pm$n" front "$FRONT_NET.1$n"
    done
}

# plug NODE BRIDGE ADDRESS: a cable between both; its end at the bridge is called NODE-BRIDGE.
plug() {
    ip link add "to-$2" netns "$PREFIX$1" type veth peer name "$1-$2" netns "$HUB"
    in_ns hub ip link set "$1-$2" master "$2" up
    in_ns "$1" ip addr add "$3/24" dev "to-$2"
    in_ns "$1" ip link set "to-$2" up
}

# cable NODE up|down: its way to the databases.
cable() { in_ns hub ip link set "$1-db" "$2"; }

# apart NODE add|del: it hears nothing of the other databases, and they nothing of it.
apart() {
    local n
    for n in "${DATABASES[@]}"; do
        [[ $1 == "db$n" ]] || in_ns "$1" ip route "$2" blackhole "$DB_NET.$n/32"
    done
}

# kill_all NODE: SIGKILL to every process there, at once.
kill_all() {
    local pids
    mapfile -t pids < <(ip netns pids "$PREFIX$1" 2>/dev/null)
    ((${#pids[@]} == 0)) || kill -KILL "${pids[@]}" 2>/dev/null || true
}

# Ends every process of ours and takes the namespaces away, with all that is in them.
clear_up() {
    local ns pass
    for pass in 1 2 3 4 5 6 7 8 9 10; do
        for ns in $(ip netns list | awk -v p="$PREFIX" 'index($1, p) == 1 { print substr($1, length(p) + 1) }'); do
            kill_all "$ns"
            # Whoever was just being started is killed by the next pass.
            [[ $(ip netns pids "$PREFIX$ns" 2>/dev/null) ]] || ((pass < 2)) || ip netns del "$PREFIX$ns"
        done
        sleep 0.2
    done
}

# --- PostgreSQL: etcd and Patroni

start_etcd() {
    local n=$1 here=$DB_NET.$1 all='' m
    for m in "${DATABASES[@]}"; do all+="${all:+,}db$m=http://$DB_NET.$m:2380"; done
    in_ns "db$n" runuser -u "$PG_USER" -- etcd --name "db$n" --data-dir "$HOME_DIR/db$n/etcd" \
        --listen-peer-urls "http://$here:2380" --initial-advertise-peer-urls "http://$here:2380" \
        --listen-client-urls "http://$here:2379,http://127.0.0.1:2379" --advertise-client-urls "http://$here:2379" \
        --initial-cluster "$all" --initial-cluster-state new --enable-v2 --logger zap \
        </dev/null >>"$HOME_DIR/db$n/etcd.log" 2>&1 &
}

start_patroni() {
    in_ns "db$1" runuser -u "$PG_USER" -- patroni "$HOME_DIR/db$1/patroni.yml" \
        </dev/null >>"$HOME_DIR/db$1/patroni.log" 2>&1 &
}

# What Patroni is told. A member that is silent for `ttl` is given up; `wal_sender_timeout` is how
# long the primary keeps the connection of a standby that is silent.
write_patroni() {
    local n=$1 here=$DB_NET.$1 hosts='' m
    for m in "${DATABASES[@]}"; do hosts+="${hosts:+,}$DB_NET.$m:2379"; done
    cat >"$HOME_DIR/db$n/patroni.yml" <<YAML
scope: mail
name: db$n
restapi: {listen: "$here:8008", connect_address: "$here:8008"}
$PATRONI_DCS: {hosts: "$hosts"}
bootstrap:
  dcs:
    ttl: $PATRONI_TTL
    loop_wait: $PATRONI_LOOP_WAIT
    retry_timeout: $PATRONI_RETRY_TIMEOUT
    synchronous_mode: true
    synchronous_mode_strict: $SYNC_STRICT
    postgresql:
      use_pg_rewind: true
      parameters:
        synchronous_commit: "on"
        wal_sender_timeout: $WAL_SENDER_TIMEOUT
        wal_receiver_timeout: $WAL_SENDER_TIMEOUT
        wal_keep_size: 512MB
        max_connections: 100
        log_timezone: UTC
        log_line_prefix: "%m [%p] "
  initdb: [encoding: UTF8, locale: C.UTF-8, data-checksums]
postgresql:
  listen: "$here:5432"
  connect_address: "$here:5432"
  data_dir: $HOME_DIR/db$n/data
  bin_dir: $PG_BIN
  pgpass: $HOME_DIR/db$n/pgpass
  parameters: {unix_socket_directories: "$HOME_DIR/db$n"}
  authentication:
    superuser: {username: postgres, password: private}
    replication: {username: replicator, password: private}
  # The network is nobody's but ours.
  pg_hba:
    - local all all trust
    - host all all $DB_NET.0/24 trust
    - host replication all $DB_NET.0/24 trust
YAML
}

start_databases() {
    local n
    for n in "${DATABASES[@]}"; do
        install -d -m 700 -o "$PG_USER" "$HOME_DIR/db$n"
        write_patroni "$n"
        start_etcd "$n"
    done
    until_true 60 etcd etcd_is_there
    for n in "${DATABASES[@]}"; do start_patroni "$n"; done
    until_true 120 "three nodes, one of them a synchronous standby" is_whole
    sql postgres "CREATE ROLE postmeter LOGIN" >/dev/null
    sql postgres "CREATE DATABASE mail OWNER postmeter ENCODING 'UTF8' TEMPLATE template0" >/dev/null
}

etcd_is_there() {
    ETCDCTL_API=3 in_ns hub etcdctl --endpoints "http://$DB_NET.1:2379,http://$DB_NET.2:2379,http://$DB_NET.3:2379" \
        endpoint health >/dev/null 2>&1
}

# members: a line for each, `NAME ROLE STATE`, as the first node that answers sees it.
members() {
    local n said
    for n in "${DATABASES[@]}"; do
        said=$(in_ns hub curl -s -m 2 "http://$DB_NET.$n:8008/cluster") || continue
        python3 -c 'import json, sys
for one in json.load(sys.stdin)["members"]:
    print(one["name"], one["role"], one["state"], one.get("lag", 0))' <<<"$said" 2>/dev/null && return
    done
    return 1
}

# Whoever answers as the one that takes writes.
primary() {
    local n
    for n in "${DATABASES[@]}"; do
        if [[ $(in_ns hub curl -s -m 2 -o /dev/null -w '%{http_code}' "http://$DB_NET.$n:8008/primary") == 200 ]]; then
            echo "db$n"
            return
        fi
    done
    return 1
}

# standby sync_standby|replica: the first of that role.
standby() { members | awk -v role="$1" '$2 == role { print $1; exit }'; }

is_whole() {
    members | awk '$2 == "leader" && $3 == "running" { leader++ }
                   $2 == "sync_standby" && ($3 == "running" || $3 == "streaming") && $4 == 0 { sync++ }
                   $2 == "replica" && ($3 == "running" || $3 == "streaming") && $4 == 0 { other++ }
                   END { exit !(leader == 1 && sync == 1 && other == 1) }' && [[ $(primary) ]]
}

# sql DATABASE TEXT: on the primary, as superuser.
sql() {
    local node
    node=$(primary) || return 1
    PGPASSWORD=private in_ns hub psql -X -q -t -A -v ON_ERROR_STOP=1 -h "$DB_NET.${node#db}" -U postgres -d "$1" -c "$2"
}

# --- haproxy

start_haproxy() {
    {
        printf '%s\n' 'global' '  maxconn 2000' 'defaults' '  mode tcp' '  timeout connect 3s' \
            '  timeout client 1h' '  timeout server 1h' 'listen postgres' "  bind $DB_NET.254:5000" \
            '  option httpchk GET /primary' '  http-check expect status 200' \
            '  default-server inter 1s fall 2 rise 1 on-marked-down shutdown-sessions'
        local n
        for n in "${DATABASES[@]}"; do echo "  server db$n $DB_NET.$n:5432 check port 8008"; done
    } >"$HOME_DIR/haproxy.cfg"
    in_ns hub haproxy -db -f "$HOME_DIR/haproxy.cfg" </dev/null >>"$HOME_DIR/haproxy.log" 2>&1 &
    until_true 20 "haproxy to have found the primary" passes_on
}

# Until its first checks are over haproxy takes all of them for well: three times in a row, then.
passes_on() {
    local n
    for n in 1 2 3; do
        in_ns hub psql -X -q -t -A -h "$DB_NET.254" -p 5000 -U postmeter -d mail \
            -c 'SELECT 1 / CAST(NOT pg_is_in_recovery() AS int)' >/dev/null 2>&1 || return
        sleep 1
    done
}

# --- Postmeter

# meter NUMBER COMMAND…: the program with the configuration of that server.
meter() {
    local n=$1; shift
    in_ns "pm$n" env -i PATH="$PATH" DATABASE_URL="$DATABASE_URL" \
        DODO_PAYMENTS_API_KEY=dodo DODO_WEBHOOK_KEY=whsec_c2FuZGJveC1vbmx5LW5vdC1hLXNlY3JldC0xMjM0 \
        DODO_PAYMENTS_BASE_URL="http://$FRONT_NET.254:8001" CREDIT_ENTITLEMENT_ID=cde \
        PLAN_PRODUCT_ID=plan TOPUP_PRODUCT_ID=topup \
        RESEND_API_KEY=re_key RESEND_BASE_URL="http://$FRONT_NET.254:8002" BASE_URL=https://meter.example \
        "$POSTMETER" "$@" --config "$HOME_DIR/pm$n/postmeter.toml"
}

write_meter() {
    local n=$1
    mkdir -p "$HOME_DIR/pm$n"
    cat >"$HOME_DIR/pm$n/postmeter.toml" <<TOML
data_dir = "$HOME_DIR/pm$n/data"
[smtp]
hostname = "pm$n.meter.example"
submission = ["$FRONT_NET.1$n:587"]
submissions = ["$FRONT_NET.1$n:465"]
tls_cert = "$HOME_DIR/cert.pem"
tls_key = "$HOME_DIR/key.pem"
[http]
listen = "$FRONT_NET.1$n:3000"
TOML
}

start_standins() {
    in_ns hub python3 "${HERE:?}/standins.py" --dodo "$FRONT_NET.254:8001" --resend "$FRONT_NET.254:8002" \
        --log "$HOME_DIR/upstream.jsonl" </dev/null >>"$HOME_DIR/standins.log" 2>&1 &
}

# The certificate, and a customer who may send.
prepare_meters() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=meter.example \
        -addext "subjectAltName=IP:$FRONT_NET.11,IP:$FRONT_NET.12" \
        -keyout "$HOME_DIR/key.pem" -out "$HOME_DIR/cert.pem" 2>/dev/null
    local n
    for n in "${METERS[@]}"; do write_meter "$n"; done
    meter 1 customer add cus_cluster --email ann@example.com --name Ann >/dev/null
    meter 1 sender allow cus_cluster example.com >/dev/null
    meter 1 credential create --customer cus_cluster --json >"$HOME_DIR/credential.json"
}

start_meters() {
    local n
    for n in "${METERS[@]}"; do
        meter "$n" serve </dev/null >>"$HOME_DIR/pm$n/out" 2>>"$HOME_DIR/pm$n/log" &
        until_true 60 "pm$n" is_ready "$n"
    done
}

stop_meters() {
    local n pids
    for n in "${METERS[@]}"; do
        mapfile -t pids < <(ip netns pids "${PREFIX}pm$n")
        ((${#pids[@]} == 0)) || kill -TERM "${pids[@]}"
        until_true 40 "the end of pm$n" is_empty "pm$n"
    done
}

is_empty() { [[ -z $(ip netns pids "$PREFIX$1") ]]; }

is_ready() { in_ns hub curl -s -m 2 -f -o /dev/null "http://$FRONT_NET.1$1:3000/readyz"; }
