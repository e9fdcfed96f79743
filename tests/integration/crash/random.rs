//! Kills at random moments under load, with faults of every kind mixed in.
//!
//! Each test here kills [`kills`] times: a few in an ordinary run, as many as
//! `POSTMETER_KILL_ROUNDS` says by hand. `POSTMETER_KILL_SEED` repeats what was
//! drawn; the machine's own timing is not repeated.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use postmeter::sandbox::faults::{Fault, Faults, Misbehaviour, Reply};
use postmeter::sandbox::resend::{Mail, ResendStandIn};
use reqwest::Method;
use serde_json::{Value, json};

use super::tally::Tally;
use crate::harness::meter::{ADMIN_TOKEN, Credential};
use crate::harness::plan::Plan;
use crate::harness::sink::CLOSE;
use crate::harness::smtp::Smtp;
use crate::harness::wait::within;
use crate::harness::web::{request, signed_by_resend, try_ask};
use crate::harness::{CUSTOMER_ID, Meter, letter};

/// Connections that send at once over SMTP, and over HTTP.
const SMTP_CLIENTS: usize = 20;
const HTTP_CLIENTS: usize = 2;
/// Kills for each test unless the environment says otherwise.
const KILLS: u64 = 3;
/// Kills on the same data; then everything is counted and a new system begins.
const KILLS_PER_SYSTEM: u64 = 10;
/// A client waits so long at most between two messages, in milliseconds.
const MOST_PAUSE_MS: u64 = 40;

/// Random numbers (splitmix64).
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    /// Nobody acts without a breath; a backlog of minutes would prove nothing more.
    fn pause(&mut self) {
        std::thread::sleep(Duration::from_millis(self.below(MOST_PAUSE_MS)));
    }
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn kills() -> u64 {
    number("POSTMETER_KILL_ROUNDS").unwrap_or(KILLS)
}

fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
    number("POSTMETER_KILL_SEED").unwrap_or_else(|| now() as u64 % 1_000_000)
}

/// A kind of system that is killed.
struct Setup {
    name: &'static str,
    plan: fn() -> Plan,
    /// Customers besides the first.
    others: &'static [&'static str],
    /// Credits that each customer has at first, and gets after each kill.
    credits: (u64, u64),
    /// Faults of one life.
    faults: fn(&Meter, &mut Dice),
    /// What the operator does to the queue. Over SMTP nothing is cancelled: a message
    /// that was lost from sight after its final dot may have arrived.
    operator: &'static [&'static str],
    /// Whether mails bounce afterwards, as Resend alone tells.
    has_bounces: bool,
}

/// Credits come back for what bounces.
const REFUNDS: &str = "refund_bounced = true";
/// Rows leave as soon as they may.
const LEAVING: &str = "keep_log_days = 0";

#[test]
fn p1_p3_p4_random_kills_over_resend() {
    run(&Setup {
        name: "resend",
        plan: || {
            Meter::resend().set("upstream", "timeout_s = 2").set("billing", REFUNDS).set("queue", LEAVING)
        },
        others: &[],
        credits: (1_000_000, 0),
        faults: |meter, dice| {
            resend_misbehaves(meter, dice);
            dodo_misbehaves(meter, dice);
        },
        operator: &["retry", "cancel"],
        has_bounces: true,
    });
}

#[test]
fn p1_p3_random_kills_over_an_smtp_server() {
    run(&Setup {
        name: "smtp",
        plan: || {
            let plan = Meter::smtp().set("upstream", "timeout_s = 2").set("queue", LEAVING);
            plan.set("billing", "unit = \"recipient\"")
        },
        others: &[],
        credits: (1_000_000, 0),
        faults: |meter, dice| {
            sink_misbehaves(meter, dice);
            dodo_misbehaves(meter, dice);
        },
        operator: &["retry"],
        has_bounces: false,
    });
}

#[test]
fn p1_p3_random_kills_over_a_slow_smtp_server() {
    run(&Setup {
        name: "slow smtp",
        plan: || Meter::smtp().set("queue", "lease_s = 2"),
        others: &[],
        credits: (1_000_000, 0),
        faults: |meter, dice| meter.sink().pause(Duration::from_millis(dice.below(2_500))),
        operator: &["retry"],
        has_bounces: false,
    });
}

#[test]
fn p2_random_kills_with_several_customers_who_run_out_of_credit() {
    run(&Setup {
        name: "scarce credit",
        plan: || Meter::resend().set("upstream", "timeout_s = 2").set("billing", REFUNDS),
        others: &["cus_bea", "cus_cid"],
        credits: (80, 40),
        faults: |meter, dice| {
            resend_misbehaves(meter, dice);
            dodo_misbehaves(meter, dice);
        },
        operator: &["retry", "cancel"],
        has_bounces: true,
    });
}

fn resend_misbehaves(meter: &Meter, dice: &mut Dice) {
    let faults = meter.resend_stand_in().faults();
    misbehave(faults, "/emails", dice, 100);
    if dice.below(3) == 0 {
        // The gate closes, and mail waits of which Resend surely has nothing.
        let locked = Reply::status(401).body(r#"{"name":"invalid_api_key","message":"API key is invalid"}"#);
        faults.push(Fault::new(locked).on("POST", "/emails").after(dice.below(60)).times(20));
    }
}

fn dodo_misbehaves(meter: &Meter, dice: &mut Dice) {
    misbehave(meter.dodo().faults(), "/ledger-entries", dice, 6);
    if dice.below(3) == 0 {
        meter.dodo().faults().push(Fault::new(Reply::status(500)).on("GET", "/balances").times(3));
    }
}

/// Up to five faults, each after so many calls at most.
fn misbehave(faults: &Faults, path: &str, dice: &mut Dice, most_calls: u64) {
    for _ in 0..dice.below(6) {
        let misbehaviour = match dice.below(9) {
            0 => Misbehaviour::DropBefore,
            1 => Misbehaviour::DropAfter,
            2 => Misbehaviour::HangBefore,
            3 => Misbehaviour::HangAfter,
            4 => Misbehaviour::Garble,
            5 => Misbehaviour::Late { delay_ms: dice.below(1_500) },
            6 => Reply::status(429).header("retry-after", "1").into(),
            7 => Reply::status(500).into(),
            _ => Misbehaviour::AnswerAfter(Reply::status(500)),
        };
        let fault = Fault::new(misbehaviour).on("POST", path);
        faults.push(fault.after(dice.below(most_calls)).times(1 + dice.below(5)));
    }
}

fn sink_misbehaves(meter: &Meter, dice: &mut Dice) {
    for _ in 0..dice.below(4) {
        let (to, reply) = match dice.below(6) {
            0 => ("RCPT", "451 4.2.1 not now"),
            1 => ("DOT", "451 4.3.0 not now"),
            2 => ("DOT", ""),
            3 => ("DOT", CLOSE),
            4 => ("MAIL", CLOSE),
            _ => ("DATA", "421 4.3.2 going away"),
        };
        meter.sink().reply_times(1 + dice.below(10) as usize, to, reply);
    }
}

/// Kills as often as was asked for, on one system after another.
fn run(setup: &Setup) {
    let (kills, seed) = (kills(), seed());
    let mut dice = Dice(seed);
    let mut done = 0;
    while done < kills {
        let on_this = KILLS_PER_SYSTEM.min(kills - done);
        eprintln!("{}: POSTMETER_KILL_SEED={seed} kills {done}..{} of {kills}", setup.name, done + on_this);
        live_and_die(setup, on_this, &mut dice);
        done += on_this;
    }
}

/// Where clients find the server at the moment, if it runs, and whether they may go home.
#[derive(Debug, Default)]
struct Door {
    /// SMTP and HTTP.
    addresses: Mutex<Option<(SocketAddr, SocketAddr)>>,
    is_over: AtomicBool,
}

impl Door {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Waits until a server is there; `None`: there is none any more.
    fn opens(&self, dice: &mut Dice) -> Option<(SocketAddr, SocketAddr)> {
        loop {
            if self.is_over() {
                return None;
            }
            let addresses = *self.addresses.lock().unwrap();
            if addresses.is_some() {
                return addresses;
            }
            dice.pause();
        }
    }
}

fn live_and_die(setup: &Setup, kills: u64, dice: &mut Dice) {
    let mut meter = (setup.plan)().credits(setup.credits.0).prepare();
    let mut customers = vec![(CUSTOMER_ID, meter.credential.clone())];
    customers.extend(setup.others.iter().map(|id| (*id, newcomer(&meter, id, setup.credits.0))));
    let (tally, door) = (Tally::default(), Door::default());
    let certificate = meter.certificate();
    std::thread::scope(|scope| {
        let _over = Over(&door);
        for nth in 0..SMTP_CLIENTS + HTTP_CLIENTS {
            let (_, credential) = &customers[nth % customers.len()];
            let dice = Dice(dice.roll());
            let client = Client { tally: &tally, door: &door, certificate: &certificate, credential, dice };
            scope.spawn(move || if nth < SMTP_CLIENTS { client.by_smtp() } else { client.by_http() });
        }
        let operator =
            Operator { tally: &tally, door: &door, choices: setup.operator, dice: Dice(dice.roll()) };
        scope.spawn(move || operator.decides());
        if setup.has_bounces {
            let news =
                Newsmonger { resend: meter.resend_stand_in().clone(), door: &door, dice: Dice(dice.roll()) };
            scope.spawn(move || news.tells());
        }
        for _ in 0..kills {
            (setup.faults)(&meter, dice);
            let moment = if dice.below(3) == 0 { dice.below(400) } else { 400 + dice.below(2_100) };
            be_killed_after(&mut meter, Duration::from_millis(moment), &door);
            tally.process_died(&meter);
            if dice.below(2) == 0 {
                let audit = meter.run(&["audit"]);
                assert_eq!(audit.code, Some(0), "P3: what the dead process left disagrees: {audit:?}");
            }
            all_is_well(&meter);
            for (customer_id, _) in &customers {
                meter.dodo().grant(customer_id, setup.credits.1, None).unwrap();
            }
        }
    });
    meter.serve();
    let sums = tally.adds_up(&meter);
    eprintln!("{}: {kills} kills, {sums}", setup.name);
    for (customer_id, credential) in &customers {
        spends_the_rest(&meter, customer_id, credential);
    }
    meter.finish();
}

/// Sends the clients home, however the test ends.
struct Over<'a>(&'a Door);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::SeqCst);
    }
}

/// Another customer, who may send as the first one does.
fn newcomer(meter: &Meter, customer_id: &str, credits: u64) -> Credential {
    meter.dodo().add_customer(customer_id, &format!("{customer_id}@example.org"), customer_id).unwrap();
    meter.dodo().grant(customer_id, credits, None).unwrap();
    meter.says(&["customer", "add", customer_id]);
    meter.says(&["sender", "allow", customer_id, "example.com"]);
    let made = meter.says(&["credential", "create", "--customer", customer_id, "--json"]);
    let made: Value = serde_json::from_str(&made).unwrap();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    Credential { username: text("username"), secret: text("secret") }
}

/// One life of the process, from its start to a moment that may come before it is ready.
fn be_killed_after(meter: &mut Meter, moment: Duration, door: &Door) {
    let launched = meter.launch();
    let end = Instant::now() + moment;
    if within(moment, || launched.is_ready().then_some(())).is_none() {
        return launched.kill();
    }
    meter.adopt(launched.ready().expect("it said so"));
    let (smtp, http) = (meter.process().smtp, meter.process().http);
    *door.addresses.lock().unwrap() = Some((smtp, http));
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
    *door.addresses.lock().unwrap() = None;
    meter.kill();
}

fn all_is_well(meter: &Meter) {
    meter.resend_stand_in().faults().clear();
    meter.dodo().faults().clear();
    meter.sink().behave();
}

/// What Dodo says is left can be spent to the last credit, and no further.
#[track_caller]
fn spends_the_rest(meter: &Meter, customer_id: &str, credential: &Credential) {
    const FEW: u64 = 500;
    let left = meter.dodo().balance(customer_id).unwrap();
    if left > FEW {
        return;
    }
    let mut smtp = Smtp::try_signed_in(meter.process().smtp, &meter.certificate(), credential).unwrap();
    for nth in 0..left {
        let reply = smtp.attempt(&["bob@example.net"], &letter(&format!("rest{nth}")));
        assert!(reply.starts_with("250 "), "P2: {nth} of {left} credits are spent, and {reply}");
    }
    let reply = smtp.attempt(&["bob@example.net"], &letter("beyond"));
    assert!(reply.starts_with("452 4.7.1 "), "P2: no credit is left, and {reply}");
}

/// Somebody who sends, whatever becomes of the server.
struct Client<'a> {
    tally: &'a Tally,
    door: &'a Door,
    certificate: &'a Path,
    credential: &'a Credential,
    dice: Dice,
}

impl Client<'_> {
    fn by_smtp(mut self) {
        while let Some((smtp, _)) = self.door.opens(&mut self.dice) {
            let Some(mut smtp) = Smtp::try_signed_in(smtp, self.certificate, self.credential) else {
                continue;
            };
            while !self.door.is_over() {
                let reply = smtp.attempt(self.recipients(), &letter(&self.subject()));
                self.tally.note(&reply);
                if reply.is_empty() {
                    break;
                }
                self.dice.pause();
            }
        }
    }

    fn by_http(mut self) {
        while let Some((_, http)) = self.door.opens(&mut self.dice) {
            let subject = self.subject();
            let mail = json!({ "from": "ann@example.com", "to": "bob@example.net", "subject": subject, "text": "t" });
            let request = request(Method::POST, &format!("http://{http}/send"));
            let answer = try_ask(request.bearer_auth(&self.credential.secret).json(&mail));
            if let Some(answer) = answer.filter(|answer| answer.status == 200) {
                self.tally.acknowledge(answer.json()["id"].as_str().unwrap().to_owned());
            }
            self.dice.pause();
        }
    }

    /// Bob; or two whom the header does not name, and who need a call to Resend each.
    fn recipients(&mut self) -> &'static [&'static str] {
        if self.dice.below(4) > 0 { &["bob@example.net"] } else { &["bea@example.net", "cid@example.net"] }
    }

    fn subject(&mut self) -> String {
        format!("s{:016x}", self.dice.roll())
    }
}

/// The operator, who decides about some of what waits.
struct Operator<'a> {
    tally: &'a Tally,
    door: &'a Door,
    choices: &'static [&'static str],
    dice: Dice,
}

impl Operator<'_> {
    fn decides(mut self) {
        while let Some((_, http)) = self.door.opens(&mut self.dice) {
            let asks = |method, path: &str| {
                try_ask(request(method, &format!("http://{http}{path}")).bearer_auth(ADMIN_TOKEN))
            };
            let listed =
                asks(Method::GET, "/queue?state=queued&limit=20").filter(|answer| answer.status == 200);
            let waiting = listed.map_or(Vec::new(), |answer| answer.json().as_array().unwrap().clone());
            for message in &waiting {
                let choice = self.choices[self.dice.below(self.choices.len() as u64) as usize];
                let id = message["message_id"].as_str().unwrap();
                let is_ours = message["kind"] == "submission";
                if !is_ours || self.dice.below(3) > 0 {
                    continue;
                }
                let ask = || asks(Method::POST, &format!("/queue/{id}/{choice}"));
                if choice == "cancel" {
                    self.tally.cancel(id, || ask().map(|answer| answer.status == 200));
                } else {
                    ask();
                }
            }
            self.dice.pause();
        }
    }
}

/// Resend, telling that mails bounced; what is not heard is told again, in the next life too.
struct Newsmonger<'a> {
    resend: ResendStandIn,
    door: &'a Door,
    dice: Dice,
}

impl Newsmonger<'_> {
    fn tells(mut self) {
        let mut unheard: Vec<(String, String)> = Vec::new();
        while let Some((_, http)) = self.door.opens(&mut self.dice) {
            if unheard.is_empty() {
                unheard = self.news();
            }
            unheard.retain(|(id, body)| {
                let answer = try_ask(signed_by_resend(&format!("http://{http}"), id, body));
                answer.is_none_or(|answer| answer.status != 200)
            });
            self.dice.pause();
        }
    }

    /// Some mails bounce, for one of their recipients: one of the last, of which it
    /// is perhaps not known yet that they were sent, or any. The mailbox is full, which
    /// suppresses nobody: the same people are written to again.
    fn news(&mut self) -> Vec<(String, String)> {
        let mails = self.resend.mails().unwrap();
        let among = |mails: &[Mail], dice: &mut Dice| {
            let nth = dice.below(mails.len().max(1) as u64) as usize;
            mails.get(nth).cloned()
        };
        let last = &mails[mails.len().saturating_sub(5)..];
        let bounced = [among(last, &mut self.dice), among(&mails, &mut self.dice)];
        let event = |mail: &Mail| {
            let to: Vec<&str> = mail.email.recipients().take(1).collect();
            let body = json!({ "type": "email.bounced", "data": {
                "email_id": mail.id, "to": to, "tags": { "postmeter": mail.email.tag("postmeter") },
                "bounce": { "type": "Permanent", "subType": "MailboxFull", "diagnosticCode": ["smtp; 552 5.2.2 full"] },
            }});
            body.to_string()
        };
        let bounced = bounced.iter().flatten();
        bounced.map(|mail| (format!("msg_{:016x}", self.dice.roll()), event(mail))).collect()
    }
}
