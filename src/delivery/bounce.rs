//! The bounce (RFC 3464): who newly failed, told to the envelope sender, once an
//! attempt and free of charge. A bounce never bounces.

use bytes::Bytes;

use super::Delivery;
use crate::mime::Origin;
use crate::mime::bounce::{Failed, Failure, Shape, bounce};
use crate::routing::{OwnMail, new_message_id};
use crate::store::accept::{Acceptance, Kind};
use crate::store::queue::LeasedPart;
use crate::store::report::News;

impl Delivery {
    /// The bounce that this news asks for, if it does.
    pub(super) fn bounce_for(&self, part: &LeasedPart, news: &News) -> Option<Acceptance> {
        let News::Answered(answered) = news else { return None };
        let to = part.reverse_path.mailbox()?;
        if part.kind != Kind::Submission || answered.failed.is_empty() {
            return None;
        }
        let now = self.0.tools.clock.now();
        let message_id = new_message_id(now);
        let from = &self.0.settings.notices_from;
        let origin = Origin { from, hostname: &self.0.settings.hostname, now, message_id: &message_id };
        let failed = Failed {
            sender: to,
            message_id: &part.message_id,
            accepted_at: part.accepted_at,
            bytes: &part.bytes,
        };
        let failures: Vec<Failure<'_>> = answered
            .failed
            .iter()
            .map(|(recipient, answer)| Failure { recipient, status: &answer.status, text: &answer.text })
            .collect();
        let routing = &self.0.tools.routing;
        let shape = if routing.prefers_resend() { Shape::Plain } else { Shape::Report };
        let bytes = Bytes::from(bounce(&origin, &failed, &failures, shape));
        let mail = OwnMail {
            kind: Kind::Bounce,
            customer_id: part.customer_id.clone(),
            to: to.clone(),
            from: from.mailbox.clone(),
            bytes,
            now,
            message_id,
        };
        match routing.own(mail) {
            Ok(acceptance) => Some(acceptance),
            Err(reason) => {
                tracing::error!(message_id = %part.message_id, %reason, "the bounce cannot be sent by any road");
                None
            }
        }
    }
}
