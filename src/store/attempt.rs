//! Attempts, kept one by one where there is more to tell than that the message was
//! sent: the ordinary attempt, which succeeds and is the whole message, leaves no row
//! and is told by its part.

use serde::Serialize;

use super::report::{News, Report, Rest};
use super::sql::{Session, query};
use super::{StoreError, json, millis};
use crate::domain::answer::Answer;

/// Attempts kept of a part; the oldest leave first.
const MAX_ATTEMPTS: u32 = 50;

/// One attempt: message, part, attempt, when, outcome, upstream's id, words.
#[derive(Debug, Serialize)]
pub(super) struct AttemptRow(String, u32, u32, i64, &'static str, Option<String>, Option<String>);

impl AttemptRow {
    /// What a report says of its attempt; `None`: there was none that counts.
    pub(super) fn of(report: &Report) -> Option<Self> {
        let (outcome, upstream_id, words) = match &report.news {
            News::Retry { counts: false, .. } | News::Gated { .. } => return None,
            News::Retry { unknown: true, error, .. } => ("unknown", None, Some(error.clone())),
            News::Retry { error, .. } => ("deferred", None, Some(error.clone())),
            News::Hold { reason } => ("held", None, Some(reason.clone())),
            News::Answered(answered) => {
                let said = |answer: &Answer| format!("{} {}", answer.status, answer.text);
                let failed = answered.failed.first().map(|(_, answer)| said(answer));
                let (left, words) = match &answered.rest {
                    Rest::Again { answer, .. } => ("deferred", Some(said(answer)).or(failed)),
                    Rest::Held { reason } => ("held", Some(reason.clone())),
                    Rest::Nobody => ("failed", failed),
                };
                let outcome = if answered.sent.is_empty() { left } else { "sent" };
                (outcome, answered.upstream_id.clone(), words)
            }
        };
        let (id, at) = (report.message_id.as_str().to_owned(), millis(report.at));
        Some(Self(id, report.part_no, report.attempt, at, outcome, upstream_id, words))
    }

    /// Whether everybody was sent to, so that the part tells as much.
    pub(super) fn is_ordinary(&self) -> bool {
        self.4 == "sent" && self.6.is_none()
    }
}

/// Keeps attempts. One by one, since they are rare and a part may have several.
pub(super) async fn write(tx: &mut Session<'_>, rows: &[AttemptRow]) -> Result<(), StoreError> {
    const INSERT: &str = "
        INSERT INTO attempt (message_id, part_no, number, attempt, at, outcome, upstream_id, words)
        SELECT value ->> 0, CAST(value ->> 1 AS BIGINT),
               (SELECT coalesce(max(a.number), 0) + 1 FROM attempt a
                WHERE a.message_id = value ->> 0 AND a.part_no = CAST(value ->> 1 AS BIGINT)),
               CAST(value ->> 2 AS BIGINT), CAST(value ->> 3 AS BIGINT), value ->> 4, value ->> 5, value ->> 6
        FROM json_each($1)";
    const LEAVE: &str = "
        DELETE FROM attempt WHERE message_id = $1 AND part_no = $2 AND number <=
            (SELECT max(a.number) FROM attempt a WHERE a.message_id = $1 AND a.part_no = $2) - $3";
    for row in rows {
        query(INSERT).bind(json(&[row])?).execute(&mut *tx).await?;
        query(LEAVE).bind(&row.0).bind(row.1).bind(MAX_ATTEMPTS).execute(&mut *tx).await?;
    }
    Ok(())
}
