//! Calls that carry parts of several messages: composed before they are made, made again
//! with the same members, and left by all of them together.
//!
//! What stands here of a call is what it takes to make it again: who is in it, in which
//! order, under which key. A member leaves it when its outcome is known and the member is
//! not final ([`crate::domain::batch`]), which a report says; the reports of all members
//! are one commit ([`Store::report_all`]). Final members keep their call, and the call
//! leaves with the last of them ([`super::retention`]).

use std::collections::BTreeSet;

use bytes::Bytes;
use jiff::Timestamp;

use super::queue::{Batched, DuePart, LeasedPart, read_waiting, take};
use super::sql::{Session, Sql, Whole, query, query_as, query_scalar};
use super::wake::Wake;
use super::{Store, StoreError, changed, json, lock, millis, stored};
use crate::domain::ids::{BatchId, MessageId};

/// A leased part that is to be in a call.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The message.
    pub message_id: MessageId,
    /// The part's number in it.
    pub part_no: u32,
    /// The attempt whose lease it is.
    pub attempt: u32,
    /// SHA-256 of the request that is posted for it: what stood there is of another version
    /// perhaps, and only what was posted can be repeated.
    pub request_hash: String,
}

/// A member whose call has ended while it is not final, as it stands from now on.
#[derive(Debug)]
pub(super) struct Leaver<'a> {
    pub(super) message_id: &'a str,
    pub(super) part_no: u32,
    pub(super) batch_max: u32,
    /// The call that it leaves.
    pub(super) call: Option<&'a BatchId>,
}

/// Where the members of a call stand that are not final.
#[derive(Debug, sqlx::FromRow)]
struct Members {
    /// How many it was composed of.
    size: Option<Whole>,
    #[sqlx(try_from = "i64")]
    waiting: u32,
    #[sqlx(try_from = "i64")]
    under_way: u32,
}

impl Store {
    /// Fixes a call on disk before it is made: who of these is in it, in their order, and
    /// what is posted for each. Each gets its place; `None`: its lease was lost, and it is
    /// not in the call. The key of the call is new, and its life begins now.
    ///
    /// # Errors
    /// Whoever is there may not have so much company: a mistake of the caller's.
    pub async fn compose(
        &self,
        id: &BatchId,
        members: &[Candidate],
        now: Timestamp,
    ) -> Result<Vec<Option<Batched>>, StoreError> {
        const THERE: &str = "
            SELECT CAST(w.value ->> 3 AS BIGINT) AS nth FROM json_each($1) AS w CROSS JOIN part p
            WHERE p.message_id = w.value ->> 0 AND p.part_no = CAST(w.value ->> 1 AS BIGINT)
            AND p.state = 'sending' AND p.node = $2
              AND p.attempt = CAST(w.value ->> 2 AS BIGINT) AND p.batch_id IS NULL
            ORDER BY nth";
        let name = |(nth, of): (u32, &Candidate)| (of.message_id.to_string(), of.part_no, of.attempt, nth);
        let names: Vec<_> = (0..).zip(members).map(name).collect();
        let mut places = vec![None; members.len()];
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let names = json(&names)?;
        lock::parts(&mut tx, &names).await?;
        let there: Vec<i64> = query_scalar(THERE).bind(names).bind(&*self.node).fetch_all(&mut *tx).await?;
        let size = u32::try_from(there.len()).unwrap_or(u32::MAX);
        if size == 0 {
            return Ok(places);
        }
        let mut seats = Vec::with_capacity(there.len());
        for (no, nth) in (0..).zip(there) {
            let Ok(nth) = usize::try_from(nth) else { continue };
            if let (Some(place), Some(member)) = (places.get_mut(nth), members.get(nth)) {
                *place = Some(Batched { id: id.clone(), no, size });
                seats.push((member.message_id.as_str(), member.part_no, no, member.request_hash.as_str()));
            }
        }
        write(&mut tx, (id, size), &seats, now).await?;
        tx.commit().await?;
        Ok(places)
    }

    /// Takes all members of a call that is made again, in their order, or nobody: somebody
    /// else has it, or it is not due. Where it can never be made again, since one of them is
    /// missing or cannot be read, those that remain are held for the operator.
    pub async fn lease_batch(
        &self,
        id: &BatchId,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<LeasedPart>, StoreError> {
        let waiting = self.with_bodies(&self.members_due(id).await?).await?;
        self.take_batch(id, waiting, (now, until)).await
    }

    /// Takes the members of a call of whom it is known that they waited, with their bytes.
    /// Who has come back since then is not among them, and is no reason to hold anybody.
    pub(super) async fn take_batch(
        &self,
        id: &BatchId,
        waiting: Vec<(DuePart, Bytes)>,
        (now, until): (Timestamp, Timestamp),
    ) -> Result<Vec<LeasedPart>, StoreError> {
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let mut leased = read_waiting(&mut tx, waiting, Some(id), now).await?;
        let members = Members::read(&mut tx, id).await?;
        let read = u32::try_from(leased.parts.len()).unwrap_or(u32::MAX);
        if members.size == Some(Whole(read)) {
            leased.parts.sort_by_key(|part| part.batch.as_ref().map(|batch| batch.no));
            take(&mut tx, &leased.parts, &self.node, (now, until)).await?;
            self.writer.is_sure()?;
            tx.commit().await?;
            return Ok(leased.parts);
        }
        let is_whole = members.size == Some(Whole(members.waiting + members.under_way));
        let why = match leased.unreadable.pop() {
            Some((part, why)) if !is_whole || members.under_way == 0 => {
                format!("a part of the same call, {}, cannot be read: {why}", part.message_id)
            }
            None if !is_whole && members.waiting > 0 => {
                "not everybody is left of the call that it was part of".to_owned()
            }
            // It comes back: as a whole, when somebody else is done with it, when it is due.
            _ => {
                tx.commit().await?;
                return Ok(Vec::new());
            }
        };
        let reason = format!("its outcome is unknown, and it cannot be asked again: {why}");
        let held = hold_rest(&mut tx, id, &reason).await?;
        tx.commit().await?;
        tracing::error!(batch_id = %id, parts = held, reason, "a call cannot be made again; its parts are held");
        Ok(Vec::new())
    }

    /// Keeps under which id the upstream took a member of a call whose outcome is unknown, and
    /// has the call made again at that time, if its members wait for longer. The member stays in
    /// its call; whatever else the call comes to, that one was sent ([`super::report`]).
    pub async fn taken_in_doubt(
        &self,
        id: &BatchId,
        (message_id, part_no, upstream_id): (&MessageId, u32, &str),
        at: Timestamp,
    ) -> Result<(), StoreError> {
        const TAKEN: &str = "
            UPDATE part SET upstream_id = $4
            WHERE batch_id = $1 AND message_id = $2 AND part_no = $3 AND upstream_id IS NULL
              AND state IN ('queued', 'sending')";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::members(&mut tx, id).await?;
        query(TAKEN)
            .bind(id.as_str())
            .bind(message_id.as_str())
            .bind(part_no)
            .bind(upstream_id)
            .execute(&mut *tx)
            .await?;
        hasten(&mut tx, &BTreeSet::from([id.as_str()]), at).await?;
        tx.commit().await?;
        self.ring(&Wake::Parts);
        Ok(())
    }

    /// The members of a call that wait.
    async fn members_due(&self, id: &BatchId) -> Result<Vec<DuePart>, StoreError> {
        const READ: &str = "
            SELECT p.message_id, p.part_no, p.batch_max, m.size
            FROM part p JOIN message m ON m.message_id = p.message_id
            WHERE p.batch_id = $1 AND p.state = 'queued' ORDER BY p.batch_no";
        let rows: Vec<(String, Whole, Whole, i64)> =
            query_as(READ).bind(id.as_str()).fetch_all(&self.readers).await?;
        rows.into_iter()
            .map(|(message_id, Whole(part_no), Whole(batch_max), size)| {
                let message_id = stored(MessageId::parse(&message_id))?;
                let size = usize::try_from(size).unwrap_or(0);
                Ok(DuePart { message_id, part_no, size, batch_max, batch_id: Some(id.clone()) })
            })
            .collect()
    }
}

impl Members {
    async fn read(tx: &mut Session<'_>, id: &BatchId) -> Result<Self, StoreError> {
        const READ: &str = "
            SELECT (SELECT size FROM batch WHERE batch_id = $1) AS size,
                   count(*) FILTER (WHERE state = 'queued') AS waiting,
                   count(*) FILTER (WHERE state = 'sending') AS under_way
            FROM part WHERE batch_id = $1";
        Ok(query_as(READ).bind(id.as_str()).fetch_one(tx).await?)
    }
}

/// Writes a call and the places in it: message, part, place, hash of the request.
async fn write(
    tx: &mut Session<'_>,
    (id, size): (&BatchId, u32),
    seats: &[(&str, u32, u32, &str)],
    now: Timestamp,
) -> Result<(), StoreError> {
    const CALL: &str = "INSERT INTO batch (batch_id, size, composed_at) VALUES ($1, $2, $3)";
    const SEAT: &str = "
        UPDATE part SET batch_id = $2, batch_no = s.batch_no, first_try_at = $4, request_hash = s.hash
        FROM (SELECT value ->> 0 AS message_id, CAST(value ->> 1 AS BIGINT) AS part_no,
                     CAST(value ->> 2 AS BIGINT) AS batch_no,
                     value ->> 3 AS hash
              FROM json_each($1)) AS s
        WHERE part.message_id = s.message_id AND part.part_no = s.part_no AND part.state = 'sending'
          AND part.batch_id IS NULL AND part.unknown = 0 AND part.batch_max >= max($3, 2)";
    let done = query(CALL).bind(id.as_str()).bind(size).bind(millis(now)).execute(&mut *tx).await?;
    changed("call", done.rows_affected(), 1)?;
    let done =
        query(SEAT).bind(json(&seats)?).bind(id.as_str()).bind(size).bind(millis(now)).execute(tx).await?;
    changed("members of a call", done.rows_affected(), seats.len())
}

/// Holds the members of a call that wait, whose outcome nobody can tell any more. On PostgreSQL
/// those about whom somebody is deciding are left to the next look: here nobody is waited for.
async fn hold_rest(tx: &mut Session<'_>, id: &BatchId, reason: &str) -> Result<u64, StoreError> {
    const HOLD: Sql = Sql {
        sqlite: "
            UPDATE part SET state = 'held', due_at = NULL, unknown = 1, batch_id = NULL, batch_no = NULL,
                   last_error = $2
            WHERE batch_id = $1 AND state = 'queued'",
        postgres: "
            UPDATE part SET state = 'held', due_at = NULL, unknown = 1, batch_id = NULL, batch_no = NULL,
                   last_error = $2
            WHERE (message_id, part_no) IN
                (SELECT message_id, part_no FROM part WHERE batch_id = $1 AND state = 'queued'
                 FOR NO KEY UPDATE SKIP LOCKED)",
    };
    let held = query(HOLD).bind(id.as_str()).bind(reason).execute(&mut *tx).await?.rows_affected();
    forget(tx, &BTreeSet::from([id.as_str()])).await?;
    Ok(held)
}

/// Parts leave their calls, or have less company from now on. Mostly there is none, and
/// nothing is asked.
pub(super) async fn leave(tx: &mut Session<'_>, leavers: Vec<Leaver<'_>>) -> Result<(), StoreError> {
    const LEAVE: &str = "
        UPDATE part SET batch_max = l.batch_max, batch_id = NULL, batch_no = NULL
        FROM (SELECT value ->> 0 AS message_id, CAST(value ->> 1 AS BIGINT) AS part_no,
                     CAST(value ->> 2 AS BIGINT) AS batch_max
              FROM json_each($1)) AS l
        WHERE part.message_id = l.message_id AND part.part_no = l.part_no";
    if leavers.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = leavers.iter().map(|of| (of.message_id, of.part_no, of.batch_max)).collect();
    let done = query(LEAVE).bind(json(&rows)?).execute(&mut *tx).await?;
    changed("members that leave a call", done.rows_affected(), rows.len())?;
    forget(tx, &leavers.iter().filter_map(|of| of.call).map(BatchId::as_str).collect()).await
}

/// The members of a call are due together: when one of them is hastened, so are the others.
pub(super) async fn hasten(
    tx: &mut Session<'_>,
    calls: &BTreeSet<&str>,
    now: Timestamp,
) -> Result<(), StoreError> {
    const HASTEN: &str = "
        UPDATE part SET due_at = $2
        WHERE batch_id IN (SELECT atom FROM json_each($1)) AND state = 'queued' AND due_at > $2";
    if !calls.is_empty() {
        query(HASTEN).bind(json(&calls)?).bind(millis(now)).execute(tx).await?;
    }
    Ok(())
}

/// Calls that nobody is in any more are forgotten.
pub(super) async fn forget(tx: &mut Session<'_>, calls: &BTreeSet<&str>) -> Result<(), StoreError> {
    const FORGET: &str = "
        DELETE FROM batch WHERE batch_id IN (SELECT atom FROM json_each($1))
            AND NOT EXISTS (SELECT 1 FROM part p WHERE p.batch_id = batch.batch_id)";
    // Two who leave a call at the same time would each believe that the other is still in it.
    const LOCK: &str = "
        SELECT batch_id FROM batch WHERE batch_id IN (SELECT atom FROM json_each($1))
        ORDER BY batch_id FOR UPDATE";
    if calls.is_empty() {
        return Ok(());
    }
    let calls = json(&calls)?;
    lock::rows(tx, query(LOCK).bind(&calls)).await?;
    query(FORGET).bind(calls).execute(tx).await?;
    Ok(())
}
