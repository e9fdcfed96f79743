//! Gates: an upstream's closed door, kept so that a restart does not forget it.

use jiff::Timestamp;

use super::sql::{Session, Sql, query, query_as, query_scalar};
use super::{Store, StoreError, lock, millis, timestamp};
use crate::domain::message::Road;

/// A closed gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// The upstream.
    pub road: Road,
    /// Why, for the operator.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// When one part is let through to see.
    pub try_again_at: Timestamp,
}

impl Store {
    /// The gates that are closed.
    pub async fn gates(&self) -> Result<Vec<Gate>, StoreError> {
        const READ: &str = "SELECT road, reason, since, try_again_at FROM gate ORDER BY road";
        let rows: Vec<(String, String, i64, i64)> = query_as(READ).fetch_all(&self.readers).await?;
        rows.into_iter()
            .map(|(road, reason, since, again)| {
                Ok(Gate {
                    road: stored_road(&road)?,
                    reason,
                    since: timestamp(since)?,
                    try_again_at: timestamp(again)?,
                })
            })
            .collect()
    }

    /// Closes a gate, or says when a closed one is tried again.
    pub async fn close_gate(&self, gate: &Gate) -> Result<(), StoreError> {
        const CLOSE: &str = "
            INSERT INTO gate (road, reason, since, try_again_at) VALUES ($1, $2, $3, $4)
            ON CONFLICT (road) DO UPDATE SET reason = excluded.reason, try_again_at = excluded.try_again_at";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        query(CLOSE)
            .bind(gate.road.as_str())
            .bind(&gate.reason)
            .bind(millis(gate.since))
            .bind(millis(gate.try_again_at))
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// Lets one part through each closed gate now, to see: keys come with the
    /// environment, so the operator may have mended it between stop and start.
    pub async fn try_gates_again(&self, now: Timestamp) -> Result<(), StoreError> {
        const DUE: &str = "
            UPDATE part SET due_at = $1 FROM gate AS g
            WHERE part.road = g.road AND part.state = 'queued' AND part.due_at > $1
              AND (part.attempt = 0 OR part.due_at <= g.try_again_at + 60000)";
        const TRY: &str = "UPDATE gate SET try_again_at = max(since, $1)";
        const PARTS: &str = "
            SELECT message_id FROM part
            WHERE road IN (SELECT road FROM gate) AND state = 'queued' AND due_at > $1
            ORDER BY message_id, part_no FOR NO KEY UPDATE";
        const GATES: &str = "SELECT road FROM gate ORDER BY road FOR UPDATE";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::rows(&mut tx, query(PARTS).bind(millis(now))).await?;
        lock::rows(&mut tx, query(GATES)).await?;
        query(DUE).bind(millis(now)).execute(&mut *tx).await?;
        query(TRY).bind(millis(now)).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    /// Opens a gate. The lifetimes of what waited behind it stood still meanwhile,
    /// and its parts fall due now: those that were put off until the gate's next
    /// try, or for a moment longer. Who waits longer than that waits for itself.
    pub async fn open_gate(&self, road: Road, now: Timestamp) -> Result<(), StoreError> {
        const EXTEND: &str = "
            UPDATE message SET expires_at = expires_at + $2 - max(accepted_at, g.since)
            FROM gate AS g
            WHERE g.road = $1 AND message.final_at IS NULL AND message.accepted_at < $2
              AND message.message_id IN (SELECT message_id FROM part WHERE road = $1 AND state IN ('queued', 'sending'))";
        const DUE: &str = "
            UPDATE part SET due_at = $2 FROM gate AS g
            WHERE g.road = $1 AND part.road = $1 AND part.state = 'queued' AND part.due_at > $2
              AND (part.attempt = 0 OR part.due_at <= g.try_again_at + 60000)";
        const OPEN: &str = "DELETE FROM gate WHERE road = $1";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock_behind(&mut tx, road).await?;
        query(EXTEND).bind(road.as_str()).bind(millis(now)).execute(&mut *tx).await?;
        query(DUE).bind(road.as_str()).bind(millis(now)).execute(&mut *tx).await?;
        query(OPEN).bind(road.as_str()).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }
}

/// Locks whoever waits behind a gate or is on their way there, and then the gate. Whoever
/// has read that it is closed, and puts a part back behind it, is waited for; whoever comes
/// after that finds it open.
async fn lock_behind(tx: &mut Session<'_>, road: Road) -> Result<(), StoreError> {
    const ACCOUNTS: &str = "
        SELECT customer_id FROM account WHERE customer_id IN
            (SELECT customer_id FROM part WHERE road = $1 AND state IN ('queued', 'sending'))
        ORDER BY customer_id FOR NO KEY UPDATE";
    const PARTS: &str = "
        SELECT message_id FROM part WHERE road = $1 AND state IN ('queued', 'sending')
        ORDER BY message_id, part_no FOR NO KEY UPDATE";
    const GATE: &str = "SELECT road FROM gate WHERE road = $1 FOR UPDATE";
    for statement in [ACCOUNTS, PARTS, GATE] {
        lock::rows(tx, query(statement).bind(road.as_str())).await?;
    }
    Ok(())
}

/// The roads whose gate is closed, and stays so until the end of this transaction.
pub(super) async fn closed_roads(tx: &mut Session<'_>) -> Result<Vec<Road>, StoreError> {
    const READ: Sql =
        Sql { sqlite: "SELECT road FROM gate", postgres: "SELECT road FROM gate ORDER BY road FOR SHARE" };
    let roads: Vec<String> = query_scalar(READ).fetch_all(tx).await?;
    roads.iter().map(|road| stored_road(road)).collect()
}

fn stored_road(road: &str) -> Result<Road, StoreError> {
    Road::parse(road).ok_or_else(|| StoreError::Corrupt(format!("{road} is not a road")))
}
