//! What holds after every step, and what holds when everything has come to rest.

use std::collections::BTreeMap;

use sqlx::AssertSqlSafe;

use super::Broken;
use super::dodo::added_and_expired;
use super::steps::{NAMES, Who};
use super::world::World;
use crate::sandbox::dodo::Line;
use crate::store::audit;
use crate::store::entry::Entry;
use crate::store::log::MessageLog;
use crate::store::tests::{account, id};

/// Breaks a law unless `$holds`.
macro_rules! law {
    ($holds:expr, $($told:tt)*) => {
        if !$holds {
            return Err(Broken(format!($($told)*)));
        }
    };
}
pub(super) use law;

impl World {
    /// The laws of every moment. They speak of what is in the database and at Dodo,
    /// so they are spared while nothing has changed there.
    pub(super) async fn check(&mut self) -> Result<(), Broken> {
        let lines = [0, 1, 2].map(|who| {
            // Asked first, since it is what lets credits expire whose hour has come.
            self.dodo.balance(who);
            self.dodo.lines(who).len()
        });
        let now = Some((self.changes().await, lines));
        if self.truth.checked == now {
            return Ok(());
        }
        self.check_sums().await?;
        let open = self.process.store.open_entries().await?;
        for (who, name) in NAMES.into_iter().enumerate() {
            let mut open = open.iter().filter(|entry| entry.customer_id.as_str() == name);
            self.check_customer(who, open.next()).await?;
            law!(open.next().is_none(), "{name} has two open entries");
        }
        self.truth.checked = now;
        Ok(())
    }

    /// How many rows this process has changed.
    async fn changes(&self) -> i64 {
        let mut writer = self.process.store.writer.lock().await;
        sqlx::query_scalar("SELECT total_changes()").fetch_one(&mut writer.connection).await.unwrap()
    }

    /// The audit finds nothing.
    async fn check_sums(&self) -> Result<(), Broken> {
        let statement = AssertSqlSafe(audit::in_one_statement());
        let findings = sqlx::query_scalar(statement).fetch_all(&self.process.store.readers);
        let findings: Vec<String> = findings.await.unwrap();
        law!(findings.is_empty(), "the audit: {findings:?}");
        Ok(())
    }

    async fn check_customer(&self, who: Who, open: Option<&Entry>) -> Result<(), Broken> {
        let name = NAMES[who];
        let account = account(&self.process.store, &id(name)).await;
        let balance = self.dodo.balance(who);
        let lines = self.dodo.lines(who);
        let debits = self.debits(&lines)?;
        let is_applied = open.is_some_and(|entry| debits.contains_key(entry.entry_id.as_str()));
        let applied = open.filter(|_| is_applied).map_or(0, |entry| entry.amount.to_i64());
        let really = balance - account.held.to_i64() - account.owed.to_i64() + applied;
        let seen = |lines: &[Line]| {
            format!("{name}: {account:?}, open {open:?}, Dodo has {balance}, so {really} are left; {lines:?}")
        };

        let (_, expired) = added_and_expired(&lines);
        law!(really >= -expired, "P2: more was accepted than was credited. {}", seen(&lines));
        let Some(available) = account.available() else { return Ok(()) };
        let (_, expired_unseen) = added_and_expired(&lines[self.truth.known[who]..]);
        law!(available <= really + expired_unseen, "P2: {available} would be let in. {}", seen(&lines));
        let (added_unseen, _) = added_and_expired(&lines[self.truth.known_in_full[who]..]);
        law!(available >= really - added_unseen, "P2: {available} would be let in only. {}", seen(&lines));
        Ok(())
    }

    /// What Dodo has debited, by entry.
    fn debits<'l>(&self, lines: &'l [Line]) -> Result<BTreeMap<&'l str, i64>, Broken> {
        let mut debits = BTreeMap::new();
        for line in lines.iter().filter(|line| !line.is_credit && line.grant_id.is_some()) {
            let Some(entry_id) = line.description.as_deref().and_then(|text| text.rsplit(' ').next()) else {
                continue;
            };
            let Some((_, amount)) = self.truth.opened.iter().find(|(id, _)| id.as_str() == entry_id) else {
                continue;
            };
            law!(i64::try_from(line.amount) == Ok(*amount), "P3: {entry_id} was debited with {line:?}");
            law!(debits.insert(entry_id, *amount).is_none(), "P3: {entry_id} was debited twice");
        }
        Ok(debits)
    }

    /// The laws of a customer for whom nothing is under way any more: what Dodo has
    /// debited is what was sent, and nobody who has credit is refused.
    pub(super) async fn check_rest(&self, who: Who) -> Result<(), Broken> {
        let customer_id = id(NAMES[who]);
        let account = account(&self.process.store, &customer_id).await;
        let balance = self.dodo.balance(who);
        law!(account.owed.get() == 0, "P3: {account:?} stays owed");
        law!(account.balance == Some(balance), "P2: Dodo has {balance}, and we say {account:?}");

        let log = self.process.store.messages(Some(&customer_id), None, 10_000).await?;
        let acknowledged = self.truth.acknowledged.iter().filter(|(_, whose)| *whose == who);
        for (message_id, _) in acknowledged {
            law!(log.iter().any(|message| message.message_id == *message_id), "P1: {message_id} is lost");
        }
        log.iter().try_for_each(|message| self.check_mail(message))?;
        let captured: i64 = log.iter().map(|message| message.captured).sum();
        let lines = self.dodo.lines(who);
        let debited: i64 = self.debits(&lines)?.values().sum();
        law!(debited == captured, "P3: {captured} credits were captured, and {debited} debited");
        let held: i64 = log.iter().map(|message| message.price - message.captured - message.released).sum();
        law!(account.held.to_i64() == held, "P3: {held} credits are held of {account:?}");
        Ok(())
    }

    /// What is said of a message is what became of it.
    fn check_mail(&self, message: &MessageLog) -> Result<(), Broken> {
        let MessageLog { message_id, .. } = message;
        let is_held = message.parts.iter().any(|part| part.state == "held");
        let parts = (0..).zip(&message.parts);
        let unanswered: u32 = parts
            .clone()
            .filter_map(|(part_no, _)| self.truth.unanswered.get(&(message_id.clone(), part_no)))
            .sum();
        let by_resend = parts.clone().all(|(_, part)| part.road == "resend");
        for recipient in &message.recipients {
            let copies = self.upstreams.copies(message_id, &recipient.address);
            let told =
                || format!("{copies} copies for {recipient:?} of {message:?}, {unanswered} unanswered");
            // Over SMTP what was not answered is sent again, and once more at most each time.
            let most = if by_resend { 1 } else { 1 + unanswered };
            law!(copies <= most, "P4: {}", told());
            match recipient.state.as_str() {
                "sent" => law!(copies >= 1, "P1: it was not sent. {}", told()),
                "failed" => {
                    let may_be_there = !by_resend && unanswered > 0;
                    law!(copies == 0 || may_be_there, "P3: it was sent. {}", told());
                }
                _ => law!(is_held, "P1: it stays queued. {}", told()),
            }
        }
        Ok(())
    }
}
