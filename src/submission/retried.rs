//! Submissions that are retried under an idempotency key: answered as the first
//! time, whatever has become of credit and senders since. Nothing is sent or held
//! for them, so nothing else has to be asked. Where some of the recipients were
//! accepted before and others were not, the others make a message of their own.

use jiff::Timestamp;

use super::{Accepted, SignedIn, Submission, Submitted, unavailable};
use crate::domain::address::Mailbox;
use crate::domain::credits::Credits;
use crate::domain::idempotency::{Fingerprinting, Keyed};
use crate::domain::ids::{CustomerId, MessageId};
use crate::domain::refusal::Refusal;
use crate::mime::inspect::Inspection;
use crate::store::idempotency::Earlier;

/// What a key is found to stand for.
pub(super) enum Look {
    /// This submission: it was answered so.
    Answered(Accepted),
    /// This submission as far as these go; the others are left.
    Served(Vec<Mailbox>),
}

impl Submission {
    /// What was answered when this was submitted to these recipients first, if it
    /// was. Whoever would refuse a keyed submission for what may have changed since
    /// asks this before.
    ///
    /// # Errors
    /// When the key was used for another message.
    pub async fn earlier(
        &self,
        who: &SignedIn,
        keyed: &Keyed,
        recipients: &[Mailbox],
    ) -> Result<Option<Accepted>, Refusal> {
        let now = self.0.tools.clock.now();
        match self.counted(Some(who), self.look(who, keyed, recipients, now).await)? {
            Look::Answered(accepted) => Ok(Some(accepted)),
            Look::Served(_) => Ok(None),
        }
    }

    pub(super) async fn look(
        &self,
        who: &SignedIn,
        keyed: &Keyed,
        recipients: &[Mailbox],
        now: Timestamp,
    ) -> Result<Look, Refusal> {
        let customer_id = &who.customer_id;
        match self.0.tools.store.earlier(customer_id, keyed, recipients, now).await.map_err(unavailable)? {
            Earlier::Rest { served } => Ok(Look::Served(served)),
            Earlier::Other => Err(Refusal::KeyReused),
            Earlier::Same { message_id, available } => {
                Ok(Look::Answered(answered(customer_id, message_id, available)))
            }
        }
    }
}

/// The answer to a retry.
pub(super) fn answered(
    customer_id: &CustomerId,
    message_id: MessageId,
    available: Option<Credits>,
) -> Accepted {
    tracing::info!(%message_id, %customer_id, "a retried submission is answered as the first time");
    Accepted { message_id, available }
}

/// The key that a message itself brings, with the fingerprint of sender and message.
/// A client that was refused some recipients retries for them alone, so whom it is
/// for is no part of it. Nor is what it asks to be told, which is the transaction's and new
/// with each (RFC 3461 §4.4): what was asked the first time stands.
pub(super) async fn in_header(
    submitted: &Submitted,
    inspection: &Inspection,
) -> Result<Option<Keyed>, Refusal> {
    let Some(key) = inspection.idempotency_key.clone() else { return Ok(None) };
    let sender = submitted.envelope.reverse_path().to_string();
    let mut fingerprint =
        Fingerprinting::of("message").field("from", sender.as_bytes()).field("message", b"");
    inspection.meant(&submitted.bytes).for_each(|piece| fingerprint.last(piece));
    if let Some(spool) = &submitted.spool {
        spool.read(|chunk| fingerprint.last(chunk)).await?;
    }
    Ok(Some(Keyed { key, fingerprint: fingerprint.end(), served: Vec::new() }))
}
