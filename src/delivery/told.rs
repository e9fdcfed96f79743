//! What Resend tells about a part after it took it: news of the world, in any
//! order, perhaps twice, perhaps before its answer to the call was written down.
//!
//! Any news of a part proves that Resend took it. That resolves a part that waits,
//! is held for the operator, or has a call in doubt; while the first call is under
//! way its answer is as good and comes by itself. A part that was given up stays as
//! it is: that it left all the same is told, counted and kept with it.
//!
//! Of a call that carried several parts news of one proves no other, since nobody says that
//! Resend took them all: its id is kept with the part, which stays in its call, and the call
//! is made again soon, which under the same key is answered with the ids of all. Where it is
//! being made again already, that answer is under way. Should the call come to another end,
//! the part that was told of was sent all the same. Only a call that cannot be made
//! again, since Resend may have forgotten its key, is proven as a whole, as far as its parts
//! are not held yet: held parts have left their call, and each is proven by its own news.
//!
//! Mail that left by Resend's own SMTP service is known by a field of ours, if Resend tells
//! which fields a mail has. No id of Resend's binds it, and whoever else sends with the same
//! account could write such a field: so the news must name one of the part's recipients, or
//! nobody. The part may have left as several mails, each for some of its recipients, and
//! nobody says who was in the one that an event is of: only a part of one recipient is proven
//! by it, and only if that one may have got it from an attempt without an answer. The field
//! tells the mails apart, so that what became of an earlier copy is not taken for the fate of the
//! one that counts: late failures and complaints have consequences for those alone who are known
//! to have that mail, and are written down otherwise. While its answer is under way they are not
//! heard: whoever tells them tells them again.
//!
//! Then the news is written down with what follows from it. A bounce of which it is known
//! that nothing comes after it, a recipient whom Resend left out since the address is on its
//! own list, and a mail that it gave up after all are late failures: the sender gets a bounce,
//! and perhaps a credit back. Where it is not told whose a bounce is, it is written down on the
//! part, the sender is told once whom it may be, and nothing is given back. `email.failed`
//! closes no gate, not even for a quota: the event may be hours old when it comes, and the next
//! call is answered with the quota as it stands then, which closes the gate for as long as that
//! lasts.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::bounce::Postmaster;
use super::news;
use super::worker::tell_pause;
use crate::billing::Billing;
use crate::clock::Clock;
use crate::crash::CrashPoint;
use crate::domain::address::Mailbox;
use crate::domain::answer::{HandedOn, PerhapsFailed};
use crate::domain::credits::Credits;
use crate::domain::event::EventKind;
use crate::domain::ids::{CustomerId, MessageId, PartId};
use crate::domain::message::{PartState, RecipientState, Road};
use crate::domain::reputation::Thresholds;
use crate::mime::bounce::{About, Failure, Left};
use crate::store::accept::{Acceptance, Kind};
use crate::store::bounced::{KnownCall, KnownPart, KnownRecipient};
use crate::store::event::{Heard, Letters, Original, Rules, Told};
use crate::store::relayed::Relayed;
use crate::store::report::{self, Answered, Recorded, Report};
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;
use crate::upstream::resend::events::{Meaning, News, ResendEvent};

/// How soon a call is made again that one of its mails tells of: news of its other mails is
/// about to come, and all of it together asks once.
const SOON: Duration = Duration::from_secs(5);

/// What it takes to understand news.
#[derive(Debug, Clone)]
pub struct Ears(Arc<Tools>);

/// What the ears work with.
#[derive(Debug)]
pub struct Tools {
    /// The database.
    pub store: Store,
    /// Who gives credits back.
    pub billing: Billing,
    /// The counters.
    pub metrics: Metrics,
    /// The time.
    pub clock: Clock,
    /// Who tells senders and customers.
    pub postmaster: Postmaster,
    /// Where customers are paused: `[reputation]`.
    pub thresholds: Thresholds,
    /// Whether what leaves by SMTP leaves by Resend's own service.
    pub is_resend_smtp: bool,
}

/// What an event came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hearing {
    /// It was about this customer's message.
    Of(CustomerId),
    /// It is about none of ours, or of no consequence.
    OfNobody,
    /// The answer to its mail is under way, and decides what follows from it: it is to be told again.
    Early,
}

/// A part that an event is about.
struct Subject<'a> {
    part_id: &'a PartId,
    message_id: MessageId,
    part_no: u32,
    part: KnownPart,
}

impl Ears {
    /// Ears that work with these.
    pub fn new(tools: Tools) -> Self {
        Self(Arc::new(tools))
    }

    /// Does what an event asks for; hearing it again changes nothing.
    pub async fn hear(&self, event: &ResendEvent) -> Result<Hearing, StoreError> {
        if event.meaning == Meaning::Other {
            return Ok(Hearing::OfNobody);
        }
        let Some(mut subject) = self.subject(event).await? else { return Ok(Hearing::OfNobody) };
        if is_told_more(&subject.part) {
            self.prove(&subject, event.email_id.clone()).await?;
            let proven = self.0.store.known_part(&subject.message_id, subject.part_no).await?;
            subject.part = proven.unwrap_or(subject.part);
        }
        if let Meaning::News(news) = &event.meaning {
            let told = subject.told(event, news, self.0.clock.now());
            match subject.is_obeyed(event, &told) {
                true => self.take(&subject, &told, news).await?,
                false if subject.is_early(event, news.kind) => return Ok(Hearing::Early),
                false => self.tell(&subject, &told, &self.0.store.keep_event(&told).await?),
            }
        }
        Ok(Hearing::Of(subject.part.customer_id))
    }

    /// The part, by the mark that its mail carries.
    async fn subject<'e>(&self, event: &'e ResendEvent) -> Result<Option<Subject<'e>>, StoreError> {
        let Some((part_id, road)) = &event.part else { return Ok(None) };
        let Some((message_id, part_no)) = part_id.split() else { return Ok(None) };
        let Some(part) = self.0.store.known_part(&message_id, part_no).await? else { return Ok(None) };
        if part.road != *road || !self.is_of_its_mail(event, &part) {
            tracing::warn!(%part_id, upstream_id = ?event.email_id, event = ?event.event_type, "an event names a part and is not about its mail");
            return Ok(None);
        }
        Ok(Some(Subject { part_id, message_id, part_no, part }))
    }

    /// By the API Resend's id must be the one it gave us, if it has answered: another one is
    /// another copy of the mail. What an SMTP server answers is words, so that recipients decide.
    fn is_of_its_mail(&self, event: &ResendEvent, part: &KnownPart) -> bool {
        match part.road {
            Road::Resend => part.upstream_id.is_none() || event.email_id == part.upstream_id,
            Road::Smtp => {
                let is_named = |of: &KnownRecipient| event.names(&of.mailbox.to_ascii());
                self.0.is_resend_smtp && (event.to.is_empty() || part.recipients.iter().any(is_named))
            }
        }
    }

    /// The part was sent, whatever our calls were answered; too late if it was given up.
    async fn prove(&self, subject: &Subject<'_>, upstream_id: Option<String>) -> Result<(), StoreError> {
        let now = self.0.clock.now();
        let Subject { message_id, part_no, part, .. } = subject;
        let mut proven = Vec::new();
        if let Some(call) = shared_call(part) {
            let soon = now.checked_add(SOON).unwrap_or(now);
            if part.first_try_at.is_some_and(|first_try_at| news::is_key_known(first_try_at, soon)) {
                return self.ask_again(subject, call, (upstream_id, soon)).await;
            }
            let members = self.0.store.known_batch(&call.id).await?;
            let others = members
                .into_iter()
                .filter(|(id, no, other)| (id, no) != (message_id, part_no) && !other.state.is_final());
            proven.extend(others.map(|(id, no, other)| (id, no, other, None)));
        }
        proven.push((message_id.clone(), *part_no, part.clone(), upstream_id));
        self.write_proof(proven, now).await
    }

    /// Keeps that Resend took the part, and has its call made again soon. Who has told so
    /// much before is not heard again: a call that fails is not made for every click.
    async fn ask_again(
        &self,
        subject: &Subject<'_>,
        call: &KnownCall,
        (upstream_id, soon): (Option<String>, Timestamp),
    ) -> Result<(), StoreError> {
        let Subject { part_id, message_id, part_no, part } = subject;
        let (Some(upstream_id), None) = (upstream_id, &part.upstream_id) else { return Ok(()) };
        self.0.store.taken_in_doubt(&call.id, (message_id, *part_no, &upstream_id), soon).await?;
        let (batch_id, parts) = (&call.id, call.size);
        tracing::info!(%part_id, %batch_id, parts, "a webhook tells of a call whose outcome is unknown: it is made again soon");
        Ok(())
    }

    /// Writes down that these parts were sent, each under the id that is known of it.
    async fn write_proof(
        &self,
        proven: Vec<(MessageId, u32, KnownPart, Option<String>)>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Tools { store, billing, metrics, .. } = &*self.0;
        let mut reports = Vec::with_capacity(proven.len());
        for (id, no, part, upstream_id) in &proven {
            reports.push(self.proof((id, *no), part, upstream_id.clone(), now).await?);
        }
        let recorded = store.report_all(reports).await?;
        for ((message_id, part_no, part, upstream_id), recorded) in proven.into_iter().zip(recorded) {
            let Recorded::Applied { captured } = recorded else { continue };
            if captured > Credits::ZERO {
                metrics.captured(captured);
                billing.captured();
            }
            tracing::info!(
                part_id = %message_id.part(part_no),
                customer_id = %part.customer_id,
                upstream_id,
                outcome = "sent",
                "a webhook proves that a part was sent whose outcome was unknown"
            );
        }
        Ok(())
    }

    /// The report that a part was sent, under that id.
    async fn proof(
        &self,
        (message_id, part_no): (&MessageId, u32),
        part: &KnownPart,
        upstream_id: Option<String>,
        at: Timestamp,
    ) -> Result<Report, StoreError> {
        let unsent = part.recipients.iter().filter(|of| of.state != RecipientState::Sent);
        let sent: Vec<Mailbox> = unsent.map(|of| of.mailbox.clone()).collect();
        let original = match self.0.postmaster.success_reports {
            true => self.0.store.original(message_id).await?,
            false => None,
        };
        let relayed = original.and_then(|original| self.relayed(&part.customer_id, original, at));
        let handed_on = sent.clone();
        let answered = Answered { upstream_id, sent, relayed: handed_on, ..Answered::default() };
        let news = report::News::Answered(answered);
        let (message_id, attempt) = (message_id.clone(), part.attempt);
        Ok(Report { message_id, part_no, attempt, at, news, bounce: None, relayed })
    }

    /// The report that somebody was handed on, if their sender asked for one.
    fn relayed(&self, customer_id: &CustomerId, original: Original, now: Timestamp) -> Option<Relayed> {
        if !original.dsn.asks_for_success() {
            return None;
        }
        about(&original)?;
        let (postmaster, customer_id) = (self.0.postmaster.clone(), customer_id.clone());
        let write = move |to: &[HandedOn]| postmaster.relayed(&customer_id, &about(&original)?, to, now);
        Some(Relayed::new(write))
    }

    /// Writes news down, with what follows from it.
    async fn take(&self, subject: &Subject<'_>, told: &Told, news: &News) -> Result<(), StoreError> {
        let Tools { store, billing, clock, thresholds, .. } = &*self.0;
        let now = clock.now();
        let is_late_failure = news.kind.is_late_failure();
        let allowance = match is_late_failure {
            true => billing.refund_allowance(&told.customer_id, now).await?,
            false => None,
        };
        let status = news.status.as_str();
        let words = told.words.as_deref().unwrap_or_default();
        let bounce = |of: &Original, failed: &[Mailbox]| {
            self.bounce(&told.customer_id, of, (failed, status, words), now)
        };
        let somebody_failed = |of: &Original, perhaps: &[PerhapsFailed]| {
            let said = (perhaps, (status, words));
            self.0.postmaster.somebody_failed(&told.customer_id, &about(of)?, said, now)
        };
        let pause =
            |email: &str, reason: &str| self.0.postmaster.paused(&told.customer_id, email, reason, now);
        let letters = Letters { bounce: &bounce, somebody_failed: &somebody_failed, pause: &pause };
        let rules = Rules { allowance: allowance.as_ref(), thresholds, letters };
        let heard = store.hear(told, &rules, now).await?;
        if is_late_failure {
            store.pass(CrashPoint::BounceRecorded);
        }
        billing.refunds_decided(&heard.refunds);
        self.tell(subject, told, &heard);
        Ok(())
    }

    /// The bounce for recipients who failed after the message was sent.
    fn bounce(
        &self,
        customer_id: &CustomerId,
        original: &Original,
        (failed, status, text): (&[Mailbox], &str, &str),
        now: Timestamp,
    ) -> Option<Acceptance> {
        let failure = |recipient| Failure { recipient, status, text, host: None };
        let failures: Vec<Failure<'_>> = failed.iter().map(failure).collect();
        self.0.postmaster.bounce(customer_id, &about(original)?, &failures, now)
    }

    /// Logs and counts what news has changed.
    fn tell(&self, subject: &Subject<'_>, told: &Told, heard: &Heard) {
        let Told { customer_id, kind, recipients, words, .. } = told;
        let (part_id, outcome) = (subject.part_id, kind.as_str());
        if heard.is_new {
            self.0.metrics.event(*kind);
            tracing::info!(%part_id, %customer_id, outcome, recipients = recipients.len(), reason = ?words, "news");
        }
        if heard.is_dropped {
            tracing::warn!(%part_id, outcome, "news is not kept: its message has as much as is kept of one");
        }
        if let Some(message_id) = &heard.bounce {
            let failed = heard.newly_failed.len();
            tracing::info!(%part_id, %message_id, recipients = failed, "a late failure is told to the sender");
        }
        if *kind == EventKind::Bounced && recipients.is_empty() {
            tracing::warn!(%part_id, "a bounce does not say whose it is: nothing is given back for it");
        }
        if heard.is_new && *kind == EventKind::Failed {
            tracing::error!(%part_id, reason = ?words, "Resend gave a mail up that it had taken");
        }
        if let Some(reason) = &heard.paused {
            tell_pause(&self.0.metrics, customer_id, reason);
        }
    }
}

impl Subject<'_> {
    /// The event as it is written down. That a mail by SMTP of one of several recipients was
    /// given up is nobody's, unless it names one alone: the others may have got another.
    fn told(&self, event: &ResendEvent, news: &News, now: Timestamp) -> Told {
        let mut among = self.among(event, news.kind);
        if self.part.road == Road::Smtp && news.kind == EventKind::Failed && among.len() > 1 {
            among.clear();
        }
        let addresses: Vec<&str> = among.iter().map(|(_, address)| address.as_str()).collect();
        let about = event.about(&addresses);
        let about = among.iter().filter(|(_, address)| about.contains(&address.as_str()));
        Told {
            message_id: self.message_id.clone(),
            part_no: self.part_no,
            customer_id: self.part.customer_id.clone(),
            kind: news.kind,
            told_at: event.created_at.unwrap_or(now),
            recipients: about.map(|(mailbox, _)| (*mailbox).clone()).collect(),
            words: news.reply.clone(),
            blame: news.blame,
        }
    }

    /// Whom the event can be about. Who failed before the upstream had a word is nobody of
    /// them, unless there is nobody else. By SMTP it is about those who have that mail, unless
    /// it names others alone.
    fn among(&self, event: &ResendEvent, kind: EventKind) -> Vec<(&Mailbox, String)> {
        let mut among: Vec<&KnownRecipient> = self.part.recipients.iter().collect();
        prefer(&mut among, |of| of.state != RecipientState::Failed);
        if self.part.road == Road::Smtp {
            let is_named = |of: &KnownRecipient| event.names(&of.mailbox.to_ascii());
            let names_nobody = !among.iter().any(|of| is_named(of));
            if names_nobody || among.iter().any(|of| is_named(of) && self.has_mail_of(event, of)) {
                prefer(&mut among, |of| self.has_mail_of(event, of));
            }
            if kind == EventKind::Failed {
                prefer(&mut among, is_named);
            }
        }
        among.into_iter().map(|of| (&of.mailbox, of.mailbox.to_ascii())).collect()
    }

    /// Whether it is known of a recipient by SMTP that they have the mail that an event is of.
    /// Where every attempt was answered that is any mail under a key that is used no more. Where
    /// one was not, it is the last one of a part that is through with all, or the one that ended
    /// the doubt: an earlier key may be that of a copy beside the mail that was answered for.
    fn has_mail_of(&self, event: &ResendEvent, of: &KnownRecipient) -> bool {
        let KnownPart { key_no, state, upstream_id, recipients, .. } = &self.part;
        let has_copies = recipients.iter().any(|of| of.maybe_taken);
        let is_answered = |of: i64| match has_copies {
            true => *state == PartState::Sent && key_no.checked_sub(1) == Some(of),
            false => of < *key_no,
        };
        let has_ended_doubt = event.email_id.is_some() && event.email_id == *upstream_id;
        of.state == RecipientState::Sent && (has_ended_doubt || event.key_no.is_some_and(is_answered))
    }

    /// Whether that has consequences: by SMTP for those alone who have that mail. What is told
    /// of another copy, or before anybody is known to have one, is written down and no more.
    fn is_obeyed(&self, event: &ResendEvent, told: &Told) -> bool {
        let is_about =
            |of: &&KnownRecipient| told.recipients.is_empty() || told.recipients.contains(&of.mailbox);
        let mut about = self.part.recipients.iter().filter(is_about);
        self.part.road == Road::Resend || about.any(|of| self.has_mail_of(event, of))
    }

    /// Whether it may have consequences as soon as the call that is being made is answered.
    fn is_early(&self, event: &ResendEvent, kind: EventKind) -> bool {
        let is_under_way = matches!(self.part.state, PartState::Sending { .. });
        is_under_way && event.key_no == Some(self.part.key_no) && kind.has_consequences()
    }
}

/// Leaves only such as these, if there are any.
fn prefer<T>(list: &mut Vec<&T>, is_one: impl Fn(&T) -> bool) {
    if list.iter().any(|one| is_one(one)) {
        list.retain(|one| is_one(one));
    }
}

/// What reports say about a message of which the log alone is left; `None`: nothing is reported.
fn about(original: &Original) -> Option<About<'_>> {
    let sender = original.reverse_path.mailbox().filter(|_| original.kind == Kind::Submission)?;
    let left = Left::Log {
        from: &original.header_from,
        subject: original.subject.as_deref(),
        header: original.header.as_deref(),
    };
    let (message_id, accepted_at) = (&original.message_id, original.accepted_at);
    Some(About { sender, message_id, accepted_at, left, dsn: &original.dsn })
}

/// The call of unknown outcome that a part shares with others.
fn shared_call(part: &KnownPart) -> Option<&KnownCall> {
    part.call.as_ref().filter(|call| call.size > 1 && part.is_unknown && !part.state.is_final())
}

/// Whether that Resend took it, or under which id, is more than is known, or will be by itself.
/// What was never handed over whole by SMTP is not sent because somebody says so.
fn is_told_more(part: &KnownPart) -> bool {
    match part.state {
        _ if part.road == Road::Smtp && part.recipients.len() != 1 => false,
        PartState::Held | PartState::Queued { .. } => part.road == Road::Resend || part.is_unknown,
        PartState::Failed if part.road == Road::Smtp => {
            part.upstream_id.is_none() && part.recipients.iter().any(|of| of.maybe_taken)
        }
        PartState::Failed => true,
        PartState::Sending { .. } => part.is_unknown,
        PartState::Sent => part.upstream_id.is_none(),
    }
}
