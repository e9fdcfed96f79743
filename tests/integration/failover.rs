//! The primary is lost under load, and its standby is promoted: `database_url` names both, and
//! what was acknowledged was on both.

use std::net::TcpListener;
use std::time::Duration;

use crate::database_outage::{holds, is_ready, is_told_once, refused, serving};
use crate::harness::client::missing;
use crate::harness::load::Load;
use crate::harness::postgres::Cluster;
use crate::harness::relay::{Flow, Relay};
use crate::harness::until;

const HERE: &str = "127.0.0.1";

/// Asked for and given back: whoever takes it before the cluster does is unlucky.
fn free_port() -> u16 {
    TcpListener::bind((HERE, 0)).unwrap().local_addr().unwrap().port()
}

/// A primary whose commits wait for a standby, and that standby, with its port.
fn replicated() -> Option<(Cluster, Cluster, u16)> {
    const IN_STEP: &str = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    let port = free_port();
    let Some(primary) = Cluster::start() else {
        missing("PostgreSQL");
        return None;
    };
    primary.create("mail");
    let standby = primary.standby(port, HERE);
    primary.read("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'");
    primary.read("postgres", "SELECT pg_reload_conf()");
    until("the standby to be in step", || (primary.read("postgres", IN_STEP) == ["1"]).then_some(()));
    Some((primary, standby, port))
}

/// Mail comes in while the primary is lost in this way, and afterwards.
fn fails_over(lose: impl FnOnce(&mut Cluster, &Relay)) {
    let Some((mut primary, standby, port)) = replicated() else { return };
    let relay = Relay::before(&primary.home.join(".s.PGSQL.5432"));
    let meter = serving(&format!("postgres://postmeter@{},{HERE}:{port}/mail", relay.address));
    let told = Load::during(&meter, |load| {
        load.until_acknowledged(20);
        lose(&mut primary, &relay);
        refused(load, &meter);
        standby.read("postgres", "SELECT pg_promote()");
        load.until_acknowledged(20);
        is_ready(&meter);
    });
    is_told_once(&meter, 1);
    assert!(told.longest < Duration::from_secs(30), "{:?}", told.longest);
    holds(meter, &standby, &told);
}

#[test]
fn p1_p3_p4_p8_when_the_primary_is_killed_mail_goes_on_at_the_standby_that_is_promoted() {
    fails_over(|primary, _| primary.have("crash"));
}

#[test]
fn p1_p3_p4_p8_when_the_primary_falls_silent_mail_goes_on_at_the_standby_that_is_promoted() {
    fails_over(|_, relay| relay.flows(Flow::Nothing));
}
