//! What was acknowledged, held against what left and what was debited, message by message.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

use crate::harness::wait::within;
use crate::harness::{Meter, RUNTIME};

/// How long a backlog may take to leave and to be settled, on a busy machine.
const DRAIN: Duration = Duration::from_secs(240);

/// What clients were told, and what stood on the brink at each crash.
#[derive(Debug, Default)]
pub(super) struct Tally {
    acknowledged: Mutex<Vec<String>>,
    /// For each message how often the process died while a part of it was under way.
    under_way: Mutex<BTreeMap<String, u64>>,
    /// How many messages the upstream was to refuse for good, at most.
    refusals: usize,
}

/// A message and one of its recipients.
type Delivered = (String, String);

/// The sums when all is over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sums {
    /// Messages that a client was told were queued.
    pub(super) acknowledged: usize,
    /// Messages that left, acknowledged or not.
    pub(super) left: usize,
    /// Messages that the upstream refused.
    pub(super) refused: usize,
    /// Of those that left, those that an SMTP server got more than once.
    pub(super) doubled: usize,
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, left, doubled, .. } = self;
        write!(f, "{acknowledged} acknowledged, 0 lost, {left} left, {doubled} of them twice by SMTP")
    }
}

impl Tally {
    /// The same, where the upstream refuses so many messages.
    pub(super) fn with_refusals(refusals: usize) -> Self {
        Self { refusals, ..Self::default() }
    }

    /// Keeps a reply to a message; whether it was an acknowledgement.
    pub(super) fn note(&self, reply: &str) -> bool {
        let queued = reply.strip_prefix("250 2.0.0 Queued as ");
        let id = queued.map(|rest| rest.chars().take_while(|c| !matches!(c, ',' | '\r')).collect());
        id.map(|id| self.acknowledge(id)).is_some()
    }

    /// Keeps the id of a message that a client was told.
    pub(super) fn acknowledge(&self, message_id: String) {
        self.acknowledged.lock().unwrap().push(message_id);
    }

    /// How many were acknowledged so far.
    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// The process is dead: what it was sending at that moment may come twice to an SMTP server.
    #[track_caller]
    pub(super) fn process_died(&self, meter: &Meter) {
        let mut under_way = self.under_way.lock().unwrap();
        for id in parts_under_way(meter) {
            *under_way.entry(id).or_default() += 1;
        }
    }

    /// Waits until nothing is left to do, and holds all sums against each other.
    #[track_caller]
    pub(super) fn adds_up(&self, meter: &Meter) -> Sums {
        drain(meter);
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        let distinct: BTreeSet<&String> = acknowledged.iter().collect();
        assert_eq!(distinct.len(), acknowledged.len(), "an id was given twice");
        let left = left(meter);
        let messages: BTreeSet<&String> = left.keys().map(|(id, _)| id).collect();
        let refused = self.refused(meter);
        assert_eq!(messages.iter().find(|id| refused.contains(**id)), None, "P3: left and not captured");
        let lost: Vec<_> =
            distinct.iter().filter(|id| !messages.contains(**id) && !refused.contains(**id)).collect();
        assert_eq!(lost, Vec::<&&String>::new(), "P1: acknowledged and lost");
        let asked = pairs(meter, "SELECT message_id || ' ' || address FROM recipient");
        let asked = asked.into_iter().filter(|(id, _)| messages.contains(id));
        assert_eq!(asked.collect::<BTreeSet<_>>(), left.keys().cloned().collect(), "P5: who got what");
        self.left_once(meter, &left);
        let per_recipient = meter.number("SELECT count(*) FROM message WHERE unit = 'recipient'") > 0;
        let price = if per_recipient { left.len() } else { messages.len() };
        let customers: Vec<String> = meter.read("SELECT customer_id FROM customer");
        let debited: u64 = customers.iter().map(|id| meter.dodo().debited(id)).sum();
        assert_eq!(debited, price as u64, "P3: a debit for what left, and no other");
        let doubled: BTreeSet<_> =
            left.iter().filter(|(_, times)| **times > 1).map(|((id, _), _)| id).collect();
        Sums {
            acknowledged: acknowledged.len(),
            left: messages.len(),
            refused: refused.len(),
            doubled: doubled.len(),
        }
    }

    /// Messages that went to nobody. Each has bounced once, and there are no more than were to be refused.
    #[track_caller]
    fn refused(&self, meter: &Meter) -> BTreeSet<String> {
        const REFUSED: &str = "SELECT message_id FROM message WHERE kind = 'submission' AND captured = 0";
        let refused: BTreeSet<String> = meter.read(REFUSED).into_iter().collect();
        assert!(refused.len() <= self.refusals, "P1: given up: {refused:?}");
        let bounces = meter.number("SELECT count(*) FROM message WHERE kind = 'bounce'");
        assert_eq!(bounces, refused.len() as i64, "a bounce for each message that was refused");
        refused
    }

    /// Nothing left Resend twice, and an SMTP server got again only what was under way at a crash.
    #[track_caller]
    fn left_once(&self, meter: &Meter, left: &BTreeMap<Delivered, u64>) {
        let twice =
            meter.resend_stand_in().sent_by_tag("postmeter").into_iter().filter(|(_, times)| *times > 1);
        assert_eq!(twice.collect::<Vec<_>>(), [], "P4: left Resend more than once");
        let under_way = self.under_way.lock().unwrap();
        let explained = |(id, _): &Delivered| 1 + under_way.get(id).copied().unwrap_or(0);
        let too_often: Vec<_> = left.iter().filter(|(to, times)| **times > explained(to)).collect();
        assert_eq!(too_often, Vec::<(&Delivered, &u64)>::new(), "P4: left more often than crashes explain");
    }
}

/// Waits until everything accepted is final and settled, however large the backlog.
#[track_caller]
fn drain(meter: &Meter) {
    const LEFT: &str = "SELECT (SELECT count(*) FROM message WHERE final_at IS NULL)
        + (SELECT count(*) FROM entry WHERE state = 'open') + (SELECT count(*) FROM account WHERE owed <> 0)";
    let drained = within(DRAIN, || (meter.number(LEFT) == 0).then_some(()));
    assert!(drained.is_some(), "{} messages, entries and debts are left", meter.number(LEFT));
    meter.drain();
}

/// How often each customer's message came to the upstream for whom. Mail of our own is not among them.
fn left(meter: &Meter) -> BTreeMap<Delivered, u64> {
    let own: BTreeSet<String> =
        meter.read("SELECT message_id FROM message WHERE kind <> 'submission'").into_iter().collect();
    let mut left = BTreeMap::new();
    let mut note = |message_id: &str, recipients: Vec<String>| {
        for recipient in recipients {
            *left.entry((message_id.to_owned(), recipient)).or_default() += 1;
        }
    };
    for mail in meter.mails() {
        let (message_id, _) = mail.email.tag("postmeter").unwrap().rsplit_once('-').unwrap();
        note(message_id, mail.email.recipients().map(str::to_owned).collect());
    }
    for mail in meter.sink().mails() {
        if let Some(message_id) = stamped_id(&String::from_utf8_lossy(&mail.bytes)) {
            note(&message_id, mail.to);
        }
    }
    left.retain(|(id, _), _| !own.contains(id));
    left
}

fn pairs(meter: &Meter, sql: &'static str) -> Vec<Delivered> {
    let split = |row: String| row.split_once(' ').map(|(id, address)| (id.to_owned(), address.to_owned()));
    meter.read::<String>(sql).into_iter().filter_map(split).collect()
}

/// The id in the Received field that every customer's message is stamped with.
fn stamped_id(message: &str) -> Option<String> {
    let stamp = message.strip_prefix("Received: ")?;
    let (id, _) = stamp.split_once("\r\n\tid ")?.1.split_once(';')?;
    Some(id.to_owned())
}

/// Messages whose parts the dead process had leased. A copy is read: what a crash
/// leaves in the write-ahead log is for the next start to find.
fn parts_under_way(meter: &Meter) -> Vec<String> {
    const READ: &str = "SELECT message_id FROM part WHERE state = 'sending'";
    let copy = meter.directory().join("copy.sqlite");
    let data = meter.directory().join("data").join(postmeter::store::DATABASE_FILE);
    let beside = |path: &std::path::Path, end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        std::path::PathBuf::from(name)
    };
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(beside(&copy, end));
    }
    for end in ["", "-wal"] {
        let from = beside(&data, end);
        if from.exists() {
            std::fs::copy(from, beside(&copy, end)).unwrap();
        }
    }
    RUNTIME.block_on(async {
        let options = SqliteConnectOptions::new().filename(&copy).disable_statement_logging();
        let mut database = SqliteConnection::connect_with(&options).await.unwrap();
        let ids = sqlx::query_scalar(READ).fetch_all(&mut database).await.unwrap();
        database.close().await.unwrap();
        ids
    })
}
