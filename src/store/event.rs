//! What the upstream tells about mail that it took, written down with all that
//! follows from it in one transaction: the event, who failed late, the bounce that
//! tells the sender, what is refunded, whose address is suppressed, and whether the
//! customer is paused. Told twice it changes nothing: an event is its kind, its
//! own time and its words, and everything else follows from what is new.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;

use super::accept::{Acceptance, Kind, insert_own};
use super::bounced::evaluate;
use super::gathered::{Member, gather};
use super::refund::{Allowance, Decision};
use super::reputation::{self, Counted, PauseLetter};
use super::sql::{Session, Whole, query, query_as, query_scalar};
use super::suppression::{self, New};
use super::wake::Wake;
use super::{Store, StoreError, dsn, header, json, lock, millis, stored, timestamp};
use crate::domain::address::{Mailbox, ReversePath};
use crate::domain::answer::PerhapsFailed;
use crate::domain::dsn::Dsn;
use crate::domain::event::{Blame, EventKind};
use crate::domain::ids::{CustomerId, MessageId};
use crate::domain::reputation::Thresholds;
use crate::domain::suppression::Cause;

/// Events kept of one message: a dozen of each of fifty recipients.
const MAX_EVENTS: i64 = 600;

/// An event about a part, as it is written down.
#[derive(Debug, Clone)]
pub struct Told {
    /// The message.
    pub message_id: MessageId,
    /// Its part.
    pub part_no: u32,
    /// Whose.
    pub customer_id: CustomerId,
    /// What happened.
    pub kind: EventKind,
    /// When, as the upstream says.
    pub told_at: Timestamp,
    /// To whom; empty: to the whole part, or to one of whom nobody says which.
    pub recipients: Vec<Mailbox>,
    /// What was said, in one bounded line.
    pub words: Option<String>,
    /// What a failure is laid to.
    pub blame: Blame,
}

/// A message that our own mail is about.
#[derive(Debug, Clone)]
pub struct Original {
    /// Its id.
    pub message_id: MessageId,
    /// What it is.
    pub kind: Kind,
    /// The envelope sender.
    pub reverse_path: ReversePath,
    /// The From header's address.
    pub header_from: String,
    /// The subject.
    pub subject: Option<String>,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// What its sender asks to be told.
    pub dsn: Dsn,
    /// Its header, as far as it is kept, where a report is to return it.
    pub header: Option<Vec<u8>>,
}

/// Mail of our own that news may ask for, composed where it is known for whom.
#[derive(Clone, Copy)]
pub struct Letters<'a> {
    /// The bounce of a message for those who newly failed.
    pub bounce: &'a (dyn Fn(&Original, &[Mailbox]) -> Option<Acceptance> + Sync),
    /// The same where it is not told who failed: for those who may have.
    pub somebody_failed: &'a (dyn Fn(&Original, &[PerhapsFailed]) -> Option<Acceptance> + Sync),
    /// The notice to a customer who is paused.
    pub pause: PauseLetter<'a>,
}

/// What decides about the consequences.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// What may be refunded; `None`: refunds are off.
    pub allowance: Option<&'a Allowance>,
    /// Where a customer is paused.
    pub thresholds: &'a Thresholds,
    /// Our own mail.
    pub letters: Letters<'a>,
}

/// What an event changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// Whether it was written down: not known before, and there was room.
    pub is_new: bool,
    /// Whether it was dropped, since the message has as many as are kept.
    pub is_dropped: bool,
    /// Who failed by it.
    pub newly_failed: Vec<Mailbox>,
    /// What is refunded for that.
    pub refunds: Vec<Decision>,
    /// The bounce that tells the sender.
    pub bounce: Option<MessageId>,
    /// Addresses that are new on the suppression list.
    pub suppressed: usize,
    /// Why the customer is paused since.
    pub paused: Option<String>,
}

/// One event as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct EventLog {
    /// The part.
    pub part_no: u32,
    /// The recipient; unset: the whole part, or one of whom nobody said which.
    pub recipient: Option<String>,
    /// A name of [`EventKind`].
    pub kind: &'static str,
    /// When, as the upstream says.
    pub at: Timestamp,
    /// What was said.
    pub words: Option<String>,
}

impl Store {
    /// Writes an event down and does what follows from it. A message that has left
    /// takes none. From most nothing follows: those gather, since every mail makes a few.
    pub async fn hear(&self, told: &Told, rules: &Rules<'_>, now: Timestamp) -> Result<Heard, StoreError> {
        if !told.kind.has_consequences() {
            return self.keep_event(told).await;
        }
        let mut writer = self.writer.lock().await;
        let mut tx = writer.begin().await?;
        lock::messages(&mut tx, &BTreeSet::from([told.message_id.as_str()])).await?;
        let Some((mut original, count)) = Original::read(&mut tx, &told.message_id).await? else {
            return Ok(Heard::default());
        };
        let is_dropped = count >= MAX_EVENTS;
        let new = if is_dropped { Vec::new() } else { told.insert(&mut tx).await? };
        let mut heard = Heard { is_new: !new.is_empty(), is_dropped, ..Heard::default() };
        if told.kind.is_late_failure() {
            told.fail(&mut tx, &mut original, (rules, now), &mut heard).await?;
        }
        // What comes back of a report is the customer's: they named the sender that it went to.
        if original.kind != Kind::Notice {
            told.judge(&mut tx, (&original, &new), (rules, now), &mut heard).await?;
        }
        tx.commit().await?;
        if heard.bounce.is_some() || heard.paused.is_some() {
            self.ring(&Wake::Parts);
        }
        Ok(heard)
    }

    /// Writes an event down from which nothing follows, whatever its kind is.
    pub async fn keep_event(&self, told: &Told) -> Result<Heard, StoreError> {
        let told = Box::new(told.clone());
        gather(&self.hot, |answer| Member::News(told, answer)).await
    }

    /// What a report says of a message.
    pub async fn original(&self, message_id: &MessageId) -> Result<Option<Original>, StoreError> {
        let mut tx = self.readers.begin().await?;
        let Some((mut original, _)) = Original::read(&mut tx, message_id).await? else { return Ok(None) };
        original.header = header::read(&mut tx, message_id.as_str()).await?;
        Ok(Some(original))
    }

    /// The events of one message, in the order in which they happened.
    pub(super) async fn events(&self, message_id: &MessageId) -> Result<Vec<EventLog>, StoreError> {
        const READ: &str = "
            SELECT part_no, address, kind, told_at, words FROM event WHERE message_id = $1
            ORDER BY told_at, part_no, address";
        let rows: Vec<(Whole, String, String, i64, String)> =
            query_as(READ).bind(message_id.as_str()).fetch_all(&self.readers).await?;
        rows.into_iter()
            .map(|(Whole(part_no), address, kind, told_at, words)| {
                let unknown = || StoreError::Corrupt(format!("{kind} is no event"));
                Ok(EventLog {
                    part_no,
                    recipient: Some(address).filter(|address| !address.is_empty()),
                    kind: EventKind::parse(&kind).ok_or_else(unknown)?.as_str(),
                    at: timestamp(told_at)?,
                    words: Some(words).filter(|words| !words.is_empty()),
                })
            })
            .collect()
    }
}

impl Original {
    /// Whether it is a customer's, and has a sender who hears of failures.
    fn has_sender_to_tell(&self) -> bool {
        self.kind == Kind::Submission && self.reverse_path.mailbox().is_some()
    }

    /// Inserts the report that is written of the message with its header.
    async fn report(
        &mut self,
        tx: &mut Session<'_>,
        write: impl FnOnce(&Self) -> Option<Acceptance>,
    ) -> Result<Option<MessageId>, StoreError> {
        self.header = header::read(&mut *tx, self.message_id.as_str()).await?;
        let Some(report) = write(self) else { return Ok(None) };
        Ok(insert_own(tx, &report, Some(&self.message_id)).await?.then_some(report.message_id))
    }

    /// The message without its header, and how many events it has.
    async fn read(tx: &mut Session<'_>, message_id: &MessageId) -> Result<Option<(Self, i64)>, StoreError> {
        const READ: &str = "
            SELECT kind, reverse_path, header_from, subject, accepted_at, ret, envid,
                   (SELECT count(*) FROM event e WHERE e.message_id = $1)
            FROM message WHERE message_id = $1";
        type Text = Option<String>;
        type Row = (String, String, String, Text, i64, Text, Text, i64);
        let row: Option<Row> = query_as(READ).bind(message_id.as_str()).fetch_optional(&mut *tx).await?;
        let Some((kind, reverse_path, header_from, subject, accepted_at, ret, envid, count)) = row else {
            return Ok(None);
        };
        let mut dsn = dsn::of_message(ret.as_deref(), envid.as_deref())?;
        dsn::ask(&mut dsn, tx, message_id).await?;
        let unknown = || StoreError::Corrupt(format!("{kind} is no kind of message"));
        let original = Self {
            message_id: message_id.clone(),
            kind: Kind::parse(&kind).ok_or_else(unknown)?,
            reverse_path: stored(ReversePath::parse(&reverse_path))?,
            header_from,
            subject,
            accepted_at: timestamp(accepted_at)?,
            dsn,
            header: None,
        };
        Ok(Some((original, count)))
    }
}

impl Told {
    /// Writes an event down from which nothing follows.
    pub(super) async fn keep(&self, tx: &mut Session<'_>) -> Result<Heard, StoreError> {
        const COUNT: &str = "
            SELECT (SELECT count(*) FROM event e WHERE e.message_id = $1)
            FROM part WHERE message_id = $1 AND part_no = $2";
        let count: Option<i64> = query_scalar(COUNT)
            .bind(self.message_id.as_str())
            .bind(self.part_no)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(count) = count else { return Ok(Heard::default()) };
        if count >= MAX_EVENTS {
            return Ok(Heard { is_dropped: true, ..Heard::default() });
        }
        Ok(Heard { is_new: !self.insert(tx).await?.is_empty(), ..Heard::default() })
    }

    /// Writes the event down, a row for each whom it is about. Returns the new ones' addresses.
    async fn insert(&self, tx: &mut Session<'_>) -> Result<Vec<String>, StoreError> {
        const INSERT: &str = "
            INSERT INTO event (message_id, part_no, address, kind, told_at, words)
            SELECT $1, $2, atom, $3, $4, $5 FROM json_each($6) WHERE true ON CONFLICT DO NOTHING
            RETURNING address";
        let nobody = self.recipients.is_empty().then(String::new);
        let addresses: Vec<String> = self.recipients.iter().map(ToString::to_string).chain(nobody).collect();
        Ok(query_scalar(INSERT)
            .bind(self.message_id.as_str())
            .bind(self.part_no)
            .bind(self.kind.as_str())
            .bind(millis(self.told_at))
            .bind(self.words.as_deref().unwrap_or_default())
            .bind(json(&addresses)?)
            .fetch_all(tx)
            .await?)
    }

    /// Marks who failed, tells the sender and decides what is given back.
    async fn fail(
        &self,
        tx: &mut Session<'_>,
        original: &mut Original,
        (rules, now): (&Rules<'_>, Timestamp),
        heard: &mut Heard,
    ) -> Result<(), StoreError> {
        const MARK: &str = "
            UPDATE recipient SET bounced_at = $3, bounce = $4
            WHERE message_id = $1 AND address IN (SELECT atom FROM json_each($2))
              AND bounced_at IS NULL AND state <> 'failed'
            RETURNING address";
        let (id, words) = (self.message_id.as_str(), self.words.as_deref().unwrap_or(self.kind.as_str()));
        if self.recipients.is_empty() {
            return self.fail_somebody(tx, original, (rules, now), heard).await;
        }
        let addresses: Vec<String> = self.recipients.iter().map(ToString::to_string).collect();
        let marked: Vec<String> = query_scalar(MARK)
            .bind(id)
            .bind(json(&addresses)?)
            .bind(millis(now))
            .bind(words)
            .fetch_all(&mut *tx)
            .await?;
        let is_marked = |mailbox: &&Mailbox| marked.contains(&mailbox.to_string());
        heard.newly_failed = self.recipients.iter().filter(is_marked).cloned().collect();
        if let Some(allowance) = rules.allowance {
            heard.refunds = evaluate(tx, &self.message_id, allowance, now).await?;
        }
        if !original.has_sender_to_tell() || heard.newly_failed.is_empty() {
            return Ok(());
        }
        heard.bounce = original.report(tx, |of| (rules.letters.bounce)(of, &heard.newly_failed)).await?;
        Ok(())
    }

    /// Notes with the part that somebody failed, and tells the sender once whom that may be,
    /// unless they were told of all of them by name. Nobody is marked: it is not known who.
    async fn fail_somebody(
        &self,
        tx: &mut Session<'_>,
        original: &mut Original,
        (rules, now): (&Rules<'_>, Timestamp),
        heard: &mut Heard,
    ) -> Result<(), StoreError> {
        const NOTE: &str = "UPDATE part SET last_error = $3 WHERE message_id = $1 AND part_no = $2";
        // Compare-and-set: what is told once more under another time is told to nobody.
        const FIRST: &str = "
            UPDATE part SET somebody_failed_at = $3
            WHERE message_id = $1 AND part_no = $2 AND somebody_failed_at IS NULL";
        // By SMTP whoever waits had no mail. The API takes all or nobody, and may tell before it answers.
        const WHO: &str = "
            SELECT r.address, r.bounced_at IS NOT NULL AS has_failed
            FROM recipient r JOIN part p ON p.message_id = r.message_id AND p.part_no = r.part_no
            WHERE r.message_id = $1 AND r.part_no = $2
              AND (r.state = 'sent' OR r.state = 'queued' AND p.road = 'resend')
            ORDER BY r.ordinal";
        let (id, words) = (self.message_id.as_str(), self.words.as_deref().unwrap_or(self.kind.as_str()));
        let error = format!("one of its recipients bounced, which one is not told: {words}");
        query(NOTE).bind(id).bind(self.part_no).bind(error).execute(&mut *tx).await?;
        let is_heard_again = !heard.is_new && !heard.is_dropped;
        if is_heard_again || !original.has_sender_to_tell() {
            return Ok(());
        }
        let first = query(FIRST).bind(id).bind(self.part_no).bind(millis(now)).execute(&mut *tx).await?;
        let rows: Vec<(String, bool)> = query_as(WHO).bind(id).bind(self.part_no).fetch_all(&mut *tx).await?;
        if first.rows_affected() == 0 || rows.iter().all(|(_, has_failed)| *has_failed) {
            return Ok(());
        }
        let perhaps = |(address, has_failed): (String, bool)| {
            Ok(PerhapsFailed { recipient: stored(Mailbox::parse(&address))?, has_failed })
        };
        let perhaps: Vec<PerhapsFailed> = rows.into_iter().map(perhaps).collect::<Result<_, StoreError>>()?;
        heard.bounce = original.report(tx, |of| (rules.letters.somebody_failed)(of, &perhaps)).await?;
        Ok(())
    }

    /// Suppresses addresses, and pauses a customer of whose mail too much comes back.
    async fn judge(
        &self,
        tx: &mut Session<'_>,
        (original, new): (&Original, &[String]),
        (rules, now): (&Rules<'_>, Timestamp),
        heard: &mut Heard,
    ) -> Result<(), StoreError> {
        let (cause, whose) = match self.kind {
            EventKind::Bounced => (Cause::Bounce, heard.newly_failed.clone()),
            EventKind::Suppressed => (Cause::Upstream, heard.newly_failed.clone()),
            EventKind::Complained => (Cause::Complaint, self.first_told(tx, new).await?),
            _ => return Ok(()),
        };
        if self.blame == Blame::Address {
            let new = New { cause, detail: self.words.as_deref(), message_id: Some(&self.message_id), now };
            heard.suppressed = suppression::insert(tx, &self.customer_id, &whose, &new).await?;
        }
        let unattributed = new.iter().filter(|address| address.is_empty()).count();
        let count = i64::try_from(whose.len() + unattributed).unwrap_or(i64::MAX);
        let counted = match self.kind {
            EventKind::Bounced if self.blame != Blame::Mail => Counted { bounced: count, complained: 0 },
            EventKind::Complained => Counted { bounced: 0, complained: count },
            _ => return Ok(()),
        };
        if count == 0
            || !reputation::count(tx, (&self.customer_id, original.accepted_at), counted, now).await?
        {
            return Ok(());
        }
        let by = (rules.thresholds, rules.letters.pause);
        heard.paused = reputation::judge(tx, &self.customer_id, by, now).await?;
        Ok(())
    }

    /// Those of the new rows' recipients of whom this was not told before at another time.
    async fn first_told(&self, tx: &mut Session<'_>, new: &[String]) -> Result<Vec<Mailbox>, StoreError> {
        const READ: &str = "
            SELECT address FROM event
            WHERE message_id = $1 AND kind = $2 AND address IN (SELECT atom FROM json_each($3))
            GROUP BY address HAVING count(*) = 1";
        let first: Vec<String> = query_scalar(READ)
            .bind(self.message_id.as_str())
            .bind(self.kind.as_str())
            .bind(json(&new)?)
            .fetch_all(tx)
            .await?;
        let is_first = |mailbox: &&Mailbox| first.contains(&mailbox.to_string());
        Ok(self.recipients.iter().filter(is_first).cloned().collect())
    }
}
