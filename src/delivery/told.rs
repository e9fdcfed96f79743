//! What Resend tells about a part after it took it: news of the world, in any
//! order, perhaps twice, perhaps before its answer to the call was written down.
//!
//! Any news of a part proves that Resend took it. That resolves a part that waits,
//! is held for the operator, or has a call in doubt; while the first call is under
//! way its answer is as good and comes by itself. A part that was given up stays as
//! it is: that it left all the same is told, counted and kept with it. A hard bounce
//! is written down on its recipients, and may give a credit back; where it is not
//! told whose it is, it is written down on the part and gives nothing back.

use jiff::Timestamp;

use crate::billing::Billing;
use crate::domain::address::Mailbox;
use crate::domain::credits::Credits;
use crate::domain::ids::{CustomerId, MessageId, PartId};
use crate::domain::message::{PartState, RecipientState, Road};
use crate::store::bounced::{Bounced, KnownPart};
use crate::store::report::{Answered, News, Recorded, Report};
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;
use crate::upstream::resend::events::{EventKind, ResendEvent};

/// What it takes to understand news.
#[derive(Debug, Clone, Copy)]
pub struct Ears<'a> {
    /// The database.
    pub store: &'a Store,
    /// Who gives credits back.
    pub billing: &'a Billing,
    /// The counters.
    pub metrics: &'a Metrics,
    /// The time.
    pub now: Timestamp,
}

/// A part that an event is about.
struct Subject<'a> {
    part_id: &'a PartId,
    message_id: MessageId,
    part_no: u32,
    part: KnownPart,
}

impl Ears<'_> {
    /// Does what an event asks for; hearing it again changes nothing. Returns whose
    /// message it was about; `None`: none of ours, or of no consequence.
    pub async fn hear(&self, event: &ResendEvent) -> Result<Option<CustomerId>, StoreError> {
        if event.kind == EventKind::Other {
            return Ok(None);
        }
        let Some(subject) = self.subject(event).await? else { return Ok(None) };
        if is_told_more(&subject.part) {
            self.prove(&subject, event.email_id.clone()).await?;
        }
        if let EventKind::HardBounce { reply, .. } = &event.kind {
            self.bounced(&subject, event, reply).await?;
        }
        Ok(Some(subject.part.customer_id))
    }

    /// The part, by the tag that its mail carries; Resend's id must be the one it
    /// gave us, if it has answered: another one is another copy of the mail.
    async fn subject<'e>(&self, event: &'e ResendEvent) -> Result<Option<Subject<'e>>, StoreError> {
        let Some(part_id) = &event.part_id else { return Ok(None) };
        let Some((message_id, part_no)) = part_id.split() else { return Ok(None) };
        let Some(part) = self.store.known_part(&message_id, part_no).await? else { return Ok(None) };
        let is_other = part.upstream_id.is_some() && event.email_id != part.upstream_id;
        if part.road != Road::Resend || is_other {
            tracing::warn!(%part_id, upstream_id = ?event.email_id, event = ?event.event_type, "an event names a part and is not about its mail");
            return Ok(None);
        }
        Ok(Some(Subject { part_id, message_id, part_no, part }))
    }

    /// The part was sent, whatever our calls were answered; too late if it was given up.
    async fn prove(&self, subject: &Subject<'_>, upstream_id: Option<String>) -> Result<(), StoreError> {
        let unsent = subject.part.recipients.iter().filter(|(_, state)| *state != RecipientState::Sent);
        let sent = unsent.map(|(mailbox, _)| mailbox.clone()).collect();
        let report = Report {
            message_id: subject.message_id.clone(),
            part_no: subject.part_no,
            attempt: subject.part.attempt,
            at: self.now,
            news: News::Answered(Answered { upstream_id: upstream_id.clone(), sent, ..Answered::default() }),
            bounce: None,
        };
        let Recorded::Applied { captured } = self.store.report(report).await? else { return Ok(()) };
        if captured > Credits::ZERO {
            self.metrics.captured(captured);
            self.billing.captured();
        }
        tracing::info!(
            part_id = %subject.part_id,
            customer_id = %subject.part.customer_id,
            upstream_id,
            outcome = "sent",
            "a webhook proves that a part was sent whose outcome was unknown"
        );
        Ok(())
    }

    async fn bounced(
        &self,
        subject: &Subject<'_>,
        event: &ResendEvent,
        reply: &str,
    ) -> Result<(), StoreError> {
        let served: Vec<(&Mailbox, String)> = (subject.part.recipients.iter())
            .filter(|(_, state)| *state != RecipientState::Failed)
            .map(|(mailbox, _)| (mailbox, mailbox.to_ascii()))
            .collect();
        let addresses: Vec<&str> = served.iter().map(|(_, address)| address.as_str()).collect();
        let bounced = event.bounced(&addresses);
        let bounced = served.iter().filter(|(_, address)| bounced.contains(&address.as_str()));
        let recipients: Vec<Mailbox> = bounced.map(|(mailbox, _)| (*mailbox).clone()).collect();
        tracing::info!(
            part_id = %subject.part_id,
            customer_id = %subject.part.customer_id,
            recipients = recipients.len(),
            reason = ?reply,
            "bounced"
        );
        if recipients.is_empty() {
            self.store.note_bounce(&subject.message_id, subject.part_no, reply).await?;
            tracing::warn!(part_id = %subject.part_id, to = event.to.len(), "a bounce does not say whose it is: nothing is given back for it");
            return Ok(());
        }
        let bounced = Bounced {
            message_id: subject.message_id.clone(),
            customer_id: subject.part.customer_id.clone(),
            recipients,
            reply: reply.to_owned(),
        };
        self.billing.bounced(&bounced).await
    }
}

/// Whether that Resend took it is more than is known, or will be by itself.
fn is_told_more(part: &KnownPart) -> bool {
    match part.state {
        PartState::Held | PartState::Queued { .. } | PartState::Failed => true,
        PartState::Sending { .. } => part.is_unknown,
        PartState::Sent => false,
    }
}
