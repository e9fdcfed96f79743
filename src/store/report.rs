//! What became of attempts: recipients, parts and money in one transaction.
//!
//! A batch of reports is read once, decided in Rust with the rules of
//! [`crate::domain::message`], and written with one statement per table. The
//! capture of a message happens in the same commit as the news that it was sent,
//! so that no crash can lie between them (P3).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::accept::{Acceptance, insert_own};
use super::account::credits;
use super::attempt::{self, AttemptRow};
use super::gate::closed_roads;
use super::ledger::{Ledger, PartKey, PartNow};
use super::relayed::{Relayed, words};
use super::sql::Session;
use super::{StoreError, millis, nobody, reputation};
use crate::domain::address::Mailbox;
use crate::domain::answer::Answer;
use crate::domain::batch::Ended;
use crate::domain::credits::Credits;
use crate::domain::ids::{MessageId, SpoolId};
use crate::domain::message::{PartState, PartStep, Road};
use crate::telemetry::Metrics;

/// What stands with a part that was given up, and left all the same.
/// No attempt has this number: they begin with 1.
const NO_ATTEMPT: u32 = 0;
const TOOK_IT: &str = "the upstream took it all the same";

/// What a worker has to say about one attempt.
#[derive(Debug, Clone)]
pub struct Report {
    /// The message.
    pub message_id: MessageId,
    /// Its part.
    pub part_no: u32,
    /// The attempt that speaks.
    pub attempt: u32,
    /// Now.
    pub at: Timestamp,
    /// What happened.
    pub news: News,
    /// The bounce for the recipients that newly failed, if one is due.
    pub bounce: Option<Box<Acceptance>>,
    /// The report that it was handed on, if anybody asked for one.
    pub relayed: Option<Relayed>,
}

impl Report {
    /// Whether there may be more in the queue when it is written than before.
    pub(super) fn leaves_parts(&self) -> bool {
        let is_mail = self.bounce.is_some() || self.relayed.is_some();
        match &self.news {
            News::Answered(answered) => is_mail || answered.rest != Rest::Nobody,
            News::Retry { .. } | News::Gated { .. } => true,
            News::Hold { .. } => is_mail,
        }
    }
}

/// What happened to a part.
#[derive(Debug, Clone)]
pub enum News {
    /// The upstream answered for every recipient that was asked for, or we gave them up.
    Answered(Answered),
    /// Nobody was served; the part is tried again.
    Retry {
        /// When.
        due: Timestamp,
        /// Why.
        error: String,
        /// Whether the outcome is unknown: the next try must be the same call.
        unknown: bool,
        /// Who may have it by this attempt, and no later answer can tell.
        maybe_taken: Vec<Mailbox>,
        /// Whether the attempt counts.
        counts: bool,
        /// How many parts its next call may carry, where this one was refused because of
        /// one of several ([`crate::domain::batch::half`]). Otherwise the outcome alone
        /// decides: an unknown one stays with its call, any other leaves it.
        batch_max: Option<u32>,
    },
    /// Nobody was served, since the road's gate is closed; no attempt is counted.
    Gated {
        /// The gate's next try: so long the part waits, unless the gate is open by now.
        until: Timestamp,
        /// Why.
        error: String,
        /// Whether an earlier outcome is unknown: the next try must be the same call.
        unknown: bool,
    },
    /// The outcome cannot be known any more; the operator decides.
    Hold {
        /// Why.
        reason: String,
    },
}

/// Answers, recipient by recipient; who is in neither list is left for the rest.
#[derive(Debug, Clone, Default)]
pub struct Answered {
    /// The upstream's id of what it accepted.
    pub upstream_id: Option<String>,
    /// The host of the mail server that answered, if one did.
    pub host: Option<String>,
    /// Accepted recipients.
    pub sent: Vec<Mailbox>,
    /// Those of them whose sender is not told by the upstream what becomes of it.
    pub relayed: Vec<Mailbox>,
    /// Recipients that failed for good.
    pub failed: Vec<(Mailbox, Answer)>,
    /// Those of them whose address nobody has: it is suppressed.
    pub no_mailbox: Vec<Mailbox>,
    /// What becomes of the others.
    pub rest: Rest,
}

/// What becomes of recipients that have no final answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Rest {
    /// Nobody is known to be left; if somebody is, it is tried at once.
    #[default]
    Nobody,
    /// They are tried again.
    Again {
        /// When.
        due: Timestamp,
        /// Why they were not taken.
        answer: Answer,
    },
    /// They may have it by an earlier attempt, and are not tried again; the operator decides.
    Held {
        /// Why.
        reason: String,
    },
}

/// Whether a report was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is in the database.
    Applied {
        /// Credits that were captured: unless it is none, a settlement is due.
        captured: Credits,
    },
    /// The attempt is not the current one any more, or the part is final: nothing changed.
    Late,
}

/// News that mail left which had been given up: it is told, since nothing can be mended.
#[derive(Debug)]
pub(super) struct TooLate {
    message_id: String,
    part_no: u32,
    customer_id: String,
    recipients: usize,
    upstream_id: Option<String>,
}

impl TooLate {
    /// Tells the operator, once the commit that keeps it has happened.
    pub(super) fn tell(&self, metrics: &Metrics) {
        let Self { message_id, part_no, customer_id, recipients, upstream_id } = self;
        metrics.late_sent();
        tracing::warn!(
            %message_id,
            part_no,
            %customer_id,
            recipients,
            upstream_id,
            "the upstream took mail that had been given up: its recipients have it, their log says failed, \
             and nobody is billed for them"
        );
    }
}

/// What has to be done about a batch of reports once it is committed.
#[derive(Debug, Default)]
pub(super) struct Aftermath {
    /// To be told.
    pub(super) too_late: Vec<TooLate>,
    /// Spools of messages that are final: to be removed.
    pub(super) left: Vec<SpoolId>,
}

/// What a report changed.
#[derive(Debug, Clone, Copy, Default)]
struct Change {
    newly_sent: u32,
    newly_failed: u32,
    captured: i64,
}

/// Applies a batch of reports of that process's.
pub(super) async fn report_batch(
    tx: &mut Session<'_>,
    batch: &[&Report],
    node: &str,
) -> Result<(Vec<Recorded>, Aftermath), StoreError> {
    let message_ids: BTreeSet<&str> = batch.iter().map(|report| report.message_id.as_str()).collect();
    let message_ids: Vec<&str> = message_ids.into_iter().collect();
    let mut ledger = Ledger::read(tx, &message_ids).await?;
    if batch.iter().any(|report| matches!(report.news, News::Gated { .. })) {
        ledger.closed_roads = closed_roads(tx).await?;
    }
    let mut answers = Vec::with_capacity(batch.len());
    let (mut attempts, mut sent) = (Vec::new(), BTreeMap::new());
    let mut at = i64::MIN;
    for report in batch {
        at = at.max(millis(report.at));
        let Some(change) = ledger.hear(report, node) else {
            answers.push(Recorded::Late);
            continue;
        };
        attempts.extend(AttemptRow::of(report).filter(|row| !row.is_ordinary() || !ledger.is_whole(report)));
        if let Some(customer_id) = ledger.customer_of(report).filter(|_| change.newly_sent > 0) {
            let day = reputation::day_of(millis(report.at));
            *sent.entry((customer_id.to_owned(), day)).or_default() += i64::from(change.newly_sent);
        }
        // News that came late brings no failures, and must not bounce them either.
        if let (true, Some(bounce)) = (change.newly_failed > 0, &report.bounce) {
            insert_own(tx, bounce, Some(&report.message_id)).await?;
        }
        if let (true, News::Answered(answered)) = (change.newly_failed > 0, &report.news) {
            let nobody = ledger.nobody(report, answered);
            nobody::suppress(tx, report, &nobody).await?;
        }
        answers.push(Recorded::Applied { captured: credits(change.captured)? });
    }
    let too_late = std::mem::take(&mut ledger.too_late);
    let relayed = relayed(batch);
    // Mostly nobody asked for a report, and nobody needs to know who is final now.
    let finished = if relayed.is_empty() { BTreeSet::new() } else { ledger.finished() };
    let left = ledger.write(tx, at).await?;
    for (message_id, relayed) in relayed {
        relayed.insert(tx, message_id, &finished).await?;
    }
    attempt::write(tx, &attempts).await?;
    reputation::count_sent(tx, &sent).await?;
    Ok((answers, Aftermath { too_late, left }))
}

/// Reports that mail was handed on, one for each message of the batch.
fn relayed<'r>(batch: &[&'r Report]) -> BTreeMap<&'r MessageId, &'r Relayed> {
    batch.iter().filter_map(|report| Some((&report.message_id, report.relayed.as_ref()?))).collect()
}

impl Ledger {
    /// Messages and recipients that become final.
    fn finished(&self) -> BTreeSet<(String, String)> {
        self.recipient_writes.iter().map(|write| (write.0.clone(), write.1.clone())).collect()
    }

    /// Who newly failed since nobody has the address, and what was said of it.
    fn nobody<'a>(&self, report: &Report, answered: &'a Answered) -> Vec<(&'a Mailbox, &'a str)> {
        let has_failed = |mailbox: &Mailbox| {
            let address = mailbox.to_string();
            let mut writes = self.recipient_writes.iter();
            writes.any(|(id, to, state, ..)| {
                id == report.message_id.as_str() && *to == address && *state == "failed"
            })
        };
        let failed = answered.failed.iter().filter(|(of, _)| answered.no_mailbox.contains(of));
        failed.filter(|(of, _)| has_failed(of)).map(|(of, answer)| (of, answer.text.as_str())).collect()
    }

    /// Whether the part of a report is its whole message.
    fn is_whole(&self, report: &Report) -> bool {
        let id = report.message_id.as_str();
        self.parts.range((id.to_owned(), 0)..).take(2).filter(|(key, _)| key.0 == id).count() == 1
    }

    /// Whose message a report is about, unless it is our own.
    fn customer_of(&self, report: &Report) -> Option<&str> {
        let message = self.messages.get(report.message_id.as_str())?;
        (message.price > 0).then_some(message.customer_id.as_str())
    }

    /// Hears one report: of an attempt whose part another process has by now, only that the
    /// mail was sent, whatever number the other's attempt has.
    fn hear(&mut self, report: &Report, node: &str) -> Option<Change> {
        let key = (report.message_id.as_str().to_owned(), report.part_no);
        let holder = self.parts.get(&key).and_then(|part| part.node.as_deref());
        if holder.is_none_or(|holder| holder == node) {
            return self.apply(report);
        }
        self.apply(&Report { attempt: NO_ATTEMPT, ..report.clone() })
    }

    /// Applies one report to what was read; `None`: it came too late.
    fn apply(&mut self, report: &Report) -> Option<Change> {
        let key = (report.message_id.as_str().to_owned(), report.part_no);
        if let News::Hold { .. } | News::Retry { unknown: false, .. } = &report.news
            && let Some(sent) = self.told_of(&key)
        {
            return self.answered(&key, report, &Answered { sent, ..Answered::default() });
        }
        match &report.news {
            News::Retry { due, error, unknown, maybe_taken, counts, batch_max } => {
                let part = self.put_back(&key, report.attempt, (*due, *counts))?;
                part.settle(*unknown, error);
                part.end_call(match batch_max {
                    _ if *unknown => Ended::Unknown,
                    Some(max) => Ended::Refused(*max),
                    None => Ended::PutOff,
                });
                self.doubt(&key, maybe_taken.iter().map(ToString::to_string));
                Some(Change::default())
            }
            News::Gated { until, error, unknown } => {
                // A gate that opened meanwhile has nobody fall due any more: it found this part under way.
                let is_closed = self.closed_roads.contains(&self.parts.get(&key)?.road);
                let due = if is_closed { *until } else { report.at };
                let part = self.put_back(&key, report.attempt, (due, false))?;
                part.settle(*unknown, error);
                part.end_call(if *unknown { Ended::Unknown } else { Ended::PutOff });
                Some(Change::default())
            }
            News::Hold { reason } => {
                let part = self.parts.get_mut(&key)?;
                part.state = part.state.after(PartStep::Hold { attempt: report.attempt })?;
                part.unknown = true;
                part.end_call(Ended::Held);
                part.last_error = Some(reason.clone());
                Some(Change::default())
            }
            News::Answered(answered) => self.answered(&key, report, answered),
        }
    }

    /// The recipients of a part of which the upstream has told that it took it, though its call
    /// was never answered: whatever is concluded about the call, they have it.
    fn told_of(&self, key: &PartKey) -> Option<Vec<Mailbox>> {
        let part = self.parts.get(key)?;
        if part.road != Road::Resend || part.upstream_id.is_none() || part.state.is_final() {
            return None;
        }
        let own = self.recipients.range((key.0.clone(), String::new())..);
        let own = own.take_while(|((id, _), _)| *id == key.0).filter(|(_, part_no)| **part_no == key.1);
        Some(own.filter_map(|((_, address), _)| Mailbox::parse(address).ok()).collect())
    }

    /// Puts a part back into the queue after an attempt, which counts or does not.
    fn put_back(
        &mut self,
        key: &PartKey,
        attempt: u32,
        (due, counts): (Timestamp, bool),
    ) -> Option<&mut PartNow> {
        let part = self.parts.get_mut(key)?;
        let state = part.state.after(PartStep::Retry { attempt, due });
        let Some(PartState::Queued { due, attempt }) = state else { return None };
        let attempt = if counts { attempt } else { attempt.saturating_sub(1) };
        part.state = PartState::Queued { due, attempt };
        Some(part)
    }

    fn answered(&mut self, key: &PartKey, report: &Report, answered: &Answered) -> Option<Change> {
        self.note_too_late(key, answered);
        let part = self.parts.get_mut(key)?;
        if part.state == PartState::Sent && part.upstream_id.is_none() {
            // It was proven by the news of another member of its call.
            part.upstream_id = answered.upstream_id.clone();
        }
        let is_current =
            matches!(part.state, PartState::Sending { attempt, .. } if attempt == report.attempt);
        // What was sent was sent, whichever attempt says so; a refusal needs to be the current word.
        if part.state.is_final() || (answered.sent.is_empty() && !is_current) {
            return None;
        }
        let mut newly_sent = 0;
        let mut newly_failed = 0;
        for mailbox in &answered.sent {
            let is_told = report.relayed.is_some() && answered.relayed.contains(mailbox);
            let words = is_told.then(|| words(answered.host.as_deref(), answered.upstream_id.as_deref()));
            newly_sent += u32::from(self.finish(key, mailbox, "sent", (None, words)));
        }
        for (mailbox, answer) in answered.failed.iter().filter(|_| is_current) {
            let said = (Some(answer.status.clone()), Some(answer.text.clone()));
            newly_failed += u32::from(self.finish(key, mailbox, "failed", said));
        }
        let captured = self.charge(&key.0, i64::from(newly_sent), i64::from(newly_failed));
        let part = self.parts.get_mut(key)?;
        part.waiting = part.waiting.saturating_sub(newly_sent + newly_failed);
        part.any_sent |= newly_sent > 0;
        part.advance(report, answered);
        Some(Change { newly_sent, newly_failed, captured })
    }

    /// Notes recipients who have it though they were given up: with the part, so that
    /// the same news again is none.
    fn note_too_late(&mut self, key: &PartKey, answered: &Answered) {
        let is_given_up =
            |mailbox: &&Mailbox| self.failed.get(&(key.0.clone(), mailbox.to_string())) == Some(&key.1);
        let recipients = answered.sent.iter().filter(is_given_up).count();
        let (Some(part), Some(message)) = (self.parts.get_mut(key), self.messages.get(&key.0)) else {
            return;
        };
        let is_known = part.state == PartState::Failed
            && part.upstream_id.is_some()
            && part.upstream_id == answered.upstream_id;
        if recipients == 0 || is_known {
            return;
        }
        if part.upstream_id.is_none() {
            part.upstream_id = answered.upstream_id.clone();
        }
        part.last_error = Some(match part.last_error.take() {
            Some(error) if error.ends_with(TOOK_IT) => error,
            Some(error) => format!("{error}; {TOOK_IT}"),
            None => TOOK_IT.to_owned(),
        });
        self.too_late.push(TooLate {
            message_id: key.0.clone(),
            part_no: key.1,
            customer_id: message.customer_id.clone(),
            recipients,
            upstream_id: answered.upstream_id.clone(),
        });
    }

    /// Marks recipients of the part who may have it, and of whom no later answer can tell.
    pub(super) fn doubt(&mut self, (id, part_no): &PartKey, addresses: impl Iterator<Item = String>) {
        let recipients = addresses.map(|address| (id.clone(), address));
        let queued = recipients.filter(|recipient| self.recipients.get(recipient) == Some(part_no));
        let queued: Vec<_> = queued.collect();
        self.doubted.extend(queued.iter().cloned());
        self.maybe_taken.extend(queued);
    }

    /// Makes a queued recipient of the part final.
    fn finish(
        &mut self,
        key: &PartKey,
        mailbox: &Mailbox,
        state: &'static str,
        (status, reply): (Option<String>, Option<String>),
    ) -> bool {
        let recipient = (key.0.clone(), mailbox.to_string());
        if self.recipients.get(&recipient) != Some(&key.1) {
            return false;
        }
        self.forget(&recipient);
        if state == "failed" {
            self.failed.insert(recipient.clone(), key.1);
        }
        let (id, address) = recipient;
        self.recipient_writes.push((id, address, state, status, reply));
        true
    }

    /// Turns holds into captures or releases. Unit = message: one capture at the
    /// first recipient that was sent, a release only when nobody got it. Unit =
    /// recipient: each by itself. Returns what was captured.
    pub(super) fn charge(&mut self, message_id: &str, newly_sent: i64, newly_failed: i64) -> i64 {
        let Some(message) = self.messages.get_mut(message_id) else { return 0 };
        message.queued -= newly_sent + newly_failed;
        message.any_sent |= newly_sent > 0;
        message.touched = true;
        let still_held = message.price - message.captured - message.released;
        let (capture, release) = if message.per_recipient {
            (newly_sent.min(still_held), newly_failed.min(still_held - newly_sent.min(still_held)))
        } else if newly_sent > 0 {
            (still_held, 0)
        } else if message.queued == 0 && !message.any_sent {
            (0, still_held)
        } else {
            (0, 0)
        };
        message.captured += capture;
        message.released += release;
        if capture > 0 {
            self.captures.push((message.customer_id.clone(), message_id.to_owned(), capture));
        }
        if release > 0 {
            *self.releases.entry(message.customer_id.clone()).or_default() += release;
        }
        capture
    }
}

impl PartNow {
    /// After a definite answer the next try is a new call under a new key; after
    /// an unknown one it is the same call under the same key.
    pub(super) fn settle_outcome(&mut self, unknown: bool) {
        self.unknown = unknown;
        if !unknown {
            self.key_no += 1;
            self.first_try_at = None;
        }
    }

    /// The same, after nobody was served.
    fn settle(&mut self, unknown: bool, error: &str) {
        self.settle_outcome(unknown);
        self.last_error = Some(error.to_owned());
    }

    /// Moves the part on: final when its last recipient is, else back into the queue.
    fn advance(&mut self, report: &Report, answered: &Answered) {
        if let Some(id) = &answered.upstream_id {
            self.upstream_id = Some(id.clone());
        }
        let said = |answer: &Answer| format!("{} {}", answer.status, answer.text);
        let error = match &answered.rest {
            Rest::Again { answer, .. } => Some(said(answer)),
            Rest::Held { reason } => Some(reason.clone()),
            Rest::Nobody => answered.failed.last().map(|(_, answer)| said(answer)),
        };
        self.last_error = error.or(self.last_error.take());
        let attempt = report.attempt;
        let step = match (self.waiting, self.any_sent, &answered.rest) {
            (0, true, _) => PartStep::Sent,
            (0, false, _) => PartStep::Failed { attempt },
            (_, _, Rest::Held { .. }) => PartStep::Hold { attempt },
            (_, _, Rest::Again { due, .. }) => PartStep::Retry { attempt, due: *due },
            (_, _, Rest::Nobody) => PartStep::Retry { attempt, due: report.at },
        };
        if let Some(state) = self.state.after(step) {
            let is_held = state == PartState::Held;
            self.state = state;
            self.settle_outcome(is_held);
            if !self.state.is_final() {
                self.end_call(if is_held { Ended::Held } else { Ended::PutOff });
            }
        }
    }
}
