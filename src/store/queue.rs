//! The durable queue: leases, and what a worker needs to send a part. Who is due says
//! `due`.
//!
//! A lease, never a transaction, spans the network call. It is a process's, and at the
//! start of that process all that it had leased is of an earlier one, which is gone: those
//! parts go back into the queue with their outcome unknown. So do those of any process
//! that says nothing for the time of a lease; whoever finds them first takes them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::accept::Kind;
use super::sql::{QueryAs, Session, Sql, Whole, query, query_as, query_scalar};
use super::wake::Wake;
use super::{Store, StoreError, changed, dsn, json, lock, millis, stored, timestamp};
use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::dsn::Dsn;
use crate::domain::ids::{BatchId, CustomerId, MessageId, PartId};
use crate::domain::message::Road;

/// A lease that another process makes may be twice as long, the most that a configuration may say.
const SHORTEST: Duration = Duration::from_secs(60);

/// A part in the hands of a worker.
#[derive(Debug, Clone)]
pub struct LeasedPart {
    /// The message.
    pub message_id: MessageId,
    /// The part's number in it.
    pub part_no: u32,
    /// Who pays.
    pub customer_id: CustomerId,
    /// What the message is.
    pub kind: Kind,
    /// Its road.
    pub road: Road,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// Moves with every definite refusal; part of the idempotency key.
    pub key_no: i64,
    /// When the first call under this key was made.
    pub first_try_at: Timestamp,
    /// Whether an earlier call under this key ended without an answer.
    pub unknown: bool,
    /// SHA-256 of the request, where the road composes one.
    pub request_hash: Option<String>,
    /// The envelope sender.
    pub reverse_path: ReversePath,
    /// The recipients that are not final.
    pub recipients: Vec<Mailbox>,
    /// Those of them who may have it by an earlier attempt, whatever a later one is answered.
    pub maybe_taken: Vec<Mailbox>,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When it is given up.
    pub expires_at: Timestamp,
    /// How many parts its next call may carry; 1: it is alone, and its calls are not composed.
    pub batch_max: u32,
    /// The call that it is fixed to, once that is composed.
    pub batch: Option<Batched>,
    /// The message.
    pub bytes: Bytes,
    /// What the sender asks to be told.
    pub dsn: Arc<Dsn>,
}

impl LeasedPart {
    /// The id of the part.
    pub fn part_id(&self) -> PartId {
        self.message_id.part(self.part_no)
    }

    /// The key under which the upstream knows this call.
    pub fn idempotency_key(&self) -> String {
        match &self.batch {
            Some(batch) => batch.id.to_string(),
            None => format!("{}-{}", self.part_id(), self.key_no),
        }
    }
}

/// The place of a part in a composed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batched {
    /// The call; its idempotency key.
    pub id: BatchId,
    /// The place in it, from 0.
    pub no: u32,
    /// How many parts it carries.
    pub size: u32,
}

/// What was taken of a page.
#[derive(Debug, Default)]
pub struct Leased {
    /// Those that were taken, in the order of the page.
    pub parts: Vec<LeasedPart>,
    /// Those that cannot be read, and why; they still wait.
    pub unreadable: Vec<(DuePart, String)>,
}

/// A part that waits, by name and weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuePart {
    /// The message.
    pub message_id: MessageId,
    /// The part's number in it.
    pub part_no: u32,
    /// Octets of the message; of all messages of its call, if it is fixed to one.
    pub size: usize,
    /// How many parts its next call may carry.
    pub batch_max: u32,
    /// The call that it is fixed to; it stands for all members of it, who leave with it
    /// ([`Store::lease_batch`]).
    pub batch_id: Option<BatchId>,
}

#[derive(sqlx::FromRow)]
struct LeasedRow {
    message_id: String,
    #[sqlx(try_from = "i64")]
    part_no: u32,
    customer_id: String,
    kind: String,
    road: String,
    #[sqlx(try_from = "i64")]
    attempt: u32,
    key_no: i64,
    first_try_at: i64,
    unknown: i64,
    request_hash: Option<String>,
    #[sqlx(try_from = "i64")]
    batch_max: u32,
    batch_no: Option<Whole>,
    batch_size: Option<Whole>,
    reverse_path: String,
    size: i64,
    accepted_at: i64,
    expires_at: i64,
    ret: Option<String>,
    envid: Option<String>,
}

#[derive(sqlx::FromRow)]
struct RecipientRow {
    message_id: String,
    #[sqlx(try_from = "i64")]
    part_no: u32,
    address: String,
    maybe_taken: bool,
    notify: Option<String>,
    orcpt: Option<String>,
}

/// Has the leases of these parts lapse: what came of them is not known. On PostgreSQL a part
/// that somebody is deciding about is passed over: its lease is in good hands, or lapses with
/// the next look.
macro_rules! lapse {
    ($which:literal) => {
        Sql {
            sqlite: concat!(
                "UPDATE part SET state = 'queued', due_at = $1, lease_until = NULL, node = NULL,
                        unknown = CASE WHEN batch_max > 1 AND batch_id IS NULL THEN unknown ELSE 1 END
                 WHERE ",
                $which,
                " RETURNING message_id, part_no, road"
            ),
            postgres: concat!(
                "WITH over AS MATERIALIZED (SELECT message_id, part_no FROM part WHERE ",
                $which,
                "    ORDER BY message_id, part_no FOR NO KEY UPDATE SKIP LOCKED)
                 UPDATE part SET state = 'queued', due_at = $1, lease_until = NULL, node = NULL,
                        unknown = CASE WHEN batch_max > 1 AND batch_id IS NULL THEN unknown ELSE 1 END
                 FROM over WHERE part.message_id = over.message_id AND part.part_no = over.part_no
                 RETURNING part.message_id, part.part_no, part.road"
            ),
        }
    };
}

impl Store {
    /// At the start of the process: its leases lapse, and nobody's, their outcome unknown. A part
    /// whose calls are composed was not tried unless one is: what was known of it stays. Returns
    /// how many.
    pub async fn lapse_all(&self, now: Timestamp) -> Result<u64, StoreError> {
        // Of a database that was a file the process is gone: what it leased is nobody's.
        const LAPSE: Sql = lapse!("state = 'sending' AND (node = $2 OR node = 'local' OR node IS NULL)");
        self.lapse(query_as(LAPSE).bind(millis(now)).bind(&*self.node)).await
    }

    /// While running: leases that ran out without a word, whosesoever they were. Those that
    /// this process still has in its hands are not among them, however late it is to renew
    /// them: their parts would be sent twice. Returns how many lapsed.
    pub async fn lapse_expired(
        &self,
        held: &[(MessageId, u32, u32)],
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        const LAPSE: Sql = lapse!(
            "state = 'sending' AND lease_until <= $1 AND NOT EXISTS
                (SELECT 1 FROM json_each($2) WHERE value ->> 0 = part.message_id
                    AND CAST(value ->> 1 AS BIGINT) = part.part_no
                    AND CAST(value ->> 2 AS BIGINT) = part.attempt)"
        );
        const IS_ANY: &str =
            "SELECT EXISTS (SELECT 1 FROM part WHERE state = 'sending' AND lease_until <= $1)";
        // A transaction that changes nothing costs the server of many processes something all the same.
        if self.is_shared() && !query_scalar(IS_ANY).bind(millis(now)).fetch_one(&self.readers).await? {
            return Ok(0);
        }
        self.lapse(query_as(LAPSE).bind(millis(now)).bind(lease_rows(held)?)).await
    }

    /// Leases that end so late that today's clock cannot have made them: the database's was set back,
    /// or another host took over. They end as if they were made now. Whoever is there renews
    /// theirs before that, and notices nothing; of whoever is gone they come to the others. Returns how many.
    pub async fn shorten_leases(&self, now: Timestamp, lease: Duration) -> Result<u64, StoreError> {
        const IS_ANY: &str =
            "SELECT EXISTS (SELECT 1 FROM part WHERE state = 'sending' AND lease_until > $1)";
        const SHORTEN: Sql = Sql {
            sqlite: "UPDATE part SET lease_until = $2 WHERE state = 'sending' AND lease_until > $1",
            postgres: "
                WITH late AS MATERIALIZED (SELECT message_id, part_no FROM part
                    WHERE state = 'sending' AND lease_until > $1
                    ORDER BY message_id, part_no FOR NO KEY UPDATE SKIP LOCKED)
                UPDATE part SET lease_until = $2 FROM late
                WHERE part.message_id = late.message_id AND part.part_no = late.part_no",
        };
        let lease = lease.max(SHORTEST);
        let until = |lease| millis(now.checked_add(lease).unwrap_or(Timestamp::MAX));
        let late = until(lease.saturating_mul(2));
        if !query_scalar(IS_ANY).bind(late).fetch_one(&self.readers).await? {
            return Ok(0);
        }
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let done = query(SHORTEN).bind(late).bind(until(lease)).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }

    /// When the next part falls due on one of these roads after `now`, as far as it stands in the
    /// queue by then.
    pub async fn next_due(&self, now: Timestamp, roads: &[Road]) -> Result<Option<Timestamp>, StoreError> {
        // Each has its own index; the longest queue costs two looks a road.
        const NEXT: &str = "
            SELECT min(due_at) AS due_at FROM
                (SELECT (SELECT min(p.due_at) FROM part p WHERE p.state = 'queued' AND p.batch_max = 1
                         AND p.road = r.atom AND p.due_at > $1) AS due_at FROM json_each($2) AS r
                 UNION ALL
                 SELECT (SELECT min(p.due_at) FROM part p WHERE p.state = 'queued' AND p.batch_max > 1
                         AND p.road = r.atom AND p.due_at > $1) AS due_at FROM json_each($2) AS r) AS each_next";
        let roads: Vec<&str> = roads.iter().map(|road| road.as_str()).collect();
        let next: Option<i64> =
            query_scalar(NEXT).bind(millis(now)).bind(json(&roads)?).fetch_one(&self.readers).await?;
        next.map(timestamp).transpose()
    }

    /// Sets a waiting part aside for the operator: what stands in the database
    /// about it cannot be read, and the parts behind it must not wait for that.
    pub async fn set_aside(&self, due: &DuePart, reason: &str) -> Result<(), StoreError> {
        const HOLD: &str = "
            UPDATE part SET state = 'held', due_at = NULL, last_error = $3
            WHERE message_id = $1 AND part_no = $2 AND state = 'queued' AND batch_id IS NULL";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        query(HOLD).bind(due.message_id.as_str()).bind(due.part_no).bind(reason).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    /// Whatever an attempt had come to that is heard of no more: over SMTP its
    /// recipients may have the mail.
    async fn lapse(&self, lapse: QueryAs<'_, (String, Whole, String)>) -> Result<u64, StoreError> {
        const DOUBT: &str = "
            UPDATE recipient SET maybe_taken = 1
            FROM (SELECT value ->> 0 AS message_id, CAST(value ->> 1 AS BIGINT) AS part_no
                  FROM json_each($1)) AS p
            WHERE recipient.message_id = p.message_id AND recipient.part_no = p.part_no
              AND recipient.state = 'queued'";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let lapsed = lapse.fetch_all(&mut *tx).await?;
        let by_smtp = lapsed.iter().filter(|(_, _, road)| road == Road::Smtp.as_str());
        let by_smtp: Vec<_> = by_smtp.map(|(id, part_no, _)| (id, part_no.0)).collect();
        // As many rows as they have recipients: any number of them.
        query(DOUBT).bind(json(&by_smtp)?).execute(&mut *tx).await?;
        tx.commit().await?;
        if !lapsed.is_empty() {
            self.ring(&Wake::Parts);
        }
        Ok(u64::try_from(lapsed.len()).unwrap_or(u64::MAX))
    }

    /// Takes one part, if it is still waiting and no call has it. The bytes come with it.
    ///
    /// They are read before it is taken, and not by the writer: nobody's acceptance waits
    /// for a large body, and a body that cannot be read leaves its part where it was. They
    /// never change, and leave only when the message's last recipient is final; so what was
    /// read of a part that then still waits is all there is of it.
    pub async fn lease(
        &self,
        due: &DuePart,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<LeasedPart>, StoreError> {
        let bytes = Bytes::from(self.read_body(&due.message_id, due.size).await?);
        let mut leased = self.take_free(vec![(due.clone(), bytes)], now, until).await?;
        match leased.unreadable.pop() {
            Some((_, reason)) => Err(StoreError::Corrupt(reason)),
            None => Ok(leased.parts.pop()),
        }
    }

    /// Takes a page of parts whose messages have no spool, in one transaction: those that
    /// are still waiting and that no call has.
    pub async fn lease_page(
        &self,
        due: &[DuePart],
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Leased, StoreError> {
        let waiting = self.with_bodies(due).await?;
        self.take_free(waiting, now, until).await
    }

    async fn take_free(
        &self,
        waiting: Vec<(DuePart, Bytes)>,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Leased, StoreError> {
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        let leased = read_waiting(&mut tx, waiting, None, now).await?;
        if !leased.parts.is_empty() {
            take(&mut tx, &leased.parts, &self.node, (now, until)).await?;
        }
        self.writer.is_sure()?;
        // Though nothing was taken: whatever is locked is free when this returns.
        tx.commit().await?;
        Ok(leased)
    }

    /// Parts with the bytes of their messages, which have no spool.
    pub(super) async fn with_bodies(&self, due: &[DuePart]) -> Result<Vec<(DuePart, Bytes)>, StoreError> {
        const BODIES: &str = "
            SELECT message_id, bytes FROM body WHERE message_id IN (SELECT atom FROM json_each($1))
            ORDER BY message_id, chunk_no";
        let ids: BTreeSet<&str> = due.iter().map(|due| due.message_id.as_str()).collect();
        let rows: Vec<(String, Vec<u8>)> =
            query_as(BODIES).bind(json(&ids)?).fetch_all(&self.readers).await?;
        let mut bodies = BTreeMap::<String, Vec<u8>>::new();
        for (message_id, bytes) in rows {
            bodies.entry(message_id).or_default().extend_from_slice(&bytes);
        }
        let bodies: BTreeMap<String, Bytes> =
            bodies.into_iter().map(|(message_id, bytes)| (message_id, Bytes::from(bytes))).collect();
        let bytes_of = |due: &DuePart| bodies.get(due.message_id.as_str()).cloned().unwrap_or_default();
        Ok(due.iter().map(|due| (due.clone(), bytes_of(due))).collect())
    }

    /// Moves leases on; returns those parts whose lease was still held by that attempt.
    pub async fn renew(
        &self,
        leases: &[(MessageId, u32, u32)],
        until: Timestamp,
    ) -> Result<Vec<(String, u32, u32)>, StoreError> {
        const RENEW: &str = "
            UPDATE part SET lease_until = $2
            FROM (SELECT value ->> 0 AS message_id, CAST(value ->> 1 AS BIGINT) AS part_no,
                         CAST(value ->> 2 AS BIGINT) AS attempt
                  FROM json_each($1)) AS l
            WHERE part.message_id = l.message_id AND part.part_no = l.part_no
              AND part.state = 'sending' AND part.attempt = l.attempt AND part.node = $3
            RETURNING part.message_id, part.part_no, part.attempt";
        let rows = lease_rows(leases)?;
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        // Nobody is passed over: a report of ours may be at it.
        lock::parts(&mut tx, &rows).await?;
        let kept: Vec<(String, Whole, Whole)> =
            query_as(RENEW).bind(&rows).bind(millis(until)).bind(&*self.node).fetch_all(&mut *tx).await?;
        tx.commit().await?;
        Ok(kept.into_iter().map(|(id, part_no, attempt)| (id, part_no.0, attempt.0)).collect())
    }
}

/// Leases as rows of JSON: message, part, attempt.
fn lease_rows(leases: &[(MessageId, u32, u32)]) -> Result<String, StoreError> {
    let rows: Vec<_> = leases.iter().map(|(id, part_no, attempt)| (id.as_str(), part_no, attempt)).collect();
    json(&rows)
}

/// Those of these parts that wait and are due, as they are once they are taken: the free
/// ones, or those that a call has. Nothing is changed.
pub(super) async fn read_waiting(
    tx: &mut Session<'_>,
    waiting: Vec<(DuePart, Bytes)>,
    call: Option<&BatchId>,
    now: Timestamp,
) -> Result<Leased, StoreError> {
    const PARTS: &str = "
        SELECT p.message_id, p.part_no, m.customer_id, m.kind, p.road, p.attempt + 1 AS attempt, p.key_no,
               coalesce(p.first_try_at, $2) AS first_try_at, p.unknown, p.request_hash, p.batch_max, p.batch_no,
               b.size AS batch_size, m.reverse_path, m.size, m.accepted_at, m.expires_at, m.ret, m.envid
        FROM json_each($1) AS w CROSS JOIN part p CROSS JOIN message m LEFT JOIN batch b ON b.batch_id = p.batch_id
        WHERE p.message_id = w.value ->> 0 AND p.part_no = CAST(w.value ->> 1 AS BIGINT)
        AND m.message_id = p.message_id
          AND p.state = 'queued' AND p.batch_id IS NOT DISTINCT FROM $3 AND p.due_at <= $2";
    const RECIPIENTS: &str = "
        SELECT r.message_id, r.part_no, r.address, r.maybe_taken = 1 AS maybe_taken, r.notify, r.orcpt
        FROM json_each($1) AS w CROSS JOIN recipient r
        WHERE r.message_id = w.value ->> 0 AND r.part_no = CAST(w.value ->> 1 AS BIGINT) AND r.state = 'queued'
        ORDER BY r.ordinal";
    let names: Vec<_> = waiting.iter().map(|(due, _)| (due.message_id.as_str(), due.part_no)).collect();
    let names = unclaimed(tx, json(&names)?).await?;
    let rows: Vec<LeasedRow> = query_as(PARTS)
        .bind(&names)
        .bind(millis(now))
        .bind(call.map(BatchId::as_str))
        .fetch_all(&mut *tx)
        .await?;
    let mut recipients = BTreeMap::<(String, u32), Vec<RecipientRow>>::new();
    let found: Vec<RecipientRow> = query_as(RECIPIENTS).bind(&names).fetch_all(tx).await?;
    for row in found {
        recipients.entry((row.message_id.clone(), row.part_no)).or_default().push(row);
    }
    let mut rows: BTreeMap<(String, u32), LeasedRow> =
        rows.into_iter().map(|row| ((row.message_id.clone(), row.part_no), row)).collect();
    let mut leased = Leased::default();
    for (due, bytes) in waiting {
        let key = (due.message_id.as_str().to_owned(), due.part_no);
        let Some(row) = rows.remove(&key) else { continue };
        match row.with(recipients.get(&key).map_or(&[][..], Vec::as_slice), call, bytes) {
            Ok(part) => leased.parts.push(part),
            Err(StoreError::Corrupt(reason)) => leased.unreadable.push((due, reason)),
            Err(error) => return Err(error),
        }
    }
    Ok(leased)
}

/// Those of these parts that nobody else is deciding about, locked so that they stand still;
/// what another has, another takes. SQLite has one writer, and nothing to lock.
async fn unclaimed(tx: &mut Session<'_>, names: String) -> Result<String, StoreError> {
    const LOCK: &str = "
        SELECT message_id, part_no FROM part
        WHERE state = 'queued' AND message_id = ANY (ARRAY(SELECT value ->> 0 FROM json_each($1)))
          AND (message_id, part_no) IN (SELECT value ->> 0, CAST(value ->> 1 AS BIGINT) FROM json_each($1))
        ORDER BY message_id, part_no FOR NO KEY UPDATE SKIP LOCKED";
    if matches!(tx, Session::Sqlite(_)) {
        return Ok(names);
    }
    let locked: Vec<(String, Whole)> = query_as(LOCK).bind(&names).fetch_all(tx).await?;
    let locked: Vec<_> = locked.iter().map(|(message_id, part_no)| (message_id, part_no.0)).collect();
    json(&locked)
}

/// Takes parts that were just read in the same transaction. Compare-and-set: only a part
/// that waits can be taken.
pub(super) async fn take(
    tx: &mut Session<'_>,
    parts: &[LeasedPart],
    node: &str,
    (now, until): (Timestamp, Timestamp),
) -> Result<(), StoreError> {
    const LEASE: &str = "
        UPDATE part SET state = 'sending', attempt = l.attempt, due_at = NULL, lease_until = $2,
               first_try_at = coalesce(first_try_at, $3), node = $4
        FROM (SELECT value ->> 0 AS message_id, CAST(value ->> 1 AS BIGINT) AS part_no,
                     CAST(value ->> 2 AS BIGINT) AS attempt
              FROM json_each($1)) AS l
        WHERE part.message_id = l.message_id AND part.part_no = l.part_no AND part.state = 'queued'
          AND part.attempt + 1 = l.attempt";
    let leases: Vec<_> =
        parts.iter().map(|part| (part.message_id.as_str(), part.part_no, part.attempt)).collect();
    let query = query(LEASE).bind(json(&leases)?).bind(millis(until)).bind(millis(now)).bind(node);
    let done = query.execute(tx).await?;
    changed("lease", done.rows_affected(), parts.len())
}

impl LeasedRow {
    fn with(
        self,
        rows: &[RecipientRow],
        call: Option<&BatchId>,
        bytes: Bytes,
    ) -> Result<LeasedPart, StoreError> {
        if i64::try_from(bytes.len()) != Ok(self.size) {
            let found = format!("{} octets of {} are there of {}", bytes.len(), self.size, self.message_id);
            return Err(StoreError::Corrupt(found));
        }
        let (mut recipients, mut maybe_taken) = (Vec::with_capacity(rows.len()), Vec::new());
        let mut dsn = dsn::of_message(self.ret.as_deref(), self.envid.as_deref())?;
        for row in rows {
            let mailbox = stored(Mailbox::parse(&row.address))?;
            dsn.ask(&mailbox, dsn::of_recipient(row.notify.as_deref(), row.orcpt.as_deref())?);
            maybe_taken.extend(row.maybe_taken.then(|| mailbox.clone()));
            recipients.push(mailbox);
        }
        let unknown_name = |name: &str| StoreError::Corrupt(format!("{name} is no name of ours"));
        Ok(LeasedPart {
            message_id: stored(MessageId::parse(&self.message_id))?,
            part_no: self.part_no,
            customer_id: stored(CustomerId::parse(&self.customer_id))?,
            kind: Kind::parse(&self.kind).ok_or_else(|| unknown_name(&self.kind))?,
            road: Road::parse(&self.road).ok_or_else(|| unknown_name(&self.road))?,
            attempt: self.attempt,
            key_no: self.key_no,
            first_try_at: timestamp(self.first_try_at)?,
            unknown: self.unknown == 1,
            request_hash: self.request_hash,
            reverse_path: stored(ReversePath::parse(&self.reverse_path))?,
            recipients,
            maybe_taken,
            accepted_at: timestamp(self.accepted_at)?,
            expires_at: timestamp(self.expires_at)?,
            batch_max: self.batch_max,
            batch: call
                .zip(self.batch_no.zip(self.batch_size))
                .map(|(id, (Whole(no), Whole(size)))| Batched { id: id.clone(), no, size }),
            bytes,
            dsn: Arc::new(dsn),
        })
    }
}
