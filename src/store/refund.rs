//! Credits given back for messages that bounced after they were sent.
//!
//! While the capture is in no entry it is taken back: it never reaches Dodo. Once
//! it was debited there, a credit entry gives it back in the customer's one lane,
//! under the rules of every entry. In between, while the entry that covers it is
//! on its way, the refund waits: the lane is free only when each capture is either
//! debited or in no entry.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::entry::{Draft, Entry, is_lane_taken, write};
use super::sql::{Session, query, query_as, query_scalar};
use super::{Store, StoreError, changed, json, lock, millis, stored, timestamp};
use crate::domain::ids::{CustomerId, EntryId, MessageId};
use crate::telemetry::{EntryKind, RefundResult};

/// A refund, whatever it is for, is one credit: the price of a message, or of a recipient.
const AMOUNT: i64 = 1;
/// Of what was sent in a day one in so many is refunded, and one in any case.
const ONE_IN: i64 = 20;
/// What the cap looks back on.
const DAY: SignedDuration = SignedDuration::from_hours(24);
/// Refunds of one customer that are posted together at most.
const MAX_TOGETHER: u32 = 1000;
/// After so many entries that Dodo refused a refund is given up.
const MAX_VOIDS: i64 = 3;

/// The beginning of the day that the cap looks back on.
pub(super) fn day_before(now: Timestamp) -> Timestamp {
    now.checked_sub(DAY).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// What the cap is reckoned by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Credits captured since then, those taken back left out.
    pub sent: i64,
    /// The beginning of the last 24 hours.
    pub since: Timestamp,
}

/// Whose credit it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The message.
    pub message_id: MessageId,
    /// Whose.
    pub customer_id: CustomerId,
    /// The recipient; `None`: the whole message.
    pub address: Option<String>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Of what.
    pub claim: Claim,
    /// The step that was taken.
    pub result: RefundResult,
}

/// A refund that has to be posted at Dodo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueRefund {
    /// What it is for.
    pub claim: Claim,
    /// The debit was made after this.
    pub accepted_at: Timestamp,
}

/// The refunds of a customer whose lane was free when this was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DueRefunds {
    /// Those that were never debited, because their entry was void: taken back now.
    pub released: Vec<Decision>,
    /// Those that were.
    pub debited: Vec<DueRefund>,
}

/// When a refund lapses: no later than the grant that was spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lapse {
    /// That one does not.
    Never,
    /// Then.
    At(Timestamp),
    /// It has already; the credit would be gone anyway.
    Past(Timestamp),
}

/// A credit entry that is to be opened.
#[derive(Debug, Clone)]
pub struct CreditOpening {
    /// For whom.
    pub customer_id: CustomerId,
    /// Its id, the idempotency key.
    pub entry_id: EntryId,
    /// What it gives back, and until when.
    pub refunds: Vec<(DueRefund, Lapse)>,
}

impl Store {
    /// What a customer's messages captured in the day before `now`, their rows still
    /// there or not.
    pub async fn allowance(&self, customer_id: &CustomerId, now: Timestamp) -> Result<Allowance, StoreError> {
        // Captures are numbered as time goes by: only those of the last day are read.
        // Those that have left count with the entry that was opened for them since
        // then: its id sorts by that time, and it stays for more than a day.
        const READ: &str = "
            SELECT (SELECT coalesce(CAST(sum(amount) AS BIGINT), 0) FROM capture WHERE customer_id = $1
                    AND number > coalesce(
                        (SELECT number FROM capture WHERE customer_id = $1 AND captured_at <= $2
                         ORDER BY number DESC LIMIT 1), 0))
                 + (SELECT coalesce(CAST(sum(closed) AS BIGINT), 0) FROM entry
                    WHERE customer_id = $1 AND entry_id > $3 AND kind = 'debit')";
        let since = day_before(now);
        let first = EntryId::generate(since, [0; 16]);
        let query = query_scalar(READ).bind(customer_id.as_str()).bind(millis(since));
        let query = query.bind(first.as_str());
        Ok(Allowance { sent: query.fetch_one(&self.readers).await?, since })
    }

    /// Customers with refunds to be posted and no entry open: those who have waited
    /// longest first, so that nobody starves, and without those for whom nothing can
    /// be done now, so that they starve nobody.
    pub async fn refundable(&self, except: &[CustomerId], limit: u32) -> Result<Vec<CustomerId>, StoreError> {
        const READ: &str = "
            SELECT f.customer_id FROM refund f
            WHERE f.state = 'due' AND f.entry_id IS NULL
              AND f.customer_id NOT IN (SELECT atom FROM json_each($2))
              AND NOT EXISTS (SELECT 1 FROM entry e WHERE e.customer_id = f.customer_id AND e.state = 'open')
            GROUP BY f.customer_id ORDER BY min(f.decided_at), f.customer_id LIMIT $1";
        let rows: Vec<String> =
            query_scalar(READ).bind(limit).bind(json(&except)?).fetch_all(&self.readers).await?;
        rows.iter().map(|id| stored(CustomerId::parse(id))).collect()
    }

    /// A customer's refunds that are due. Captures that are in no entry are taken
    /// back here; whatever is left was debited. `None`: an entry is open.
    pub async fn due_refunds(
        &self,
        customer_id: &CustomerId,
        now: Timestamp,
    ) -> Result<Option<DueRefunds>, StoreError> {
        const READ: &str = "
            SELECT f.message_id, f.address, coalesce(m.accepted_at, f.decided_at)
            FROM refund f LEFT JOIN message m ON m.message_id = f.message_id
            WHERE f.customer_id = $1 AND f.state = 'due' AND f.entry_id IS NULL
            ORDER BY f.message_id LIMIT $2";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, customer_id).await?;
        if is_lane_taken(&mut tx, customer_id).await? {
            return Ok(None);
        }
        let rows: Vec<(String, String, i64)> =
            query_as(READ).bind(customer_id.as_str()).bind(MAX_TOGETHER).fetch_all(&mut *tx).await?;
        let mut due = DueRefunds::default();
        for (message_id, address, accepted_at) in rows {
            let claim = Claim {
                message_id: stored(MessageId::parse(&message_id))?,
                customer_id: customer_id.clone(),
                address: Some(address).filter(|address| !address.is_empty()),
            };
            if take_back(&mut tx, &claim).await? {
                claim.set(&mut tx, (RefundResult::Released, None), now).await?;
                due.released.push(Decision { claim, result: RefundResult::Released });
            } else {
                due.debited.push(DueRefund { claim, accepted_at: timestamp(accepted_at)? });
            }
        }
        tx.commit().await?;
        Ok(Some(due))
    }

    /// Opens a credit entry for refunds, except for those that have lapsed; which
    /// those are is told too. What another node has given back since they were read is
    /// left out. No entry: one is open already, or nothing is left.
    pub async fn open_credit(
        &self,
        opening: &CreditOpening,
        now: Timestamp,
    ) -> Result<(Option<Entry>, Vec<Decision>), StoreError> {
        const CLAIM: &str = "
            UPDATE refund SET entry_id = $3
            WHERE message_id = $1 AND address = $2 AND state = 'due' AND entry_id IS NULL";
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::customer(&mut tx, &opening.customer_id).await?;
        if is_lane_taken(&mut tx, &opening.customer_id).await? {
            return Ok((None, Vec::new()));
        }
        let (mut given, mut lapsed, mut expires_at): (Vec<&Claim>, Vec<Decision>, Option<Timestamp>) =
            Default::default();
        let free = still_free(&mut tx, &opening.customer_id).await?;
        let is_free =
            |claim: &Claim| free.contains(&(claim.message_id.as_str().to_owned(), claim.key().to_owned()));
        let refunds = opening.refunds.iter().filter(|(due, _)| is_free(&due.claim));
        for (DueRefund { claim, .. }, lapse) in refunds {
            if let Lapse::Past(at) = lapse {
                let reason = format!("the grant that was spent may have expired at {at}");
                claim.set(&mut tx, (RefundResult::Expired, Some(&reason)), now).await?;
                lapsed.push(Decision { claim: claim.clone(), result: RefundResult::Expired });
                continue;
            }
            let query = query(CLAIM).bind(claim.message_id.as_str()).bind(claim.key());
            let done = query.bind(opening.entry_id.as_str()).execute(&mut *tx).await?;
            changed("claim refund", done.rows_affected(), 1)?;
            if let Lapse::At(at) = lapse {
                expires_at = Some(expires_at.map_or(*at, |earliest| earliest.min(*at)));
            }
            given.push(claim);
        }
        let entry = match given.as_slice() {
            [] => None,
            given => Some(insert(&mut tx, opening, (given, expires_at), (&self.node, now)).await?),
        };
        tx.commit().await?;
        Ok((entry, lapsed))
    }
}

/// The refunds of a customer that are due and in no entry, by message and key.
async fn still_free(
    tx: &mut Session<'_>,
    customer_id: &CustomerId,
) -> Result<BTreeSet<(String, String)>, StoreError> {
    const READ: &str = "
        SELECT message_id, address FROM refund WHERE customer_id = $1 AND state = 'due' AND entry_id IS NULL";
    let rows: Vec<(String, String)> = query_as(READ).bind(customer_id.as_str()).fetch_all(tx).await?;
    Ok(rows.into_iter().collect())
}

/// Writes the entry. The version moves, so that a balance read which began before
/// says nothing; what it is then tells later whether a balance was read meanwhile.
async fn insert(
    tx: &mut Session<'_>,
    opening: &CreditOpening,
    (given, expires_at): (&[&Claim], Option<Timestamp>),
    (node, now): (&str, Timestamp),
) -> Result<Entry, StoreError> {
    const MARK: &str = "UPDATE account SET version = version + 1 WHERE customer_id = $1";
    let CreditOpening { customer_id, entry_id, .. } = opening;
    let amount = given.iter().map(|_| AMOUNT).sum();
    let reason = match given {
        [only] => format!("email refund {} {entry_id}", only.message_id),
        many => format!("email refund {} bounces {entry_id}", many.len()),
    };
    let done = query(MARK).bind(customer_id.as_str()).execute(&mut *tx).await?;
    changed("open credit", done.rows_affected(), 1)?;
    let draft = Draft {
        entry_id,
        customer_id,
        node,
        kind: EntryKind::Credit,
        captures: (0, 0),
        amount,
        reason,
        expires_at,
    };
    write(tx, draft, now).await
}

impl Claim {
    /// The key of its row beside the message's.
    fn key(&self) -> &str {
        self.address.as_deref().unwrap_or_default()
    }

    /// Notes that it waits; `false`: it does already.
    pub(super) async fn wait(&self, tx: &mut Session<'_>, now: Timestamp) -> Result<bool, StoreError> {
        const INSERT: &str = "
            INSERT INTO refund (message_id, address, customer_id, amount, state, decided_at)
            VALUES ($1, $2, $3, $4, 'waiting', $5) ON CONFLICT DO NOTHING";
        let done = query(INSERT)
            .bind(self.message_id.as_str())
            .bind(self.key())
            .bind(self.customer_id.as_str())
            .bind(AMOUNT)
            .bind(millis(now))
            .execute(tx)
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Forgets that it waits.
    pub(super) async fn withdraw(&self, tx: &mut Session<'_>) -> Result<(), StoreError> {
        const DELETE: &str =
            "DELETE FROM refund WHERE message_id = $1 AND address = $2 AND state = 'waiting'";
        query(DELETE).bind(self.message_id.as_str()).bind(self.key()).execute(tx).await?;
        Ok(())
    }

    /// Moves it on from `waiting` or `due`.
    async fn set(
        &self,
        tx: &mut Session<'_>,
        (result, reason): (RefundResult, Option<&str>),
        now: Timestamp,
    ) -> Result<(), StoreError> {
        const SET: &str = "
            UPDATE refund SET state = $3, reason = $4, decided_at = $5
            WHERE message_id = $1 AND address = $2 AND entry_id IS NULL AND state IN ('waiting', 'due')";
        let done = query(SET)
            .bind(self.message_id.as_str())
            .bind(self.key())
            .bind(result.as_str())
            .bind(reason)
            .bind(millis(now))
            .execute(tx)
            .await?;
        changed("decide refund", done.rows_affected(), 1)
    }
}

/// Decides a refund that nobody has decided: above the cap nothing is given, below
/// it the capture is taken back if it is in no entry.
pub(super) async fn decide(
    tx: &mut Session<'_>,
    claim: &Claim,
    allowance: &Allowance,
    now: Timestamp,
) -> Result<RefundResult, StoreError> {
    const GIVEN: &str = "
        SELECT coalesce(CAST(sum(amount) AS BIGINT), 0),
               coalesce(CAST(sum(CASE state WHEN 'released' THEN amount ELSE 0 END) AS BIGINT), 0)
        FROM refund
        WHERE customer_id = $1 AND decided_at > $2 AND state IN ('due', 'released', 'credited')";
    claim.wait(tx, now).await?;
    let query = query_as(GIVEN).bind(claim.customer_id.as_str()).bind(millis(allowance.since));
    let (given, released): (i64, i64) = query.fetch_one(&mut *tx).await?;
    let cap = (allowance.sent.saturating_add(released) / ONE_IN).max(1);
    if given.saturating_add(AMOUNT) > cap {
        let reason = format!("{given} credits were given back in 24 hours, of {cap} at most");
        claim.set(tx, (RefundResult::Capped, Some(&reason)), now).await?;
        return Ok(RefundResult::Capped);
    }
    let is_released = take_back(tx, claim).await?;
    let result = if is_released { RefundResult::Released } else { RefundResult::Due };
    claim.set(tx, (result, None), now).await?;
    Ok(result)
}

/// Takes a capture back that is in no entry. Numbers keep no gap: the last capture
/// moves to the number that becomes free. `false`: there is none.
async fn take_back(tx: &mut Session<'_>, claim: &Claim) -> Result<bool, StoreError> {
    const FIND: &str = "
        SELECT c.number, c.amount, a.last_capture FROM account a
             JOIN capture c ON c.customer_id = a.customer_id AND c.number > a.last_entered
        WHERE a.customer_id = $1 AND c.message_id = $2 ORDER BY c.number DESC LIMIT 1";
    const LESSEN: &str = "UPDATE capture SET amount = amount - $3 WHERE customer_id = $1 AND number = $2";
    const DELETE: &str = "DELETE FROM capture WHERE customer_id = $1 AND number = $2";
    const MOVE: &str = "UPDATE capture SET number = $2 WHERE customer_id = $1 AND number = $3";
    const ACCOUNT: &str = "
        UPDATE account SET owed = owed - $2, last_capture = last_capture - $3
        WHERE customer_id = $1 AND owed >= $2 AND last_capture = $4";
    const MESSAGE: &str = "
        UPDATE message SET captured = captured - $2, released = released + $2
        WHERE message_id = $1 AND captured >= $2";
    let (id, message_id) = (claim.customer_id.as_str(), claim.message_id.as_str());
    let found: Option<(i64, i64, i64)> =
        query_as(FIND).bind(id).bind(message_id).fetch_optional(&mut *tx).await?;
    let Some((number, amount, last)) = found else { return Ok(false) };
    let is_whole = amount == AMOUNT;
    let done = if is_whole {
        query(DELETE).bind(id).bind(number).execute(&mut *tx).await?
    } else {
        query(LESSEN).bind(id).bind(number).bind(AMOUNT).execute(&mut *tx).await?
    };
    changed("take capture back", done.rows_affected(), 1)?;
    if is_whole && number < last {
        let done = query(MOVE).bind(id).bind(number).bind(last).execute(&mut *tx).await?;
        changed("move capture", done.rows_affected(), 1)?;
    }
    let less = query(ACCOUNT).bind(id).bind(AMOUNT).bind(i64::from(is_whole)).bind(last);
    changed("take debt back", less.execute(&mut *tx).await?.rows_affected(), 1)?;
    let done = query(MESSAGE).bind(message_id).bind(AMOUNT).execute(&mut *tx).await?;
    changed("release", done.rows_affected(), 1)?;
    Ok(true)
}

/// Dodo has the credit. A balance that was read since the entry was opened may
/// have had it in it: then nothing is added, and the next read tells.
pub(super) async fn give_back(tx: &mut Session<'_>, entry: &Entry, now: Timestamp) -> Result<(), StoreError> {
    const ADD: &str = "
        UPDATE account SET version = version + 1, balance = balance + CASE
            WHEN version = (SELECT e.version FROM entry e WHERE e.entry_id = $2) THEN $3 ELSE 0 END
        WHERE customer_id = $1";
    const CLOSE: &str = "
        UPDATE refund SET state = 'credited', decided_at = max(decided_at, $2)
        WHERE entry_id = $1 AND state = 'due'";
    let add = query(ADD).bind(entry.customer_id.as_str()).bind(entry.entry_id.as_str());
    let done = add.bind(entry.amount.to_i64()).execute(&mut *tx).await?;
    changed("give back", done.rows_affected(), 1)?;
    query(CLOSE).bind(entry.entry_id.as_str()).bind(millis(now)).execute(tx).await?;
    Ok(())
}

/// Dodo surely has no such credit: its refunds are due again, some times, since
/// what Dodo refuses for good would be posted for ever.
pub(super) async fn keep_back(
    tx: &mut Session<'_>,
    entry: &Entry,
    error: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    const BACK: &str = "UPDATE account SET version = version + 1 WHERE customer_id = $1";
    const AGAIN: &str = "
        UPDATE refund SET entry_id = NULL, voids = voids + 1, reason = $3, decided_at = max(decided_at, $4),
               state = CASE WHEN voids + 1 >= $2 THEN 'refused' ELSE 'due' END
        WHERE entry_id = $1 AND state = 'due'";
    let done = query(BACK).bind(entry.customer_id.as_str()).execute(&mut *tx).await?;
    changed("void credit", done.rows_affected(), 1)?;
    let query = query(AGAIN).bind(entry.entry_id.as_str()).bind(MAX_VOIDS).bind(error);
    query.bind(millis(now)).execute(tx).await?;
    Ok(())
}
