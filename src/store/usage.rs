//! What a customer's page shows that changes by itself: what was used in a time, and where
//! the newest messages stand. Both walk the index of a customer's messages, whose ids are
//! in the order of time; nothing is written.

use jiff::Timestamp;

use super::ledger::part_state;
use super::sql::query_as;
use super::{Store, StoreError, stored};
use crate::domain::ids::{CustomerId, MessageId};
use crate::domain::message::{MessageState, PartState};

/// What was used by the messages of a time.
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
    /// Moves with every attempt, and with every piece of news of it.
    pub steps: i64,
}

impl Store {
    /// What was used by the messages that a customer had accepted from `from` on and before `to`, as
    /// far as their rows are kept.
    pub async fn used(
        &self,
        customer_id: &CustomerId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Used, StoreError> {
        // Bounces and notices cost nothing, and nobody sent them.
        const READ: &str = "
            SELECT count(*), CAST(coalesce(sum(price - released), 0) AS BIGINT) FROM message
            WHERE customer_id = $1 AND message_id >= $2 AND message_id < $3 AND kind = 'submission'";
        let first = |at: Timestamp| MessageId::generate(at, [0; 16]);
        let (messages, credits): (i64, i64) = query_as(READ)
            .bind(customer_id.as_str())
            .bind(first(from).as_str())
            .bind(first(to).as_str())
            .fetch_one(&self.readers)
            .await?;
        Ok(Used { messages, credits })
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
                   CAST((SELECT coalesce(sum(p.attempt), 0) FROM part p WHERE p.message_id = m.message_id)
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
