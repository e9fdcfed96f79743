//! PostgreSQL fails while mail comes in: whoever is refused is told so in time, whoever was
//! acknowledged is served once and pays once, and nobody has to start anything again.

use std::time::{Duration, Instant};

use reqwest::Method;
use sqlx::{Connection, PgConnection};

use crate::harness::client::missing;
use crate::harness::disk::SmallDisk;
use crate::harness::load::{Load, Told};
use crate::harness::postgres::{Cluster, USER};
use crate::harness::relay::{Flow, Relay};
use crate::harness::wait::within;
use crate::harness::web::ask;
use crate::harness::{Meter, RUNTIME, until};
use crate::nodes::{LEFT, PATIENCE};

const BEGUN: &str = "the database is not available: mail is refused until it is";
const OVER: &str = "the database is available again";
/// All connections that there are, where a test takes them away.
const CONNECTIONS: usize = 20;

/// For how many seconds the database stays stopped in the test of that; a few, unless this says more.
const OUTAGE_S: &str = "POSTMETER_TEST_OUTAGE_S";

/// A cluster with an empty database.
pub(crate) fn cluster(settings: &str) -> Option<Cluster> {
    let cluster = Cluster::start_with(settings);
    if cluster.is_none() {
        missing("PostgreSQL");
    }
    cluster.inspect(|cluster| cluster.create("mail"))
}

/// A server on the database there.
pub(crate) fn serving(database_url: &str) -> Meter {
    let mut meter = Meter::resend().credits(100_000).set("queue", "lease_s = 3").prepare_at(database_url);
    meter.serve();
    meter
}

pub(crate) fn is_ready(meter: &Meter) {
    until("readyz to be well", || (ask(meter.request(Method::GET, "/readyz")).status == 200).then_some(()));
    assert_eq!(meter.metric("postmeter_database_up"), 1);
}

/// All is final and settled, and the books hold.
pub(crate) fn holds(mut meter: Meter, cluster: &Cluster, told: &Told) {
    let left = || cluster.read("mail", LEFT).join("");
    let is_done = within(PATIENCE, || (left() == "0").then_some(()));
    assert!(is_done.is_some(), "neither final nor settled: {}", left());
    told.holds(&meter);
    meter.end();
}

/// The log has a line at the beginning, one at the end, and not many others.
pub(crate) fn is_told_once(meter: &Meter, outages: usize) {
    let log = meter.log();
    assert_eq!((log.matches(BEGUN).count(), log.matches(OVER).count()), (outages, outages), "{log}");
    let loud = log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    assert!(loud.count() <= 5 * outages, "{log}");
}

#[test]
fn p1_p3_p4_p8_a_restart_of_the_database_loses_and_doubles_nothing() {
    let Some(mut cluster) = cluster("-c max_connections=20") else { return };
    let meter = serving(&cluster.url("mail"));
    let told = Load::during(&meter, |load| {
        for _ in 0..2 {
            load.until_acknowledged(20);
            cluster.have("stop");
            cluster.have("start");
        }
        load.until_acknowledged(20);
        is_ready(&meter);
    });
    assert!(meter.log().matches(BEGUN).count() <= 2, "{}", meter.log());
    holds(meter, &cluster, &told);
}

#[test]
fn p1_p3_p4_p8_while_the_database_is_stopped_everybody_is_refused() {
    let wanted = std::env::var(OUTAGE_S).map_or(0, |seconds| seconds.parse().unwrap());
    let wanted = Duration::from_secs(wanted);
    let Some(mut cluster) = cluster("-c max_connections=20") else { return };
    let meter = serving(&cluster.url("mail"));
    let told = Load::during(&meter, |load| {
        load.until_acknowledged(20);
        cluster.have("stop");
        let stopped = Instant::now();
        refused(load, &meter);
        // Refused all the while, and not only at first.
        while stopped.elapsed() < wanted {
            refused(load, &meter);
        }
        eprintln!("the database was stopped for {:?}", stopped.elapsed());
        cluster.have("start");
        load.until_acknowledged(20);
        is_ready(&meter);
    });
    is_told_once(&meter, 1);
    holds(meter, &cluster, &told);
}

#[test]
fn p1_p3_p4_a_server_that_is_stopped_while_the_database_is_away_loses_and_doubles_nothing() {
    let Some(mut cluster) = cluster("-c max_connections=20") else { return };
    let mut meter = serving(&cluster.url("mail"));
    let told = Load::during(&meter, |load| {
        load.until_acknowledged(20);
        cluster.have("stop");
        refused(load, &meter);
    });
    meter.stop();
    let said = meter.run(&["serve"]);
    assert!(said.code == Some(1) && said.err.contains("check database_url"), "{said:?}");
    cluster.have("start");
    cluster.until_it_answers();
    meter.serve();
    holds(meter, &cluster, &told);
}

/// Everybody is refused, and readyz says why.
pub(crate) fn refused(load: &Load, meter: &Meter) {
    load.until_refused(5);
    let answer = until("readyz to say it", || {
        Some(ask(meter.request(Method::GET, "/readyz"))).filter(|answer| answer.status == 503)
    });
    assert_eq!(answer.json()["problems"][0]["what"], "store", "{answer:?}");
    // Whoever writes may still be finding out what became of the last commit.
    until("the metric to say it", || (meter.metric("postmeter_database_up") == 0).then_some(()));
}

#[test]
fn p1_p3_p4_p8_while_others_have_all_connections_everybody_is_refused() {
    const END: &str =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'postmeter'";
    let settings = format!("-c max_connections={CONNECTIONS} -c superuser_reserved_connections=0");
    let Some(cluster) = cluster(&settings) else { return };
    let (url, meter) = (cluster.url("mail"), serving(&cluster.url("mail")));
    let connect = || RUNTIME.block_on(PgConnection::connect(&url));
    let mut others = Vec::new();
    let told = Load::during(&meter, |load| {
        load.until_acknowledged(20);
        others.push(connect().unwrap());
        until("all connections", || {
            others.extend(connect().ok());
            let _ = RUNTIME.block_on(sqlx::query(END).execute(&mut others[0])).unwrap();
            (others.len() == CONNECTIONS).then_some(())
        });
        refused(load, &meter);
        others.drain(..).for_each(|other| RUNTIME.block_on(other.close()).unwrap());
        load.until_acknowledged(20);
        is_ready(&meter);
    });
    is_told_once(&meter, 1);
    holds(meter, &cluster, &told);
}

#[test]
fn p1_p3_p4_p8_while_the_databases_disk_is_full_everybody_is_refused() {
    let Some(cluster) = cluster("-c max_connections=20") else { return };
    let place = cluster.home.join("small");
    let Some(disk) = SmallDisk::mount_for(USER, &place, 40) else { return };
    cluster.read("postgres", &format!("CREATE TABLESPACE small LOCATION '{}'", place.display()));
    cluster.read("postgres", "ALTER DATABASE mail SET TABLESPACE small");
    let meter = serving(&cluster.url("mail"));
    let told = Load::during(&meter, |load| {
        load.until_acknowledged(20);
        disk.fill();
        refused(load, &meter);
        disk.free();
        load.until_acknowledged(20);
        is_ready(&meter);
    });
    is_told_once(&meter, 1);
    holds(meter, &cluster, &told);
    drop(cluster);
}

/// As when a standby that is gone keeps PostgreSQL from throwing any of its log away.
#[test]
fn p1_p3_p4_p8_while_there_is_no_room_for_the_databases_log_everybody_is_refused() {
    let Some(mut cluster) = cluster("-c max_connections=20") else { return };
    cluster.read("postgres", "SELECT pg_create_physical_replication_slot('gone', true)");
    cluster.have("stop");
    let place = cluster.home.join("small");
    let Some(disk) = SmallDisk::mount_for(USER, &place, 80) else { return };
    cluster.move_log(&place);
    cluster.have("start");
    cluster.until_it_answers();
    let meter = serving(&cluster.url("mail"));
    let told = Load::during(&meter, |load| {
        load.until_acknowledged(20);
        disk.fill();
        let next = "SELECT pg_switch_wal()";
        let is_out_of_room = || !cluster.psql("postgres", next).output().unwrap().status.success();
        until("PostgreSQL to have no room left", || is_out_of_room().then_some(()));
        refused(load, &meter);
        disk.free();
        // It does not come back by itself from that, or only for a while.
        cluster.have("stop");
        cluster.have("start");
        load.until_acknowledged(20);
        is_ready(&meter);
    });
    holds(meter, &cluster, &told);
    drop(cluster);
}

#[test]
fn p1_p3_p4_p8_a_network_that_swallows_answers_is_an_outage() {
    let Some(cluster) = cluster("-c max_connections=20") else { return };
    let relay = Relay::before(&cluster.home.join(".s.PGSQL.5432"));
    let meter = serving(&format!("postgres://postmeter@{}/mail", relay.address));
    let told = Load::during(&meter, |load| {
        load.until_acknowledged(20);
        relay.flows(Flow::There);
        refused(load, &meter);
        relay.flows(Flow::Both);
        load.until_acknowledged(20);
        is_ready(&meter);
    });
    assert!(told.longest < Duration::from_secs(30), "{:?}", told.longest);
    is_told_once(&meter, 1);
    holds(meter, &cluster, &told);
}
