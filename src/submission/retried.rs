//! Submissions that are retried under an idempotency key: answered as the first
//! time, whatever has become of credit and senders since. Nothing is sent or held
//! for them, so nothing else has to be asked.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Accepted, SignedIn, Submission, Submitted, unavailable};
use crate::domain::credits::Credits;
use crate::domain::idempotency::{Fingerprinting, Keyed};
use crate::domain::ids::{CustomerId, MessageId};
use crate::domain::refusal::Refusal;
use crate::mime::inspect::Inspection;
use crate::store::idempotency::Earlier;

/// How often keys that have expired are looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// So many are deleted in one step: acceptances wait for the same writer.
const SWEEP_STEP: u32 = 500;

impl Submission {
    /// What was answered when this was submitted first, if it was. Whoever would
    /// refuse a keyed submission for what may have changed since asks this before.
    ///
    /// # Errors
    /// When the key was used for another message.
    pub async fn earlier(&self, who: &SignedIn, keyed: &Keyed) -> Result<Option<Accepted>, Refusal> {
        self.counted(self.look_earlier(who, keyed).await)
    }

    pub(super) async fn look_earlier(
        &self,
        who: &SignedIn,
        keyed: &Keyed,
    ) -> Result<Option<Accepted>, Refusal> {
        let now = self.0.tools.clock.now();
        let earlier = self.0.tools.store.earlier(&who.customer_id, keyed, now).await.map_err(unavailable)?;
        match earlier {
            None => Ok(None),
            Some(Earlier::Other) => Err(Refusal::KeyReused),
            Some(Earlier::Same { message_id, available }) => {
                Ok(Some(answered(&who.customer_id, message_id, available)))
            }
        }
    }

    /// Deletes keys that have expired, in small steps, until it is told to stop.
    pub async fn sweep_keys(self, stop: CancellationToken) {
        loop {
            let swept = self.0.tools.store.sweep_keys(self.0.tools.clock.now(), SWEEP_STEP).await;
            let is_more = swept.as_ref().is_ok_and(|swept| *swept >= u64::from(SWEEP_STEP));
            if let Err(error) = swept {
                tracing::error!(%error, "expired idempotency keys could not be deleted");
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::task::yield_now(), if is_more => {}
                () = tokio::time::sleep(SWEEP), if !is_more => {}
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

/// The key that a message itself brings, with the fingerprint of envelope and
/// message: whoever retries says the same to the same recipients.
pub(super) fn in_header(submitted: &Submitted, inspection: &Inspection) -> Option<Keyed> {
    let key = inspection.idempotency_key.clone()?;
    let mut recipients: Vec<String> =
        submitted.envelope.recipients().iter().map(ToString::to_string).collect();
    recipients.sort_unstable();
    let begun =
        Fingerprinting::of("message").field("from", submitted.envelope.reverse_path().to_string().as_bytes());
    let envelope = recipients.iter().fold(begun, |f, recipient| f.field("to", recipient.as_bytes()));
    let fingerprint = envelope.field("message", b"").rest(inspection.meant(&submitted.bytes));
    Some(Keyed { key, fingerprint })
}
