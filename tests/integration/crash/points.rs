//! The process kills itself at every named crash point, over both roads, while
//! clients send. What it lies between is told in `postmeter::crash`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postmeter::crash::{self, CrashPoint};
use postmeter::sandbox::dodo::Payer;
use postmeter::sandbox::faults::{Fault, Misbehaviour, Reply};
use reqwest::Method;
use serde_json::json;

use super::tally::Tally;
use crate::harness::plan::Plan;
use crate::harness::smtp::Smtp;
use crate::harness::wait::until_is;
use crate::harness::web::{ask, credit_added, try_ask};
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, letter, until};
use crate::idempotency::keyed;
use crate::subscribe::{shown, subscribe, welcome};

/// Clients that send at once.
const CLIENTS: usize = 4;
/// Messages that each of them sends at most.
const MESSAGES: usize = 30;
/// Points that are tried at once: each mostly waits.
const AT_ONCE: usize = 6;
/// Messages that a trouble of the upstream befalls, if not all.
const FEW: u64 = 4;
/// What the customer has before the first message.
const CREDITS: u64 = 1_000;

/// Where mail leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Road {
    Resend,
    Smtp,
}

/// What the upstream does wrong.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// Nothing.
    None,
    /// Defers the first few messages.
    NotNow,
    /// Refuses the first few for good.
    Refuses,
    /// Turns everybody away, as with a bad key.
    Locked,
    /// Never answers.
    Silent,
    /// Answers only after a while.
    Slow,
}

/// How the process comes to a point, and what is seen after the restart.
struct Scenario {
    /// At which passage it dies.
    passage: u64,
    plan: fn(Plan) -> Plan,
    /// An earlier life of the process, in which clients send and this goes wrong.
    earlier: Option<Earlier>,
    /// What goes wrong in the life that ends at the point.
    troubles: fn(&Meter, Road),
    /// Whether clients send in that life.
    has_clients: bool,
    /// What else happens in it, after some mail; where a browser would go next.
    deed: fn(&Meter) -> String,
    /// What must be so in the next life.
    afterwards: fn(&Meter, &str),
}

/// What goes wrong in an earlier life, and how it shows.
struct Earlier {
    goes_wrong: fn(&Meter, Road),
    shows: fn(&Meter) -> bool,
}

impl Scenario {
    /// Clients send and nothing goes wrong.
    fn ordinary(passage: u64) -> Self {
        Self {
            passage,
            plan: |plan| plan,
            earlier: None,
            troubles: |_, _| {},
            has_clients: true,
            deed: |_| String::new(),
            afterwards: |_, _| {},
        }
    }

    /// Clients send while this goes wrong.
    fn troubled(passage: u64, troubles: fn(&Meter, Road)) -> Self {
        Self { troubles, ..Self::ordinary(passage) }
    }

    /// The same in another configuration.
    fn plan(self, plan: fn(Plan) -> Plan) -> Self {
        Self { plan, ..self }
    }

    /// The process dies at the start that follows a life in which this went wrong.
    fn at_start(goes_wrong: fn(&Meter, Road), shows: fn(&Meter) -> bool) -> Self {
        Self { earlier: Some(Earlier { goes_wrong, shows }), has_clients: false, ..Self::ordinary(1) }
    }

    /// Nobody sends but what the deed does.
    fn of_deed(deed: fn(&Meter) -> String, afterwards: fn(&Meter, &str)) -> Self {
        Self { has_clients: false, deed, afterwards, ..Self::ordinary(1) }
    }
}

/// Every point has a scenario: without one this does not compile.
fn scenario(point: CrashPoint) -> Scenario {
    let ordinary = Scenario::ordinary;
    let troubled = Scenario::troubled;
    let deed = Scenario::of_deed;
    match point {
        CrashPoint::AcceptWritten
        | CrashPoint::AcceptCommitted
        | CrashPoint::HandedOver
        | CrashPoint::AttemptBegun
        | CrashPoint::UpstreamAnswered
        | CrashPoint::ReportWritten
        | CrashPoint::CaptureCommitted
        | CrashPoint::EntryOpened
        | CrashPoint::EntryAnswered
        | CrashPoint::EntrySettled => ordinary(3),
        CrashPoint::PartLeased | CrashPoint::RetryCommitted => {
            troubled(2, |meter, road| upstream(meter, road, Trouble::NotNow))
        }
        CrashPoint::BounceCommitted => troubled(2, |meter, road| upstream(meter, road, Trouble::Refuses)),
        CrashPoint::GateClosed => troubled(1, |meter, road| upstream(meter, road, Trouble::Locked)),
        CrashPoint::EntryTryNoted => troubled(2, |meter, _| entries(meter, Misbehaviour::DropAfter, 3)),
        CrashPoint::EntryVoided => troubled(1, |meter, _| entries(meter, Reply::status(400), 1)),
        CrashPoint::LeasesRenewed => troubled(1, |meter, road| upstream(meter, road, Trouble::Slow))
            .plan(|plan| plan.set("queue", "lease_s = 2")),
        CrashPoint::BalanceRead | CrashPoint::BalanceApplied => {
            ordinary(3).plan(|plan| plan.set("billing", "balance_max_age_s = 0"))
        }
        CrashPoint::NoticeCommitted => Scenario { afterwards: is_told_once, ..ordinary(1) }
            .plan(|plan| plan.set("billing", "low_balance_credits = 995")),
        CrashPoint::GateOpened => Scenario::at_start(
            |meter, road| upstream(meter, road, Trouble::Locked),
            |meter| meter.number("SELECT count(*) FROM gate") == 1,
        ),
        CrashPoint::LeasesLapsed => Scenario::at_start(
            |meter, road| upstream(meter, road, Trouble::Silent),
            |meter| meter.sink().unanswered() > 0 || meter.resend_stand_in().faults().struck() > 0,
        ),
        CrashPoint::EntriesDistrusted => Scenario::at_start(
            |meter, _| entries(meter, Misbehaviour::HangAfter, 1),
            |meter| meter.dodo().faults().struck() > 0,
        ),
        CrashPoint::CheckoutCreated => deed(begins_a_checkout, |_, _| {}),
        CrashPoint::PaymentRecorded => deed(subscribes, is_shown_a_credential),
        CrashPoint::WebhookActed => deed(tops_up, |_, _| {}).plan(|plan| plan.credits(0)),
        CrashPoint::WebhookRecorded => deed(pays_a_debt, is_out_of_debt).plan(|plan| plan.credits(3)),
        CrashPoint::FrontStopped => Scenario {
            deed: is_told_to_stop,
            ..troubled(1, |meter, road| upstream(meter, road, Trouble::Silent))
        },
    }
}

fn entries(meter: &Meter, misbehaviour: impl Into<Misbehaviour>, times: u64) {
    meter.dodo().faults().push(Fault::new(misbehaviour).on("POST", "/ledger-entries").times(times));
}

fn upstream(meter: &Meter, road: Road, trouble: Trouble) {
    let every = |misbehaviour: Misbehaviour| Fault::new(misbehaviour).on("POST", "/emails");
    let faults = meter.resend_stand_in().faults();
    let sink = meter.sink();
    let bad_key = Reply::status(401).body(r#"{"name":"invalid_api_key","message":"API key is invalid"}"#);
    let bad_mail = Reply::status(422).body(r#"{"name":"validation_error","message":"no such thing"}"#);
    match (road, trouble) {
        (_, Trouble::None) => {
            faults.clear();
            sink.behave();
        }
        (Road::Resend, Trouble::NotNow) => faults.push(every(Reply::status(500).into()).times(FEW)),
        (Road::Resend, Trouble::Refuses) => faults.push(every(bad_mail.into()).times(FEW)),
        (Road::Resend, Trouble::Locked) => faults.push(every(bad_key.into()).always()),
        (Road::Resend, Trouble::Silent) => faults.push(every(Misbehaviour::HangAfter).always()),
        (Road::Resend, Trouble::Slow) => faults.push(every(Misbehaviour::Late { delay_ms: 3_000 }).always()),
        (Road::Smtp, Trouble::NotNow) => sink.reply_times(FEW as usize, "DOT", "451 4.3.0 not now"),
        (Road::Smtp, Trouble::Refuses) => sink.reply_times(FEW as usize, "RCPT", "550 5.1.1 no such user"),
        (Road::Smtp, Trouble::Locked) => sink.reply("AUTH", "535 5.7.8 who are you?"),
        (Road::Smtp, Trouble::Silent) => sink.hang("DOT"),
        (Road::Smtp, Trouble::Slow) => sink.pause(Duration::from_secs(3)),
    }
}

#[test]
fn p1_p3_p4_a_crash_at_any_point_loses_and_doubles_nothing_over_resend() {
    at_every_point(Road::Resend);
}

#[test]
fn p1_p3_a_crash_at_any_point_loses_nothing_and_doubles_no_debit_over_smtp() {
    at_every_point(Road::Smtp);
}

fn at_every_point(road: Road) {
    if !cfg!(debug_assertions) {
        return eprintln!("skipped: there are no crash points in a release build");
    }
    for points in CrashPoint::ALL.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            for point in points {
                let named = std::thread::Builder::new().name(format!("{} over {road:?}", point.as_str()));
                named.spawn_scoped(scope, move || crash_at(*point, road)).unwrap();
            }
        });
    }
}

fn crash_at(point: CrashPoint, road: Road) {
    let scenario = scenario(point);
    let plan = if road == Road::Resend { Meter::resend() } else { Meter::smtp() };
    let mut meter = (scenario.plan)(plan.credits(CREDITS)).prepare();
    let tally = Tally::with_refusals(if point == CrashPoint::BounceCommitted { FEW as usize } else { 0 });
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
        tally.note(&meter.signed_in().attempt(&["bob@example.net"], &letter("again"))).then_some(())
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

fn is_told_to_stop(meter: &Meter) -> String {
    meter.process().terminate();
    String::new()
}

fn begins_a_checkout(meter: &Meter) -> String {
    let visitor = json!({ "email": "zoe@example.org", "name": "Zoe" });
    let _ = try_ask(meter.request(Method::POST, "/checkout/subscribe").json(&visitor));
    String::new()
}

fn subscribes(meter: &Meter) -> String {
    subscribe(meter, "zoe@example.org").return_url.unwrap()
}

fn is_shown_a_credential(meter: &Meter, return_url: &str) {
    let page = welcome(meter, return_url);
    let (username, secret) = (shown(&page, "Username").unwrap(), shown(&page, "Secret").unwrap());
    assert!(Smtp::starttls(meter).auth_plain(username, secret).starts_with("235 2.7.0 "));
}

fn tops_up(meter: &Meter) -> String {
    let checkout = ask(meter.as_customer(Method::POST, "/checkout/topup"));
    let url = checkout.json()["checkout_url"].as_str().unwrap().to_owned();
    let _in_runtime = RUNTIME.enter();
    meter.dodo().pay(url.rsplit('/').next().unwrap(), &Payer::default()).unwrap();
    url
}

/// Credits expire while a message is under way; then more are bought, and the
/// process that hears of it dies.
fn pays_a_debt(meter: &Meter) -> String {
    meter.dodo().behave(|behaviour| behaviour.api_entry_events = false);
    let mut smtp = meter.signed_in();
    assert!(smtp.deliver(&letter("paid")).starts_with("250 "));
    meter.drain();
    meter.dodo().expire_credits(CUSTOMER_ID).unwrap();
    assert!(smtp.deliver(&letter("owed")).starts_with("250 "));
    until_is("available", -1, || meter.credits()["available"].as_i64().unwrap());
    meter.dodo().grant(CUSTOMER_ID, 5, None).unwrap();
    let _ = try_ask(meter.webhook_request("msg_1", 0, &credit_added(CUSTOMER_ID)));
    String::new()
}

fn is_out_of_debt(meter: &Meter, _: &str) {
    until_is("what is owed", 0, || meter.number("SELECT owed FROM account"));
}

fn is_told_once(meter: &Meter, _: &str) {
    until_is("notices", 1, || {
        meter.number("SELECT count(*) FROM message WHERE kind = 'notice' AND final_at > 0")
    });
}
