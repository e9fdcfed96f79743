//! Settlement under Dodo's limit on calls, with the real program in real time.
//!
//! By default the limit is four times that of a new account and the load a
//! fraction, so that it ends soon. `POSTMETER_SETTLEMENT=full` is the true size:
//! 240 calls a minute, 10,000 messages of one customer and 1,000 of 200 others.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::harness::meter::Credential;
use crate::harness::smtp::Smtp;
use crate::harness::wait::within;
use crate::harness::web::ask;
use crate::harness::{Meter, letter, until};

/// How much is sent, under which limit.
#[derive(Debug, Clone, Copy)]
struct Size {
    calls_a_minute: u32,
    /// Messages of one customer.
    bulk: u64,
    /// So many others send so many each.
    others: u64,
    each: u64,
}

/// Within this everything is settled after it was sent, at the true limit.
const PROMISE: Duration = Duration::from_secs(180);
const TRUE_LIMIT: u32 = 240;
const SMALL: Size = Size { calls_a_minute: 4 * TRUE_LIMIT, bulk: 300, others: 30, each: 5 };
const FULL: Size = Size { calls_a_minute: TRUE_LIMIT, bulk: 10_000, others: 200, each: 5 };
const CONNECTIONS: usize = 20;

/// Of each capture, how long it was until the entry that covers it was settled, in milliseconds.
const LAG: &str = "SELECT e.closed_at - c.captured_at FROM capture c JOIN entry e
    ON e.customer_id = c.customer_id AND e.state = 'done' AND c.number BETWEEN e.first_capture AND e.last_capture
    ORDER BY 1";
/// The longest of them, of each customer.
const LONGEST: &str = "SELECT max(e.closed_at - c.captured_at) FROM capture c JOIN entry e
    ON e.customer_id = c.customer_id AND e.state = 'done' AND c.number BETWEEN e.first_capture AND e.last_capture
    GROUP BY c.customer_id ORDER BY 1";
const LEFT: &str = "SELECT (SELECT count(*) FROM message WHERE final_at IS NULL)
    + (SELECT count(*) FROM account WHERE owed <> 0)";

impl Meter {
    /// One more customer with so many credits.
    pub(crate) fn new_customer(&self, customer_id: &str, credits: u64) -> Credential {
        self.dodo().add_customer(customer_id, &format!("{customer_id}@example.com"), customer_id).unwrap();
        self.dodo().grant(customer_id, credits, None).unwrap();
        self.says(&["customer", "add", customer_id]);
        let made = self.says(&["credential", "create", "--customer", customer_id, "--json"]);
        let made: serde_json::Value = serde_json::from_str(&made).unwrap();
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        Credential { username: text("username"), secret: text("secret") }
    }

    /// A metric's value.
    pub(crate) fn metric(&self, series: &str) -> i64 {
        let page = ask(self.request(reqwest::Method::GET, "/metrics")).body;
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in {page}")).parse().unwrap()
    }
}

/// Sends this customer's messages in one session; a delay is not the end.
fn send_all(meter: &Meter, credential: &Credential, messages: u64) {
    let mut smtp = Smtp::starttls(meter);
    assert!(smtp.auth_plain(&credential.username, &credential.secret).starts_with("235 "));
    for nth in 0..messages {
        let message = letter(&format!("{}-{nth}", credential.username));
        until("it to be taken", || smtp.try_deliver(&message).then_some(()));
    }
}

/// The work of all connections: who sends how many.
fn send_everything(meter: &Meter, size: Size, others: &[Credential]) {
    let share = size.bulk / (CONNECTIONS as u64 / 2);
    let bulk = (0..CONNECTIONS / 2).map(|_| (meter.credential.clone(), share));
    let others = others.iter().map(|credential| (credential.clone(), size.each));
    let work: Mutex<Vec<_>> = Mutex::new(others.rev().chain(bulk).collect());
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                loop {
                    let next = work.lock().unwrap().pop();
                    let Some((credential, messages)) = next else { return };
                    send_all(meter, &credential, messages);
                }
            });
        }
    });
}

#[test]
fn p3_everything_is_settled_in_time_and_nobody_waits_much_longer_than_another() {
    let is_full = std::env::var_os("POSTMETER_SETTLEMENT").is_some_and(|size| size == "full");
    let size = if is_full { FULL } else { SMALL };
    let meter = Meter::resend().credits(size.bulk + 5).set("senders", "policy = \"any\"").start();
    let number = |nth| format!("cus_{nth:03}");
    let others: Vec<_> =
        (0..size.others).map(|nth| meter.new_customer(&number(nth), size.each + 5)).collect();
    // Of so many customers nothing is known yet, and each has a client that waits.
    meter.dodo().behave(|behaviour| behaviour.per_minute = size.calls_a_minute);
    let (began, calls) = (Instant::now(), meter.dodo().calls());
    send_everything(&meter, size, &others);
    let sent = began.elapsed();
    let promise = PROMISE * TRUE_LIMIT / size.calls_a_minute;
    within(promise + Duration::from_secs(30), || (meter.number(LEFT) == 0).then_some(()));
    let settled = began.elapsed();
    let calls = meter.dodo().calls() - calls;

    let (lag, longest): (Vec<i64>, Vec<i64>) = (meter.read(LAG), meter.read(LONGEST));
    let messages = size.bulk + size.others * size.each;
    assert_eq!(lag.len() as u64, messages);
    let at = |waits: &[i64], part: usize| waits[(waits.len() - 1) * part / 100];
    let entries = meter.number("SELECT count(*) FROM entry");
    println!(
        "{messages} messages of {} customers under {} calls a minute: sent in {sent:.1?}, settled {settled:.1?} \
         after the first, in {entries} entries and {calls} calls; a message waited {} ms (median), {} (99 %), {} \
         (longest); the customers' longest waits are from {} to {} ms (median {})",
        size.others + 1,
        size.calls_a_minute,
        at(&lag, 50),
        at(&lag, 99),
        at(&lag, 100),
        at(&longest, 0),
        at(&longest, 100),
        at(&longest, 50),
    );
    let promised = i64::try_from(promise.as_millis()).unwrap();
    assert!(at(&lag, 100) < promised, "settled within {promised} ms of being sent: {}", at(&lag, 100));
    // Twice round all customers at the pace of the limit, and some time for this machine.
    let round_ms = i64::try_from((size.others + 1) * 60_000 / u64::from(size.calls_a_minute)).unwrap();
    assert!(at(&longest, 100) < 2 * round_ms + 15_000, "fair: {}", at(&longest, 100));
    assert_eq!(meter.metric("postmeter_dodo_calls_total{call=\"post_entry\",result=\"rate_limited\"}"), 0);
    let limit = u64::from(size.calls_a_minute);
    assert!(calls <= limit * (settled.as_secs() / 60 + 1), "{calls} calls");
}

#[test]
fn p3_a_single_message_on_a_quiet_system_is_settled_within_a_second() {
    let meter = Meter::resend().credits(10).start();
    let mut smtp = meter.signed_in();
    for nth in 0..3 {
        assert!(smtp.deliver(&letter(&format!("n{nth}"))).starts_with("250 "));
        meter.drain();
    }
    let lag: Vec<i64> = meter.read(LAG);
    assert!(lag.len() == 3 && lag.iter().all(|ms| *ms < 1_000), "{lag:?}");
    let lines = meter.dodo().ledger(crate::harness::CUSTOMER_ID);
    let debits: Vec<_> = lines.iter().filter(|line| !line.is_credit).map(|line| line.amount).collect();
    assert_eq!(debits, [1, 1, 1], "one message, one entry");
}
