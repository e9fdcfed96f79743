//! What holds after every step, and what holds when everything has come to rest.

use std::collections::BTreeMap;

use super::Broken;
use super::dodo::added_and_expired;
use super::steps::{NAMES, Who};
use super::world::World;
use crate::sandbox::dodo::Line;
use crate::store::audit;
use crate::store::log::MessageLog;
use crate::store::sql::{Sql, query_as, query_scalar};
use crate::store::tests::{account, id};

/// An account, and the entry of it that is open.
#[derive(Debug, sqlx::FromRow)]
struct Standing {
    _customer_id: String,
    balance: Option<i64>,
    held: i64,
    owed: i64,
    entry_id: Option<String>,
}

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
        let standings = self.standings().await;
        law!(standings.len() == NAMES.len(), "somebody has two open entries: {standings:?}");
        for (who, standing) in standings.iter().enumerate() {
            self.check_customer(who, standing)?;
        }
        self.truth.checked = now;
        Ok(())
    }

    /// Moves on with each row that is changed.
    async fn changes(&self) -> i64 {
        // PostgreSQL counts none, but what it writes moves its log on.
        const CHANGES: Sql = Sql {
            sqlite: "SELECT total_changes()",
            postgres: "SELECT CAST(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0') AS BIGINT)",
        };
        let mut writer = self.process.store.writer.lock().await;
        query_scalar(CHANGES).fetch_one(writer.connection()).await.unwrap()
    }

    /// The audit finds nothing.
    async fn check_sums(&self) -> Result<(), Broken> {
        let mut writer = self.process.store.writer.lock().await;
        let findings = query_scalar(audit::IN_ONE_STATEMENT.as_str()).fetch_all(writer.connection());
        let findings: Vec<String> = findings.await.unwrap();
        law!(findings.is_empty(), "the audit: {findings:?}");
        Ok(())
    }

    /// Every account in the order of the names.
    async fn standings(&self) -> Vec<Standing> {
        const READ: &str = "
            SELECT a.customer_id AS _customer_id, a.balance, a.held, a.owed, e.entry_id FROM account a
            LEFT JOIN entry e ON e.customer_id = a.customer_id AND e.state = 'open' ORDER BY a.customer_id";
        let mut writer = self.process.store.writer.lock().await;
        query_as(READ).fetch_all(writer.connection()).await.unwrap()
    }

    fn check_customer(&self, who: Who, standing: &Standing) -> Result<(), Broken> {
        let Standing { balance, held, owed, .. } = *standing;
        let lines = self.dodo.lines(who);
        let entries = self.entries(&lines)?;
        let applied = standing.entry_id.as_deref().and_then(|id| entries.get(id)).copied();
        // A debit that took effect is in both; a credit is owed to nobody.
        let applied = applied.unwrap_or(0).max(0);
        let really = self.dodo.balance(who) - held - owed + applied;
        let told = || format!("{standing:?}, and really {really} are left: {lines:?}");

        let (_, expired) = added_and_expired(&lines);
        law!(really >= -expired, "P2: more was accepted than was credited. {}", told());
        let Some(balance) = balance else { return Ok(()) };
        let available = balance - held - owed;
        let (_, expired_unseen) = added_and_expired(&lines[self.truth.known[who]..]);
        law!(available <= really + expired_unseen, "P2: {available} would be let in. {}", told());
        let (added_unseen, _) = added_and_expired(&lines[self.truth.known_in_full[who]..]);
        law!(available >= really - added_unseen, "P2: only {available} would be let in. {}", told());
        Ok(())
    }

    /// What Dodo has taken, by entry; less than nothing: what it has given.
    fn entries<'l>(&self, lines: &'l [Line]) -> Result<BTreeMap<&'l str, i64>, Broken> {
        let mut entries = BTreeMap::new();
        for line in lines {
            let Some(entry_id) = line.description.as_deref().and_then(|text| text.rsplit(' ').next()) else {
                continue;
            };
            let Some((_, amount)) = self.truth.opened.iter().find(|(id, _)| id.as_str() == entry_id) else {
                continue;
            };
            let moved = i64::try_from(line.amount).unwrap();
            let moved = if line.is_credit { -moved } else { moved };
            law!(moved == *amount, "P3: {entry_id} of {amount} was posted as {line:?}");
            law!(entries.insert(entry_id, moved).is_none(), "P3: {entry_id} was posted twice");
        }
        Ok(entries)
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
            let is_there = log.iter().any(|message| message.message_id == *message_id);
            law!(is_there || self.truth.left.contains(message_id), "P1: {message_id} is lost");
        }
        log.iter().try_for_each(|message| self.check_mail(message))?;
        let captured: i64 = log.iter().map(|message| message.captured).sum();
        let lines = self.dodo.lines(who);
        let refunds = log.iter().flat_map(|message| &message.refunds);
        let credited: i64 = refunds.filter(|refund| refund.state == "credited").map(|r| r.credits).sum();
        let (captured_before, credited_before) = self.closed(who).await;
        let (captured, credited) = (captured + captured_before, credited + credited_before);
        let taken: i64 = self.entries(&lines)?.values().sum();
        let told = || format!("{captured} credits were captured, {credited} given back, {taken} taken");
        law!(taken == captured - credited, "P3: {}", told());
        let held: i64 = log.iter().map(|message| message.price - message.captured - message.released).sum();
        law!(account.held.to_i64() == held, "P3: {held} credits are held of {account:?}");
        Ok(())
    }

    /// What messages captured that have left, and what was credited for them.
    async fn closed(&self, who: Who) -> (i64, i64) {
        const READ: &str = "
            SELECT closed_captured, closed_refunded FROM account WHERE customer_id = $1";
        let mut writer = self.process.store.writer.lock().await;
        query_as(READ).bind(NAMES[who]).fetch_one(writer.connection()).await.unwrap()
    }

    /// What is said of a message is what became of it, unless the operator took the
    /// risk that it is not.
    pub(super) fn check_mail(&self, message: &MessageLog) -> Result<(), Broken> {
        let MessageLog { message_id, .. } = message;
        if self.truth.decided.contains(message_id) {
            return Ok(());
        }
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
                "failed" => law!(copies == 0, "P3: it was sent. {}", told()),
                _ => law!(is_held, "P1: it stays queued. {}", told()),
            }
        }
        Ok(())
    }
}
