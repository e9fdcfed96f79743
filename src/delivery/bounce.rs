//! Reports (RFC 3464): who newly failed, told to the envelope sender in a bounce, once an
//! attempt or once a piece of later news, unless the sender asked not to be told
//! (RFC 3461 §4.1). Whoever asked to hear of success is told who was handed on to where
//! nobody else tells. Reports are free of charge, and nothing is reported about them.

use bytes::Bytes;
use jiff::Timestamp;

use super::Delivery;
use crate::domain::address::Mailbox;
use crate::domain::answer::{HandedOn, PerhapsFailed};
use crate::domain::dsn::Ret;
use crate::domain::ids::CustomerId;
use crate::mime::address_list::NamedMailbox;
use crate::mime::bounce::{About, Failure, Left, Shape, bounce, relayed, somebody_failed};
use crate::mime::header::header_length;
use crate::mime::notice::paused;
use crate::mime::{MAX_RETURNED_BYTES, Origin};
use crate::routing::{OwnMail, Routing, new_message_id};
use crate::store::accept::{Acceptance, Kind};
use crate::store::queue::LeasedPart;
use crate::store::relayed::Relayed;
use crate::store::report::News;

/// Who writes mail of our own about what became of customers' mail.
#[derive(Debug, Clone)]
pub struct Postmaster {
    /// The roads.
    pub routing: Routing,
    /// The name and address that it comes from.
    pub from: NamedMailbox,
    /// `smtp.hostname`.
    pub hostname: String,
    /// Whether successes are reported: [`crate::config::Config::success_reports`].
    pub success_reports: bool,
    /// Whether customers are told that they are paused: `notices.bounced`.
    pub tells_pauses: bool,
    /// Where a customer's page is; empty: that is not known.
    pub account_url: String,
}

impl Postmaster {
    /// The report to a message's sender of those of whose failure it is to be told; `None`:
    /// there are none, or no road can carry it.
    pub(super) fn bounce(
        &self,
        customer_id: &CustomerId,
        about: &About<'_>,
        failures: &[Failure<'_>],
        now: Timestamp,
    ) -> Option<Acceptance> {
        let is_told = |failure: &&Failure<'_>| about.dsn.of(failure.recipient).wants_failure();
        let failures: Vec<Failure<'_>> = failures.iter().filter(is_told).copied().collect();
        if failures.is_empty() {
            return None;
        }
        let write = |origin: &Origin<'_>| bounce(origin, about, &failures, self.shape());
        self.compose((Kind::Bounce, customer_id), about.sender, now, write)
    }

    /// The same where it is not told whose the failure is, if it may be that of somebody of
    /// whom it is to be told. `said`: the status and the words that came back.
    pub(super) fn somebody_failed(
        &self,
        customer_id: &CustomerId,
        about: &About<'_>,
        (perhaps, said): (&[PerhapsFailed], (&str, &str)),
        now: Timestamp,
    ) -> Option<Acceptance> {
        if !perhaps.iter().any(|one| !one.has_failed && about.dsn.of(&one.recipient).wants_failure()) {
            return None;
        }
        let write = |origin: &Origin<'_>| somebody_failed(origin, about, perhaps, said);
        self.compose((Kind::Bounce, customer_id), about.sender, now, write)
    }

    /// The same of those of whose success it is to be told, and who were handed on.
    pub(super) fn relayed(
        &self,
        customer_id: &CustomerId,
        about: &About<'_>,
        recipients: &[HandedOn],
        now: Timestamp,
    ) -> Option<Acceptance> {
        let is_told = |to: &&HandedOn| about.dsn.of(&to.recipient).wants_success();
        let recipients: Vec<&HandedOn> = recipients.iter().filter(is_told).collect();
        if recipients.is_empty() || !self.success_reports {
            return None;
        }
        let write = |origin: &Origin<'_>| relayed(origin, about, &recipients, self.shape());
        self.compose((Kind::Bounce, customer_id), about.sender, now, write)
    }

    fn shape(&self) -> Shape {
        if self.routing.has_smtp_server() { Shape::Report } else { Shape::Plain }
    }

    /// The notice to a customer that their mail is not taken any more, and why.
    pub(super) fn paused(
        &self,
        customer_id: &CustomerId,
        email: &str,
        reason: &str,
        now: Timestamp,
    ) -> Option<Acceptance> {
        let to = Mailbox::parse(email).ok().filter(|_| self.tells_pauses)?;
        let write = |origin: &Origin<'_>| paused(origin, &to, reason, &self.account_url);
        self.compose((Kind::Notice, customer_id), &to, now, write)
    }

    fn compose(
        &self,
        (kind, customer_id): (Kind, &CustomerId),
        to: &Mailbox,
        now: Timestamp,
        write: impl FnOnce(&Origin<'_>) -> Vec<u8>,
    ) -> Option<Acceptance> {
        let message_id = new_message_id(now);
        let origin = Origin { from: &self.from, hostname: &self.hostname, now, message_id: &message_id };
        let mail = OwnMail {
            kind,
            customer_id: customer_id.clone(),
            to: to.clone(),
            from: self.from.mailbox.clone(),
            bytes: Bytes::from(write(&origin)),
            now,
            message_id,
        };
        let kind = kind.as_str();
        match self.routing.own(mail) {
            Ok(acceptance) => Some(acceptance),
            Err(reason) => {
                tracing::error!(%customer_id, kind, %reason, "mail of our own cannot be sent by any road");
                None
            }
        }
    }
}

impl Delivery {
    /// The bounce that this news asks for, if it does.
    pub(super) fn bounce_for(&self, part: &LeasedPart, news: &News) -> Option<Acceptance> {
        let News::Answered(answered) = news else { return None };
        let failures: Vec<Failure<'_>> = answered
            .failed
            .iter()
            .map(|(recipient, answer)| Failure {
                recipient,
                status: &answer.status,
                text: &answer.text,
                host: answered.host.as_deref(),
            })
            .collect();
        let now = self.0.tools.clock.now();
        self.0.settings.postmaster.bounce(&part.customer_id, &about(part)?, &failures, now)
    }

    /// The report that somebody was handed on, if this news may ask for it.
    pub(super) fn relayed_for(&self, part: &LeasedPart, news: &News) -> Option<Relayed> {
        let postmaster = &self.0.settings.postmaster;
        let is_asked = postmaster.success_reports && part.dsn.asks_for_success();
        if !is_asked || !matches!(news, News::Answered(_)) {
            return None;
        }
        about(part)?;
        let (postmaster, part, now) = (postmaster.clone(), part.clone(), self.0.tools.clock.now());
        let write = move |to: &[HandedOn]| postmaster.relayed(&part.customer_id, &about(&part)?, to, now);
        Some(Relayed::new(write))
    }
}

/// What reports say about the message of a part; `None`: nothing is reported about it.
fn about(part: &LeasedPart) -> Option<About<'_>> {
    let sender = part.reverse_path.mailbox().filter(|_| part.kind == Kind::Submission)?;
    let (message_id, accepted_at) = (&part.message_id, part.accepted_at);
    Some(About { sender, message_id, accepted_at, left: Left::Message(&part.bytes), dsn: &part.dsn })
}

/// As much of a message as its bounce returns: the header, or all of it where that was
/// asked for and is not too much.
pub(super) fn kept_for_bounce(part: &LeasedPart) -> Bytes {
    if part.dsn.ret() == Some(Ret::Full) && part.bytes.len() <= MAX_RETURNED_BYTES {
        return part.bytes.clone();
    }
    let header = header_length(&part.bytes).and_then(|length| part.bytes.get(..length));
    header.map_or_else(|| part.bytes.clone(), Bytes::copy_from_slice)
}
