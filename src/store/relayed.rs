//! The report that a message was handed on (RFC 3461 §5.2.2): one for the whole message,
//! whatever its parts and attempts are, in the commit that makes the last recipient final
//! whose success was asked about. Who was handed on to a server that reports nothing itself
//! is known by the words on the recipient.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::accept::{Acceptance, insert_own};
use super::sql::{Session, query_as};
use super::{StoreError, stored};
use crate::domain::address::Mailbox;
use crate::domain::answer::{HandedOn, Taker};
use crate::domain::ids::MessageId;

/// What stands with a recipient of whom nobody but us tells that it was handed on.
const HANDED_ON: &str = "handed on; from there on nobody reports its success";

/// What stands between the host of the mail server that took it and its reply.
const SAID: &str = " said: ";

/// The words on a recipient who was handed on to that host, if it is a mail server's, with
/// that reply.
pub(super) fn words(host: Option<&str>, reply: Option<&str>) -> String {
    match (host, reply) {
        (Some(host), Some(reply)) => format!("{HANDED_ON}; {host}{SAID}{reply}"),
        _ => HANDED_ON.to_owned(),
    }
}

/// Who took it, by these words; `None`: nobody on whose success only we report.
fn taken(words: &str) -> Option<Option<Taker>> {
    let (host, reply) = match words.strip_prefix(HANDED_ON)?.strip_prefix("; ") {
        Some(by) => by.split_once(SAID)?,
        None => return Some(None),
    };
    Some(Some(Taker { host: host.to_owned(), reply: reply.to_owned() }))
}

/// Writes the report for those who were handed on, where it is known who they are.
#[derive(Clone)]
pub struct Relayed(Arc<Write>);

type Write = dyn Fn(&[HandedOn]) -> Option<Acceptance> + Send + Sync;

impl fmt::Debug for Relayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Relayed")
    }
}

impl Relayed {
    /// A report that is written so.
    pub fn new(write: impl Fn(&[HandedOn]) -> Option<Acceptance> + Send + Sync + 'static) -> Self {
        Self(Arc::new(write))
    }

    /// Inserts the report if one of these, who became final now, was the last whose success
    /// was asked about, and anybody was handed on. Of whom it was told meanwhile that it came
    /// back it is not said that it left.
    pub(super) async fn insert(
        &self,
        tx: &mut Session<'_>,
        message_id: &MessageId,
        finished: &BTreeSet<(String, String)>,
    ) -> Result<(), StoreError> {
        const READ: &str = "
            SELECT address, state, CASE WHEN bounced_at IS NULL THEN reply END FROM recipient
            WHERE message_id = $1 AND notify LIKE '%SUCCESS%' ORDER BY part_no, ordinal";
        let asked: Vec<(String, String, Option<String>)> =
            query_as(READ).bind(message_id.as_str()).fetch_all(&mut *tx).await?;
        let is_new =
            asked.iter().any(|(to, _, _)| finished.contains(&(message_id.as_str().to_owned(), to.clone())));
        if !is_new || asked.iter().any(|(_, state, _)| state == "queued") {
            return Ok(());
        }
        let sent = asked.iter().filter(|(_, state, _)| state == "sent");
        let handed_on = sent.filter_map(|(to, _, reply)| Some((to, taken(reply.as_deref()?)?)));
        let handed_on: Vec<HandedOn> = handed_on
            .map(|(to, by)| Ok(HandedOn { recipient: stored(Mailbox::parse(to))?, by }))
            .collect::<Result<_, StoreError>>()?;
        if handed_on.is_empty() {
            return Ok(());
        }
        if let Some(letter) = (self.0)(&handed_on) {
            insert_own(tx, &letter, Some(message_id)).await?;
        }
        Ok(())
    }
}
