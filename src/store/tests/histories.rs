//! Random histories of three customers against a model of Dodo. Every remote call
//! is three steps (it leaves, it takes effect, its answer arrives or is lost), and
//! any other step may fall between.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::refunds::{PLENTY, bounce, open_credit};
use super::*;
use crate::store::account::BalanceRead;
use crate::store::entry::{Entry, Settled};
use crate::store::refund::Lapse;
use crate::telemetry::EntryKind;

const NAMES: [&str; 3] = ["ann", "bob", "eve"];
const TO: &str = "a@y.example";

#[derive(Debug, Clone, Copy)]
enum Step {
    Accept(usize),
    /// The oldest message under way is sent, fails, is retried, or is held until late news.
    Sent(usize),
    Failed(usize),
    Retried(usize, bool),
    Lapsed,
    /// The message that was sent last bounces; where none was, one that is under way.
    Bounced(usize),
    /// An entry is opened, a credit before a debit, or posted again.
    EntryLeaves(usize),
    /// The call reaches Dodo.
    EntryTakesEffect(usize),
    /// Its answer arrives, or is lost.
    EntryAnswered(usize, bool),
    ReadLeaves(usize),
    ReadTakesEffect(usize),
    ReadAnswered(usize),
    TopUp(usize, i64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    // One customer sees most of it, so that steps of one road fall between those of another.
    let who = prop_oneof![8 => Just(0usize), 1 => Just(1), 1 => Just(2)];
    prop_oneof![
        6 => who.clone().prop_map(Step::Accept),
        5 => who.clone().prop_map(Step::Sent),
        1 => who.clone().prop_map(Step::Failed),
        1 => (who.clone(), any::<bool>()).prop_map(|(who, unknown)| Step::Retried(who, unknown)),
        1 => Just(Step::Lapsed),
        2 => who.clone().prop_map(Step::Bounced),
        4 => who.clone().prop_map(Step::EntryLeaves),
        4 => who.clone().prop_map(Step::EntryTakesEffect),
        4 => (who.clone(), prop::bool::weighted(0.3)).prop_map(|(who, lost)| Step::EntryAnswered(who, lost)),
        2 => who.clone().prop_map(Step::ReadLeaves),
        2 => who.clone().prop_map(Step::ReadTakesEffect),
        1 => who.clone().prop_map(Step::ReadAnswered),
        1 => (who, 1..9i64).prop_map(|(who, credits)| Step::TopUp(who, credits)),
        1 => Just(Step::Restart),
    ]
}

/// What Dodo answers to an entry.
#[derive(Debug, Clone, Copy)]
enum Said {
    Applied(i64),
    KeyUsed,
    Rejected,
}

/// A customer, as Dodo and the process see them.
#[derive(Debug, Default)]
struct Side {
    balance: i64,
    /// What each entry took; less than nothing: what it gave.
    keys: BTreeMap<EntryId, i64>,
    open: Option<Entry>,
    /// Calls for it that left: with what was answered, once they took effect.
    flight: Option<Option<Said>>,
    /// Given up by us, and perhaps still on their way.
    wind: Vec<Entry>,
    read: Option<(BalanceRead, Option<i64>)>,
    sending: Vec<(Acceptance, u32)>,
    sent: Vec<Acceptance>,
}

impl Side {
    fn post(&mut self, entry: &Entry, balance_first: bool) -> Said {
        let amount = match entry.kind {
            EntryKind::Debit => entry.amount.to_i64(),
            EntryKind::Credit => -entry.amount.to_i64(),
        };
        let is_known = self.keys.contains_key(&entry.entry_id);
        if amount > self.balance && (balance_first || !is_known) {
            return Said::Rejected;
        }
        if is_known {
            return Said::KeyUsed;
        }
        self.balance -= amount;
        self.keys.insert(entry.entry_id.clone(), amount);
        Said::Applied(self.balance)
    }
}

struct World {
    store: Store,
    sides: Vec<Side>,
    balance_first: bool,
    _directory: Directory,
}

impl World {
    async fn new(balance_first: bool) -> Self {
        let (store, directory) = store().await;
        let mut sides = Vec::new();
        for name in NAMES {
            customer(&store, name, Some(12)).await;
            sides.push(Side { balance: 12, ..Side::default() });
        }
        Self { store, sides, balance_first, _directory: directory }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Accept(who) => self.accept(who).await,
            Step::Sent(who) => self.report(who, answered(&[TO], &[])).await,
            Step::Failed(who) => self.report(who, answered(&[], &[TO])).await,
            Step::Retried(who, unknown) => self.report(who, retry(unknown)).await,
            Step::Lapsed => {
                self.store.lapse_all(at(90)).await.unwrap();
            }
            Step::Bounced(who) => self.bounced(who).await,
            Step::EntryLeaves(who) => self.entry_leaves(who).await,
            Step::EntryTakesEffect(who) => self.entry_takes_effect(who),
            Step::EntryAnswered(who, lost) => self.entry_answered(who, lost).await,
            // One at a time, so that some are answered late.
            Step::ReadLeaves(who) if self.sides[who].read.is_some() => {}
            Step::ReadLeaves(who) => {
                let leave = self.store.begin_balance_read(&id(NAMES[who])).await.unwrap();
                self.sides[who].read = leave.map(|leave| (leave, None));
            }
            Step::ReadTakesEffect(who) => {
                let side = &mut self.sides[who];
                if let Some((_, seen @ None)) = &mut side.read {
                    *seen = Some(side.balance);
                }
            }
            Step::ReadAnswered(who) => {
                if let Some((leave, Some(seen))) = self.sides[who].read.take_if(|read| read.1.is_some()) {
                    self.store.apply_balance(&leave, seen, at(2)).await.unwrap();
                }
            }
            Step::TopUp(who, credits) => self.sides[who].balance += credits,
            Step::Restart => self.restart().await,
        }
    }

    async fn accept(&mut self, who: usize) {
        let asked = message(&id(NAMES[who]), &[TO]);
        if let Accepted::Yes { .. } = self.store.accept(asked.clone()).await.unwrap() {
            self.sides[who].sending.push((asked, 1));
        }
    }

    /// News of the oldest message, and a lease for its next attempt if there is one.
    async fn report(&mut self, who: usize, news: News) {
        if self.sides[who].sending.is_empty() {
            return;
        }
        let (message, attempt) = self.sides[who].sending.remove(0);
        let is_retry = matches!(news, News::Retry { .. });
        let recorded = self.store.report(report(&message, attempt, news)).await.unwrap();
        if (is_retry || recorded == Recorded::Late)
            && let Some(part) = self.store.lease(&first_part(&message), at(99), at(130)).await.unwrap()
        {
            self.sides[who].sending.push((message, part.attempt));
        } else if recorded == applied(1) {
            self.sides[who].sent.push(message);
        }
    }

    async fn bounced(&mut self, who: usize) {
        let side = &mut self.sides[who];
        let under_way = side.sending.first().map(|(message, _)| message.clone());
        if let Some(message) = side.sent.pop().or(under_way) {
            bounce(&self.store, &message, &[TO], PLENTY).await;
        }
    }

    /// A credit, if one is due and the lane is free.
    async fn refund(&mut self, who: usize) {
        for (message_id, _) in self.store.refunds_to_decide().await.unwrap() {
            self.store.decide_refunds(&message_id, &PLENTY, at(9)).await.unwrap();
        }
        if self.is_refundable(who).await {
            self.sides[who].open = open_credit(&self.store, &id(NAMES[who]), Lapse::Never).await;
        }
    }

    async fn is_refundable(&self, who: usize) -> bool {
        self.store.refundable(9).await.unwrap().contains(&id(NAMES[who]))
    }

    async fn entry_leaves(&mut self, who: usize) {
        if self.sides[who].open.is_none() {
            self.refund(who).await;
        }
        let side = &mut self.sides[who];
        if side.open.is_none() {
            let account = account(&self.store, &id(NAMES[who])).await;
            let balance = account.balance.unwrap().max(0);
            let at_most = (balance < account.owed.to_i64()).then(|| Credits::from_i64(balance).unwrap());
            side.open = self.store.open_entry(&id(NAMES[who]), &entry_id(), at_most, at(1)).await.unwrap();
        }
        if side.open.is_some() && side.flight.is_none() {
            side.flight = Some(None);
        }
    }

    fn entry_takes_effect(&mut self, who: usize) {
        let (side, balance_first) = (&mut self.sides[who], self.balance_first);
        if let Some(late) = side.wind.pop() {
            side.post(&late, balance_first);
        } else if let (Some(entry), Some(None)) = (side.open.clone(), side.flight) {
            side.flight = Some(Some(side.post(&entry, balance_first)));
        }
    }

    /// What the settler makes of it.
    async fn entry_answered(&mut self, who: usize, lost: bool) {
        let side = &mut self.sides[who];
        let Some(flight) = side.flight.take() else { return };
        let Some(mut entry) = side.open.take() else { return };
        let is_certain = entry.unknown_tries == 0;
        match flight.filter(|_| !lost) {
            Some(Said::Applied(balance_after)) if is_certain && entry.tries == 1 => {
                self.store.settle_entry(&entry, Settled::Now { balance_after }, at(2)).await.unwrap();
            }
            Some(Said::Applied(_) | Said::KeyUsed) => {
                self.store.settle_entry(&entry, Settled::Sometime, at(2)).await.unwrap();
            }
            Some(Said::Rejected) if is_certain => {
                self.store.void_entry(&entry, "insufficient", at(2)).await.unwrap();
            }
            answer => {
                let is_unknown = answer.is_none();
                if flight.is_none() {
                    side.wind.push(entry.clone());
                }
                self.store.note_entry_try(&entry, is_unknown, "?", at(2)).await.unwrap();
                entry.tries += 1;
                entry.unknown_tries += u32::from(is_unknown);
                side.open = Some(entry);
            }
        }
    }

    /// The process dies, and what was in its memory with it.
    async fn restart(&mut self) {
        self.store.lapse_all(at(90)).await.unwrap();
        self.store.distrust_open_entries(at(2)).await.unwrap();
        let open = self.store.open_entries().await.unwrap();
        for (side, name) in self.sides.iter_mut().zip(NAMES) {
            side.read = None;
            if let (Some(None), Some(entry)) = (side.flight.take(), side.open.take()) {
                side.wind.push(entry);
            }
            side.open = open.iter().find(|entry| entry.customer_id == id(name)).cloned();
        }
    }

    /// Nobody can spend what is not there, and nothing was debited twice.
    async fn check(&self) {
        assert_audit(&self.store).await;
        for (side, name) in self.sides.iter().zip(NAMES) {
            let account = account(&self.store, &id(name)).await;
            let open = side.open.as_ref().and_then(|entry| side.keys.get(&entry.entry_id)).copied();
            // A debit that took effect is in both; a credit is owed to nobody.
            let spent = account.held.to_i64() + account.owed.to_i64() - open.unwrap_or(0).max(0);
            let really = side.balance - spent;
            assert!(account.available().unwrap() <= really, "P2: {name} {account:?} {side:?}");
            assert!(really >= 0, "P2: {name} {account:?} {side:?}");
        }
    }

    /// Dodo is well, everything comes to its end.
    async fn come_to_rest(&mut self) {
        self.balance_first = false;
        for (who, name) in NAMES.into_iter().enumerate() {
            self.settle_all(who, name).await;
        }
        self.check().await;
    }

    async fn settle_all(&mut self, who: usize, name: &str) {
        // A read that left long ago is answered, and says what was true then; the next says what is.
        self.take(Step::ReadTakesEffect(who)).await;
        self.take(Step::ReadAnswered(who)).await;
        while !self.sides[who].wind.is_empty() {
            self.entry_takes_effect(who);
        }
        let mut rounds = 0;
        while self.sides[who].open.is_some()
            || self.is_refundable(who).await
            || account(&self.store, &id(name)).await.owed.get() > 0
        {
            rounds += 1;
            assert!(rounds < 20, "nothing stays owed: {:?}", self.sides[who]);
            self.entry_leaves(who).await;
            self.entry_takes_effect(who);
            self.entry_answered(who, false).await;
            self.take(Step::ReadLeaves(who)).await;
            self.take(Step::ReadTakesEffect(who)).await;
            self.take(Step::ReadAnswered(who)).await;
        }
        self.take(Step::ReadLeaves(who)).await;
        self.take(Step::ReadTakesEffect(who)).await;
        self.take(Step::ReadAnswered(who)).await;
        let (side, customer_id) = (&self.sides[who], id(name));
        let account = account(&self.store, &customer_id).await;
        assert_eq!(account.balance, Some(side.balance), "nobody with credit is refused");
        let log = self.store.messages(Some(&customer_id), None, 1_000).await.unwrap();
        let captured: i64 = log.iter().map(|message| message.captured).sum();
        let refunds = log.iter().flat_map(|message| &message.refunds);
        let credited: i64 = refunds.filter(|refund| refund.state == "credited").map(|r| r.credits).sum();
        assert_eq!(side.keys.values().sum::<i64>(), captured - credited, "P3: {side:?}");
        let entries: BTreeSet<_> = side.keys.keys().collect();
        assert_eq!(entries.len(), side.keys.len());
    }
}

/// Takes the steps, looks after each, and lets everything come to rest.
fn live(steps: Vec<Step>, balance_first: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(balance_first).await;
        for step in steps {
            world.take(step).await;
            world.check().await;
        }
        world.come_to_rest().await;
    });
}

#[test]
fn p2_a_read_that_is_answered_after_an_entry_gives_nothing_back() {
    use Step::*;
    let entry = [EntryLeaves(0), EntryTakesEffect(0), EntryAnswered(0, false)];
    let steps =
        [[Accept(0), Sent(0), ReadLeaves(0), ReadTakesEffect(0)].as_slice(), &entry, &[ReadAnswered(0)]];
    live(steps.concat(), false);
}

#[test]
fn p2_p3_a_credit_whose_answer_was_lost_is_counted_once() {
    use Step::*;
    let entry = [EntryLeaves(0), EntryTakesEffect(0), EntryAnswered(0, false)];
    let lost = [EntryLeaves(0), EntryTakesEffect(0), EntryAnswered(0, true)];
    let read = [ReadLeaves(0), ReadTakesEffect(0), ReadAnswered(0)];
    let debited = [[Accept(0), Sent(0)].as_slice(), &entry, &[Bounced(0)]].concat();
    for between in [read.as_slice(), &[Restart], &[TopUp(0, 3)], &[]] {
        live([debited.as_slice(), &lost, between, &[Accept(0), Sent(0)], &entry].concat(), false);
    }
}

#[test]
fn p3_an_entry_whose_answer_was_lost_is_settled_once_though_it_emptied_the_account() {
    use Step::*;
    let spend = [Accept(0), Sent(0)].repeat(12);
    let lost = [EntryLeaves(0), EntryTakesEffect(0), EntryAnswered(0, true)];
    let again = [EntryLeaves(0), EntryTakesEffect(0), EntryAnswered(0, false), Restart];
    for balance_first in [false, true] {
        live([spend.as_slice(), &lost, &again, &again, &[TopUp(0, 3)]].concat(), balance_first);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn p2_p3_any_history_adds_up(steps in prop::collection::vec(step(), 1..80), balance_first: bool) {
        live(steps, balance_first);
    }
}
