//! Looking for messages: by recipient, subject, state or id, newest first.
//!
//! What is looked for stands in no index, since every acceptance would pay for one. So a
//! search walks through the newest messages in the order of their ids, which is that of time, looks
//! up by its id what it wants to know of each, and stops after [`WALK`] of them, whatever it has
//! found. It says where: whoever wants to know more goes on from there.

use jiff::Timestamp;

use super::log::{MessageLog, MessageRow};
use super::sql::{query_as, query_scalar};
use super::{Store, StoreError, json, stored, timestamp};
use crate::domain::ids::{CustomerId, MessageId};
use crate::domain::message::MessageState;

/// Messages that one search looks at.
pub const WALK: u32 = 2_000;
/// Below and above all ids, by their octets.
const FIRST: &str = "";
const LAST: &str = "~";

/// What is looked for; all of it has to be so. Capital letters are as small ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search {
    /// An address of a recipient, or a part of one.
    pub recipient: Option<String>,
    /// A part of the subject.
    pub subject: Option<String>,
    /// Where it stands.
    pub state: Option<MessageState>,
    /// An id, or its beginning.
    pub id: Option<MessageId>,
}

/// Which part of what there is.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// Older than this message.
    pub before: Option<&'a MessageId>,
    /// At most so many.
    pub limit: u32,
}

/// What was found, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The messages.
    pub messages: Vec<MessageLog>,
    /// Before which to go on; nothing: there are no older ones.
    pub next: Option<MessageId>,
    /// Of when the last one is that was looked at, where there were too many to look at all.
    pub stopped_at: Option<Timestamp>,
}

impl Search {
    /// Whether everything is looked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The database compares letters of ASCII, this all of them.
    fn fits(&self, message: &MessageLog) -> bool {
        let has = |text: &str, part: &str| text.to_lowercase().contains(&part.to_lowercase());
        let is_to = |part: &String| message.recipients.iter().any(|of| has(&of.address, part));
        let is_about = |part: &String| message.subject.as_ref().is_some_and(|subject| has(subject, part));
        self.recipient.as_ref().is_none_or(is_to) && self.subject.as_ref().is_none_or(is_about)
    }
}

/// The newest messages of these, at most `$4` of them.
macro_rules! newest {
    ($columns:literal, $whose:literal, $limit:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM message WHERE ",
            $whose,
            " message_id >= $1 AND message_id <= $2 AND message_id < $3 ORDER BY message_id DESC ",
            $limit
        )
    };
}

/// Those of the newest that are looked for. The counts are looked up message by message:
/// of an EXISTS PostgreSQL may make a join with all recipients that there are.
macro_rules! walk {
    ($whose:literal) => {
        concat!(
            "SELECT m.message_id FROM (",
            newest!("message_id, subject", $whose, "LIMIT $4"),
            ") AS m
             WHERE (lower(m.subject) LIKE $5 ESCAPE '!' OR $5 IS NULL)
               AND ($6 IS NULL OR (SELECT count(*) FROM recipient r WHERE r.message_id = m.message_id
                                     AND lower(r.address) LIKE $6 ESCAPE '!') > 0)
               AND ($7 IS NULL OR (SELECT coalesce(max(CASE p.state WHEN 'queued' THEN 3 WHEN 'sending' THEN 3
                                       WHEN 'held' THEN 2 WHEN 'sent' THEN 1 ELSE 0 END), 0)
                                   FROM part p WHERE p.message_id = m.message_id) = $7)
             ORDER BY m.message_id DESC LIMIT $8"
        )
    };
}

/// The walk through one customer's messages.
pub(super) const WALK_OF_ONE: &str = walk!("customer_id = $9 AND");

impl Store {
    /// A customer's messages (or everyone's) that are looked for.
    pub async fn search(
        &self,
        whose: Option<&CustomerId>,
        search: &Search,
        page: Page<'_>,
    ) -> Result<Found, StoreError> {
        const OF_ALL: &str = walk!("");
        if search.is_empty() {
            return self.newest(whose, page).await;
        }
        let (first, last, before) = bounds(search, page);
        let walk = query_scalar::<String>(if whose.is_some() { WALK_OF_ONE } else { OF_ALL });
        let walk = walk.bind(first).bind(&last).bind(before).bind(WALK);
        let walk = walk.bind(search.subject.as_deref().map(pattern));
        let walk = walk.bind(search.recipient.as_deref().map(pattern));
        let walk = walk.bind(search.state.map(rank)).bind(page.limit);
        let walk = if let Some(whose) = whose { walk.bind(whose.as_str()) } else { walk };
        let ids = walk.fetch_all(&self.readers).await?;
        let mut messages = self.named(&ids).await?;
        messages.retain(|message| search.fits(message));
        if u32::try_from(ids.len()).is_ok_and(|found| found == page.limit) {
            let next = ids.last().map(|id| stored(MessageId::parse(id))).transpose()?;
            return Ok(Found { messages, next, stopped_at: None });
        }
        let (next, stopped_at) = self.end_of_walk(whose, (first, &last, before)).await?.unzip();
        Ok(Found { messages, next, stopped_at })
    }

    /// Whether a message is a customer's.
    pub async fn is_of(&self, message_id: &MessageId, whose: &CustomerId) -> Result<bool, StoreError> {
        const READ: &str = "SELECT count(*) FROM message WHERE message_id = $1 AND customer_id = $2";
        let count: i64 = query_scalar(READ)
            .bind(message_id.as_str())
            .bind(whose.as_str())
            .fetch_one(&self.readers)
            .await?;
        Ok(count > 0)
    }

    /// Where nothing is looked for.
    async fn newest(&self, whose: Option<&CustomerId>, page: Page<'_>) -> Result<Found, StoreError> {
        let messages = self.messages(whose, page.before, page.limit).await?;
        let is_full = u32::try_from(messages.len()).is_ok_and(|found| found == page.limit);
        let next = messages.last().filter(|_| is_full).map(|last| last.message_id.clone());
        Ok(Found { messages, next, stopped_at: None })
    }

    /// These messages, newest first.
    async fn named(&self, ids: &[String]) -> Result<Vec<MessageLog>, StoreError> {
        const READ: &str = "
            SELECT message_id, customer_id, kind, header_from, subject, size, price, captured, released,
                   accepted_at, expires_at, notes
            FROM message WHERE message_id IN (SELECT atom FROM json_each($1)) ORDER BY message_id DESC";
        let rows: Vec<MessageRow> = query_as(READ).bind(json(&ids)?).fetch_all(&self.readers).await?;
        self.with_details(rows).await
    }

    /// The last message that a walk looked at, if there were more.
    async fn end_of_walk(
        &self,
        whose: Option<&CustomerId>,
        (first, last, before): (&str, &str, &str),
    ) -> Result<Option<(MessageId, Timestamp)>, StoreError> {
        const OF_ONE: &str = newest!("message_id, accepted_at", "customer_id = $5 AND", "LIMIT 1 OFFSET $4");
        const OF_ALL: &str = newest!("message_id, accepted_at", "", "LIMIT 1 OFFSET $4");
        let read = query_as(if whose.is_some() { OF_ONE } else { OF_ALL });
        let read = read.bind(first).bind(last).bind(before).bind(WALK.saturating_sub(1));
        let read = if let Some(whose) = whose { read.bind(whose.as_str()) } else { read };
        let row: Option<(String, i64)> = read.fetch_optional(&self.readers).await?;
        row.map(|(id, at)| Ok((stored(MessageId::parse(&id))?, timestamp(at)?))).transpose()
    }
}

/// The lowest and the highest id, and which all are below.
fn bounds<'a>(search: &'a Search, page: Page<'a>) -> (&'a str, String, &'a str) {
    let before = page.before.map_or(LAST, MessageId::as_str);
    match &search.id {
        Some(id) => (id.as_str(), format!("{id}{LAST}"), before),
        None => (FIRST, LAST.to_owned(), before),
    }
}

/// How much a state says of a message: that of its parts which says most is the message's.
const fn rank(state: MessageState) -> i64 {
    match state {
        MessageState::Queued => 3,
        MessageState::Held => 2,
        MessageState::Sent => 1,
        MessageState::Failed => 0,
    }
}

/// For LIKE: whatever has this in it. Letters beyond ASCII are any, since the databases
/// differ about what their small ones are.
fn pattern(text: &str) -> String {
    let mut pattern = String::from("%");
    for letter in text.chars() {
        match letter {
            '!' | '%' | '_' => pattern.extend(['!', letter]),
            _ if letter.is_ascii() => pattern.push(letter.to_ascii_lowercase()),
            _ => pattern.push('_'),
        }
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_looked_for_as_it_is() {
        for (text, want) in [("Re: X", "%re: x%"), ("50%_off!", "%50!%!_off!!%"), ("Ärger", "%_rger%")] {
            assert_eq!(pattern(text), want);
        }
    }
}
