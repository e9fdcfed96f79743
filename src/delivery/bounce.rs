//! The bounce (RFC 3464): who newly failed, told to the envelope sender, once an
//! attempt and free of charge. A bounce never bounces.

use bytes::Bytes;

use super::Delivery;
use crate::mime::compose::{Bounce, bounce};
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
        let (from_name, from) = &self.0.settings.notices_from;
        let bytes = bounce(&Bounce {
            message_id: &message_id,
            hostname: &self.0.settings.hostname,
            now,
            from_name,
            from,
            to,
            original: &part.bytes,
            original_id: &part.message_id,
            accepted_at: part.accepted_at,
            failed: &answered.failed,
        });
        let mail = OwnMail {
            kind: Kind::Bounce,
            message_id,
            customer_id: part.customer_id.clone(),
            to: to.clone(),
            from: from.clone(),
            bytes: Bytes::from(bytes),
            now,
        };
        match self.0.tools.routing.own(mail) {
            Ok(acceptance) => Some(acceptance),
            Err(reason) => {
                tracing::error!(message_id = %part.message_id, %reason, "the bounce cannot be sent by any road");
                None
            }
        }
    }
}
