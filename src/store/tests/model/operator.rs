//! What the operator does to the queue, and what leaves it for good.

use std::time::Duration;

use super::Broken;
use super::law::law;
use super::mutation::Mutation;
use super::steps::NAMES;
use super::world::{World, pick};
use crate::domain::decision::Choice;
use crate::store::log::MessageLog;
use crate::store::operator::{DecisionError, Order, Via};
use crate::store::sql::{Sql, query};
use crate::store::tests::id;

impl World {
    /// A message is retried or given up; a held one is decided, and one that may have been taken is
    /// given up, only by somebody who knows the risk.
    pub(super) async fn decide(&mut self, nth: u8, choice: Choice, knows: bool) -> Result<(), Broken> {
        let Some(nth) = pick(nth, self.truth.acknowledged.len()) else { return Ok(()) };
        let message_id = self.truth.acknowledged[nth].0.clone();
        let before = self.process.store.message(&message_id).await?;
        let parts = before.map(|log| log.parts).unwrap_or_default();
        let was_held = parts.iter().any(|part| part.state == "held");
        let was_unknown = parts.iter().any(|part| part.state == "queued" && part.unknown);
        let is_risky = was_held || (choice == Choice::Cancel && was_unknown);
        let is_running = self.process.sending.iter().any(|sending| sending.is_running(&message_id));
        let (now, lifetime) = (self.clock.now(), Duration::from_secs(48 * 3600));
        let order = Order { choice, is_confirmed: knows, via: Via::Command, now, lifetime };
        match self.process.store.decide(&message_id, &order).await {
            Err(DecisionError::Store(error)) => return Err(error.into()),
            Err(_) => return Ok(()),
            Ok(_) => {}
        }
        law!(knows || !is_risky, "P4: {choice:?} of {message_id} without a word about the risk");
        law!(choice == Choice::Retry || !is_running, "P3: {message_id} is given up while it is sent");
        if is_risky {
            self.truth.decided.insert(message_id);
        }
        Ok(())
    }

    /// What has been final for so many hours leaves; what stays adds up as before.
    pub(super) async fn leave_behind(&mut self, hours: u8) -> Result<(), Broken> {
        let before = self.log().await?;
        let cutoff = self.clock.now() - Duration::from_secs(3600 * u64::from(hours));
        let store = &self.process.store;
        while store.sweep_keys(self.clock.now(), 100).await? > 0 {}
        while store.close_captures(cutoff).await? > 0 {}
        let mut after = None;
        loop {
            after = store.close_messages(cutoff, self.clock.now(), after.as_ref()).await?.next;
            if after.is_none() {
                break;
            }
        }
        store.close_entries(cutoff).await?;
        store.close_marks(cutoff).await?;
        self.leave_mistakenly().await;
        let kept = self.log().await?;
        for message in before {
            if !kept.iter().any(|log| log.message_id == message.message_id) {
                let is_final = message.recipients.iter().all(|recipient| recipient.state != "queued");
                let is_due = message.refunds.iter().any(|r| r.state == "waiting" || r.state == "due");
                law!(is_final && !is_due, "P1: {message:?} has left");
                self.check_mail(&message)?;
                self.truth.left.insert(message.message_id);
            }
        }
        Ok(())
    }

    /// What only a mistake does.
    async fn leave_mistakenly(&self) {
        const FORGET: &[Sql] =
            &[Sql::same("UPDATE account SET closed_price = 0, closed_captured = 0, closed_released = 0")];
        const UNSETTLED: &[Sql] = &[
            Sql { sqlite: "PRAGMA foreign_keys = OFF", postgres: "SET session_replication_role = replica" },
            Sql::same("UPDATE account SET closed_price = closed_price + m.price, closed_captured = closed_captured + m.captured,
                    closed_released = closed_released + m.released
             FROM (SELECT customer_id, sum(price) AS price, sum(captured) AS captured, sum(released) AS released
                   FROM message WHERE final_at IS NOT NULL AND captured > closed GROUP BY customer_id) AS m
             WHERE account.customer_id = m.customer_id"),
            Sql::same("DELETE FROM message WHERE final_at IS NOT NULL AND captured > closed"),
            Sql { sqlite: "PRAGMA foreign_keys = ON", postgres: "SET session_replication_role = origin" },
        ];
        let mistakes = match self.mutation {
            Some(Mutation::ForgetsSums) => FORGET,
            Some(Mutation::LeavesUnsettled) => UNSETTLED,
            _ => return,
        };
        let mut writer = self.process.store.writer.lock().await;
        for mistake in mistakes {
            query(*mistake).execute(writer.connection()).await.unwrap();
        }
    }

    async fn log(&self) -> Result<Vec<MessageLog>, Broken> {
        let mut log = Vec::new();
        for name in NAMES {
            log.extend(self.process.store.messages(Some(&id(name)), None, 10_000).await?);
        }
        Ok(log)
    }
}
