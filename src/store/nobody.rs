//! Addresses that nobody has, as the mail server said that was to take mail for them:
//! suppressed and counted in the commit of the report that says so.
//!
//! What an upstream tells later of mail that it took is [`super::event`]'s.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::accept::Kind;
use super::report::Report;
use super::reputation::{self, Counted, PauseLetter};
use super::sql::{Session, query_as};
use super::suppression::{self, New};
use super::{Store, StoreError, lock, millis, stored, timestamp};
use crate::domain::address::Mailbox;
use crate::domain::ids::CustomerId;
use crate::domain::reputation::Thresholds;
use crate::domain::suppression::Cause;

impl Store {
    /// Pauses a customer if too much of its mail comes back; why, if so.
    pub async fn pause_if_harmful(
        &self,
        customer_id: &CustomerId,
        thresholds: &Thresholds,
        letter: PauseLetter<'_>,
        now: Timestamp,
    ) -> Result<Option<String>, StoreError> {
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, customer_id).await?;
        let reason = reputation::judge(&mut tx, customer_id, (thresholds, letter), now).await?;
        tx.commit().await?;
        Ok(reason)
    }
}

/// Puts addresses on the list of the customer whose message a report is about, each with
/// what was said of it, and counts them among the recipients that were written to in vain.
pub(super) async fn suppress(
    tx: &mut Session<'_>,
    report: &Report,
    nobody: &[(&Mailbox, &str)],
) -> Result<(), StoreError> {
    const READ: &str = "SELECT customer_id, kind, accepted_at FROM message WHERE message_id = $1";
    if nobody.is_empty() {
        return Ok(());
    }
    let (customer_id, kind, accepted_at): (String, String, i64) =
        query_as(READ).bind(report.message_id.as_str()).fetch_one(&mut *tx).await?;
    // A notice that nobody gets is nobody's fault but ours.
    if kind == Kind::Notice.as_str() {
        return Ok(());
    }
    let (customer, message_id, now) =
        (stored(CustomerId::parse(&customer_id))?, Some(&report.message_id), report.at);
    for (mailbox, said) in nobody {
        let new = New { cause: Cause::Bounce, detail: Some(said), message_id, now };
        suppression::insert(tx, &customer, std::slice::from_ref(mailbox), &new).await?;
    }
    let bounced = i64::try_from(nobody.len()).unwrap_or(i64::MAX);
    let of = (&customer, timestamp(accepted_at)?);
    let is_counted = reputation::count(tx, of, Counted { bounced, complained: 0 }, now).await?;
    if is_counted && kind == Kind::Submission.as_str() {
        let day = (customer_id, reputation::day_of(millis(now)));
        reputation::count_sent(tx, &BTreeMap::from([(day, bounced)])).await?;
    }
    Ok(())
}
