//! Who is due, and whose turn it is.
//!
//! Parts that leave alone, parts that may leave together and parts of spooled messages are
//! asked for apart, a page at a time. If all small parts that are due fit a page, it has them
//! all. If not, it has about as many of each customer as of any other, the longest waiting of
//! each, and what one does not need the others share: however much one customer has in the
//! queue, another waits for a page. Where there are more customers than a page has parts, the
//! next page goes on behind the last of them. A page costs the same however long the queue is.
//!
//! Where several processes take pages of one queue, each looks at as many pages as there are
//! processes and takes its own share of what is there, so that they seldom want the same.
//! Should they do, one has it, and the other goes on with what is left.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::queue::DuePart;
use super::sql::{Session, Whole, query_as};
use super::{Store, StoreError, json, millis, stored};
use crate::domain::ids::{BatchId, MessageId};
use crate::domain::message::Road;

/// Customers who are looked at for a page, because parts of theirs wait, due or not.
const MOST_VISITED: u32 = 500;

/// Processes who are made way for: beyond them pages would cost too much.
const MOST_NODES: usize = 8;

/// Who had the last turn, among those whose parts leave alone and those whose leave together;
/// and how many processes read pages.
#[derive(Debug, Default)]
pub(super) struct Turns {
    pub(super) nodes: AtomicUsize,
    alone: Mutex<String>,
    together: Mutex<String>,
}

/// What asks for small parts of one kind.
struct Texts {
    /// Those that are due on a road, the longest waiting first.
    parts: &'static str,
    /// Those of one customer.
    parts_of: &'static str,
    /// Customers who have such, in the order of their ids; the last who is looked at in any case.
    customers: &'static str,
    /// Who had the last turn among them.
    turn: fn(&Turns) -> &Mutex<String>,
}

/// Of those that a call has, the first stands for all.
macro_rules! parts {
    ($batch_max:literal, $whose:literal) => {
        concat!(
            "SELECT p.message_id, p.part_no, p.batch_max, p.batch_id, p.road, p.due_at,
                    CASE WHEN p.batch_id IS NULL THEN m.size
                         ELSE (SELECT CAST(sum(n.size) AS BIGINT) FROM part q
                               JOIN message n ON n.message_id = q.message_id
                               WHERE q.batch_id = p.batch_id) END AS size
             FROM part p JOIN message m ON m.message_id = p.message_id
             WHERE p.state = 'queued' AND p.due_at <= $1 AND p.road = $2 AND p.batch_max ",
            $batch_max,
            $whose,
            "  AND NOT EXISTS (SELECT 1 FROM spool s WHERE s.message_id = p.message_id)
               AND (p.batch_id IS NULL OR NOT EXISTS (SELECT 1 FROM part q
                    WHERE q.batch_id = p.batch_id AND q.batch_no < p.batch_no AND q.state = 'queued'))
             ORDER BY p.due_at LIMIT $3"
        )
    };
}

/// From customer to customer through the index, whatever lies between. Each is looked up there:
/// of `EXISTS (… FROM part …)` PostgreSQL would make a list of all parts that are due, and of the
/// first `min(customer_id)` a walk through all that wait, while it knows nothing of the table.
macro_rules! customers {
    ($batch_max:literal) => {
        concat!(
            "WITH RECURSIVE line (customer_id, nth) AS
                (SELECT (SELECT p.customer_id FROM part p
                         WHERE p.state = 'queued' AND p.customer_id > $3 AND p.batch_max ",
            $batch_max,
            "            ORDER BY p.customer_id LIMIT 1), CAST(1 AS BIGINT)
                 UNION ALL
                 SELECT (SELECT p.customer_id FROM part p
                         WHERE p.state = 'queued' AND p.customer_id > line.customer_id AND p.batch_max ",
            $batch_max,
            "            ORDER BY p.customer_id LIMIT 1), line.nth + 1
                 FROM line WHERE line.customer_id IS NOT NULL AND line.nth < $4)
             SELECT line.customer_id, line.nth FROM line
             WHERE line.customer_id IS NOT NULL AND (line.nth = $4 OR EXISTS
                (SELECT 1 FROM json_each($2) AS open
                 WHERE (SELECT min(p.due_at) FROM part p
                        WHERE p.state = 'queued' AND p.customer_id = line.customer_id
                          AND p.road = open.atom AND p.batch_max ",
            $batch_max,
            "       ) <= $1))
             ORDER BY line.nth LIMIT $5"
        )
    };
}

const ALONE: Texts = Texts {
    parts: parts!("= 1", ""),
    parts_of: parts!("= 1", " AND p.customer_id = $4"),
    customers: customers!("= 1"),
    turn: |turns| &turns.alone,
};
const TOGETHER: Texts = Texts {
    parts: parts!("> 1", ""),
    parts_of: parts!("> 1", " AND p.customer_id = $4"),
    customers: customers!("> 1"),
    turn: |turns| &turns.together,
};

/// A test asks how it is answered.
#[cfg(test)]
pub(super) const CUSTOMERS: &str = ALONE.customers;

#[derive(sqlx::FromRow)]
struct DueRow {
    message_id: String,
    #[sqlx(try_from = "i64")]
    part_no: u32,
    #[sqlx(try_from = "i64")]
    batch_max: u32,
    batch_id: Option<String>,
    road: String,
    due_at: i64,
    size: i64,
}

/// What a customer has in a page.
struct Line {
    customer_id: String,
    rows: Vec<DueRow>,
    /// Whether there may be more of them.
    has_more: bool,
}

/// One page that is read, in one snapshot.
struct Reading<'a> {
    texts: &'static Texts,
    now: Timestamp,
    /// Open roads; once the longest waiting were asked for, those on which anybody is due.
    roads: Vec<Road>,
    tx: &'a mut Session<'static>,
    share: Share<'a>,
}

/// What this process takes of what several want.
#[derive(Debug, Clone, Copy)]
struct Share<'a> {
    /// How many they are.
    of: usize,
    node: &'a str,
}

impl Store {
    /// Parts that leave alone and are due on one of `roads`, of all customers in turn; those
    /// of spooled messages are asked for apart ([`due_large`](Self::due_large)).
    pub async fn due_alone(
        &self,
        now: Timestamp,
        roads: &[Road],
        limit: u32,
    ) -> Result<Vec<DuePart>, StoreError> {
        self.due_small(&ALONE, now, roads, limit).await
    }

    /// The same of parts that may leave together. Of those that a call has, the first
    /// stands for all.
    pub async fn due_together(
        &self,
        now: Timestamp,
        roads: &[Road],
        limit: u32,
    ) -> Result<Vec<DuePart>, StoreError> {
        self.due_small(&TOGETHER, now, roads, limit).await
    }

    async fn due_small(
        &self,
        texts: &'static Texts,
        now: Timestamp,
        roads: &[Road],
        limit: u32,
    ) -> Result<Vec<DuePart>, StoreError> {
        let mut tx = self.readers.begin().await?;
        let reading = Reading { texts, now, roads: roads.to_vec(), tx: &mut tx, share: self.share() };
        reading.page((texts.turn)(&self.turns), limit).await
    }

    /// Parts of spooled messages that are due on one of `roads`: first of the customer who
    /// has the fewest of them under way, then the longest waiting.
    pub async fn due_large(
        &self,
        now: Timestamp,
        roads: &[Road],
        limit: u32,
    ) -> Result<Vec<DuePart>, StoreError> {
        // In this order of tables: only messages that are not final have a spool, however long the queue is.
        const DUE: &str = "
            SELECT message_id, part_no, batch_max, batch_id, road, due_at, size FROM
                (SELECT p.message_id, p.part_no, p.batch_max, p.batch_id, p.road, m.size, p.state, p.due_at,
                     row_number() OVER (PARTITION BY p.customer_id ORDER BY p.state = 'queued', p.due_at, p.message_id, p.part_no)
                     AS nth
                 FROM spool s CROSS JOIN message m CROSS JOIN part p
                 WHERE s.message_id IS NOT NULL AND m.message_id = s.message_id
                   AND p.message_id = s.message_id AND (p.state = 'sending'
                     OR p.state = 'queued' AND p.due_at <= $1 AND p.road IN (SELECT atom FROM json_each($2)))) AS large
            WHERE state = 'queued' ORDER BY nth, due_at LIMIT $3";
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let share = self.share();
        let query = query_as(DUE).bind(millis(now)).bind(names(roads)?).bind(share.look_at(limit));
        let rows: Vec<DueRow> = query.fetch_all(&self.readers).await?;
        share.own(rows, limit).into_iter().map(DueRow::into_part).collect()
    }

    fn share(&self) -> Share<'_> {
        Share { of: self.turns.nodes.load(Ordering::Relaxed).clamp(1, MOST_NODES), node: &self.node }
    }
}

impl Share<'_> {
    /// How many rows are looked at for so many.
    fn look_at(self, limit: usize) -> i64 {
        i64::try_from(limit.saturating_mul(self.of)).unwrap_or(i64::MAX)
    }

    /// The own ones of these rows, in their order: all, if they are no more than that.
    fn own(self, mut rows: Vec<DueRow>, limit: usize) -> Vec<DueRow> {
        if self.of == 1 || rows.len() <= limit {
            rows.truncate(limit);
            return rows;
        }
        rows.truncate(limit.saturating_mul(self.of));
        let rank = |row: &DueRow| {
            let mut hasher = DefaultHasher::new();
            (self.node, &row.message_id, row.part_no).hash(&mut hasher);
            hasher.finish()
        };
        let mut ranks: Vec<u64> = rows.iter().map(rank).collect();
        ranks.sort_unstable();
        let last = ranks.get(limit.saturating_sub(1)).copied().unwrap_or_default();
        rows.retain(|row| rank(row) <= last);
        rows.truncate(limit);
        rows
    }
}

impl Reading<'_> {
    async fn page(mut self, turn: &Mutex<String>, limit: u32) -> Result<Vec<DuePart>, StoreError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut rows = self.longest_waiting(None, limit).await?;
        self.roads.retain(|road| rows.iter().any(|row| row.road == road.as_str()));
        rows = self.share.own(rows, limit);
        if rows.len() == limit {
            let customers = self.next_customers(turn, limit).await?;
            let oldest = std::mem::replace(&mut rows, self.in_turn(customers, limit).await?);
            // Who has a turn may have nothing but what others stand for.
            let listed: BTreeSet<_> = rows.iter().map(|row| (row.message_id.clone(), row.part_no)).collect();
            let is_listed = |row: &DueRow| listed.contains(&(row.message_id.clone(), row.part_no));
            rows.extend(oldest.into_iter().filter(|row| !is_listed(row)));
            rows.truncate(limit);
        }
        rows.into_iter().map(DueRow::into_part).collect()
    }

    /// Those who have waited longest, of all customers or of one: of each road as many as
    /// are looked at for so many.
    async fn longest_waiting(
        &mut self,
        customer_id: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DueRow>, StoreError> {
        let most = self.share.look_at(limit);
        let mut rows = Vec::new();
        for road in &self.roads {
            let text = if customer_id.is_some() { self.texts.parts_of } else { self.texts.parts };
            let query = query_as(text).bind(millis(self.now)).bind(road.as_str()).bind(most);
            let query = if let Some(id) = customer_id { query.bind(id) } else { query };
            let found: Vec<DueRow> = query.fetch_all(&mut *self.tx).await?;
            rows.extend(found);
        }
        rows.sort_by_key(|row| row.due_at);
        Ok(rows)
    }

    /// Whose turn it is: whoever comes behind the last one, and then from the beginning.
    async fn next_customers(
        &mut self,
        turn: &Mutex<String>,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        let turn = || -> MutexGuard<'_, String> { turn.lock().unwrap_or_else(PoisonError::into_inner) };
        let last = turn().clone();
        let (mut customers, is_end) = self.customers_behind(&last, limit).await?;
        if is_end {
            let (first, _) = self.customers_behind("", limit - customers.len()).await?;
            customers.extend(first.into_iter().take_while(|customer_id| *customer_id <= last));
        }
        if let Some(last) = customers.last() {
            turn().clone_from(last);
        }
        Ok(customers)
    }

    /// Customers behind that one, and whether there are no others.
    async fn customers_behind(
        &mut self,
        last: &str,
        limit: usize,
    ) -> Result<(Vec<String>, bool), StoreError> {
        let rows: Vec<(String, Whole)> = query_as(self.texts.customers)
            .bind(millis(self.now))
            .bind(names(&self.roads)?)
            .bind(last)
            .bind(MOST_VISITED)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *self.tx)
            .await?;
        let is_end = rows.len() < limit && rows.last().is_none_or(|(_, nth)| nth.0 < MOST_VISITED);
        Ok((rows.into_iter().map(|(customer_id, _)| customer_id).collect(), is_end))
    }

    /// One of each customer in turn.
    async fn in_turn(&mut self, customers: Vec<String>, limit: usize) -> Result<Vec<DueRow>, StoreError> {
        let line = |customer_id| Line { customer_id, rows: Vec::new(), has_more: true };
        let mut lines: Vec<Line> = customers.into_iter().map(line).collect();
        let mut left = limit;
        while left > 0 && lines.iter().any(|line| line.has_more) {
            let mut sharing = lines.iter().filter(|line| line.has_more).count();
            for line in lines.iter_mut().filter(|line| line.has_more) {
                if left == 0 {
                    break;
                }
                let most = line.rows.len() + left.div_ceil(sharing);
                let rows = self.longest_waiting(Some(&line.customer_id), most).await?;
                let rows = self.share.own(rows, most);
                line.has_more = rows.len() == most;
                left = left.saturating_sub(rows.len().saturating_sub(line.rows.len()));
                line.rows = rows;
                sharing -= 1;
            }
        }
        let mut rows: Vec<_> = lines.into_iter().flat_map(|line| line.rows.into_iter().enumerate()).collect();
        rows.sort_by_key(|(nth, _)| *nth);
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }
}

impl DueRow {
    fn into_part(self) -> Result<DuePart, StoreError> {
        Ok(DuePart {
            message_id: stored(MessageId::parse(&self.message_id))?,
            part_no: self.part_no,
            size: usize::try_from(self.size).unwrap_or(0),
            batch_max: self.batch_max,
            batch_id: stored(self.batch_id.as_deref().map(BatchId::parse).transpose())?,
        })
    }
}

fn names(roads: &[Road]) -> Result<String, StoreError> {
    json(&roads.iter().map(|road| road.as_str()).collect::<Vec<_>>())
}
