//! What was acknowledged, held against what left and what was debited, message by message.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use postmeter::sandbox::resend::Mail;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

use crate::harness::wait::within;
use crate::harness::{Meter, RUNTIME};

/// How long nothing of a backlog may leave or be settled, on a busy machine.
const STANDSTILL: Duration = Duration::from_secs(240);

/// Where mail of our own comes from.
const NOTICES_FROM: &str = "postmaster@example.com";

/// What clients were told, and what stood on the brink at each crash.
#[derive(Debug, Default)]
pub(super) struct Tally {
    acknowledged: Mutex<Vec<String>>,
    /// For each message how often the process died while a part of it was under way.
    under_way: Mutex<BTreeMap<String, u64>>,
    /// How many messages the upstream was to refuse for good, at most.
    refusals: usize,
    /// Messages that the operator asked to cancel; whether they were, if that was told.
    cancelled: Mutex<BTreeMap<String, bool>>,
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
    /// Messages that the operator cancelled, as far as that was told.
    pub(super) cancelled: usize,
    /// Credits for mail that left and bounced: those never debited, and those given back by Dodo.
    pub(super) refunded: (u64, u64),
    /// Messages whose rows have left.
    pub(super) gone: usize,
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, left, doubled, cancelled, refunded: (released, credited), gone, .. } = self;
        write!(f, "{acknowledged} acknowledged, 0 lost, {left} left, {doubled} of them twice by SMTP, ")?;
        write!(f, "{cancelled} cancelled, {released} released and {credited} credited for bounces, ")?;
        write!(f, "the rows of {gone} gone")
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

    /// The operator asks to cancel a message, and is perhaps answered whether it is.
    /// Only one that is told it was not is as good as never asked.
    pub(super) fn cancel(&self, message_id: &str, ask: impl FnOnce() -> Option<bool>) {
        let before = self.cancelled.lock().unwrap().insert(message_id.to_owned(), false);
        let told = ask();
        let mut cancelled = self.cancelled.lock().unwrap();
        match (told, before) {
            (Some(false), None) => cancelled.remove(message_id),
            (told, before) => {
                cancelled.insert(message_id.to_owned(), told == Some(true) || before == Some(true))
            }
        };
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
        let cancelled = self.cancelled.lock().unwrap().clone();
        let refused = self.refused(meter);
        assert_eq!(messages.iter().find(|id| refused.contains(**id)), None, "P3: left and not captured");
        let is_given_up = |id: &String| refused.contains(id) || cancelled.contains_key(id);
        let lost: Vec<_> =
            distinct.iter().filter(|id| !messages.contains(**id) && !is_given_up(id)).collect();
        assert_eq!(lost, Vec::<&&String>::new(), "P1: acknowledged and lost");
        // One statement, since rows may be leaving at this moment.
        const RECIPIENTS: &str = "
            SELECT r.message_id || ' ' || r.address || ' ' || r.state FROM recipient r
            JOIN message m ON m.message_id = r.message_id WHERE m.kind = 'submission'";
        let recipients = pairs(meter, RECIPIENTS);
        let kept: BTreeSet<&String> = recipients.iter().map(|(id, _)| id).collect();
        let sent = recipients
            .iter()
            .filter_map(|(id, rest)| Some((id.clone(), rest.strip_suffix(" sent")?.to_owned())));
        let left_and_kept = left.keys().filter(|(id, _)| kept.contains(id)).cloned();
        assert_eq!(sent.collect::<BTreeSet<_>>(), left_and_kept.collect(), "P5: who got what");
        self.left_once(meter, &left);
        let price = if per_recipient(meter) { left.len() } else { messages.len() };
        let refunded = self.refunded(meter, price as u64);
        let doubled: BTreeSet<_> =
            left.iter().filter(|(_, times)| **times > 1).map(|((id, _), _)| id).collect();
        Sums {
            acknowledged: acknowledged.len(),
            left: messages.len(),
            refused: refused.len(),
            doubled: doubled.len(),
            cancelled: cancelled.values().filter(|is_told| **is_told).count(),
            refunded,
            gone: messages.iter().filter(|id| !kept.contains(*id)).count(),
        }
    }

    /// What Dodo debited and gave back is the price of what left, without what was
    /// refunded: credits that were never debited, and those that were given back.
    #[track_caller]
    fn refunded(&self, meter: &Meter, price: u64) -> (u64, u64) {
        const RELEASED: &str = "SELECT coalesce(sum(amount), 0) FROM refund WHERE state = 'released'";
        const CREDITED: &str = "
            SELECT (SELECT coalesce(sum(amount), 0) FROM refund WHERE state = 'credited')
                 + (SELECT coalesce(sum(closed_refunded), 0) FROM account)";
        let customers: Vec<String> = meter.read("SELECT customer_id FROM customer");
        let debited: u64 = customers.iter().map(|id| meter.dodo().debited(id)).sum();
        let lines = customers.iter().flat_map(|id| meter.dodo().ledger(id));
        let is_refund =
            |text: &Option<String>| text.as_deref().is_some_and(|text| text.contains("email refund"));
        let given: u64 = lines.filter(|line| is_refund(&line.description)).map(|line| line.amount).sum();
        let (released, credited) = (meter.number(RELEASED) as u64, meter.number(CREDITED) as u64);
        assert_eq!(given, credited, "P3: a credit for what is refunded, and no other");
        assert_eq!(debited + released, price, "P3: a debit for what left, and no other");
        (released, credited)
    }

    /// Messages that went to nobody, and were not cancelled. Each has bounced once,
    /// and there are no more than were to be refused.
    #[track_caller]
    fn refused(&self, meter: &Meter) -> BTreeSet<String> {
        const REFUSED: &str = "
            SELECT message_id FROM message m WHERE kind = 'submission' AND NOT EXISTS
                (SELECT 1 FROM recipient r WHERE r.message_id = m.message_id AND r.state = 'sent')";
        const FAILED: &str = "
            SELECT DISTINCT r.message_id FROM recipient r JOIN message m ON m.message_id = r.message_id
            WHERE m.kind = 'submission' AND r.state = 'failed'";
        let cancelled = self.cancelled.lock().unwrap();
        let others = |sql| {
            let ids = meter.read::<String>(sql).into_iter();
            ids.filter(|id| !cancelled.contains_key(id)).collect::<BTreeSet<_>>()
        };
        let refused = others(REFUSED);
        assert!(refused.len() <= self.refusals, "P1: given up: {refused:?}");
        assert_eq!(others(FAILED), refused, "P1: given up for some");
        if told_late(meter) == 0 {
            let bounces = meter.number("SELECT count(*) FROM message WHERE kind = 'bounce'");
            assert_eq!(bounces, refused.len() as i64, "a bounce for each message that was refused");
        }
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

/// How many recipients failed after their message had left, of each of whom its sender
/// was told once.
#[track_caller]
fn told_late(meter: &Meter) -> usize {
    const FAILED: &str = "
        SELECT r.message_id || ' ' || r.address FROM recipient r JOIN message m ON m.message_id = r.message_id
        WHERE m.kind = 'submission' AND m.reverse_path <> '' AND r.bounced_at IS NOT NULL";
    let mut told: BTreeMap<Delivered, u64> = BTreeMap::new();
    let texts = meter.mails().into_iter().filter_map(|mail| mail.email.text);
    for text in texts.filter(|text| text.contains("came back later")) {
        let id = text.lines().find_map(|line| line.trim().strip_prefix("Accepted: ")?.split_once(" as "));
        let (_, id) = id.unwrap_or_else(|| panic!("of no message: {text}"));
        let address = |line: &str| Some(line.strip_prefix('<')?.strip_suffix('>')?.to_owned());
        for address in text.lines().filter_map(address) {
            *told.entry((id.to_owned(), address)).or_default() += 1;
        }
    }
    let twice: Vec<_> = told.iter().filter(|(_, times)| **times > 1).collect();
    assert_eq!(twice, [], "a late failure is told once");
    let untold: Vec<_> = pairs(meter, FAILED).into_iter().filter(|to| !told.contains_key(to)).collect();
    assert_eq!(untold, [], "a late failure is told");
    told.len()
}

/// Waits until everything accepted is final and settled, however large the backlog.
#[track_caller]
fn drain(meter: &Meter) {
    const LEFT: &str = "SELECT (SELECT count(*) FROM message WHERE final_at IS NULL)
        + (SELECT count(*) FROM entry WHERE state = 'open') + (SELECT count(*) FROM account WHERE owed <> 0)";
    const WHICH: &str = "
        SELECT json_object('part', p.message_id || '-' || p.part_no, 'state', p.state, 'road', p.road,
            'attempt', p.attempt, 'due', p.due_at, 'lease', p.lease_until, 'error', p.last_error, 'size', m.size)
        FROM message m JOIN part p ON p.message_id = m.message_id
        WHERE m.final_at IS NULL
        UNION ALL SELECT json_object('entry', entry_id, 'tries', tries, 'unknown', unknown_tries, 'error', last_error)
        FROM entry WHERE state = 'open'
        UNION ALL SELECT json_object('account', customer_id, 'owed', owed, 'balance', balance)
        FROM account WHERE owed <> 0
        UNION ALL SELECT json_object('gate', road, 'reason', reason, 'since', since, 'again', try_again_at) FROM gate";
    let mut before = i64::MAX;
    while before > 0 {
        let fewer = within(STANDSTILL, || Some(meter.number(LEFT)).filter(|left| *left < before));
        before = fewer.unwrap_or_else(|| panic!("this is left behind: {:#?}", meter.read::<String>(WHICH)));
    }
    meter.drain();
}

/// Whether each recipient costs a credit.
fn per_recipient(meter: &Meter) -> bool {
    let config = std::fs::read_to_string(meter.directory().join("postmeter.toml")).unwrap();
    config.contains("unit = \"recipient\"")
}

/// How often each customer's message came to the upstream for whom. Mail of our own
/// is not among them: over SMTP it carries no stamp.
fn left(meter: &Meter) -> BTreeMap<Delivered, u64> {
    let is_own = |mail: &Mail| mail.email.from.as_deref().is_some_and(|from| from.contains(NOTICES_FROM));
    let mut left = BTreeMap::new();
    let mut note = |message_id: &str, recipients: Vec<String>| {
        for recipient in recipients {
            *left.entry((message_id.to_owned(), recipient)).or_default() += 1;
        }
    };
    for mail in meter.mails().into_iter().filter(|mail| !is_own(mail)) {
        let (message_id, _) = mail.email.tag("postmeter").unwrap().rsplit_once('-').unwrap();
        note(message_id, mail.email.recipients().map(str::to_owned).collect());
    }
    for mail in meter.sink().mails() {
        if let Some(message_id) = stamped_id(&String::from_utf8_lossy(&mail.bytes)) {
            note(&message_id, mail.to);
        }
    }
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

/// Messages whose parts the dead process had leased. Of SQLite's file a copy is read: what
/// a crash leaves in the write-ahead log is for the next start to find.
fn parts_under_way(meter: &Meter) -> Vec<String> {
    const READ: &str = "SELECT message_id FROM part WHERE state = 'sending'";
    if meter.database().is_some() {
        return meter.read(READ);
    }
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
