//! What a customer's page shows that changes by itself: what was used in a time, and where
//! the newest messages stand. Both walk the index of a customer's messages, whose ids are
//! in the order of time; nothing is written.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ledger::part_state;
use super::sql::query_as;
use super::{Store, StoreError, stored, timestamp};
use crate::domain::ids::{CustomerId, MessageId};
use crate::domain::message::{MessageState, PartState};

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// What was used by the messages of a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Messages that clients sent.
    pub messages: i64,
    /// Credits that they cost, or that are held for them; those given back because nobody got
    /// the mail are not among them.
    pub credits: i64,
}

/// Where a message stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standpoint {
    /// The message.
    pub message_id: MessageId,
    /// Where it stands.
    pub state: MessageState,
    /// Moves with every attempt that begins or ends, and with every piece of news of it.
    pub steps: i64,
}

impl Store {
    /// What a customer used on each of these days (UTC, counted from 1970, the last one not
    /// among them), as far as the rows of those messages are kept; days of none are left out.
    pub async fn used(
        &self,
        customer_id: &CustomerId,
        days: Range<i64>,
    ) -> Result<BTreeMap<i64, Used>, StoreError> {
        // Bounces and notices cost nothing, and nobody sent them.
        const READ: &str = "
            SELECT accepted_at / 86400000, count(*), CAST(coalesce(sum(price - released), 0) AS BIGINT)
            FROM message
            WHERE customer_id = $1 AND message_id >= $2 AND message_id < $3 AND kind = 'submission'
            GROUP BY accepted_at / 86400000";
        if days.is_empty() {
            return Ok(BTreeMap::new());
        }
        let first = |day: i64| -> Result<MessageId, StoreError> {
            Ok(MessageId::generate(timestamp(day.saturating_mul(DAY_MS))?, [0; 16]))
        };
        let rows: Vec<(i64, i64, i64)> = query_as(READ)
            .bind(customer_id.as_str())
            .bind(first(days.start)?.as_str())
            .bind(first(days.end)?.as_str())
            .fetch_all(&self.readers)
            .await?;
        let mut used = BTreeMap::<i64, Used>::new();
        for (day, messages, credits) in rows {
            // An id may be a moment older than its row; the range is that of the ids.
            let day = day.clamp(days.start, days.end.saturating_sub(1));
            let sum = used.entry(day).or_default();
            sum.messages = sum.messages.saturating_add(messages);
            sum.credits = sum.credits.saturating_add(credits);
        }
        Ok(used)
    }

    /// Where a customer's newest messages stand, newest first.
    pub async fn standpoints(
        &self,
        customer_id: &CustomerId,
        limit: u32,
    ) -> Result<Vec<Standpoint>, StoreError> {
        const READ: &str = "
            SELECT m.message_id,
                   (SELECT string_agg(p.state, ' ') FROM part p WHERE p.message_id = m.message_id) AS states,
                   CAST((SELECT coalesce(sum(2 * p.attempt - CASE p.state WHEN 'sending' THEN 1 ELSE 0 END), 0)
                         FROM part p WHERE p.message_id = m.message_id)
                       + (SELECT count(*) FROM event e WHERE e.message_id = m.message_id) AS BIGINT) AS steps
            FROM message m WHERE m.customer_id = $1 ORDER BY m.message_id DESC LIMIT $2";
        let rows: Vec<(String, Option<String>, i64)> =
            query_as(READ).bind(customer_id.as_str()).bind(limit).fetch_all(&self.readers).await?;
        rows.into_iter()
            .map(|(message_id, states, steps)| {
                let states = states.unwrap_or_default();
                let states: Vec<PartState> =
                    states.split(' ').map(|state| part_state(state, 0, 0)).collect::<Result<_, _>>()?;
                let message_id = stored(MessageId::parse(&message_id))?;
                Ok(Standpoint { message_id, state: MessageState::of(&states), steps })
            })
            .collect()
    }
}
