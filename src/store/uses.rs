//! When credentials were used last, so that whoever looks at their list sees which are needed.
//!
//! Nobody waits for that. It is noted beside the work, by a task of its own, once an hour for each
//! credential at most, and what cannot be noted is not: it will be with the next use.

use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use super::bucket::unsynced;
use super::sql::query;
use super::standing::Standing;
use super::writers::Writers;
use super::{Store, StoreError, millis};
use crate::domain::ids::Username;

/// Between two notes about one credential.
const EVERY: SignedDuration = SignedDuration::from_hours(1);
/// Notes that may wait.
pub(super) const WAITING: usize = 1024;

/// A credential, and when it was used.
pub(super) type Use = (Username, Timestamp);

impl Store {
    /// Has it noted that a credential was used.
    pub fn note_use(&self, standing: &Standing, now: Timestamp) {
        if let Some(username) = standing.username.as_ref().filter(|_| is_due(standing.last_used_at, now)) {
            // Where too many wait, the next use is noted.
            let _ = self.uses.try_send((username.clone(), now));
        }
    }
}

fn is_due(last: Option<Timestamp>, now: Timestamp) -> bool {
    last.is_none_or(|last| now.duration_since(last) >= EVERY)
}

/// Notes uses until the last [`Store`] is gone.
pub(super) async fn run(writers: Writers, mut uses: mpsc::Receiver<Use>) {
    while let Some((username, at)) = uses.recv().await {
        if let Err(error) = note(&writers, &username, at).await {
            tracing::debug!(%error, %username, "when a credential was used could not be noted");
        }
    }
}

/// One credential a transaction: it waits for nobody who waits for it.
async fn note(writers: &Writers, username: &Username, at: Timestamp) -> Result<(), StoreError> {
    const NOTE: &str = "
        UPDATE credential SET last_used_at = $2
        WHERE username = $1 AND (last_used_at IS NULL OR last_used_at <= $3)";
    let since = at.checked_sub(EVERY).unwrap_or(at);
    let mut writer = writers.lock().await;
    let mut tx = unsynced(writer.begin().await?).await?;
    query(NOTE).bind(username.as_str()).bind(millis(at)).bind(millis(since)).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}
