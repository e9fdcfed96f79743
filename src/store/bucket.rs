//! Limits that all nodes of a database keep together: one number for each bucket, when it
//! will be full again, moved on by whoever takes from it. A commit here waits for no disk:
//! what a failing database forgets is a second's worth of limits, and never mail or money.
//!
//! A file is one process's, whose own buckets are all there are: nothing is asked then.

use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::sql::{Session, Tx, query, query_as, query_scalar};
use super::{Store, StoreError, json, stored};
use crate::domain::digest::hex;
use crate::random;

/// What is taken from a bucket, or put into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Whose bucket.
    pub name: String,
    /// The time in which what is taken is refilled, in microseconds; less than none: put back.
    pub taken_us: i64,
    /// The same of a whole bucket.
    pub whole_us: i64,
}

/// The longest time to come that a bucket of calls is believed; longer was said by another clock,
/// before the database's was set back.
const CREDIBLE: Duration = Duration::from_secs(60);
/// Buckets whose time is over that leave in one step.
const STEP: u32 = 500;

impl Store {
    /// Takes one from a bucket of which one is refilled in each `interval`, and all in `whole`.
    /// `None`: it was taken. Otherwise when there will be one.
    pub async fn take_from_bucket(
        &self,
        name: &str,
        (interval, whole): (Duration, Duration),
        now: Timestamp,
    ) -> Result<Option<Duration>, StoreError> {
        // What is less than now is full; so is what another clock has said.
        const TAKE: &str = "
            INSERT INTO bucket (name, full_at) VALUES ($1, $2 + $3)
            ON CONFLICT (name) DO UPDATE SET full_at =
                CASE WHEN bucket.full_at BETWEEN $2 AND $4 THEN bucket.full_at + $3 ELSE excluded.full_at END
            WHERE bucket.full_at <= $4 OR bucket.full_at > $5
            RETURNING full_at";
        const LOOK: &str = "SELECT full_at FROM bucket WHERE name = $1";
        let (now, each) = (now.as_microsecond(), micros(interval));
        let credible = now.saturating_add(micros(CREDIBLE));
        // When it may be full, so that one is left in it.
        let last = now.saturating_add(micros(whole)).saturating_sub(each).min(credible);
        let mut writer = self.writer.lock().await;
        let mut tx = unsynced(writer.begin().await?).await?;
        let take = query_scalar::<i64>(TAKE).bind(name).bind(now).bind(each).bind(last).bind(credible);
        if take.fetch_optional(&mut *tx).await?.is_some() {
            tx.commit().await?;
            return Ok(None);
        }
        let full_at: Option<i64> = query_scalar(LOOK).bind(name).fetch_optional(&mut *tx).await?;
        tx.commit().await?;
        let over = full_at.unwrap_or(last).saturating_sub(last);
        Ok(Some(Duration::from_micros(u64::try_from(over).unwrap_or(0).max(1))))
    }

    /// When these buckets will be full; those that are full are not among them.
    pub async fn buckets(
        &self,
        names: &[String],
        now: Timestamp,
    ) -> Result<Vec<(String, Timestamp)>, StoreError> {
        const READ: &str = "
            SELECT name, full_at FROM bucket WHERE name IN (SELECT atom FROM json_each($1)) AND full_at > $2
            ORDER BY name";
        let rows: Vec<(String, i64)> =
            query_as(READ).bind(json(&names)?).bind(now.as_microsecond()).fetch_all(&self.readers).await?;
        let time = |micros| stored(Timestamp::from_microsecond(micros));
        rows.into_iter().map(|(name, full_at)| Ok((name, time(full_at)?))).collect()
    }

    /// Takes from buckets, as far as something is in them, and puts into others.
    pub async fn change_buckets(&self, mut changes: Vec<Change>, now: Timestamp) -> Result<(), StoreError> {
        const CHANGE: &str = "
            INSERT INTO bucket (name, full_at) VALUES ($1, max($2, min($2 + $3, $2 + $4)))
            ON CONFLICT (name) DO UPDATE SET full_at = min(max(bucket.full_at, $2) + $3, $2 + $4)";
        // In one order for all, so that no two wait for each other.
        changes.sort_by(|a, b| a.name.cmp(&b.name));
        let mut writer = self.writer.lock().await;
        let mut tx = unsynced(writer.begin().await?).await?;
        for Change { name, taken_us, whole_us } in changes {
            let change = query(CHANGE).bind(name).bind(now.as_microsecond());
            change.bind(taken_us).bind(whole_us).execute(&mut *tx).await?;
        }
        Ok(tx.commit().await?)
    }

    /// What all who share this database hash names with; a file's is another each time.
    pub async fn shared_key(&self) -> Result<[u8; 32], StoreError> {
        const MAKE: &str =
            "INSERT INTO meta (key, value) VALUES ('shared_key', $1) ON CONFLICT (key) DO NOTHING";
        const READ: &str = "SELECT value FROM meta WHERE key = 'shared_key'";
        let made: [u8; 32] = random::octets();
        if !self.is_shared() {
            return Ok(made);
        }
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        query(MAKE).bind(hex(&made)).execute(&mut *tx).await?;
        let kept: String = query_scalar(READ).fetch_one(&mut *tx).await?;
        tx.commit().await?;
        Ok(Sha256::digest(kept).into())
    }

    /// Removes some buckets that are full again; how many.
    pub async fn sweep_buckets(&self, now: Timestamp) -> Result<u64, StoreError> {
        const SWEEP: &str = "
            DELETE FROM bucket WHERE name IN (SELECT name FROM bucket WHERE full_at < $1 ORDER BY name LIMIT $2)
              AND full_at < $1";
        let mut writer = self.writer.lock().await;
        let mut tx = unsynced(writer.begin().await?).await?;
        let done = query(SWEEP).bind(now.as_microsecond()).bind(STEP).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }
}

fn micros(interval: Duration) -> i64 {
    i64::try_from(interval.as_micros()).unwrap_or(i64::MAX)
}

/// A transaction whose commit does not wait for the disk.
pub(super) async fn unsynced(mut tx: Tx<'_>) -> Result<Tx<'_>, sqlx::Error> {
    if matches!(&*tx, Session::Postgres(_)) {
        query("SET LOCAL synchronous_commit = off").execute(&mut tx).await?;
    }
    Ok(tx)
}
