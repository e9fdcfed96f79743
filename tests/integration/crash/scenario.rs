//! How the process comes to each crash point, and what must be so afterwards.

use std::time::Duration;

use postmeter::crash::CrashPoint;
use postmeter::sandbox::dodo::Payer;
use postmeter::sandbox::faults::{Fault, Misbehaviour, Reply};
use postmeter::sandbox::resend::News;
use reqwest::Method;
use serde_json::json;

use crate::harness::meter::ADMIN_TOKEN;
use crate::harness::plan::Plan;
use crate::harness::sink::SinkMail;
use crate::harness::smtp::Smtp;
use crate::harness::wait::until_is;
use crate::harness::web::{ask, credit_added, try_ask};
use crate::harness::{CUSTOMER_ID, Meter, RUNTIME, letter, until};
use crate::large::much;
use crate::refund;
use crate::subscribe::{shown, subscribe, welcome};

/// What a mail server says of an address that it does not have.
const NOBODY: &str = "550 5.1.1 no such user here";
const SPOOLS: &str = "SELECT (SELECT count(*) FROM spool) + (SELECT count(*) FROM chunk)";
/// Messages that a trouble of the upstream befalls, if not all.
const FEW: u64 = 4;

/// Where mail leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Road {
    Resend,
    Smtp,
}

/// What the upstream does wrong.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trouble {
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
pub(super) struct Scenario {
    /// At which passage it dies.
    pub(super) passage: u64,
    /// The only road over which it comes there, if not both.
    only_over: Option<Road>,
    /// Messages that the upstream is to refuse for good, at most.
    pub(super) refusals: usize,
    pub(super) plan: fn(Plan) -> Plan,
    /// An earlier life of the process, in which clients send and this goes wrong.
    pub(super) earlier: Option<Earlier>,
    /// What goes wrong in the life that ends at the point.
    pub(super) troubles: fn(&Meter, Road),
    /// Whether clients send in that life.
    pub(super) has_clients: bool,
    /// What else happens in it, after some mail; where a browser would go next.
    pub(super) deed: fn(&Meter) -> String,
    /// What must be so in the next life.
    pub(super) afterwards: fn(&Meter, &str),
}

/// What goes wrong in an earlier life, and how it shows.
pub(super) struct Earlier {
    pub(super) goes_wrong: fn(&Meter, Road),
    pub(super) shows: fn(&Meter) -> bool,
}

impl Scenario {
    /// Clients send and nothing goes wrong.
    fn ordinary(passage: u64) -> Self {
        Self {
            passage,
            only_over: None,
            refusals: 0,
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

    /// The same with this before it.
    fn troubles(self, troubles: fn(&Meter, Road)) -> Self {
        Self { troubles, ..self }
    }

    /// The process dies at the start that follows a life in which this went wrong.
    fn at_start(goes_wrong: fn(&Meter, Road), shows: fn(&Meter) -> bool) -> Self {
        Self { earlier: Some(Earlier { goes_wrong, shows }), has_clients: false, ..Self::ordinary(1) }
    }

    /// Whether the process comes to the point over that road.
    pub(super) fn is_over(&self, road: Road) -> bool {
        self.only_over.is_none_or(|only| only == road)
    }

    /// The deed ends in a mail that bounces, which is refunded once: Resend alone tells of that.
    fn of_bounce(deed: fn(&Meter) -> String) -> Self {
        let only_over = Some(Road::Resend);
        Self { only_over, ..Self::of_deed(deed, is_refunded_once) }
            .plan(|plan| plan.set("billing", "refund_bounced = true").set("upstream", "timeout_s = 2"))
    }

    /// Rows leave as soon as they may.
    fn of_leaving(self) -> Self {
        self.plan(|plan| plan.set("queue", "keep_log_days = 0"))
    }

    /// The process dies at the start, when these rows have become old.
    fn of_old(make_old: fn(&Meter, Road), shows: fn(&Meter) -> bool) -> Self {
        Self { troubles: make_old, ..Self::at_start(|_, _| {}, shows) }.of_leaving()
    }

    /// Nobody sends but what the deed does.
    fn of_deed(deed: fn(&Meter) -> String, afterwards: fn(&Meter, &str)) -> Self {
        Self { has_clients: false, deed, afterwards, ..Self::ordinary(1) }
    }
}

/// Every point has a scenario: without one this does not compile.
pub(super) fn scenario(point: CrashPoint) -> Scenario {
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
        // All that wait may be leased in one go.
        CrashPoint::PartLeased => troubled(1, |meter, road| upstream(meter, road, Trouble::NotNow)),
        CrashPoint::RetryCommitted => troubled(2, |meter, road| upstream(meter, road, Trouble::NotNow)),
        CrashPoint::BatchComposed => Scenario { only_over: Some(Road::Resend), ..ordinary(3) },
        CrashPoint::BounceCommitted => Scenario {
            refusals: FEW as usize,
            ..troubled(1, |meter, road| upstream(meter, road, Trouble::Refuses))
        },
        CrashPoint::NobodyCounted => writes_to_nobody(),
        CrashPoint::GateClosed => troubled(1, |meter, road| upstream(meter, road, Trouble::Locked)),
        CrashPoint::EntryTryNoted => troubled(2, |meter, _| entries(meter, Misbehaviour::DropAfter, 3)),
        CrashPoint::EntryVoided => troubled(1, |meter, _| entries(meter, Reply::status(400), 1)),
        CrashPoint::EntryDoubted | CrashPoint::DoubtSettled | CrashPoint::DoubtVoided => of_a_debit(point),
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
        CrashPoint::ChunkCommitted => Scenario { passage: 2, ..deed(sends_much, is_swept) },
        CrashPoint::OrphansSwept => deed(|_| String::new(), is_swept).troubles(leaves_an_orphan),
        CrashPoint::BounceRecorded => Scenario::of_bounce(bounces_early),
        CrashPoint::RefundsDecided => {
            Scenario { troubles: first_call_hangs, ..Scenario::of_bounce(bounces_early) }
        }
        CrashPoint::RefundsDue | CrashPoint::CreditOpened => Scenario::of_bounce(bounces_after_the_debit),
        CrashPoint::CapturesLeft => ordinary(1).of_leaving(),
        CrashPoint::MessagesLeft => deed(sends_without_a_key, |_, _| {}).of_leaving(),
        CrashPoint::EntriesLeft => old_entries(),
        CrashPoint::MarksLeft => old_webhooks(),
        CrashPoint::OperatorDecided => deed(is_sent_again_at_once, is_decided_once)
            .troubles(|meter, road| upstream(meter, road, Trouble::NotNow)),
        CrashPoint::KeysSwept => deed(|_| String::new(), has_no_keys).troubles(leaves_an_expired_key),
        CrashPoint::CheckoutCreated => deed(begins_a_checkout, |_, _| {}),
        CrashPoint::DomainClaimed | CrashPoint::DomainRegistered => domain_is_added(),
        CrashPoint::DomainWithdrawn => domain_is_removed(),
        CrashPoint::PaymentRecorded => deed(subscribes, is_shown_a_credential),
        CrashPoint::WebhookActed => deed(tops_up, |_, _| {}).plan(|plan| plan.credits(0)),
        CrashPoint::WebhookRecorded => deed(pays_a_debt, is_out_of_debt).plan(|plan| plan.credits(3)),
        CrashPoint::FrontStopped => Scenario {
            deed: is_told_to_stop,
            ..troubled(1, |meter, road| upstream(meter, road, Trouble::Silent))
        },
    }
}

/// Entries old enough to leave.
fn old_entries() -> Scenario {
    Scenario::of_old(
        |meter, _| meter.tamper("UPDATE entry SET closed_at = closed_at - 8 * 86400000"),
        is_settled,
    )
}

/// Webhooks that nobody delivers again.
fn old_webhooks() -> Scenario {
    Scenario::of_old(
        |meter, _| meter.tamper("UPDATE webhook SET received_at = received_at - 8 * 86400000"),
        |meter| meter.number("SELECT count(*) FROM webhook") > 0,
    )
}

/// The points that a debit in doubt comes by.
fn of_a_debit(point: CrashPoint) -> Scenario {
    let troubles: fn(&Meter, Road) = match point {
        CrashPoint::DoubtVoided => |meter, _| answers_are_lost(meter, Misbehaviour::DropBefore),
        _ => |meter, _| answers_are_lost(meter, Misbehaviour::DropAfter),
    };
    Scenario::troubled(1, troubles).plan(soon_in_doubt)
}

/// The same points, where the entry gives a credit back.
pub(super) fn of_a_credit(point: CrashPoint) -> Scenario {
    let deed: fn(&Meter) -> String = match point {
        CrashPoint::DoubtVoided => |meter| bounces(meter, Misbehaviour::DropBefore),
        _ => |meter| bounces(meter, Misbehaviour::DropAfter),
    };
    Scenario::of_deed(deed, is_given_back_once)
        .plan(|plan| soon_in_doubt(plan).credits(0).set("billing", "refund_bounced = true"))
}

/// Keys are forgotten after two seconds, and no call lasts longer than one.
fn soon_in_doubt(plan: Plan) -> Plan {
    plan.set("billing", "key_lifetime_s = 2").set("billing", "lookup_wait_s = 1")
}

/// Dodo's answer to an entry is lost, and after that it takes no entry.
fn answers_are_lost(meter: &Meter, misbehaviour: Misbehaviour) {
    entries(meter, misbehaviour, 1);
    meter.dodo().faults().push(Fault::new(Reply::status(503)).on("POST", "/ledger-entries").always());
}

/// A message is debited and bounces, and nobody answers for its refund. Its credits
/// were bought, since a gift of the same day could be the refund that is looked for.
fn bounces(meter: &Meter, misbehaviour: Misbehaviour) -> String {
    tops_up(meter);
    until("credits", || (meter.credits()["available"].as_i64() > Some(0)).then_some(()));
    let mail = sends_without_a_key(meter);
    meter.drain();
    answers_are_lost(meter, misbehaviour);
    bounce(meter);
    mail
}

fn is_given_back_once(meter: &Meter, mail: &str) {
    is_refunded_once(meter, mail);
    assert_eq!(refund::given(meter), [1]);
}

fn entries(meter: &Meter, misbehaviour: impl Into<Misbehaviour>, times: u64) {
    meter.dodo().faults().push(Fault::new(misbehaviour).on("POST", "/ledger-entries").times(times));
}

pub(super) fn upstream(meter: &Meter, road: Road, trouble: Trouble) {
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
        (Road::Smtp, Trouble::Refuses) => sink.reply_times(FEW as usize, "RCPT", "550 5.7.1 not from you"),
        (Road::Smtp, Trouble::Locked) => sink.reply("AUTH", "535 5.7.8 who are you?"),
        (Road::Smtp, Trouble::Silent) => sink.hang("DOT"),
        (Road::Smtp, Trouble::Slow) => sink.pause(Duration::from_secs(3)),
    }
}

/// One recipient in vain is too many, and the process that finds the first dies. Over the other
/// road nobody refuses an address while a mail is sent.
fn writes_to_nobody() -> Scenario {
    let scenario = Scenario::of_deed(sends_to_nobody, is_paused_by_the_next);
    Scenario { only_over: Some(Road::Smtp), refusals: 2, ..scenario }
        .troubles(|meter, _| meter.sink().reply("RCPT TO:<gone@", NOBODY))
        .plan(|plan| plan.set("reputation", "min_recipients = 1\nmin_bounced = 1"))
}

/// Whether the client is answered before the process dies is open.
fn sends_to_nobody(meter: &Meter) -> String {
    let _ = meter.signed_in().attempt(&["gone@example.net"], &letter("gone"));
    String::new()
}

/// What was counted before the crash stands, and is judged with the next address of that kind.
fn is_paused_by_the_next(meter: &Meter, _: &str) {
    const SUPPRESSED: &str = "SELECT address FROM suppression ORDER BY address";
    const PAUSED: &str = "SELECT suspended_reason FROM customer WHERE suspended_reason IS NOT NULL";
    let notices = || {
        let mails = meter.sink().mails();
        let is_notice = |mail: &&SinkMail| {
            String::from_utf8_lossy(&mail.bytes).contains("Subject: Your account is paused")
        };
        mails.iter().filter(is_notice).count()
    };
    assert_eq!(meter.read::<String>(SUPPRESSED), ["gone@example.net"]);
    let reply = meter.signed_in().say("MAIL FROM:<ann@example.com>");
    assert!(reply.starts_with("250 "), "it died before that: {reply}");
    assert_eq!(meter.read::<String>(PAUSED), Vec::<String>::new());

    meter.sink().reply("RCPT TO:<lost@", NOBODY);
    let reply = meter.signed_in().attempt(&["lost@example.net"], &letter("lost"));
    assert!(reply.starts_with("250 "), "{reply}");
    let reason = until("the pause", || meter.read::<String>(PAUSED).pop());
    assert!(reason.contains("mail to 2 of 2 recipients (100.00 %) bounced"), "{reason}");
    assert_eq!(meter.read::<String>(SUPPRESSED), ["gone@example.net", "lost@example.net"]);
    until_is("notices", 1, notices);
    meter.says(&["customer", "resume", CUSTOMER_ID]);
}

fn leaves_an_expired_key(meter: &Meter, _: Road) {
    const KEY: &str = "INSERT INTO idempotency_key
        SELECT customer_id, 'old', '0000000000000000000000000000000000000000000000000000000000000000', 1, 1
        FROM customer";
    meter.tamper(KEY);
}

/// What an earlier process had of a large message when it died.
fn leaves_an_orphan(meter: &Meter, _: Road) {
    meter.tamper("INSERT INTO spool (spool_id, begun_at) VALUES ('spool-1', 1)");
    let octets = if meter.database().is_some() { "decode('00', 'hex')" } else { "x'00'" };
    meter.tamper(&format!("INSERT INTO chunk VALUES ('spool-1', 0, {octets})"));
}

fn is_swept(meter: &Meter, _: &str) {
    until_is("what was written ahead for nobody", 0, || meter.number(SPOOLS));
}

fn sends_much(meter: &Meter) -> String {
    assert_eq!(meter.signed_in().attempt(&["bob@example.net"], &much(1 << 20)), "", "it died meanwhile");
    String::new()
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

fn domain_is_added() -> Scenario {
    at_resend(Scenario::of_deed(adds_a_domain, has_its_domain_once))
}

fn domain_is_removed() -> Scenario {
    at_resend(Scenario::of_deed(removes_a_domain, has_no_domain))
}

/// Customers add their domains at Resend.
fn at_resend(scenario: Scenario) -> Scenario {
    let only_over = Some(Road::Resend);
    Scenario { only_over, ..scenario }.plan(|plan| plan.set("senders", "proof = \"resend\""))
}

fn adds_a_domain(meter: &Meter) -> String {
    let domain = json!({ "domain": "shop.example" });
    let _ = try_ask(meter.as_customer(Method::POST, "/senders/domains").json(&domain));
    String::new()
}

fn has_its_domain_once(meter: &Meter, _: &str) {
    let domain = json!({ "domain": "shop.example" });
    let made = ask(meter.as_customer(Method::POST, "/senders/domains").json(&domain)).json();
    assert_eq!(
        (&made["state"], made["records"].as_array().map(Vec::len)),
        (&json!("pending"), Some(3)),
        "{made}"
    );
    let id = meter.resend_stand_in().domain("shop.example").unwrap().id;
    assert_eq!(meter.read::<String>("SELECT resend_id FROM proof"), [id]);
}

fn removes_a_domain(meter: &Meter) -> String {
    adds_a_domain(meter);
    let _ = try_ask(meter.as_customer(Method::DELETE, "/senders/domains/shop.example"));
    String::new()
}

fn has_no_domain(meter: &Meter, _: &str) {
    until_is("a claim that was withdrawn", 0, || meter.number("SELECT count(*) FROM proof"));
    assert_eq!(meter.resend_stand_in().domain("shop.example"), None);
}

fn subscribes(meter: &Meter) -> String {
    subscribe(meter, "zoe@example.org").way_back()
}

fn is_shown_a_credential(meter: &Meter, way_back: &str) {
    let page = welcome(meter, way_back);
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

/// Resend takes the first mail, and we do not hear of it for a while.
fn first_call_hangs(meter: &Meter, _: Road) {
    let hangs = Fault::new(Misbehaviour::HangAfter).on("POST", "/emails");
    meter.resend_stand_in().faults().push(hangs.times(1));
}

fn is_settled(meter: &Meter) -> bool {
    meter.drain();
    meter.number("SELECT count(*) FROM entry WHERE state = 'done'") > 0
}

/// A mail bounces while it is perhaps not yet known here that it was sent.
fn bounces_early(meter: &Meter) -> String {
    let mail = sends_without_a_key(meter);
    bounce(meter);
    mail
}

fn bounces_after_the_debit(meter: &Meter) -> String {
    let mail = sends_without_a_key(meter);
    meter.drain();
    bounce(meter);
    mail
}

fn sends_without_a_key(meter: &Meter) -> String {
    assert!(meter.signed_in().deliver(&letter("unkeyed")).starts_with("250 "));
    String::new()
}

/// A message waits for its next attempt, and the operator has it sent now.
fn is_sent_again_at_once(meter: &Meter) -> String {
    sends_without_a_key(meter);
    let waiting = "SELECT message_id FROM part WHERE state = 'queued'";
    let message_id = until("the message to wait", || meter.read::<String>(waiting).pop());
    let retry = meter.request(Method::POST, &format!("/queue/{message_id}/retry"));
    let _ = try_ask(retry.bearer_auth(ADMIN_TOKEN));
    String::new()
}

/// Resend tells of it until it is heard, by this process or the next.
fn bounce(meter: &Meter) {
    let mail = until("the mail at Resend", || meter.mails().pop());
    let _in_runtime = RUNTIME.enter();
    meter.resend_stand_in().tell(&mail, &["bob@example.net"], &News::hard_bounce());
}

fn is_refunded_once(meter: &Meter, _: &str) {
    until_is("refunds", vec!["given".to_owned()], || {
        meter.read(
            "SELECT CASE WHEN state IN ('released', 'credited') THEN 'given' ELSE state END FROM refund",
        )
    });
}

fn is_decided_once(meter: &Meter, _: &str) {
    assert_eq!(meter.number("SELECT count(*) FROM decision"), 1);
}

fn has_no_keys(meter: &Meter, _: &str) {
    assert_eq!(meter.number("SELECT count(*) FROM idempotency_key"), 0);
}

fn is_out_of_debt(meter: &Meter, _: &str) {
    until_is("what is owed", 0, || meter.number("SELECT owed FROM account"));
}

fn is_told_once(meter: &Meter, _: &str) {
    until_is("notices", 1, || {
        meter.number("SELECT count(*) FROM message WHERE kind = 'notice' AND final_at > 0")
    });
}
