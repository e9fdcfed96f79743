//! The header that is left of a message, so that a bounce that comes late returns it as any
//! other does.
//!
//! It is written in the commit that deletes the message's bytes, and only where somebody may
//! hear of it later: of mail that left by Resend's API and has a sender to be told. Nobody tells
//! of what left over SMTP but Resend's own service, and which it was is not known here: a late
//! bounce of such mail comes without its header. It leaves with the message's row. Nobody reads
//! it but who writes a report, and the customer whose message it is.

use super::sql::{On, Session, query, query_as, query_scalar};
use super::{Store, StoreError, changed, json};
use crate::domain::ids::MessageId;

/// Octets that are kept at most: as much as a report returns.
const MAX_KEPT_BYTES: usize = 32 * 1024;

impl Store {
    /// The header of a message, as far as there is one: of mail that left over SMTP nothing is kept.
    pub async fn header(&self, message_id: &MessageId) -> Result<Option<Vec<u8>>, StoreError> {
        read(&self.readers, message_id.as_str()).await
    }
}

/// Keeps the headers of these messages, whose bytes are about to go. Mostly one journey to the
/// database reads all of them and one writes them; for none there is none.
pub(super) async fn keep(tx: &mut Session<'_>, message_ids: &[&str]) -> Result<(), StoreError> {
    // One octet more than is kept: it tells whether a field ends before it.
    const READ: &str = "
        SELECT b.message_id, substr(b.bytes, 1, 32769)
        FROM message m JOIN body b ON b.message_id = m.message_id
        WHERE m.message_id IN (SELECT atom FROM json_each($1)) AND b.chunk_no = 0
          AND m.kind = 'submission' AND m.reverse_path <> ''";
    const WRITE: &str = "
        INSERT INTO header (message_id, bytes)
        SELECT value ->> 0, substr($2, CAST(value ->> 1 AS BIGINT) + 1, CAST(value ->> 2 AS BIGINT))
        FROM json_each($1)";
    if message_ids.is_empty() {
        return Ok(());
    }
    let heads: Vec<(String, Vec<u8>)> = query_as(READ).bind(json(&message_ids)?).fetch_all(&mut *tx).await?;
    let (mut rows, mut octets) = (Vec::with_capacity(heads.len()), Vec::new());
    for (message_id, head) in &heads {
        let header = fields_of(head);
        if !header.is_empty() {
            rows.push((message_id, octets.len(), header.len()));
            octets.extend_from_slice(header);
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let done = query(WRITE).bind(json(&rows)?).bind(octets).execute(tx).await?;
    changed("headers", done.rows_affected(), rows.len())
}

/// The header of a message: of its bytes while they are there, then what was kept; `None`: it
/// was final before headers were kept, or there is no field of it that is short enough.
pub(super) async fn read(
    database: impl Into<On<'_>>,
    message_id: &str,
) -> Result<Option<Vec<u8>>, StoreError> {
    const READ: &str = "
        SELECT bytes FROM header WHERE message_id = $1
        UNION ALL
        SELECT substr(bytes, 1, 32769) FROM body WHERE message_id = $1 AND chunk_no = 0";
    let head: Option<Vec<u8>> = query_scalar(READ).bind(message_id).fetch_optional(database).await?;
    Ok(head.map(|head| fields_of(&head).to_vec()).filter(|header| !header.is_empty()))
}

/// The fields at the start of a message, without the blank line behind them: as many whole ones
/// as may be kept. `head` is all of the message, or one octet more of it than that.
fn fields_of(head: &[u8]) -> &[u8] {
    let (mut start, mut end) = (0, 0);
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        if !matches!(line, [b' ' | b'\t', ..]) {
            end = start;
        }
        if matches!(line, b"\n" | b"\r\n") || start >= MAX_KEPT_BYTES {
            return head.get(..end).unwrap_or_default();
        }
        start += line.len();
    }
    let end = if head.len() <= MAX_KEPT_BYTES { head.len() } else { end };
    head.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_ends_where_a_field_does() {
        let long = |octets: usize| format!("A: {}\r\n", "x".repeat(octets - 5));
        let first = long(MAX_KEPT_BYTES - 9);
        let table = [
            ("A: 1\r\nB: 2\r\n 3\r\n\r\nC: 4\r\n".to_owned(), "A: 1\r\nB: 2\r\n 3\r\n".len()),
            ("A: 1\nB: 2\n\nC: 4\n".to_owned(), "A: 1\nB: 2\n".len()),
            ("A: 1\r\nB: 2".to_owned(), "A: 1\r\nB: 2".len()),
            ("\r\nbody".to_owned(), 0),
            (String::new(), 0),
            (long(MAX_KEPT_BYTES) + "\r\nbody", MAX_KEPT_BYTES),
            (long(MAX_KEPT_BYTES) + "B: 2\r\n\r\n", MAX_KEPT_BYTES),
            (long(MAX_KEPT_BYTES) + " goes on\r\n\r\n", 0),
            (long(MAX_KEPT_BYTES + 1) + "\r\nbody", 0),
            (first.clone() + "B: 456\r\n" + "C: 7\r\n", first.len() + 8),
            (first.clone() + "B: 4567\r\n\r\n", MAX_KEPT_BYTES),
            (first.clone() + "B: 45678\r\n\r\n", first.len()),
            (first.clone() + "B: 4\r\n 56\r\n\r\n", first.len()),
            (first.clone() + "B: 4567\r\n 8\r\n\r\n", first.len()),
        ];
        for (message, want) in table {
            let head = message.as_bytes().get(..=MAX_KEPT_BYTES).unwrap_or(message.as_bytes());
            let kept = fields_of(head);
            assert_eq!(kept.len(), want, "{:?}", message.get(message.len().saturating_sub(40)..));
            assert_eq!(fields_of(kept), kept, "what was kept is whole");
        }
    }
}
