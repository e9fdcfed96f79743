//! Messages that were refused though they may have been accepted: what their commit came to
//! could not be found out while their senders waited. They try again, and must not be mailed twice.

use std::sync::Arc;

use super::StoreError;
use super::ledger::{Ledger, PartKey};
use super::lock;
use super::sql::Session;
use crate::domain::ids::MessageId;
use crate::domain::message::{PartState, PartStep};

/// What the log says of a recipient of such a message.
const NOT_ACKNOWLEDGED: &str =
    "not acknowledged: the database did not answer, and the sender was told to try again";

/// Messages whose senders were refused before it was known whether they are in the database.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// Who they are. Those under an idempotency key are not among them: whoever retries
    /// them is told that they are accepted, by any node, and so they are sent.
    pub(super) message_ids: Vec<MessageId>,
    /// Who accepted them.
    pub(super) node: Arc<str>,
    /// When the last of them came, in milliseconds.
    pub(super) at: i64,
}

impl Refused {
    /// Gives those up that are there: their holds are released, and nobody is told, who was
    /// told already. What another node has leased since is on its way, and stays so.
    pub(super) async fn withdraw(&self, tx: &mut Session<'_>) -> Result<(), StoreError> {
        if self.message_ids.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = self.message_ids.iter().map(MessageId::as_str).collect();
        lock::messages(tx, &ids.iter().copied().collect()).await?;
        let mut ledger = Ledger::read(tx, &ids).await?;
        let keys: Vec<PartKey> = ledger.parts.keys().cloned().collect();
        for key in keys {
            if ledger.withdraw(&key, &self.node) {
                ledger.give_up(&key, NOT_ACKNOWLEDGED);
            }
        }
        // Their spools leave with the sweep.
        ledger.write(tx, self.at).await.map(drop)
    }
}

impl Ledger {
    /// Ends a part that nobody has taken: it has the lease that it was accepted with, or waits
    /// for its first. Whatever else has become of it may be another node's attempt.
    fn withdraw(&mut self, key: &PartKey, node: &str) -> bool {
        let Some(part) = self.parts.get_mut(key) else { return false };
        let is_untried = !part.unknown && part.company.call.is_none();
        let step = match part.state {
            PartState::Sending { attempt: 1, .. } if part.node.as_deref() == Some(node) => {
                PartStep::Failed { attempt: 1 }
            }
            PartState::Queued { attempt: 0, .. } if is_untried => PartStep::Cancel,
            _ => return false,
        };
        let Some(state) = part.state.after(step) else { return false };
        part.state = state;
        true
    }
}
