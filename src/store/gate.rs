//! Gates: an upstream's closed door, kept so that a restart does not forget it.

use jiff::Timestamp;

use super::sql::{Session, Sql, Whole, query, query_as, query_scalar};
use super::{Store, StoreError, json, lock, millis, timestamp};
use crate::domain::message::Road;

/// Messages whose lifetimes are extended in one transaction.
const PAGE: u32 = 500;
/// Parts that fall due where one is to be let through, and some of them cannot.
const TRIED_AGAIN: u32 = 100;

/// Parts of one kind that wait behind the gate of a road.
macro_rules! some_behind {
    ($batch_max:literal) => {
        concat!(
            "SELECT p.message_id, p.part_no FROM part p JOIN gate g ON g.road = p.road
             WHERE p.state = 'queued' AND p.due_at > $1 AND p.road = $3
               AND (p.attempt = 0 OR p.due_at <= g.try_again_at + 60000) AND p.batch_max ",
            $batch_max,
            " ORDER BY p.due_at LIMIT $2"
        )
    };
}

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

    /// Closes a gate, or says why and until when a closed one stays so. One that is being
    /// opened is opened first: what waited behind it until then has waited so long.
    pub async fn close_gate(&self, gate: &Gate) -> Result<(), StoreError> {
        const CLOSE: &str = "
            INSERT INTO gate (road, reason, since, try_again_at) VALUES ($1, $2, $3, $4)
            ON CONFLICT (road) DO UPDATE SET reason = excluded.reason, try_again_at = excluded.try_again_at";
        let mut since = gate.since;
        while let Some(page) = self.open_page(gate.road).await? {
            since = since.max(timestamp(page.opened_at)?);
        }
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        query(CLOSE)
            .bind(gate.road.as_str())
            .bind(&gate.reason)
            .bind(millis(since))
            .bind(millis(gate.try_again_at.max(since)))
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// Says when a gate is tried again, if it is still closed.
    pub async fn put_gate_off(&self, road: Road, try_again_at: Timestamp) -> Result<(), StoreError> {
        const PUT_OFF: &str = "UPDATE gate SET try_again_at = max(since, $2) WHERE road = $1";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        query(PUT_OFF).bind(road.as_str()).bind(millis(try_again_at)).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    /// Lets one part through each closed gate now, to see: keys come with the
    /// environment, so the operator may have mended it between stop and start.
    pub async fn try_gates_again(&self, now: Timestamp) -> Result<(), StoreError> {
        // Each kind of each road is in an index of its own, in the order of time.
        const SOME: [&str; 2] = [some_behind!("= 1"), some_behind!("> 1")];
        const CLOSED: &str = "SELECT road FROM gate ORDER BY road";
        const DUE: &str = "
            UPDATE part SET due_at = $1
            WHERE state = 'queued' AND due_at > $1 AND (message_id, part_no) IN
                (SELECT value ->> 0, CAST(value ->> 1 AS BIGINT) FROM json_each($2))";
        const TRY: &str = "UPDATE gate SET try_again_at = max(since, $1)";
        const GATES: &str = "SELECT road FROM gate ORDER BY road FOR UPDATE";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let closed: Vec<String> = query_scalar(CLOSED).fetch_all(&mut *tx).await?;
        let mut some = Vec::new();
        for (road, text) in closed.iter().flat_map(|road| SOME.map(|text| (road, text))) {
            let behind = query_as(text).bind(millis(now)).bind(TRIED_AGAIN).bind(road);
            let behind: Vec<(String, Whole)> = behind.fetch_all(&mut *tx).await?;
            some.extend(behind.into_iter().map(|(message_id, part_no)| (message_id, part_no.0)));
        }
        let some = json(&some)?;
        lock::parts(&mut tx, &some).await?;
        lock::rows(&mut tx, query(GATES)).await?;
        query(DUE).bind(millis(now)).bind(&some).execute(&mut *tx).await?;
        query(TRY).bind(millis(now)).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    /// Opens a gate. The lifetimes of what waited behind it stood still meanwhile,
    /// and its parts fall due now: those that were put off until the gate's next
    /// try, or for a moment longer. Who waits longer than that waits for itself.
    ///
    /// However much waits, a page of it is one transaction. From the first one on whoever puts
    /// a part back finds the gate open; nothing is sent before the last. Whoever opens
    /// it again after a crash in between goes on where it stood.
    pub async fn open_gate(&self, road: Road, now: Timestamp) -> Result<(), StoreError> {
        const BEGIN: &str = "UPDATE gate SET opened_at = $2 WHERE road = $1 AND opened_at IS NULL";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        query(BEGIN).bind(road.as_str()).bind(millis(now)).execute(&mut *tx).await?;
        tx.commit().await?;
        drop(writer);
        while self.open_page(road).await?.is_some() {}
        Ok(())
    }

    /// Opens a gate for the next page of what waits behind it, and for good when nothing is
    /// left. `None`: it is not being opened, or not any more.
    pub(super) async fn open_page(&self, road: Road) -> Result<Option<Page>, StoreError> {
        const AT: &str = "SELECT opened_at, opened_to FROM gate WHERE road = $1 AND opened_at IS NOT NULL";
        const BEHIND: &str = "
            SELECT DISTINCT message_id FROM part
            WHERE road = $1 AND state IN ('queued', 'sending') AND message_id > $2 ORDER BY message_id LIMIT $3";
        // Not by the writer: finding them may take longer than nobody has to wait for.
        let page: Option<Page> = query_as(AT).bind(road.as_str()).fetch_optional(&self.readers).await?;
        let Some(page) = page else { return Ok(None) };
        let behind = query_scalar(BEHIND).bind(road.as_str()).bind(&page.opened_to).bind(PAGE);
        let message_ids: Vec<String> = behind.fetch_all(&self.readers).await?;
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::messages(&mut tx, &message_ids.iter().map(String::as_str).collect()).await?;
        page.open(&mut tx, road, &message_ids).await?;
        // Another process may have opened this page meanwhile: then all of this is undone.
        if page.move_on(&mut tx, road, message_ids.last().map(String::as_str)).await? {
            tx.commit().await?;
        }
        Ok(Some(page))
    }
}

/// How far a gate is open.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Page {
    opened_at: i64,
    opened_to: String,
}

impl Page {
    /// Extends the lifetimes of these messages, and has their parts fall due.
    async fn open(&self, tx: &mut Session<'_>, road: Road, message_ids: &[String]) -> Result<(), StoreError> {
        const EXTEND: &str = "
            UPDATE message SET expires_at = expires_at + $2 - max(accepted_at, g.since)
            FROM gate AS g
            WHERE g.road = $1 AND message.final_at IS NULL AND message.accepted_at < $2
              AND message.message_id IN (SELECT atom FROM json_each($3))";
        const DUE: &str = "
            UPDATE part SET due_at = $2 FROM gate AS g
            WHERE g.road = $1 AND part.road = $1 AND part.state = 'queued' AND part.due_at > $2
              AND (part.attempt = 0 OR part.due_at <= g.try_again_at + 60000)
              AND part.message_id IN (SELECT atom FROM json_each($3))";
        let ids = json(&message_ids)?;
        for statement in [EXTEND, DUE] {
            query(statement).bind(road.as_str()).bind(self.opened_at).bind(&ids).execute(&mut *tx).await?;
        }
        Ok(())
    }

    /// The page ends with that message; without one, nothing was left and the gate is gone.
    /// `false`: somebody else has moved on already.
    async fn move_on(
        &self,
        tx: &mut Session<'_>,
        road: Road,
        last: Option<&str>,
    ) -> Result<bool, StoreError> {
        const ON: &str = "
            UPDATE gate SET opened_to = $4 WHERE road = $1 AND opened_at = $2 AND opened_to = $3";
        const OPEN: &str = "DELETE FROM gate WHERE road = $1 AND opened_at = $2 AND opened_to = $3";
        let statement = if last.is_some() { ON } else { OPEN };
        let query = query(statement).bind(road.as_str()).bind(self.opened_at).bind(&self.opened_to);
        let query = if let Some(last) = last { query.bind(last) } else { query };
        Ok(query.execute(tx).await?.rows_affected() == 1)
    }
}

/// The roads whose gate is closed and not being opened, and stays so until the end of this
/// transaction.
pub(super) async fn closed_roads(tx: &mut Session<'_>) -> Result<Vec<Road>, StoreError> {
    const READ: Sql = Sql {
        sqlite: "SELECT road FROM gate WHERE opened_at IS NULL",
        postgres: "SELECT road FROM gate WHERE opened_at IS NULL ORDER BY road FOR SHARE",
    };
    let roads: Vec<String> = query_scalar(READ).fetch_all(tx).await?;
    roads.iter().map(|road| stored_road(road)).collect()
}

fn stored_road(road: &str) -> Result<Road, StoreError> {
    Road::parse(road).ok_or_else(|| StoreError::Corrupt(format!("{road} is not a road")))
}
