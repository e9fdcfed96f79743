#!/bin/sh
# A private Postfix for the acceptance bench: its own configuration, queue and data
# directories, one submission listener on loopback, nothing else. A Postfix that the
# machine already runs is neither read nor touched.
#
#   postfix.sh install                                     Debian packages, where missing (root)
#   postfix.sh start DIR PORT CERT KEY USERNAME SECRET     DIR must not exist yet (root)
#   postfix.sh stop DIR                                    stops it and removes DIR (root)
#
# Only acceptance is measured. PARK says how a message is kept from leaving:
#   hold    (default) cleanup files it in the hold queue, so that the queue manager never
#           wakes up: the least work that Postfix can do for a 250. The queue manager then
#           hands out no tokens, so in_flow_delay must be 0, else every message waits 1 s.
#   defer   defer_transports: the queue manager reads every message and defers it;
#           in_flow_delay as by default, or as IN_FLOW_DELAY says.
# fsync is as by default: cleanup syncs the queue file before the 250.
set -eu

packages="postfix sasl2-bin libsasl2-modules libsasl2-modules-db"

install_packages() {
    missing=""
    for package in $packages; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' ||
            missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    export DEBIAN_FRONTEND=noninteractive
    # No system instance is configured, so none is started.
    echo "postfix postfix/main_mailer_type select No configuration" | debconf-set-selections
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing ||
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; }
}

# A directory is ours, and may be removed, only if `start` marked it.
marker=".postmeter-bench-postfix"

start() {
    dir=$1 port=$2 cert=$3 key=$4 username=$5 secret=$6
    [ ! -e "$dir" ] || { echo "$dir exists" >&2; exit 1; }
    mkdir -m 755 "$dir" "$dir/etc" "$dir/etc/sasl" "$dir/queue"
    : >"$dir/$marker"
    mkdir -m 700 "$dir/data"
    chown postfix "$dir/data"
    cat "$key" "$cert" >"$dir/etc/chain.pem"
    chmod 600 "$dir/etc/chain.pem"

    case ${PARK:-hold} in
    hold) parking="smtpd_end_of_data_restrictions = check_client_access static:HOLD
in_flow_delay = 0" ;;
    defer) parking="defer_transports = smtp
in_flow_delay = ${IN_FLOW_DELAY:-1s}" ;;
    *) echo "PARK is hold or defer, not ${PARK:-}" >&2; exit 1 ;;
    esac

    cat >"$dir/etc/main.cf" <<CONFIG
compatibility_level = 3.6
queue_directory = $dir/queue
data_directory = $dir/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
maillog_file = $dir/mail.log
maillog_file_prefixes = $dir
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = postfix.bench.example
mydestination =
local_recipient_maps =
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
smtpd_tls_security_level = encrypt
smtpd_tls_auth_only = yes
smtpd_tls_chain_files = $dir/etc/chain.pem
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = cyrus
cyrus_sasl_config_path = $dir/etc/sasl
smtpd_sasl_local_domain = bench
smtpd_sasl_security_options = noanonymous
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions = permit_sasl_authenticated, reject
smtpd_milters =
$parking
CONFIG

    {
        echo "127.0.0.1:$port inet n  -  n  -     -  smtpd"
        cat "$(dirname "$0")/postfix-services.cf"
    } >"$dir/etc/master.cf"

    cat >"$dir/etc/sasl/smtpd.conf" <<SASL
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: $dir/data/sasldb2
mech_list: PLAIN
SASL
    printf '%s' "$secret" | saslpasswd2 -p -c -f "$dir/data/sasldb2" -u bench "$username"
    chown postfix "$dir/data/sasldb2"
    postfix -c "$dir/etc" start
}

stop() {
    dir=$1
    [ -e "$dir/$marker" ] || { echo "$dir was not made by this script" >&2; exit 1; }
    postfix -c "$dir/etc" stop || true
    rm -rf "$dir"
}

case ${1:-} in
install) install_packages ;;
start) shift; [ $# -eq 6 ] || { echo "start DIR PORT CERT KEY USERNAME SECRET" >&2; exit 64; }; start "$@" ;;
stop) shift; [ $# -eq 1 ] || { echo "stop DIR" >&2; exit 64; }; stop "$@" ;;
*) sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
esac
