//! The report that a message was handed on (RFC 3461 §5.2.2): one for the whole message,
//! whatever its parts and attempts are, in the commit that makes the last recipient final
//! whose success was asked about. Who was handed on to a server that reports nothing itself
//! is known by the words on the recipient.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use sqlx::SqliteConnection;

use super::accept::{Acceptance, insert_own};
use super::{StoreError, stored};
use crate::domain::address::Mailbox;
use crate::domain::ids::MessageId;

/// What stands with a recipient of whom nobody but us tells that it was handed on.
pub(super) const HANDED_ON: &str = "handed on; from there on nobody reports its success";

/// Writes the report for those who were handed on, where it is known who they are.
#[derive(Clone)]
pub struct Relayed(Arc<Write>);

type Write = dyn Fn(&[Mailbox]) -> Option<Acceptance> + Send + Sync;

impl fmt::Debug for Relayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Relayed")
    }
}

impl Relayed {
    /// A report that is written so.
    pub fn new(write: impl Fn(&[Mailbox]) -> Option<Acceptance> + Send + Sync + 'static) -> Self {
        Self(Arc::new(write))
    }

    /// Inserts the report if one of these, who became final now, was the last whose success
    /// was asked about, and anybody was handed on.
    pub(super) async fn insert(
        &self,
        tx: &mut SqliteConnection,
        message_id: &MessageId,
        finished: &BTreeSet<(String, String)>,
    ) -> Result<(), StoreError> {
        const READ: &str = "
            SELECT address, state = 'queued', state = 'sent' AND reply = ?2 FROM recipient
            WHERE message_id = ?1 AND notify LIKE '%SUCCESS%' ORDER BY part_no, ordinal";
        let asked: Vec<(String, bool, bool)> =
            sqlx::query_as(READ).bind(message_id.as_str()).bind(HANDED_ON).fetch_all(&mut *tx).await?;
        let is_new =
            asked.iter().any(|(to, _, _)| finished.contains(&(message_id.as_str().to_owned(), to.clone())));
        if !is_new || asked.iter().any(|(_, is_open, _)| *is_open) {
            return Ok(());
        }
        let handed_on = asked.iter().filter(|(_, _, is_handed_on)| *is_handed_on);
        let handed_on: Vec<Mailbox> =
            handed_on.map(|(to, _, _)| stored(Mailbox::parse(to))).collect::<Result<_, _>>()?;
        if handed_on.is_empty() {
            return Ok(());
        }
        if let Some(letter) = (self.0)(&handed_on) {
            insert_own(tx, &letter).await?;
        }
        Ok(())
    }
}
