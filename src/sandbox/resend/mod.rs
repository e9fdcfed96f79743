//! A stand-in for Resend: an HTTP server on loopback that takes emails as the
//! API is documented or was seen to take them, and keeps each one that "left".
//!
//! Where there is a journal the mails stay in it and only their place is kept in
//! memory. What it must not know: where a mail came from before it was posted.

mod domains;
mod ear;
mod email;
mod events;
mod outbox;
mod refusal;
mod routes;
#[cfg(test)]
mod tests;

pub use domains::{Domain, DomainRecord, DomainRecords};
pub use email::{Addresses, Attachment, Content, Email, Tag};
pub use events::News;
pub(super) use outbox::Summary;
pub use refusal::Refusal;

use std::collections::{BTreeMap, HashSet};
use std::io::{Error, Result};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use self::ear::Ear;
use self::outbox::{Accepted, Endpoint, Event, Kept, Key, Outbox};
use super::faults::Faults;
use super::journal::Journal;
use super::rate::Window;
use super::webhook::Courier;
use super::{RESEND_WEBHOOK_SECRET, Tasks};
use crate::clock::Clock;
use crate::http::signature::{HeaderNames, SigningKey};

/// What can be set while it runs; over HTTP with `PUT /_behaviour`, where absent fields get their defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Requests a second; 0: no limit.
    pub per_second: u32,
    /// Recipients a UTC day.
    pub daily_quota: Option<u64>,
    /// Recipients a UTC month.
    pub monthly_quota: Option<u64>,
    /// Domains that may stand in `from`; absent: any.
    pub verified_domains: Option<Vec<String>>,
    /// What a bad key is answered: 400 and 401 were seen.
    pub bad_key_status: u16,
    /// Whether a domain is verified soon after it was asked for; else only when it is told.
    pub domains_verify: bool,
    /// Which records a new domain is asked for.
    pub domain_records: DomainRecords,
    /// Names that are registered in somebody else's account.
    pub registered_elsewhere: Vec<String>,
    /// Domains that the plan allows; absent: any number.
    pub max_domains: Option<usize>,
    /// Whether each mail makes webhooks by itself, where there is an endpoint.
    pub events: bool,
    /// Whether each webhook is delivered twice, with the same id.
    pub duplicate_events: bool,
    /// Waits before the second, third … try of a webhook that was not taken, in milliseconds.
    pub event_retries_ms: Vec<u64>,
    /// Addresses whose mail bounces.
    pub bouncing: Vec<String>,
    /// How many of the next mails bounce, whomever they are for.
    pub bounce_next: u32,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            per_second: 10,
            daily_quota: None,
            monthly_quota: None,
            verified_domains: None,
            bad_key_status: 401,
            domains_verify: true,
            domain_records: DomainRecords::Either,
            registered_elsewhere: Vec::new(),
            max_domains: None,
            events: true,
            duplicate_events: false,
            event_retries_ms: vec![500, 1_000, 2_000, 5_000, 15_000, 60_000],
            bouncing: Vec::new(),
            bounce_next: 0,
        }
    }
}

/// A mail that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Resend's id.
    pub id: String,
    /// When it was accepted.
    pub at: Timestamp,
    /// The `Idempotency-Key` of the call that brought it.
    pub idempotency_key: Option<String>,
    /// What was asked for.
    pub email: Email,
}

/// The stand-in. Clones are the same one.
#[derive(Debug, Clone)]
pub struct ResendStandIn(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kept: Mutex<Kept>,
    in_progress: Mutex<HashSet<Key>>,
    behaviour: Mutex<Behaviour>,
    window: Mutex<Window>,
    faults: Faults,
    ear: Ear,
    courier: Courier,
    clock: Clock,
    tasks: Tasks,
    calls: AtomicU64,
    /// Counts the changes of what is kept.
    changes: watch::Sender<u64>,
}

/// Some mails of the inbox, newest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    /// Those of this page.
    pub(super) mails: Vec<Summary>,
    /// How many were looked for, on all pages.
    pub(super) found: usize,
    /// How many there are, looked for or not.
    pub(super) all: usize,
    /// How many of all nobody has opened.
    pub(super) unread: usize,
    /// What the inbox was when they were found: another number, another inbox.
    pub(super) revision: u64,
}

impl ResendStandIn {
    /// Opens the stand-in on its journal in `data_dir`, or with nothing but memory.
    ///
    /// # Errors
    /// The journal cannot be opened or is damaged.
    pub(super) fn open(data_dir: Option<&Path>, clock: Clock, tasks: Tasks) -> Result<Self> {
        let secret = SecretString::from(RESEND_WEBHOOK_SECRET);
        let signing_key = SigningKey::parse(&secret).map_err(Error::other)?;
        let mut outbox = Outbox::empty();
        let journal = match data_dir {
            Some(dir) => Journal::open(&dir.join("sandbox-resend.jsonl"), |event, place| {
                outbox.apply(event, Some(place));
            })?,
            None => Journal::default(),
        };
        outbox.nothing_is_new();
        Ok(Self(Arc::new(Inner {
            kept: Mutex::new(Kept { outbox, journal }),
            in_progress: Mutex::default(),
            behaviour: Mutex::default(),
            window: Mutex::new(Window::new(1_000)),
            faults: Faults::default(),
            ear: Ear::default(),
            courier: Courier::new(HeaderNames::Svix, signing_key)?,
            clock,
            tasks,
            calls: AtomicU64::new(0),
            changes: watch::Sender::new(0),
        })))
    }

    /// The whole HTTP side: Resend's API, `/_faults` and `/_behaviour`.
    pub(super) fn router(&self) -> Router {
        routes::router(self)
    }

    /// What it is to do wrong.
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// Its manners now.
    pub fn behaviour(&self) -> Behaviour {
        lock(&self.0.behaviour).clone()
    }

    /// Changes its manners.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut lock(&self.0.behaviour));
    }

    /// Forgets every idempotency key, as a day does.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn forget_keys(&self) -> Result<()> {
        lock(&self.0.kept).commit(Event::Forgot)
    }

    /// Every mail that was accepted, oldest first. Those that are stuck are among them
    /// ([`Email::is_stuck`]).
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn mails(&self) -> Result<Vec<Mail>> {
        let kept = lock(&self.0.kept);
        kept.outbox.slots.keys().map(|number| kept.mail(*number)).collect()
    }

    /// The mail with that id.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn mail(&self, id: &str) -> Result<Option<Mail>> {
        let kept = lock(&self.0.kept);
        kept.outbox.slot_of.get(id).map(|number| kept.mail(*number)).transpose()
    }

    /// How many mails are kept: all that were accepted, less what was deleted or is too old.
    pub fn count(&self) -> usize {
        lock(&self.0.kept).outbox.slots.len()
    }

    /// How often a call with that idempotency key really sent something: never more than once,
    /// unless the key was forgotten in between.
    pub fn sent_with_key(&self, idempotency_key: &str) -> u64 {
        lock(&self.0.kept).outbox.sent_by_key.get(idempotency_key).copied().unwrap_or(0)
    }

    /// How many mails were really accepted for each value of that tag.
    pub fn sent_by_tag(&self, name: &str) -> BTreeMap<String, u64> {
        let kept = lock(&self.0.kept);
        let counts = kept.outbox.sent_by_tag.iter().filter(|((tag, _), _)| tag == name);
        counts.map(|((_, value), count)| (value.clone(), *count)).collect()
    }

    /// How many API requests arrived so far, refused ones included.
    pub fn calls(&self) -> u64 {
        self.0.calls.load(Ordering::SeqCst)
    }

    /// Keeps at most so many mails of so many octets in all, from now on; the oldest leave.
    pub(super) fn keep_at_most(&self, mails: usize, octets: u64) {
        lock(&self.0.kept).outbox.keep_at_most(mails, octets);
    }

    /// Those mails that are `wanted`, newest first, without the first `skip` and at most `take` of them.
    pub(super) fn look_for(&self, wanted: impl Fn(&Summary) -> bool, (skip, take): (usize, usize)) -> Found {
        // Before the mails: a change that comes between is seen again, not missed.
        let revision = *self.0.changes.borrow();
        let kept = lock(&self.0.kept);
        let mut found = Found { revision, ..Found::default() };
        for slot in kept.outbox.slots.values().rev() {
            found.all += 1;
            found.unread += usize::from(!slot.summary.is_seen);
            if !wanted(&slot.summary) {
                continue;
            }
            if (skip..skip.saturating_add(take)).contains(&found.found) {
                found.mails.push(slot.summary.clone());
            }
            found.found += 1;
        }
        found
    }

    /// The mails right before and after that one: the newer, the older.
    pub(super) fn neighbours(&self, id: &str) -> (Option<String>, Option<String>) {
        let kept = lock(&self.0.kept);
        let Some(number) = kept.outbox.slot_of.get(id).copied() else { return (None, None) };
        let slots = &kept.outbox.slots;
        let newer = slots.range(number.saturating_add(1)..).next();
        let older = slots.range(..number).next_back();
        let id = |(_, slot): (&u64, &outbox::Slot)| slot.summary.id.clone();
        (newer.map(id), older.map(id))
    }

    /// Somebody has opened that mail.
    pub(super) fn see(&self, id: &str) {
        if lock(&self.0.kept).outbox.see(id) {
            self.changed();
        }
    }

    /// Forgets the mails that are `unwanted`; how many.
    ///
    /// # Errors
    /// The journal cannot be written; then none of them is forgotten.
    pub(super) fn remove(&self, unwanted: impl Fn(&Summary) -> bool) -> Result<usize> {
        let mut kept = lock(&self.0.kept);
        let summaries = kept.outbox.slots.values().map(|slot| &slot.summary);
        let ids: Vec<String> =
            summaries.filter(|summary| unwanted(summary)).map(|summary| summary.id.clone()).collect();
        let count = ids.len();
        if count > 0 {
            kept.commit(Event::Removed(ids))?;
            drop(kept);
            self.changed();
        }
        Ok(count)
    }

    /// Asks `look` now and after each change, until it answers or `wait` is over, or the server is to stop.
    pub(super) async fn wait_for<T>(&self, wait: Duration, look: impl Fn(&Self) -> Option<T>) -> Option<T> {
        let until = Instant::now() + wait;
        let mut changes = self.0.changes.subscribe();
        let leaving = self.0.tasks.leaving.clone();
        loop {
            changes.borrow_and_update();
            if let Some(answer) = look(self) {
                return Some(answer);
            }
            let changed = leaving.run_until_cancelled(timeout_at(until, changes.changed()));
            if !matches!(changed.await, Some(Ok(Ok(())))) {
                return None;
            }
        }
    }

    fn changed(&self) {
        self.0.changes.send_modify(|count| *count += 1);
    }

    /// Takes a call in: the ids of its mails, old ones if the key was used for the same body.
    fn accept(&self, call: Call, emails: Vec<Email>) -> std::result::Result<Vec<String>, Refusal> {
        let now = self.0.clock.now();
        let now_ms = now.as_millisecond();
        let behaviour = self.behaviour();
        let verified = self.sending_domains(&behaviour);
        let mut kept = lock(&self.0.kept);
        if let Some(key) = &call.key
            && let Some(used) = kept.outbox.used(&(call.endpoint, key.clone()), now_ms)
        {
            return if used.digest == call.digest {
                Ok(used.ids.clone())
            } else {
                Err(Refusal::other_body())
            };
        }
        emails.iter().try_for_each(|email| email.check(verified.as_deref()))?;
        let recipients = recipients(&emails);
        if kept.outbox.day.lacks(now, recipients, behaviour.daily_quota) {
            return Err(Refusal::daily_quota());
        }
        if kept.outbox.month.lacks(now, recipients, behaviour.monthly_quota) {
            return Err(Refusal::monthly_quota());
        }
        let ids: Vec<String> = emails.iter().map(|_| uuid::Uuid::now_v7().to_string()).collect();
        let Call { endpoint, key, digest } = call;
        let mail = |(id, email): (&String, &Email)| Mail {
            id: id.clone(),
            at: now,
            idempotency_key: key.clone(),
            email: email.clone(),
        };
        let made: Vec<Mail> = ids.iter().zip(&emails).map(mail).collect();
        let accepted = Accepted { at_ms: now_ms, endpoint, key, digest, ids: ids.clone(), emails };
        kept.commit(Event::Accepted(accepted)).map_err(|error| {
            tracing::error!(%error, "the sandbox cannot write its journal");
            Refusal::application_error("Internal server error")
        })?;
        drop(kept);
        self.changed();
        self.tell_of(&made);
        Ok(ids)
    }

    /// Quota used today and this month.
    fn used_quota(&self) -> (u64, u64) {
        let kept = lock(&self.0.kept);
        (kept.outbox.day.used, kept.outbox.month.used)
    }
}

/// What identifies a call.
#[derive(Debug, Clone)]
struct Call {
    endpoint: Endpoint,
    key: Option<String>,
    digest: String,
}

/// Every recipient counts.
fn recipients(emails: &[Email]) -> u64 {
    let count: usize = emails.iter().map(|email| email.recipients().count()).sum();
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
