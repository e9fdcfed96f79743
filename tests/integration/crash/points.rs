//! The process kills itself at every named crash point, over both roads, while
//! clients send. What it lies between is told in `postmeter::crash`.

use std::sync::atomic::{AtomicBool, Ordering};

use postmeter::crash::{self, CrashPoint};
use reqwest::Method;
use serde_json::json;

use super::scenario::{Road, Scenario, Trouble, of_a_credit, scenario, upstream};
use super::tally::Tally;
use crate::harness::smtp::Smtp;
use crate::harness::web::try_ask;
use crate::harness::{Meter, letter, until};
use crate::idempotency::keyed;

/// Clients that send at once.
const CLIENTS: usize = 4;
/// Messages that each of them sends at most.
const MESSAGES: usize = 30;
/// Points that are tried at once: each mostly waits.
const AT_ONCE: usize = 6;
/// What the customer has before the first message.
const CREDITS: u64 = 1_000;

#[test]
fn p1_p3_p4_a_crash_at_any_point_loses_and_doubles_nothing_over_resend() {
    at_every_point(Road::Resend);
}

#[test]
fn p1_p3_a_crash_at_any_point_loses_nothing_and_doubles_no_debit_over_smtp() {
    at_every_point(Road::Smtp);
}

#[test]
fn p3_a_crash_while_a_credit_is_in_doubt_gives_it_back_once() {
    let points = [CrashPoint::EntryDoubted, CrashPoint::DoubtSettled, CrashPoint::DoubtVoided];
    at_points(&points, of_a_credit, Road::Resend);
}

fn at_every_point(road: Road) {
    at_points(CrashPoint::ALL, scenario, road);
}

fn at_points(points: &[CrashPoint], scenario: fn(CrashPoint) -> Scenario, road: Road) {
    if !cfg!(debug_assertions) {
        return eprintln!("skipped: there are no crash points in a release build");
    }
    for points in points.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            for point in points.iter().filter(|point| scenario(**point).is_over(road)) {
                let named = std::thread::Builder::new().name(format!("{} over {road:?}", point.as_str()));
                named.spawn_scoped(scope, move || crash_at(*point, scenario(*point), road)).unwrap();
            }
        });
    }
}

fn crash_at(point: CrashPoint, scenario: Scenario, road: Road) {
    let plan = if road == Road::Resend { Meter::resend() } else { Meter::smtp() };
    let mut meter = (scenario.plan)(plan.credits(CREDITS)).prepare();
    let tally = Tally::with_refusals(scenario.refusals);
    if let Some(earlier) = &scenario.earlier {
        (earlier.goes_wrong)(&meter, road);
        live_and_be_killed(&mut meter, &tally, earlier.shows);
        upstream(&meter, road, Trouble::None);
    }
    (scenario.troubles)(&meter, road);
    meter.set_environment(crash::VARIABLE, &format!("{}:{}", point.as_str(), scenario.passage));
    let end = die_at_the_point(&mut meter, &tally, &scenario);
    let said = format!("crash point: killed point=\"{}\"", point.as_str());
    assert_eq!(meter.log().matches(&said).count(), 1, "it died somewhere else");
    tally.process_died(&meter);
    if road == Road::Smtp {
        // Over the other road nobody but the next process opens what a crash left behind.
        let audit = meter.run(&["audit"]);
        assert_eq!(audit.code, Some(0), "P3: what the dead process left disagrees: {audit:?}");
    }

    meter.remove_environment(crash::VARIABLE);
    upstream(&meter, road, Trouble::None);
    meter.dodo().faults().clear();
    meter.serve();
    (scenario.afterwards)(&meter, &end.next);
    end.unanswered.iter().for_each(|unanswered| retry(&meter, &tally, unanswered));
    until("whoever has credit to be served", || {
        // Whoever else has bounced is not written to again.
        tally.note(&meter.signed_in().attempt(&["cid@example.net"], &letter("again"))).then_some(())
    });
    let sums = tally.adds_up(&meter);
    if scenario.has_clients {
        let known = sums.left + sums.refused;
        assert_eq!(known, sums.acknowledged, "P4: whoever was not answered has retried under the same key");
    }
    meter.finish();
}

/// A life in which clients send and something goes wrong; its end is a plain kill.
fn live_and_be_killed(meter: &mut Meter, tally: &Tally, shows: fn(&Meter) -> bool) {
    meter.serve();
    let mut smtp = meter.signed_in();
    for nth in 0..5 {
        assert!(tally.note(&smtp.deliver(&letter(&format!("earlier{nth}")))));
    }
    until("what goes wrong to show", || shows(meter).then_some(()));
    meter.kill();
    tally.process_died(meter);
}

/// What is left behind by a life.
#[derive(Default)]
struct End {
    /// Where a browser would go next.
    next: String,
    /// Those who try again.
    unanswered: Vec<Unanswered>,
}

/// Lets the process live until it dies by itself.
fn die_at_the_point(meter: &mut Meter, tally: &Tally, scenario: &Scenario) -> End {
    match meter.launch().ready() {
        Ok(process) => meter.adopt(process),
        Err(launched) => {
            launched.dies_by_sigkill();
            return End::default();
        }
    }
    let clients = if scenario.has_clients { CLIENTS } else { 0 };
    let is_dead = AtomicBool::new(false);
    let end = std::thread::scope(|scope| {
        let (meter, is_dead) = (&*meter, &is_dead);
        let sends = |client| {
            let unanswered = send(meter, tally, client);
            is_dead.store(true, Ordering::SeqCst);
            unanswered
        };
        let clients: Vec<_> = (0..clients).map(|client| scope.spawn(move || sends(client))).collect();
        let has_mail = || clients.is_empty() || tally.acknowledged() > 0 || is_dead.load(Ordering::SeqCst);
        until("some mail", || has_mail().then_some(()));
        let next = (scenario.deed)(meter);
        let unanswered = clients.into_iter().filter_map(|client| client.join().unwrap()).collect();
        End { next, unanswered }
    });
    meter.take_process().into_program().dies_by_sigkill();
    end
}

/// A message whose client was not answered.
struct Unanswered {
    /// Its idempotency key and its subject.
    key: String,
    is_http: bool,
}

/// Sends until the process is gone: one client over HTTP, the others over SMTP,
/// each message under a key of its own.
fn send(meter: &Meter, tally: &Tally, client: usize) -> Option<Unanswered> {
    if client == 0 {
        let mut keys = (0..MESSAGES).map(|nth| format!("http{nth}"));
        let key = keys.find(|key| !posts(meter, tally, key))?;
        return Some(Unanswered { key, is_http: true });
    }
    let (address, certificate) = (meter.process().smtp, meter.certificate());
    let mut smtp = Smtp::try_signed_in(address, &certificate, &meter.credential)?;
    let mut keys = (0..MESSAGES).map(|nth| format!("c{client}n{nth}"));
    let key = keys.find(|key| !tally.note(&smtp.attempt(&["bob@example.net"], &keyed(key, &letter(key)))));
    // Nothing comes any more but the end.
    while !smtp.reply().is_empty() {}
    key.map(|key| Unanswered { key, is_http: false })
}

/// Whether a message was taken over HTTP.
fn posts(meter: &Meter, tally: &Tally, key: &str) -> bool {
    let mail = json!({ "from": "ann@example.com", "to": "bob@example.net", "subject": key, "text": "t" });
    let request = meter.as_customer(Method::POST, "/send").header("Idempotency-Key", key).json(&mail);
    let answer = try_ask(request).filter(|answer| answer.status == 200);
    let id = answer.map(|answer| answer.json()["id"].as_str().unwrap().to_owned());
    id.map(|id| tally.acknowledge(id)).is_some()
}

/// The client tries again, with the same key.
fn retry(meter: &Meter, tally: &Tally, unanswered: &Unanswered) {
    let key = &unanswered.key;
    until("a retry to be answered", || {
        let message = keyed(key, &letter(key));
        let is_taken = if unanswered.is_http {
            posts(meter, tally, key)
        } else {
            tally.note(&meter.signed_in().attempt(&["bob@example.net"], &message))
        };
        is_taken.then_some(())
    });
}
