//! Two servers on one PostgreSQL behind haproxy, as the README has it, and one of them is taken
//! out: by SIGTERM, started again, and killed. Whoever is not served tries once more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Method;
use serde_json::json;

use crate::database_outage::cluster;
use crate::haproxy::{Doors, Haproxy, OWN, free_addresses, program};
use crate::harness::meter::Credential;
use crate::harness::process::Process;
use crate::harness::smtp::{Opening, Smtp, connect_from, trusting};
use crate::harness::wait::within;
use crate::harness::web::{ask, request, try_ask};
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, letter, until};
use crate::nodes::{LEFT, PATIENCE, beside};
use crate::two::Over;

/// The listeners of a server.
struct Listeners {
    submission: SocketAddr,
    submissions: SocketAddr,
    http: SocketAddr,
}

/// The README's configuration of haproxy, with these addresses in it.
fn as_in_the_readme(doors: &Doors, servers: &[Listeners; 2]) -> String {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("\n### Behind a load balancer\n").unwrap();
    let (text, _) = rest.split_once("```\n").unwrap().1.split_once("```").unwrap();
    let mut text = text.to_owned();
    let mut put = |shown: &str, real: &str| {
        assert!(text.contains(shown), "{shown}: {text}");
        text = text.replace(shown, real);
    };
    for (host, server) in ["10.0.0.11", "10.0.0.12"].into_iter().zip(servers) {
        put(&format!("{host}:587"), &server.submission.to_string());
        put(&format!("{host}:465"), &server.submissions.to_string());
        put(&format!("{host}:3000"), &server.http.to_string());
    }
    put("bind :587", &format!("bind {}", doors.submission));
    put("bind :465", &format!("bind {}", doors.submissions));
    put("bind :443 ssl crt /etc/haproxy/example.com.pem", &format!("bind {}", doors.http));
    put("timeout connect 5s", &format!("timeout connect 5s\n  source {OWN}"));
    put("inter 1s", "inter 100ms");
    put("timeout check 2s", "timeout check 20s");
    text
}

/// What became of each try, by the subject, which ends in its number: `None` is a yes.
type Tries = BTreeMap<String, Option<String>>;

/// Clients that send one mail after another through haproxy.
struct Clients<'a> {
    meter: &'a Meter,
    doors: &'a Doors,
    tries: Mutex<Tries>,
    is_over: AtomicBool,
}

impl Clients<'_> {
    /// Sends until it is over, under a name; what is not acknowledged is tried once more.
    fn send(&self, name: &str, mut send: impl FnMut(&str) -> Result<(), String>) {
        for mail in 0.. {
            for number in [1, 2] {
                let subject = format!("{name}m{mail}t{number}");
                let outcome = send(&subject).err();
                let is_served = outcome.is_none();
                self.tries.lock().unwrap().insert(subject, outcome);
                if self.is_over.load(Ordering::SeqCst) {
                    return;
                }
                if is_served {
                    break;
                }
            }
        }
    }

    fn open(&self, client: IpAddr, opening: Opening) -> Option<Smtp> {
        let door = if opening == Opening::StartTls { self.doors.submission } else { self.doors.submissions };
        let tls = trusting(&self.meter.certificate());
        Smtp::try_signed_in_over(connect_from(client, door), (opening, tls), &self.meter.credential)
    }

    /// A session for each mail.
    fn hasty(&self, name: &str, client: IpAddr, opening: Opening) {
        self.send(name, |subject| delivered(self.open(client, opening).as_mut(), subject));
    }

    /// One session, until it ends.
    fn patient(&self, name: &str, client: IpAddr, mut session: Option<Smtp>) {
        self.send(name, |subject| {
            session = session.take().or_else(|| self.open(client, Opening::StartTls));
            delivered(session.as_mut(), subject).inspect_err(|_| session = None)
        });
    }

    /// A connection for each mail, over HTTP.
    fn by_http(&self, name: &str, client: IpAddr) {
        let Credential { username, secret } = &self.meter.credential;
        self.send(name, |subject| {
            let _in_runtime = RUNTIME.enter();
            let client = reqwest::Client::builder().no_proxy().local_address(client).build().unwrap();
            let body =
                json!({"from": "ann@example.com", "to": "bob@example.net", "subject": subject, "text": "t"});
            let request = client.post(format!("http://{}/send", self.doors.http)).json(&body);
            match try_ask(request.basic_auth(username, Some(secret))) {
                Some(answer) if answer.status == 200 => Ok(()),
                answer => Err(format!("{answer:?}")),
            }
        });
    }

    /// Waits until so much more was acknowledged that everybody had a turn.
    fn go_on(&self) {
        let count = || self.tries.lock().unwrap().values().filter(|outcome| outcome.is_none()).count();
        let before = count();
        until("mail to go on", || (count() >= before + 30).then_some(()));
    }

    fn so_far(&self) -> Tries {
        self.tries.lock().unwrap().clone()
    }
}

fn delivered(smtp: Option<&mut Smtp>, subject: &str) -> Result<(), String> {
    let reply = smtp.ok_or("no session")?.attempt(&["bob@example.net"], &letter(subject));
    if reply.starts_with("250 2.0.0 ") { Ok(()) } else { Err(reply) }
}

/// Each server lets so many of one address in.
const PER_ADDRESS: usize = 3;

/// Through haproxy the address is the client's, and each server counts for itself.
fn each_server_counts_addresses_for_itself(meter: &Meter, doors: &Doors) {
    let connect = || Smtp::open_over(connect_from([127, 0, 1, 9].into(), doors.submission));
    let (_kept, banners): (Vec<_>, Vec<_>) = (0..2 * PER_ADDRESS).map(|_| connect()).unzip();
    assert!(banners.iter().all(|banner| banner.starts_with("220 ")), "{banners:?}");
    let (_, turned_away) = connect();
    assert!(turned_away.starts_with("421 4.7.0 Too many connections"), "{turned_away}");
    let mut smtp = Smtp::starttls_over(
        connect_from([127, 0, 1, 8].into(), doors.submission),
        trusting(&meter.certificate()),
    );
    assert!(smtp.auth_plain("nobody", "wrong-secret-1234").starts_with("535 "));
    let log = ["log", "other.log"].map(|name| std::fs::read_to_string(meter.directory().join(name)).unwrap());
    assert!(log.concat().contains("peer=127.0.1.8"), "{log:?}");
}

/// Two servers of one configuration, but for where they listen and have their directory.
fn installation(url: &str) -> (Meter, [Listeners; 2], Doors) {
    let [a, b, c, d, e, f, g, h, i] = free_addresses();
    let first = Listeners { submission: a, submissions: b, http: c };
    let second = Listeners { submission: d, submissions: e, http: f };
    let plan = Meter::resend().credits(100_000).set("queue", "lease_s = 3").set("", "drain_s = 2");
    let plan = plan.set("smtp", &format!("trusted_proxies = [\"{OWN}/32\"]"));
    let plan = plan.set("smtp", &format!("max_connections_per_ip = {PER_ADDRESS}"));
    let plan = plan.set("smtp", &format!("submission = [\"{a}\"]"));
    let plan = plan.set("smtp", &format!("submissions = [\"{b}\"]"));
    let mut meter = plan.set("http", &format!("listen = \"{c}\"")).prepare_at(url);
    meter.serve();
    (meter, [first, second], Doors { submission: g, submissions: h, http: i })
}

/// The second server, as it is started each time.
fn started(meter: &Meter, [first, second]: &[Listeners; 2]) -> Process {
    let elsewhere = [
        (first.submission, second.submission),
        (first.submissions, second.submissions),
        (first.http, second.http),
    ];
    beside(meter, &elsewhere.map(|(from, to)| (from.to_string(), to.to_string())))
}

/// Waits until haproxy has seen it on all ports.
fn is(haproxy: &Haproxy, status: &str) {
    until("haproxy to notice", || {
        let said = haproxy.says("status", "meter2");
        (said.len() == 3 && said.iter().all(|said| said.starts_with(status))).then_some(())
    });
}

/// Waits until the second server accepts mail.
fn takes_part(meter: &Meter) {
    let log = meter.directory().join("other.log");
    let count = || std::fs::read_to_string(&log).unwrap_or_default().matches("message accepted").count();
    let before = count();
    until("the other to take part", || (count() >= before + 10).then_some(()));
}

/// The second server is stopped while clients send, and says so first.
fn drains(other: Process, haproxy: &Haproxy) {
    other.terminate();
    until("readyz to say it", || {
        let answer = try_ask(request(Method::GET, &format!("http://{}/readyz", other.http)));
        answer.filter(|answer| answer.status == 503 && answer.body.contains("\"stopping\"")).map(drop)
    });
    is(haproxy, "DOWN");
    other.ends_well();
}

#[test]
fn p1_p4_a_server_behind_haproxy_is_taken_out_without_anybody_noticing() {
    let Some(program) = program() else { return };
    let Some(cluster) = cluster("-c max_connections=50") else { return };
    let (mut meter, servers, doors) = installation(&cluster.url("mail"));
    let other = started(&meter, &servers);
    let haproxy = Haproxy::start(program, meter.directory().path(), &as_in_the_readme(&doors, &servers));
    is(&haproxy, "UP");
    each_server_counts_addresses_for_itself(&meter, &doors);
    let clients =
        Clients { meter: &meter, doors: &doors, tries: Mutex::default(), is_over: AtomicBool::new(false) };
    let address = |last: u8| IpAddr::from([127, 0, 1, last]);
    // They are given to both in turn.
    let sessions = [1, 2].map(|last| (last, clients.open(address(last), Opening::StartTls)));
    let before_the_kill = std::thread::scope(|scope| {
        let (over, clients) = (Over(&clients.is_over), &clients);
        for (last, session) in sessions {
            scope.spawn(move || clients.patient(&format!("kept{last}"), address(last), session));
        }
        scope.spawn(|| clients.hasty("starttls", address(3), Opening::StartTls));
        scope.spawn(|| clients.hasty("implicit", address(4), Opening::Implicit));
        scope.spawn(|| clients.by_http("http", address(5)));
        takes_part(&meter);
        drains(other, &haproxy);
        clients.go_on();
        let other = started(&meter, &servers);
        is(&haproxy, "UP");
        takes_part(&meter);
        let before_the_kill = clients.so_far();
        other.kill();
        clients.go_on();
        is(&haproxy, "DOWN");
        clients.go_on();
        drop(over);
        before_the_kill
    });
    let tries = clients.so_far();
    nobody_noticed(&meter, &before_the_kill);
    let twice_in_vain: Vec<_> =
        tries.iter().filter(|(subject, outcome)| subject.ends_with("t2") && outcome.is_some()).collect();
    assert!(twice_in_vain.is_empty(), "{twice_in_vain:?}");
    let left = || cluster.read("mail", LEFT).join("");
    let is_done = within(PATIENCE, || (left() == "0").then_some(()));
    assert!(is_done.is_some(), "neither final nor settled: {}", left());
    arrived(&meter, &tries);
    meter.end();
}

/// Whoever was not served heard 421 between two mails, of which none was sent; whoever came anew
/// was served at once.
fn nobody_noticed(meter: &Meter, tries: &Tries) {
    let not_served: Vec<_> =
        tries.iter().filter_map(|(subject, outcome)| Some((subject, outcome.as_ref()?))).collect();
    let is_told_to_go = |(subject, reply): &(&String, &String)| {
        subject.starts_with("kept") && reply.starts_with("421 4.3.2 Shutting down")
    };
    assert!(not_served.iter().all(is_told_to_go), "{not_served:?}");
    assert_eq!(not_served.len(), 1, "one of two sessions was at the server that was stopped: {not_served:?}");
    let sent: BTreeSet<_> = meter.mails().into_iter().filter_map(|mail| mail.email.subject).collect();
    assert!(not_served.iter().all(|(subject, _)| !sent.contains(*subject)), "P4: {not_served:?}");
}

/// What was acknowledged left once, whichever server had it, and all that left was paid for.
fn arrived(meter: &Meter, tries: &Tries) {
    let subjects: Vec<_> = meter.mails().into_iter().filter_map(|mail| mail.email.subject).collect();
    let arrived: BTreeSet<_> = subjects.iter().collect();
    assert_eq!(arrived.len(), subjects.len(), "P4");
    let lost: Vec<_> =
        tries.iter().filter(|(subject, outcome)| outcome.is_none() && !arrived.contains(subject)).collect();
    assert!(lost.is_empty(), "P1: {lost:?}");
    assert_eq!(meter.dodo().debited(CUSTOMER_ID), subjects.len() as u64, "P3");
}

#[test]
fn whoever_is_told_twice_to_stop_does_not_wait() {
    let mut meter = Meter::resend().set("", "drain_s = 3600").start();
    let mut smtp = meter.signed_in();
    let process = meter.take_process();
    process.terminate();
    let readyz = || ask(request(Method::GET, &format!("http://{}/readyz", process.http)));
    let answer = until("readyz to say it", || Some(readyz()).filter(|answer| answer.status == 503));
    assert_eq!(answer.json()["problems"][0]["what"], "stopping", "{answer:?}");
    assert!(smtp.deliver(&letter("old")).starts_with("250 "), "who is there is served");
    let mut late = Smtp::starttls_at(process.smtp, &meter.certificate());
    assert!(late.auth_plain(&meter.credential.username, &meter.credential.secret).starts_with("235 "));
    assert!(late.deliver(&letter("late")).starts_with("250 "), "and so is who comes");
    process.terminate();
    for mut told in [smtp, late] {
        assert_eq!(told.reply(), "421 4.3.2 Shutting down, try again in a moment\r\n");
    }
    process.ends_well();
    // What follows is no drain.
    let path = meter.directory().join("postmeter.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("drain_s = 3600", "drain_s = 0")).unwrap();
    meter.finish();
    assert_eq!(meter.resend_stand_in().count(), 2);
}
