//! What a batch of reports reads before it decides, and writes afterwards: one
//! journey to the database each way, whatever the number of reports.

use std::collections::{BTreeMap, BTreeSet};

use super::batch::{Leaver, leave};
use super::report::TooLate;
use super::sql::{Session, query, query_as, query_scalar};
use super::{StoreError, changed, header, json, millis, stored, timestamp};
use crate::domain::batch::{Company, Ended};
use crate::domain::ids::{BatchId, SpoolId};
use crate::domain::message::{PartState, Road};

/// A part of the batch as it stands inside the transaction.
#[derive(Debug)]
pub(super) struct PartNow {
    pub(super) road: Road,
    pub(super) state: PartState,
    /// Attempts so far; kept for the states that do not name them.
    pub(super) attempt: u32,
    /// Recipients that are not final.
    pub(super) waiting: u32,
    pub(super) any_sent: bool,
    pub(super) key_no: i64,
    pub(super) unknown: bool,
    pub(super) first_try_at: Option<i64>,
    pub(super) upstream_id: Option<String>,
    pub(super) last_error: Option<String>,
    /// Whose hands it is in.
    pub(super) node: Option<String>,
    /// How it stands to its calls, as it was read.
    pub(super) company: Company,
    /// How it stands now, where that has changed.
    moved: Option<Company>,
}

/// A message of the batch as it stands inside the transaction.
#[derive(Debug)]
pub(super) struct MessageNow {
    pub(super) customer_id: String,
    pub(super) per_recipient: bool,
    pub(super) price: i64,
    pub(super) captured: i64,
    pub(super) released: i64,
    /// Recipients that are not final, in all parts.
    pub(super) queued: i64,
    pub(super) any_sent: bool,
    pub(super) touched: bool,
    /// Rows of its body.
    bodies: i64,
    /// Whether it has a spool: one at most.
    spools: usize,
}

/// Message and part number.
pub(super) type PartKey = (String, u32);
/// Message, address, state, status, reply.
pub(super) type RecipientWrite = (String, String, &'static str, Option<String>, Option<String>);

/// The rows of a batch.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) parts: BTreeMap<PartKey, PartNow>,
    /// Roads whose gate is closed, if that was asked for.
    pub(super) closed_roads: Vec<Road>,
    /// Recipients that are not final, with their part.
    pub(super) recipients: BTreeMap<(String, String), u32>,
    /// Those of them who may have it by an earlier attempt.
    pub(super) maybe_taken: BTreeSet<(String, String)>,
    /// Those of whom that is new.
    pub(super) doubted: BTreeSet<(String, String)>,
    /// Recipients who were given up, with their part.
    pub(super) failed: BTreeMap<(String, String), u32>,
    /// What has to be told once the batch is committed.
    pub(super) too_late: Vec<TooLate>,
    pub(super) messages: BTreeMap<String, MessageNow>,
    pub(super) recipient_writes: Vec<RecipientWrite>,
    /// Customer, message, amount, in the order of the reports.
    pub(super) captures: Vec<(String, String, i64)>,
    pub(super) releases: BTreeMap<String, i64>,
    /// The number of each customer's last capture.
    last_capture: BTreeMap<String, i64>,
}

#[derive(Debug, sqlx::FromRow)]
struct Row {
    message_id: String,
    customer_id: String,
    unit: String,
    price: i64,
    captured: i64,
    released: i64,
    bodies: i64,
    is_spooled: bool,
    last_capture: i64,
    #[sqlx(try_from = "i64")]
    part_no: u32,
    road: String,
    part_state: String,
    #[sqlx(try_from = "i64")]
    attempt: u32,
    time: i64,
    key_no: i64,
    unknown: i64,
    first_try_at: Option<i64>,
    upstream_id: Option<String>,
    last_error: Option<String>,
    #[sqlx(try_from = "i64")]
    batch_max: u32,
    batch_id: Option<String>,
    node: Option<String>,
    address: String,
    state: String,
    maybe_taken: bool,
}

/// What has changed, in one journey where the database takes several statements in one.
pub(super) const WRITE: &str = "
    UPDATE part SET state = p.state, attempt = p.attempt, due_at = p.due_at, lease_until = p.lease_until,
           key_no = p.key_no, unknown = p.unknown, first_try_at = p.first_try_at,
           upstream_id = p.upstream_id, last_error = p.last_error,
           node = CASE p.state WHEN 'sending' THEN part.node END
    FROM (SELECT value ->> 0 AS message_id, CAST(value ->> 1 AS BIGINT) AS part_no,
                 value ->> 2 AS state, CAST(value ->> 3 AS BIGINT) AS attempt,
                 CAST(value ->> 4 AS BIGINT) AS due_at, CAST(value ->> 5 AS BIGINT) AS lease_until,
                 CAST(value ->> 6 AS BIGINT) AS key_no, CAST(value ->> 7 AS BIGINT) AS unknown,
                 CAST(value ->> 8 AS BIGINT) AS first_try_at,
                 value ->> 9 AS upstream_id, value ->> 10 AS last_error FROM json_each($1)) AS p
    WHERE part.message_id = p.message_id AND part.part_no = p.part_no;

    UPDATE recipient SET maybe_taken = 1
    FROM (SELECT value ->> 0 AS message_id, value ->> 1 AS address FROM json_each($8)) AS r
    WHERE recipient.message_id = r.message_id AND recipient.address = r.address
      AND recipient.state = 'queued';

    UPDATE recipient SET state = r.state, status = r.status, reply = r.reply
    FROM (SELECT value ->> 0 AS message_id, value ->> 1 AS address, value ->> 2 AS state,
                 value ->> 3 AS status, value ->> 4 AS reply FROM json_each($2)) AS r
    WHERE recipient.message_id = r.message_id AND recipient.address = r.address
      AND recipient.state = 'queued';

    UPDATE message SET captured = m.captured, released = m.released, final_at = m.final_at,
           capture_no = coalesce(m.capture_no, message.capture_no)
    FROM (SELECT value ->> 0 AS message_id, CAST(value ->> 1 AS BIGINT) AS captured,
                 CAST(value ->> 2 AS BIGINT) AS released, CAST(value ->> 3 AS BIGINT) AS final_at,
                 CAST(value ->> 4 AS BIGINT) AS capture_no
          FROM json_each($3)) AS m
    WHERE message.message_id = m.message_id AND message.final_at IS NULL;

    DELETE FROM body WHERE message_id IN (SELECT atom FROM json_each($4));

    UPDATE account SET held = held - m.captured - m.released, owed = owed + m.captured,
           last_capture = account.last_capture + m.count
    FROM (SELECT value ->> 0 AS customer_id, CAST(value ->> 1 AS BIGINT) AS captured,
                 CAST(value ->> 2 AS BIGINT) AS released, CAST(value ->> 3 AS BIGINT) AS count,
                 CAST(value ->> 4 AS BIGINT) AS last_capture
          FROM json_each($5)) AS m
    WHERE account.customer_id = m.customer_id AND account.last_capture = m.last_capture;

    INSERT INTO capture (customer_id, number, message_id, amount, captured_at)
    SELECT value ->> 0, CAST(value ->> 1 AS BIGINT), value ->> 2, CAST(value ->> 3 AS BIGINT), $7
    FROM json_each($6)";

/// Messages with everything below them, a row for each recipient.
pub(super) const READ: &str = "
    SELECT m.message_id, m.customer_id, m.unit, m.price, m.captured, m.released,
           (SELECT count(*) FROM body b WHERE b.message_id = m.message_id) AS bodies,
           EXISTS (SELECT 1 FROM spool s WHERE s.message_id = m.message_id) AS is_spooled,
           a.last_capture, p.part_no, p.road, p.state AS part_state, p.attempt,
           coalesce(p.due_at, p.lease_until, 0) AS time, p.key_no, p.unknown, p.first_try_at,
           p.upstream_id, p.last_error, p.batch_max, p.batch_id, p.node, r.address, r.state,
           r.maybe_taken = 1 AS maybe_taken
    FROM json_each($1) AS named CROSS JOIN message m
         JOIN account a ON a.customer_id = m.customer_id
         JOIN part p ON p.message_id = m.message_id
         JOIN recipient r ON r.message_id = p.message_id AND r.part_no = p.part_no
    WHERE m.message_id = named.atom";

impl Ledger {
    /// Reads the messages of the batch, which are locked ([`super::lock`]), with everything
    /// below them, a row for each recipient.
    pub(super) async fn read(tx: &mut Session<'_>, message_ids: &[&str]) -> Result<Self, StoreError> {
        let rows: Vec<Row> = query_as(READ).bind(json(&message_ids)?).fetch_all(tx).await?;
        let mut ledger = Self::default();
        for row in rows {
            ledger.add(row)?;
        }
        Ok(ledger)
    }

    fn add(&mut self, row: Row) -> Result<(), StoreError> {
        let (is_queued, is_sent) = (row.state == "queued", row.state == "sent");
        let state = part_state(&row.part_state, row.attempt, row.time)?;
        let unknown_road = || StoreError::Corrupt(format!("{} is no road", row.road));
        let road = Road::parse(&row.road).ok_or_else(unknown_road)?;
        let call = stored(row.batch_id.as_deref().map(BatchId::parse).transpose())?;
        self.last_capture.insert(row.customer_id.clone(), row.last_capture);
        let message = self.messages.entry(row.message_id.clone()).or_insert_with(|| MessageNow {
            customer_id: row.customer_id,
            per_recipient: row.unit == "recipient",
            price: row.price,
            captured: row.captured,
            released: row.released,
            queued: 0,
            any_sent: false,
            touched: false,
            bodies: row.bodies,
            spools: usize::from(row.is_spooled),
        });
        message.queued += i64::from(is_queued);
        message.any_sent |= is_sent;
        let key = (row.message_id.clone(), row.part_no);
        let part = self.parts.entry(key).or_insert_with(|| PartNow {
            road,
            state,
            attempt: row.attempt,
            waiting: 0,
            any_sent: false,
            key_no: row.key_no,
            unknown: row.unknown == 1,
            first_try_at: row.first_try_at,
            upstream_id: row.upstream_id,
            last_error: row.last_error,
            node: row.node,
            company: Company { max: row.batch_max, call },
            moved: None,
        });
        part.waiting += u32::from(is_queued);
        part.any_sent |= is_sent;
        let recipient = (row.message_id, row.address);
        if is_queued && row.maybe_taken {
            self.maybe_taken.insert(recipient.clone());
        }
        if is_queued {
            self.recipients.insert(recipient, row.part_no);
        } else if !is_sent {
            self.failed.insert(recipient, row.part_no);
        }
        Ok(())
    }

    /// The calls that waiting parts of these messages are fixed to.
    pub(super) fn calls_of(&self, message_ids: &BTreeSet<&str>) -> Vec<BatchId> {
        let own = self.parts.iter().filter(|(key, _)| message_ids.contains(key.0.as_str()));
        let waiting = own.filter(|(_, part)| matches!(part.state, PartState::Queued { .. }));
        waiting.filter_map(|(_, part)| part.company.call.clone()).collect()
    }

    /// A recipient is final now.
    pub(super) fn forget(&mut self, recipient: &(String, String)) {
        self.recipients.remove(recipient);
        self.maybe_taken.remove(recipient);
    }

    /// Whether somebody in a part may have it by an earlier attempt.
    pub(super) fn is_maybe_taken(&self, key: &PartKey) -> bool {
        let mut doubtful = self.maybe_taken.iter().filter(|recipient| recipient.0 == key.0);
        doubtful.any(|recipient| self.recipients.get(recipient) == Some(&key.1))
    }

    /// Writes what was decided. Every statement names the rows it must change, and
    /// their number is checked. The bytes of a message go when its last recipient
    /// is final, but for the header of what Resend may tell of later, and a spool belongs
    /// to nobody from then on: it may be large, so its chunks are not deleted here; it is named to the caller, who has it removed once
    /// this is committed. Captures are numbered per customer without a gap, and the
    /// account must not have moved since it was read.
    pub(super) async fn write(self, tx: &mut Session<'_>, at: i64) -> Result<Vec<SpoolId>, StoreError> {
        // Parameters are `$N`: unlike `?N` they keep their numbers across statements.
        let parts: Vec<_> = self.parts.iter().map(|(key, part)| part.row(key)).collect();
        let touched: Vec<_> = self.messages.iter().filter(|(_, m)| m.touched).collect();
        let captures = self.numbered();
        let numbers: BTreeMap<&str, i64> = captures.iter().map(|(_, number, id, _)| (*id, *number)).collect();
        let messages: Vec<_> = touched
            .iter()
            .map(|(id, m)| {
                (id, m.captured, m.released, (m.queued == 0).then_some(at), numbers.get(id.as_str()))
            })
            .collect();
        let finished: Vec<_> = touched.iter().filter(|(_, m)| m.queued == 0).collect();
        let bodies: i64 = finished.iter().map(|(_, m)| m.bodies).sum();
        let spools: usize = finished.iter().map(|(_, m)| m.spools).sum();
        let finished: Vec<&str> = finished.into_iter().map(|(id, _)| id.as_str()).collect();
        header::keep(tx, &self.left_by_resend(&finished)).await?;
        let finished = json(&finished)?;
        let moves = self.moves();
        let done = query(WRITE)
            .bind(json(&parts)?)
            .bind(json(&self.recipient_writes)?)
            .bind(json(&messages)?)
            .bind(&finished)
            .bind(json(&moves)?)
            .bind(json(&captures)?)
            .bind(at)
            .bind(json(&self.doubted)?)
            .execute(&mut *tx)
            .await?;
        let rows = parts.len()
            + self.doubted.len()
            + self.recipient_writes.len()
            + messages.len()
            + moves.len()
            + captures.len();
        changed("report", done.rows_affected(), rows + usize::try_from(bodies).unwrap_or(0))?;
        leave(tx, self.parts.iter().filter_map(|(key, part)| part.leaver(key)).collect()).await?;
        // Mostly there is none, and nothing is asked.
        if spools == 0 { Ok(Vec::new()) } else { leave_spools(tx, &finished, at, spools).await }
    }

    /// Those of these messages of which Resend took a part.
    fn left_by_resend<'a>(&self, message_ids: &[&'a str]) -> Vec<&'a str> {
        let is_taken = |(_, part): (_, &PartNow)| part.road == Road::Resend && part.state == PartState::Sent;
        let has_left = |id: &&str| {
            let own = self.parts.range(((*id).to_owned(), 0)..).take_while(|(key, _)| key.0 == *id);
            own.into_iter().any(is_taken)
        };
        message_ids.iter().copied().filter(has_left).collect()
    }

    /// For each customer: captured, released, number of captures, number of the last one before.
    fn moves(&self) -> Vec<(&str, i64, i64, i64, i64)> {
        let mut moves: BTreeMap<&str, (i64, i64, i64)> = BTreeMap::new();
        for (customer_id, _, amount) in &self.captures {
            let sums = moves.entry(customer_id).or_default();
            sums.0 += amount;
            sums.2 += 1;
        }
        for (customer_id, amount) in &self.releases {
            moves.entry(customer_id).or_default().1 += amount;
        }
        let last = |id: &str| self.last_capture.get(id).copied().unwrap_or(0);
        moves
            .into_iter()
            .map(|(id, (captured, released, count))| (id, captured, released, count, last(id)))
            .collect()
    }

    /// The captures with their numbers: customer, number, message, amount.
    fn numbered(&self) -> Vec<(&str, i64, &str, i64)> {
        let mut last = self.last_capture.clone();
        let mut numbered = Vec::with_capacity(self.captures.len());
        for (customer_id, message_id, amount) in &self.captures {
            let number = last.entry(customer_id.clone()).or_default();
            *number += 1;
            numbered.push((customer_id.as_str(), *number, message_id.as_str(), *amount));
        }
        numbered
    }
}

/// Takes the spools of these messages from them, whose number must be that. `message_ids`: as JSON.
async fn leave_spools(
    tx: &mut Session<'_>,
    message_ids: &str,
    at: i64,
    want: usize,
) -> Result<Vec<SpoolId>, StoreError> {
    const LEAVE: &str = "
        UPDATE spool SET message_id = NULL, octets = NULL, sha256 = NULL, left_at = $2
        WHERE message_id IN (SELECT atom FROM json_each($1)) RETURNING spool_id";
    let left: Vec<String> = query_scalar(LEAVE).bind(message_ids).bind(at).fetch_all(tx).await?;
    changed("spool", u64::try_from(left.len()).unwrap_or(u64::MAX), want)?;
    left.iter().map(|spool_id| stored(SpoolId::parse(spool_id))).collect()
}

/// A part's state from its columns; `time` is when it is due or its lease lapses.
pub(super) fn part_state(name: &str, attempt: u32, time: i64) -> Result<PartState, StoreError> {
    Ok(match name {
        "queued" => PartState::Queued { due: timestamp(time)?, attempt },
        "sending" => PartState::Sending { lease: timestamp(time)?, attempt },
        "sent" => PartState::Sent,
        "failed" => PartState::Failed,
        "held" => PartState::Held,
        other => return Err(StoreError::Corrupt(format!("{other} is not a state of a part"))),
    })
}

/// A part's columns as they are written.
#[derive(serde::Serialize)]
struct PartColumns<'a>(
    &'a str,
    u32,
    &'static str,
    u32,
    Option<i64>,
    Option<i64>,
    i64,
    u8,
    Option<i64>,
    Option<&'a str>,
    Option<&'a str>,
);

impl PartNow {
    /// Its call has ended, and the part is not final.
    pub(super) fn end_call(&mut self, ended: Ended) {
        let stands = self.moved.as_ref().unwrap_or(&self.company).after(ended);
        self.moved = Some(stands).filter(|stands| *stands != self.company);
    }

    /// What is written where it has left its call, or has less company from now on.
    fn leaver<'a>(&'a self, (message_id, part_no): &'a PartKey) -> Option<Leaver<'a>> {
        let batch_max = self.moved.as_ref()?.max;
        Some(Leaver { message_id, part_no: *part_no, batch_max, call: self.company.call.as_ref() })
    }

    fn row<'a>(&'a self, (message_id, part_no): &'a PartKey) -> PartColumns<'a> {
        let (name, attempt, due, lease) = match self.state {
            PartState::Queued { due, attempt } => ("queued", attempt, Some(millis(due)), None),
            PartState::Sending { lease, attempt } => ("sending", attempt, None, Some(millis(lease))),
            PartState::Sent => ("sent", self.attempt, None, None),
            PartState::Failed => ("failed", self.attempt, None, None),
            PartState::Held => ("held", self.attempt, None, None),
        };
        PartColumns(
            message_id,
            *part_no,
            name,
            attempt,
            due,
            lease,
            self.key_no,
            u8::from(self.unknown),
            self.first_try_at,
            self.upstream_id.as_deref(),
            self.last_error.as_deref(),
        )
    }
}
