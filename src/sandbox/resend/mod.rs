//! A stand-in for Resend: an HTTP server on loopback that takes emails as the
//! API is documented or was seen to take them, and keeps each one that "left".
//!
//! Where there is a journal the mails stay in it and only their place is kept in
//! memory. What it must not know: where a mail came from before it was posted.

mod domains;
mod ear;
mod email;
mod events;
mod refusal;
mod routes;
#[cfg(test)]
mod tests;

pub use domains::{Domain, DomainRecord, DomainRecords};
pub use email::{Addresses, Attachment, Content, Email, Tag};
pub use events::News;
pub use refusal::Refusal;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use self::ear::Ear;
use super::faults::Faults;
use super::journal::{Journal, Place};
use super::rate::Window;
use super::webhook::Courier;
use super::{RESEND_WEBHOOK_SECRET, Tasks};
use crate::clock::Clock;
use crate::http::signature::{HeaderNames, SigningKey};

/// How long an idempotency key is remembered, in milliseconds.
const KEY_LIFETIME_MS: i64 = 24 * 3_600_000;

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

/// What a list shows of a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) id: String,
    pub(super) at_ms: i64,
    pub(super) from: String,
    pub(super) to: Vec<String>,
    pub(super) subject: String,
    pub(super) stuck: bool,
}

/// One call that was accepted: a line of the journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Accepted {
    at_ms: i64,
    endpoint: Endpoint,
    key: Option<String>,
    /// SHA-256 of the body, in Base64.
    digest: String,
    ids: Vec<String>,
    emails: Vec<Email>,
}

/// A line of the journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    Accepted(Accepted),
    Forgot,
    /// A domain was added, or is another than it was.
    Domain(Domain),
    /// The one with that id is gone.
    DomainRemoved(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Endpoint {
    Emails,
    Batch,
}

type Key = (Endpoint, String);

#[derive(Debug, Clone)]
struct Used {
    at_ms: i64,
    digest: String,
    ids: Vec<String>,
}

/// Where a mail is kept.
#[derive(Debug, Clone)]
enum Body {
    Memory(Arc<Email>),
    /// The n-th of the call at that place of the journal.
    Journal(Place, usize),
}

#[derive(Debug)]
struct Slot {
    summary: Summary,
    key: Option<String>,
    body: Body,
}

/// Recipients counted against a quota in a UTC day or month.
#[derive(Debug)]
struct Quota {
    /// What a period is called, for `strftime`: the same name, the same period.
    period_format: &'static str,
    period: String,
    used: u64,
}

#[derive(Debug)]
struct Outbox {
    domains: Vec<Domain>,
    slots: Vec<Slot>,
    slot_of: HashMap<String, usize>,
    keys: HashMap<Key, Used>,
    keys_by_age: VecDeque<(i64, Key)>,
    sent_by_key: HashMap<String, u64>,
    sent_by_tag: HashMap<(String, String), u64>,
    day: Quota,
    month: Quota,
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
}

#[derive(Debug)]
struct Kept {
    outbox: Outbox,
    journal: Journal,
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
        (0..kept.outbox.slots.len()).map(|index| kept.mail(index)).collect()
    }

    /// The mail with that id.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn mail(&self, id: &str) -> Result<Option<Mail>> {
        let kept = lock(&self.0.kept);
        kept.outbox.slot_of.get(id).map(|index| kept.mail(*index)).transpose()
    }

    /// How many mails were accepted so far.
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

    /// A page of the inbox, newest first, and whether there are older ones.
    pub(super) fn newest(&self, skip: usize, take: usize) -> (Vec<Summary>, bool) {
        let kept = lock(&self.0.kept);
        let page =
            kept.outbox.slots.iter().rev().skip(skip).take(take).map(|slot| slot.summary.clone()).collect();
        (page, skip.saturating_add(take) < kept.outbox.slots.len())
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

impl Kept {
    fn commit(&mut self, event: Event) -> Result<()> {
        let place = self.journal.append(&event)?;
        self.outbox.apply(event, place);
        Ok(())
    }

    fn mail(&self, index: usize) -> Result<Mail> {
        let missing = || Error::from(ErrorKind::NotFound);
        let slot = self.outbox.slots.get(index).ok_or_else(missing)?;
        let email = match &slot.body {
            Body::Memory(email) => Email::clone(email),
            Body::Journal(place, nth) => match self.journal.read(*place)? {
                Event::Accepted(accepted) => accepted.emails.into_iter().nth(*nth).ok_or_else(missing)?,
                _ => return Err(missing()),
            },
        };
        Ok(Mail {
            id: slot.summary.id.clone(),
            at: Timestamp::from_millisecond(slot.summary.at_ms).unwrap_or(Timestamp::UNIX_EPOCH),
            idempotency_key: slot.key.clone(),
            email,
        })
    }
}

impl Outbox {
    fn empty() -> Self {
        let quota = |period_format| Quota { period_format, period: String::new(), used: 0 };
        Self {
            domains: Vec::new(),
            slots: Vec::new(),
            slot_of: HashMap::new(),
            keys: HashMap::new(),
            keys_by_age: VecDeque::new(),
            sent_by_key: HashMap::new(),
            sent_by_tag: HashMap::new(),
            day: quota("%Y-%m-%d"),
            month: quota("%Y-%m"),
        }
    }

    fn apply(&mut self, event: Event, place: Option<Place>) {
        let accepted = match event {
            Event::Accepted(accepted) => accepted,
            Event::Forgot => {
                self.keys.clear();
                self.keys_by_age.clear();
                return;
            }
            Event::Domain(domain) => {
                match self.domains.iter_mut().find(|known| known.id == domain.id) {
                    Some(known) => *known = domain,
                    None => self.domains.push(domain),
                }
                return;
            }
            Event::DomainRemoved(id) => {
                self.domains.retain(|domain| domain.id != id);
                return;
            }
        };
        let Accepted { at_ms, endpoint, key, digest, ids, emails } = accepted;
        let at = Timestamp::from_millisecond(at_ms).unwrap_or(Timestamp::UNIX_EPOCH);
        for quota in [&mut self.day, &mut self.month] {
            quota.roll(at);
            quota.used = quota.used.saturating_add(recipients(&emails));
        }
        if let Some(key) = &key {
            *self.sent_by_key.entry(key.clone()).or_default() += 1;
            let key = (endpoint, key.clone());
            self.keys.insert(key.clone(), Used { at_ms, digest, ids: ids.clone() });
            self.keys_by_age.push_back((at_ms, key));
        }
        for (nth, (id, email)) in ids.into_iter().zip(emails).enumerate() {
            for tag in email.tags.iter().flatten() {
                *self.sent_by_tag.entry((tag.name.clone(), tag.value.clone())).or_default() += 1;
            }
            let summary = Summary {
                id: id.clone(),
                at_ms,
                from: email.from.clone().unwrap_or_default(),
                to: email.recipients().map(str::to_owned).collect(),
                subject: email.subject.clone().unwrap_or_default(),
                stuck: email.is_stuck(),
            };
            let body = match place {
                Some(place) => Body::Journal(place, nth),
                None => Body::Memory(Arc::new(email)),
            };
            self.slot_of.insert(id, self.slots.len());
            self.slots.push(Slot { summary, key: key.clone(), body });
        }
    }

    /// What a key was used for within the last day.
    fn used(&mut self, key: &Key, now_ms: i64) -> Option<&Used> {
        while let Some((at_ms, old)) = self.keys_by_age.front() {
            if now_ms - at_ms < KEY_LIFETIME_MS {
                break;
            }
            if self.keys.get(old).is_some_and(|used| used.at_ms == *at_ms) {
                self.keys.remove(old);
            }
            self.keys_by_age.pop_front();
        }
        self.keys.get(key)
    }
}

impl Quota {
    /// Begins a new period if `now` is not in the current one.
    fn roll(&mut self, now: Timestamp) {
        let period = now.strftime(self.period_format).to_string();
        if self.period != period {
            self.period = period;
            self.used = 0;
        }
    }

    /// Whether so many more would exceed the limit.
    fn lacks(&mut self, now: Timestamp, more: u64, limit: Option<u64>) -> bool {
        self.roll(now);
        limit.is_some_and(|limit| self.used.saturating_add(more) > limit)
    }
}

/// Every recipient counts.
fn recipients(emails: &[Email]) -> u64 {
    let count: usize = emails.iter().map(|email| email.recipients().count()).sum();
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
