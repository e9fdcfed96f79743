//! What the stand-in remembers: the mails that it accepted, the keys that they came
//! under, domains and quotas. Every change is a line of the journal before it is made.
//!
//! A list of mails is answered from [`Summary`]s alone, which are small and all in memory;
//! bodies stay in the journal where there is one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Domain, Email, Mail, recipients};
use crate::sandbox::journal::{Journal, Place};

/// How long an idempotency key is remembered, in milliseconds.
const KEY_LIFETIME_MS: i64 = 24 * 3_600_000;
/// Octets of a mail's text that can be searched for.
const SEARCHED_OCTETS: usize = 8 << 10;
/// Octets of a mail's HTML that its text is looked for in.
const HTML_OCTETS: usize = 64 << 10;
/// Characters of a mail's text in a list.
const EXCERPT_CHARS: usize = 120;
/// What a mail takes beside its bodies and files, in octets; about.
const MAIL_OCTETS: usize = 1_024;

/// What a list shows of a mail, and what it is found by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sandbox) struct Summary {
    pub(in crate::sandbox) id: String,
    pub(in crate::sandbox) at_ms: i64,
    pub(in crate::sandbox) from: String,
    /// The addresses of To, Cc and Bcc.
    pub(in crate::sandbox) to: Vec<String>,
    pub(in crate::sandbox) subject: String,
    /// How its text begins, in one line.
    pub(in crate::sandbox) excerpt: String,
    /// Its text in small letters, as much as is searched.
    pub(in crate::sandbox) words: Arc<str>,
    pub(in crate::sandbox) files: usize,
    pub(in crate::sandbox) octets: usize,
    pub(in crate::sandbox) stuck: bool,
    /// Whether somebody has opened it since the start.
    pub(in crate::sandbox) is_seen: bool,
}

/// One call that was accepted: a line of the journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Accepted {
    pub(super) at_ms: i64,
    pub(super) endpoint: Endpoint,
    pub(super) key: Option<String>,
    /// SHA-256 of the body, in Base64.
    pub(super) digest: String,
    pub(super) ids: Vec<String>,
    pub(super) emails: Vec<Email>,
}

/// A line of the journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Event {
    Accepted(Accepted),
    Forgot,
    /// A domain was added, or is another than it was.
    Domain(Domain),
    /// The one with that id is gone.
    DomainRemoved(String),
    /// The mails with these ids are gone.
    Removed(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Endpoint {
    Emails,
    Batch,
}

pub(super) type Key = (Endpoint, String);

#[derive(Debug, Clone)]
pub(super) struct Used {
    pub(super) at_ms: i64,
    pub(super) digest: String,
    pub(super) ids: Vec<String>,
}

/// Where a mail is kept.
#[derive(Debug, Clone)]
enum Body {
    Memory(Arc<Email>),
    /// The n-th of the call at that place of the journal.
    Journal(Place, usize),
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) summary: Summary,
    key: Option<String>,
    body: Body,
}

/// Recipients counted against a quota in a UTC day or month.
#[derive(Debug)]
pub(super) struct Quota {
    /// What a period is called, for `strftime`: the same name, the same period.
    period_format: &'static str,
    period: String,
    pub(super) used: u64,
}

#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) domains: Vec<Domain>,
    /// By the order in which they came.
    pub(super) slots: BTreeMap<u64, Slot>,
    pub(super) slot_of: HashMap<String, u64>,
    next: u64,
    /// Octets of all slots, about.
    octets: u64,
    /// The most mails, and octets of them; without it all are kept.
    bounds: Option<(usize, u64)>,
    keys: HashMap<Key, Used>,
    keys_by_age: VecDeque<(i64, Key)>,
    pub(super) sent_by_key: HashMap<String, u64>,
    pub(super) sent_by_tag: HashMap<(String, String), u64>,
    pub(super) day: Quota,
    pub(super) month: Quota,
}

/// The outbox and the journal that it can be made from.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) outbox: Outbox,
    pub(super) journal: Journal,
}

impl Kept {
    pub(super) fn commit(&mut self, event: Event) -> Result<()> {
        let place = self.journal.append(&event)?;
        self.outbox.apply(event, place);
        Ok(())
    }

    pub(super) fn mail(&self, number: u64) -> Result<Mail> {
        let missing = || Error::from(ErrorKind::NotFound);
        let slot = self.outbox.slots.get(&number).ok_or_else(missing)?;
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
    pub(super) fn empty() -> Self {
        let quota = |period_format| Quota { period_format, period: String::new(), used: 0 };
        Self {
            domains: Vec::new(),
            slots: BTreeMap::new(),
            slot_of: HashMap::new(),
            next: 0,
            octets: 0,
            bounds: None,
            keys: HashMap::new(),
            keys_by_age: VecDeque::new(),
            sent_by_key: HashMap::new(),
            sent_by_tag: HashMap::new(),
            day: quota("%Y-%m-%d"),
            month: quota("%Y-%m"),
        }
    }

    pub(super) fn apply(&mut self, event: Event, place: Option<Place>) {
        match event {
            Event::Accepted(accepted) => self.accept(accepted, place),
            Event::Forgot => {
                self.keys.clear();
                self.keys_by_age.clear();
            }
            Event::Domain(domain) => match self.domains.iter_mut().find(|known| known.id == domain.id) {
                Some(known) => *known = domain,
                None => self.domains.push(domain),
            },
            Event::DomainRemoved(id) => self.domains.retain(|domain| domain.id != id),
            Event::Removed(ids) => ids.iter().for_each(|id| self.remove(id)),
        }
    }

    fn accept(&mut self, accepted: Accepted, place: Option<Place>) {
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
            let summary = Summary::of(id, at_ms, &email);
            let body = match place {
                Some(place) => Body::Journal(place, nth),
                None => Body::Memory(Arc::new(email)),
            };
            self.octets = self.octets.saturating_add(octets_of(&summary));
            self.slot_of.insert(summary.id.clone(), self.next);
            self.slots.insert(self.next, Slot { summary, key: key.clone(), body });
            self.next = self.next.saturating_add(1);
        }
        self.prune();
    }

    fn remove(&mut self, id: &str) {
        let slot = self.slot_of.remove(id).and_then(|number| self.slots.remove(&number));
        if let Some(slot) = slot {
            self.octets = self.octets.saturating_sub(octets_of(&slot.summary));
        }
    }

    /// From now on at most so many mails, of so many octets in all.
    pub(super) fn keep_at_most(&mut self, mails: usize, octets: u64) {
        self.bounds = Some((mails, octets));
        self.prune();
    }

    /// The oldest leave; the newest stays, whatever its size.
    fn prune(&mut self) {
        let Some((mails, octets)) = self.bounds else { return };
        while self.slots.len() > 1 && (self.slots.len() > mails || self.octets > octets) {
            let Some((_, slot)) = self.slots.pop_first() else { return };
            self.slot_of.remove(&slot.summary.id);
            self.octets = self.octets.saturating_sub(octets_of(&slot.summary));
        }
    }

    /// What was there at the start is not news.
    pub(super) fn nothing_is_new(&mut self) {
        self.slots.values_mut().for_each(|slot| slot.summary.is_seen = true);
    }

    /// Somebody has opened that mail; whether they were the first.
    pub(super) fn see(&mut self, id: &str) -> bool {
        let slot = self.slot_of.get(id).and_then(|number| self.slots.get_mut(number));
        slot.is_some_and(|slot| !std::mem::replace(&mut slot.summary.is_seen, true))
    }

    /// What a key was used for within the last day.
    pub(super) fn used(&mut self, key: &Key, now_ms: i64) -> Option<&Used> {
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

impl Summary {
    fn of(id: String, at_ms: i64, email: &Email) -> Self {
        let text = readable(email);
        let files = email.attachments.as_deref().unwrap_or_default();
        let bodies = [&email.text, &email.html].into_iter().flatten().map(String::len).sum::<usize>();
        let encoded: usize = files.iter().map(super::Attachment::encoded_octets).sum();
        Self {
            id,
            at_ms,
            from: email.from.clone().unwrap_or_default(),
            to: email.recipients().map(str::to_owned).collect(),
            subject: email.subject.clone().unwrap_or_default(),
            excerpt: text.chars().take(EXCERPT_CHARS).collect(),
            words: text.to_lowercase().into(),
            files: files.len(),
            octets: bodies.saturating_add(encoded),
            stuck: email.is_stuck(),
            is_seen: false,
        }
    }
}

fn octets_of(summary: &Summary) -> u64 {
    u64::try_from(summary.octets.saturating_add(MAIL_OCTETS)).unwrap_or(u64::MAX)
}

/// The text of a mail in one line, or what its HTML says; as much of it as is searched.
fn readable(email: &Email) -> String {
    let text = email.text.as_deref().filter(|text| !text.trim().is_empty());
    let html = email.html.as_deref().unwrap_or_default();
    match text {
        Some(text) => one_line(front(text, SEARCHED_OCTETS)),
        None => front(&one_line(&without_tags(front(html, HTML_OCTETS))), SEARCHED_OCTETS).to_owned(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The first octets of a text, as far as they are whole characters.
fn front(text: &str, octets: usize) -> &str {
    let mut end = octets.min(text.len());
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default()
}

/// What HTML says, roughly: good enough to be searched, and never shown as HTML.
fn without_tags(html: &str) -> String {
    const UNSEEN: [(&str, &str); 4] =
        [("<style", "</style"), ("<script", "</script"), ("<title", "</title"), ("<!--", "-->")];
    let lower = html.to_ascii_lowercase();
    let mut text = String::with_capacity(html.len());
    let mut at = 0;
    while let Some(rest) = lower.get(at..) {
        let open = rest.find('<').unwrap_or(rest.len());
        text.push_str(html.get(at..at.saturating_add(open)).unwrap_or_default());
        let tag = rest.get(open..).unwrap_or_default();
        if tag.is_empty() {
            break;
        }
        let unseen = UNSEEN.iter().find(|(begin, _)| tag.starts_with(begin));
        let skipped = unseen.map_or(Some(0), |(_, end)| tag.find(end));
        let end = skipped.and_then(|from| Some(from.saturating_add(tag.get(from..)?.find('>')?)));
        let Some(end) = end else { break };
        text.push(' ');
        at = at.saturating_add(open).saturating_add(end).saturating_add(1);
    }
    let entities =
        [("&nbsp;", " "), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    entities.iter().fold(text, |text, (name, said)| text.replace(name, said))
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
    pub(super) fn lacks(&mut self, now: Timestamp, more: u64, limit: Option<u64>) -> bool {
        self.roll(now);
        limit.is_some_and(|limit| self.used.saturating_add(more) > limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn email(text: &str, html: &str) -> Email {
        Email { text: Some(text.to_owned()), html: Some(html.to_owned()), ..Email::default() }
    }

    fn accepted(id: &str, email: Email) -> Event {
        Event::Accepted(Accepted {
            at_ms: 0,
            endpoint: Endpoint::Emails,
            key: None,
            digest: String::new(),
            ids: vec![id.to_owned()],
            emails: vec![email],
        })
    }

    #[test]
    fn what_html_says_can_be_searched_and_what_it_hides_cannot() {
        let table = [
            ("<p>Your <b>code</b> is&nbsp;7</p>", "Your code is 7"),
            ("<style>p{color:red}</style><P>Hi</P><script>alert(1)</script>", "Hi"),
            ("a < b", "a"),
            ("<!-- hidden > -->seen &amp; &lt;safe&gt;", "seen & <safe>"),
            ("never <b closed", "never"),
            ("<style>never closed", ""),
            ("ünïcode<br>größe", "ünïcode größe"),
            ("", ""),
        ];
        for (html, want) in table {
            assert_eq!(readable(&email(" \n", html)), want, "{html}");
        }
        assert_eq!(readable(&email("plain\r\n text", "<p>other")), "plain text");
        let long = "ä".repeat(SEARCHED_OCTETS);
        assert_eq!(readable(&email(&long, "")).len(), SEARCHED_OCTETS);
    }

    #[test]
    fn the_inbox_is_bounded_by_number_and_by_octets_and_the_oldest_leave() {
        let mut outbox = Outbox::empty();
        for id in ["a", "b", "c"] {
            outbox.apply(accepted(id, email("x", "")), None);
        }
        assert_eq!(outbox.slots.len(), 3, "nothing leaves by itself");
        outbox.keep_at_most(2, u64::MAX);
        assert!(!outbox.slot_of.contains_key("a") && outbox.slot_of.contains_key("b"));
        outbox.apply(accepted("d", email("x", "")), None);
        assert_eq!(outbox.slots.values().map(|slot| slot.summary.id.as_str()).collect::<String>(), "cd");
        outbox.keep_at_most(9, 5_000);
        outbox.apply(accepted("large", email(&"x".repeat(4_000), "")), None);
        assert_eq!(outbox.slots.len(), 1, "two small ones had no room beside it");
        outbox.apply(accepted("huge", email(&"x".repeat(9_000), "")), None);
        assert_eq!(outbox.slots.values().map(|slot| slot.summary.id.as_str()).collect::<String>(), "huge");
        outbox.apply(Event::Removed(vec!["huge".to_owned(), "unknown".to_owned()]), None);
        assert_eq!((outbox.slots.len(), outbox.slot_of.len(), outbox.octets), (0, 0, 0));
    }
}
