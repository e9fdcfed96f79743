//! The bounce (RFC 3464): who newly failed, told to the envelope sender, once an
//! attempt or once a piece of later news, and free of charge. A bounce never bounces.

use bytes::Bytes;
use jiff::Timestamp;

use super::Delivery;
use crate::domain::address::Mailbox;
use crate::domain::ids::CustomerId;
use crate::mime::Origin;
use crate::mime::address_list::NamedMailbox;
use crate::mime::bounce::{Failed, Failure, Left, Shape, bounce};
use crate::mime::notice::paused;
use crate::routing::{OwnMail, Routing, new_message_id};
use crate::store::accept::{Acceptance, Kind};
use crate::store::queue::LeasedPart;
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
}

impl Postmaster {
    /// The report to a message's sender; `None`: no road can carry it.
    pub(super) fn bounce(
        &self,
        customer_id: &CustomerId,
        failed: &Failed<'_>,
        failures: &[Failure<'_>],
        now: Timestamp,
    ) -> Option<Acceptance> {
        let shape = if self.routing.prefers_resend() { Shape::Plain } else { Shape::Report };
        let write = |origin: &Origin<'_>| bounce(origin, failed, failures, shape);
        self.compose((Kind::Bounce, customer_id), failed.sender, now, write)
    }

    /// The notice to a customer that their mail is not taken any more, and why.
    pub(super) fn paused(
        &self,
        customer_id: &CustomerId,
        to: &Mailbox,
        reason: &str,
        now: Timestamp,
    ) -> Option<Acceptance> {
        self.compose((Kind::Notice, customer_id), to, now, |origin| paused(origin, to, reason))
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
        let to = part.reverse_path.mailbox()?;
        if part.kind != Kind::Submission || answered.failed.is_empty() {
            return None;
        }
        let failed = Failed {
            sender: to,
            message_id: &part.message_id,
            accepted_at: part.accepted_at,
            left: Left::Message(&part.bytes),
        };
        let failures: Vec<Failure<'_>> = answered
            .failed
            .iter()
            .map(|(recipient, answer)| Failure { recipient, status: &answer.status, text: &answer.text })
            .collect();
        let now = self.0.tools.clock.now();
        self.0.settings.postmaster.bounce(&part.customer_id, &failed, &failures, now)
    }
}
