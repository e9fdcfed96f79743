//! The world of a history: the process with its database and its memory, both
//! services, what is on its way between them, and what is written down about all of
//! it by somebody who sees everything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use jiff::Timestamp;

use super::Broken;
use super::customer::Asked;
use super::dodo::Dodo;
use super::doubt::Looking;
use super::mutation::Mutation;
use super::refund::Refunding;
use super::sender::{Late, Sending};
use super::settler::{Posting, Reading};
use super::steps::{Fate, Manner, Manners, NAMES, Step, Upstream, Who};
use super::upstream::Upstreams;
use crate::clock::Clock;
use crate::domain::idempotency::IdempotencyKey;
use crate::domain::ids::{CustomerId, EntryId, MessageId};
use crate::random;
use crate::sandbox;
use crate::store::entry::Entry;
use crate::store::queue::LeasedPart;
use crate::store::tests::{at, id};
use crate::store::webhook::Webhook;
use crate::store::{DATABASE_FILE, Maker, Store, stand_in};
use crate::submission::stand_in::{Directory, settings};
use crate::telemetry::Metrics;

/// What everybody begins with.
const CREDITS: u64 = 12;
/// No call is under way for longer than this, in seconds, whether somebody waits for it or not.
const LONGEST_CALL_S: u32 = 30;

/// Everything.
pub(super) struct World {
    pub(super) clock: Clock,
    pub(super) dodo: Dodo,
    pub(super) upstreams: Upstreams,
    pub(super) process: Process,
    /// Calls that were given up, and may take effect all the same.
    pub(super) wind: Vec<Gone>,
    /// Mails that were sent, and whose answer never came.
    pub(super) late: Vec<Late>,
    pub(super) truth: Truth,
    /// What the process does wrong, to see whether that is seen.
    pub(super) mutation: Option<Mutation>,
    /// Webhooks that Dodo delivers, more than once and in any order.
    webhooks: Vec<(String, Who, u8)>,
    pub(super) serial: u64,
    disk: Directory,
}

/// The process: its database, and what dies with it.
pub(super) struct Process {
    pub(super) store: Store,
    /// The entries that it has in its hands.
    pub(super) posting: [Option<Posting>; NAMES.len()],
    /// Balance reads under way.
    pub(super) reads: Vec<Reading>,
    /// Looks at ledgers under way.
    pub(super) looks: Vec<Looking>,
    /// How far refunds have come.
    pub(super) refunding: [Option<Refunding>; NAMES.len()],
    /// Keys whose submissions were refused; only a mistake looks at them.
    pub(super) refused: BTreeSet<(CustomerId, IdempotencyKey)>,
    /// Leased parts.
    pub(super) sending: Vec<Sending>,
}

/// A call that nobody waits for any more.
pub(super) enum Gone {
    Entry(Entry),
    Mail(Vec<LeasedPart>),
}

/// What somebody who sees everything has written down.
#[derive(Default)]
pub(super) struct Truth {
    /// What the customers asked for under a key of their own.
    pub(super) asked: Vec<Asked>,
    /// Messages that were acknowledged.
    pub(super) acknowledged: Vec<(MessageId, Who)>,
    /// Those that the operator decided although nobody knows whether they were sent.
    pub(super) decided: BTreeSet<MessageId>,
    /// Those that have left the database for good.
    pub(super) left: BTreeSet<MessageId>,
    /// What each entry that was opened takes; less than nothing: what it gives.
    pub(super) opened: BTreeMap<EntryId, i64>,
    /// Until when the grants last that a message's debits drew.
    pub(super) spent: BTreeMap<MessageId, Timestamp>,
    /// What each customer's messages had captured before time passed.
    pub(super) captured: Vec<(Timestamp, [i64; NAMES.len()])>,
    /// Attempts of a part that ended without an answer.
    pub(super) unanswered: BTreeMap<(MessageId, u32), u32>,
    /// Lines of each customer's ledger of which the process can know: those that it
    /// has counted for sure, and those that it may have counted.
    pub(super) known: [usize; NAMES.len()],
    pub(super) known_in_full: [usize; NAMES.len()],
    /// Rows that had been changed, and lines of the ledgers, when the laws last held.
    pub(super) checked: Option<(i64, [usize; NAMES.len()])>,
}

impl World {
    pub(super) async fn new(manners: Manners, mutation: Option<Mutation>) -> Self {
        let clock = Clock::manual(at(0));
        let (dodo, resend) = sandbox::in_memory(&clock).unwrap();
        let dodo = Dodo::new(dodo, manners);
        for name in NAMES {
            dodo.books().add_customer(name, &format!("{name}@x.example"), name).unwrap();
            dodo.books().grant(name, CREDITS, None).unwrap();
        }
        let (files, directory) = beginning();
        let disk = directory_with(files, directory);
        let process = Process::start(&disk.0).await;
        let truth = Truth { known: [1; 3], known_in_full: [1; 3], ..Truth::default() };
        Self {
            clock,
            dodo,
            upstreams: Upstreams::new(resend),
            process,
            wind: Vec::new(),
            late: Vec::new(),
            truth,
            mutation,
            webhooks: Vec::new(),
            serial: 0,
            disk,
        }
    }

    pub(super) fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Takes one step.
    pub(super) async fn take(&mut self, step: Step) -> Result<(), Broken> {
        match step {
            Step::Accept(who, letter, at_once) => self.accept(who, letter, at_once).await,
            Step::Again(nth, is_other, whom) => self.again(nth, is_other, whom).await,
            Step::Rush(who, many) => self.rush(who, many.into()).await.map(drop),
            Step::Poll => self.poll().await,
            Step::SendLeaves(nth) => self.send_leaves(nth).await,
            Step::SendTakesEffect(nth, how) => self.send_takes_effect(nth, how).await,
            Step::SendAnswered(nth, fate) => self.send_answered(nth, fate).await,
            Step::LateNews(nth) => self.late_news(nth).await,
            Step::EntryLeaves(who) => self.entry_leaves(who).await,
            Step::EntryTakesEffect(who, how) => self.entry_takes_effect(who, how).await,
            Step::EntryAnswered(who, fate) => self.entry_answered(who, fate).await,
            Step::WindBlows(nth) => self.wind_blows(nth).await,
            Step::ReadLeaves(who) => self.read_leaves(who).await,
            Step::ListLeaves => self.list_leaves().await,
            Step::ReadTakesEffect(nth, how) => self.read_takes_effect(nth, how).await,
            Step::ReadAnswered(nth, fate) => self.read_answered(nth, fate).await,
            Step::GrantsLeave(who) => self.grants_leave(who).await,
            Step::GrantsTakeEffect(who, how) => self.grants_take_effect(who, how).await,
            Step::GrantsAnswered(who, fate) => {
                self.grants_answered(who, fate);
                Ok(())
            }
            Step::Bounce(nth, for_all) => self.bounce(nth, for_all).await,
            Step::Decide(nth, choice, knows) => self.decide(nth, choice, knows).await,
            Step::LeaveBehind(hours) => self.leave_behind(hours).await,
            Step::LookLeaves(who) => self.look_leaves(who).await,
            Step::LookTakesEffect(nth, how) => self.look_takes_effect(nth, how).await,
            Step::LookAnswered(nth, fate) => self.look_answered(nth, fate).await,
            Step::TopUp(who, credits, hours) => self.top_up(who, credits, hours),
            Step::Expire(who) => {
                self.dodo.books().expire_credits(NAMES[who]).unwrap();
                Ok(())
            }
            Step::Webhook(nth) => self.webhook(nth).await,
            Step::Wait(seconds) => self.wait(seconds).await,
            Step::Crash => self.crash().await,
        }
    }

    /// Ten octets that no other id has, the same in every run of a history.
    pub(super) fn entropy(&mut self) -> [u8; 16] {
        self.serial += 1;
        u128::from(self.serial).rotate_right(64).to_be_bytes()
    }

    async fn wind_blows(&mut self, nth: u8) -> Result<(), Broken> {
        let Some(nth) = pick(nth, self.wind.len()) else { return Ok(()) };
        match self.wind.remove(nth) {
            Gone::Entry(entry) => {
                self.post(&entry, Manner::Well).await?;
            }
            Gone::Mail(parts) => {
                let (_, taken) = self.upstreams.take(&parts, Upstream::Takes, self.clock.now()).await;
                self.be_late(&parts, taken);
            }
        }
        Ok(())
    }

    fn top_up(&mut self, who: Who, credits: u8, hours: Option<u8>) -> Result<(), Broken> {
        let expires_at = hours.map(|hours| self.clock.now() + Duration::from_secs(3600 * u64::from(hours)));
        self.dodo.books().grant(NAMES[who], credits.into(), expires_at).unwrap();
        self.webhooks.push((format!("evt-{}", self.webhooks.len()), who, credits));
        Ok(())
    }

    /// A webhook is news that something happened, and no more.
    async fn webhook(&mut self, nth: u8) -> Result<(), Broken> {
        let Some(nth) = pick(nth, self.webhooks.len()) else { return Ok(()) };
        let (webhook_id, who, credits) = self.webhooks[nth].clone();
        let store = &self.process.store;
        if store.is_webhook_handled("dodo", &webhook_id).await? {
            return Ok(());
        }
        let event_type = "payment.succeeded".to_owned();
        let webhook = Webhook { source: "dodo", webhook_id, event_type, customer_id: Some(id(NAMES[who])) };
        store.webhook_handled(&webhook, self.clock.now()).await?;
        if self.is(Mutation::CountsWebhooks) {
            return self.add_to_balance(who, credits.into()).await;
        }
        self.read_leaves(who).await
    }

    /// Time passes. Calls that are still under way are given up; what was given up
    /// has taken effect by then, or never will.
    async fn wait(&mut self, seconds: u32) -> Result<(), Broken> {
        if seconds > LONGEST_CALL_S {
            for who in 0..NAMES.len() {
                self.entry_answered(who, Fate::Lost).await?;
            }
            self.process.reads.clear();
            self.process.looks.clear();
            (0..NAMES.len()).for_each(|who| self.grants_answered(who, Fate::Lost));
            self.give_up_sending().await?;
            while self.serial.is_multiple_of(2) && !self.wind.is_empty() {
                self.wind_blows(0).await?;
            }
            self.wind.clear();
        }
        let captured = self.captured().await;
        self.truth.captured.push((self.clock.now(), captured));
        self.clock.advance(Duration::from_secs(seconds.into()));
        Ok(())
    }

    /// The process dies without a word. What had left may arrive; what was answered
    /// has no one to hear it; and the next process knows what is on disk.
    pub(super) async fn crash(&mut self) -> Result<(), Broken> {
        // PostgreSQL has undone what was not committed, and is opened again.
        if !stand_in::is_postgres() {
            self.disk = directory_with(&files_of(&self.disk), &self.disk);
        }
        let process = Process::start(&self.disk.0).await;
        let dead = std::mem::replace(&mut self.process, process);
        self.truth.checked = None;
        for posting in dead.posting.into_iter().flatten() {
            if posting.call.is_some_and(|call| call.is_none()) {
                self.wind.push(Gone::Entry(posting.entry));
            }
        }
        for sending in dead.sending {
            self.give_up(sending);
        }
        self.process.store.lapse_all(self.clock.now()).await?;
        if !self.is(Mutation::TrustsOpenEntries) {
            self.process.store.take_over_entries(&[], self.clock.now()).await?;
        }
        Ok(())
    }
}

impl Process {
    async fn start(data_dir: &Path) -> Self {
        let store = Store::open(&settings(data_dir, Maker::Serve), Metrics::new()).await.unwrap();
        Self {
            store,
            posting: [const { None }; 3],
            refunding: [const { None }; 3],
            refused: BTreeSet::new(),
            reads: Vec::new(),
            looks: Vec::new(),
            sending: Vec::new(),
        }
    }
}

/// The `nth` of so many, if there is any.
pub(super) fn pick(nth: u8, len: usize) -> Option<usize> {
    usize::from(nth).checked_rem(len)
}

/// A database as it is on disk: its files, by name. PostgreSQL's are its own.
type Files = Vec<(String, Vec<u8>)>;

/// What a process finds after a crash, and nothing else.
fn files_of(directory: &Directory) -> Files {
    let names = [DATABASE_FILE.to_owned(), format!("{DATABASE_FILE}-wal")];
    names
        .into_iter()
        .filter_map(|name| Some((name.clone(), std::fs::read(directory.0.join(name)).ok()?)))
        .collect()
}

/// A directory of its own with these files, or with a copy of that one's database, where a
/// sync costs nothing if there is such a place: that one is made, and waited for, is for
/// other tests.
fn directory_with(files: &Files, of: &Directory) -> Directory {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let directory = Directory(place.join(format!("postmeter-{}", u64::from_le_bytes(random::octets()))));
    std::fs::create_dir(&directory.0).unwrap();
    stand_in::copy(&of.0, &directory.0);
    for (name, bytes) in files {
        std::fs::write(directory.0.join(name), bytes).unwrap();
    }
    directory
}

/// The database in which every history begins: three customers, their balances known.
fn beginning() -> &'static (Files, Directory) {
    static BEGINNING: OnceLock<(Files, Directory)> = OnceLock::new();
    async fn make() -> (Files, Directory) {
        let (store, directory) = crate::submission::stand_in::store().await;
        for name in NAMES {
            crate::store::tests::customer(&store, name, Some(12)).await;
        }
        // No more than a name, but for PostgreSQL: nothing has to be cleared up.
        let kept = Directory::new();
        stand_in::copy(&directory.0, &kept.0);
        (files_of(&directory), kept)
    }
    // On a thread of its own, since whoever asks first is in a runtime already.
    BEGINNING.get_or_init(|| std::thread::spawn(|| super::runtime().block_on(make())).join().unwrap())
}
