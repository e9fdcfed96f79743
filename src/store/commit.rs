//! The gathering writer: one commit for everything that came while the last one ran.
//!
//! A member that is refused never fails the others, and one that cannot be
//! written at all fails alone. When a commit itself fails, the connection is
//! opened anew and it is found out what became of the commit before anybody
//! is answered: one that failed late may have happened. While that cannot be found out,
//! senders are refused and nothing else is written; whoever reports waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::accept::{Acceptance, accept_batch};
use super::event::Told;
use super::gathered::{Batch, Decided, Lanes};
use super::leftovers::Leftover;
use super::lock;
use super::report::{Aftermath, Report, report_batch};
use super::spool::{Reserve, remove_some, write_chunk};
use super::sql::Session;
use super::unanswered::{Memo, Refused};
use super::wake::{Bells, Wake};
use super::webhook::remember;
use super::writer::Writer;
use super::writers::{Writers, unsure};
use super::{StoreError, millis};
use crate::crash::{CrashAt, CrashPoint};
use crate::domain::ids::MessageId;
use crate::telemetry::Metrics;

/// How often a commit is begun that finds other transactions in its way; and how many of
/// its members are waited for, each alone, before the others are refused with them.
const MAX_TRIES: u32 = 3;
/// Between two looks at a database that was not available.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Runs until the last [`super::Store`] is gone.
pub(super) async fn run(writers: Writers, mut lanes: Lanes, settings: Settings) {
    let mut gatherer =
        Gatherer { writers, settings, unanswered: None, away: None, looked: None, has_written: false };
    loop {
        let first = tokio::select! {
            member = lanes.next() => match member {
                Some(member) => Some(member),
                None => return gatherer.end().await,
            },
            () = gatherer.to_be_looked_at() => None,
        };
        let writers = gatherer.writers.clone();
        let mut writer = writers.gathering().await;
        let Some(first) = first else {
            gatherer.look(&mut writer).await;
            continue;
        };
        let mut batch = lanes.gather(first);
        batch.keep_reserve(&mut writer, &gatherer.settings.reserve).await;
        if batch.len() == 0 {
            continue;
        }
        let began = Instant::now();
        let size = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        gatherer.take(&mut writer, batch).await;
        gatherer.look_again(&mut writer).await;
        gatherer.settings.metrics.store_commit(began.elapsed(), size);
    }
}

/// What the writer needs to know besides the members.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// Who has what is leased with its acceptance.
    pub(super) node: Arc<str>,
    /// `billing.low_balance_credits`.
    pub(super) low_mark: i64,
    /// Where it stands who was refused and may have been accepted. SQLite's commits are found out at once.
    pub(super) memo: Option<Memo>,
    /// Where commits are counted.
    pub(super) metrics: Metrics,
    /// What chunks leave free.
    pub(super) reserve: Reserve,
    /// The line of what leaves the spool.
    pub(super) leftovers: mpsc::WeakUnboundedSender<Leftover>,
    /// Who sees to what falls due by a commit.
    pub(super) bells: Arc<Bells>,
    /// Where a test may have the process killed.
    pub(super) crash_at: CrashAt,
}

impl Settings {
    /// Passes a crash point with a batch that has members whom it is about.
    fn pass(&self, is_about_them: bool, point: CrashPoint) {
        if is_about_them {
            self.crash_at.pass(point);
        }
    }

    /// Wakes whoever sends what is due in this process, if there is more to be done than before:
    /// the others need not hear of what comes so often.
    fn wake(&self, is_more: bool) {
        if is_more {
            self.bells.ring(&Wake::Parts);
        }
    }

    /// Does what follows from reports that are committed.
    fn follow(&self, aftermath: Aftermath) {
        aftermath.too_late.iter().for_each(|news| news.tell(&self.metrics));
        let Some(line) = self.leftovers.upgrade() else { return };
        for spool_id in aftermath.left {
            let _ = line.send(Leftover { spool_id, is_writing: false, claim: None });
        }
    }
}

/// What a batch has come to, once it is committed.
#[derive(Debug)]
struct Written {
    decided: Decided,
    aftermath: Aftermath,
}

/// Why a batch was not written.
#[derive(Debug)]
enum Failure {
    /// No transaction could be begun: nothing would go better for one member alone.
    NotBegun(StoreError),
    /// A statement failed, and everything was rolled back.
    RolledBack(StoreError),
    /// The commit itself failed: it may have happened.
    InDoubt(StoreError, Box<Written>),
}

/// A batch that may have been written, which could not be found out while its senders waited.
#[derive(Debug)]
struct Unanswered {
    /// Those who can wait: the others were refused.
    waiting: Batch,
    written: Written,
    refused: Refused,
    error: StoreError,
}

impl Unanswered {
    /// Leaves those in the batch who cannot wait.
    fn of(
        batch: &mut Batch,
        mut written: Written,
        error: StoreError,
        (row, node): (&str, &Arc<str>),
    ) -> Self {
        let unkeyed = batch.accepted(&written.decided).filter(|acceptance| acceptance.keyed.is_none());
        let message_ids = unkeyed.map(|acceptance| acceptance.message_id.clone()).collect();
        let at = batch.accepts.iter().map(|(acceptance, _)| millis(acceptance.accepted_at)).max();
        let (node, row) = (Arc::clone(node), row.to_owned());
        let refused = Refused { message_ids, node, row, at: at.unwrap_or_default() };
        let waiting = batch.split_reports();
        let recorded = std::mem::take(&mut written.decided.recorded);
        written.decided = Decided { recorded, ..Decided::default() };
        Self { waiting, written, refused, error }
    }
}

/// Who makes the gathered commits.
#[derive(Debug)]
struct Gatherer {
    writers: Writers,
    settings: Settings,
    unanswered: Option<Unanswered>,
    /// Since when the database is not available.
    away: Option<Instant>,
    /// When it was looked at last whether it is.
    looked: Option<Instant>,
    /// Something was written since.
    has_written: bool,
}

impl Gatherer {
    /// Returns when the database should be looked at though nobody wants anything written.
    async fn to_be_looked_at(&self) {
        match self.writers.trouble() {
            Some(trouble) => trouble.to_be_looked_at().await,
            None => std::future::pending().await,
        }
    }

    /// At the end: what is not known by now is found out at the next start.
    async fn end(&mut self) {
        let writers = self.writers.clone();
        let mut writer = writers.gathering().await;
        self.has_settled(&mut writer).await;
    }

    /// The same after something was written, which is no proof: on a disk that is all but full
    /// there is room for one small commit and not for the next.
    async fn look_again(&mut self, writer: &mut Writer) {
        let is_due = self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_INTERVAL);
        if self.away.is_some() && self.has_written && is_due {
            self.look(writer).await;
        }
    }

    /// Finds out whether the database is available.
    async fn look(&mut self, writer: &mut Writer) {
        (self.looked, self.has_written) = (Some(Instant::now()), false);
        if self.has_settled(writer).await {
            match writer.prove().await {
                Ok(()) => self.is_back(),
                Err(error) => self.is_away(writer, &error),
            }
        }
    }

    /// Writes a batch, and answers all of its members.
    async fn take(&mut self, writer: &mut Writer, batch: Batch) {
        if !self.has_settled(writer).await {
            return batch.refuse(&unsure());
        }
        let mut tries = 1;
        let failure = loop {
            match self.write(writer, &batch).await {
                Ok(written) => return self.answer(writer, batch, written),
                Err(Failure::RolledBack(StoreError::Contended(_))) if tries < MAX_TRIES => tries += 1,
                Err(failure) => break failure,
            }
        };
        match failure {
            // Where the database is reached by a network, it is more likely away than out of room for one.
            Failure::RolledBack(error) if error.is_away() && self.writers.trouble().is_some() => {
                self.fail(writer, batch, Failure::NotBegun(error)).await;
            }
            Failure::RolledBack(error) if batch.len() > 1 => {
                tracing::warn!(%error, members = batch.len(), "a commit was rolled back; its members go one by one");
                self.one_by_one(writer, batch).await;
            }
            failure => self.fail(writer, batch, failure).await,
        }
    }

    /// One of the members cannot be written; the others can.
    async fn one_by_one(&mut self, writer: &mut Writer, batch: Batch) {
        let (mut members, mut contended) = (batch.into_members(), 0);
        while let Some(member) = members.next() {
            let mut alone = Batch::default();
            alone.push(member);
            let failure = match self.write(writer, &alone).await {
                Ok(written) => {
                    self.answer(writer, alone, written);
                    continue;
                }
                Err(failure) => failure,
            };
            contended += u32::from(matches!(failure, Failure::RolledBack(StoreError::Contended(_))));
            let is_over = matches!(failure, Failure::NotBegun(_)) || contended == MAX_TRIES;
            if is_over {
                members.by_ref().for_each(|member| alone.push(member));
            }
            self.fail(writer, alone, failure).await;
            if self.unanswered.is_some() {
                let mut rest = Batch::default();
                members.by_ref().for_each(|member| rest.push(member));
                rest.refuse(&unsure());
            }
        }
    }

    async fn write(&self, writer: &mut Writer, batch: &Batch) -> Result<Written, Failure> {
        let settings = &self.settings;
        let mut tx = writer.begin().await.map_err(|error| Failure::NotBegun(error.into()))?;
        let (decided, aftermath) = match apply(&mut tx, batch, settings).await {
            Ok(applied) => applied,
            Err(error) => {
                drop(tx);
                writer.abandon(&error).await;
                return Err(Failure::RolledBack(error));
            }
        };
        settings.pass(!batch.reports.is_empty(), CrashPoint::ReportWritten);
        settings.pass(!batch.accepts.is_empty(), CrashPoint::AcceptWritten);
        let written = Written { decided, aftermath };
        match tx.commit().await {
            Ok(()) => Ok(written),
            Err(error) => Err(Failure::InDoubt(error.into(), Box::new(written))),
        }
    }

    /// Tells the members of a batch that is committed.
    fn answer(&mut self, writer: &mut Writer, batch: Batch, written: Written) {
        writer.note(true);
        self.has_written = true;
        let settings = &self.settings;
        settings.wake(batch.leaves_parts(&written.decided));
        settings.follow(written.aftermath);
        settings.pass(!batch.removals.is_empty(), CrashPoint::OrphansSwept);
        settings.pass(!batch.chunks.is_empty(), CrashPoint::ChunkCommitted);
        settings.pass(!batch.accepts.is_empty(), CrashPoint::AcceptCommitted);
        batch.answer(written.decided);
    }

    /// Answers a batch that was not written, or may have been: by what is really in the database.
    async fn fail(&mut self, writer: &mut Writer, mut batch: Batch, failure: Failure) {
        let (error, written) = match failure {
            Failure::NotBegun(error) | Failure::RolledBack(error) => (error, None),
            Failure::InDoubt(error, written) => (error, Some(*written)),
        };
        let is_in_doubt = written.is_some();
        // An outage is told once: `is_away`.
        let is_told = self.writers.trouble().is_some() && error.is_away();
        if is_in_doubt || !is_told {
            tracing::error!(%error, members = batch.len(), is_in_doubt, "commit failed");
        }
        let Some(written) = written else {
            if error.is_away() {
                self.is_away(writer, &error);
            }
            return batch.refuse(&error);
        };
        // Whoever is told 452 must not be mailed, so nobody is told before this was tried.
        let accepted: Vec<MessageId> =
            batch.accepted(&written.decided).map(|acceptance| acceptance.message_id.clone()).collect();
        // Nor may this node find them on their way meanwhile.
        self.set_unsure(true);
        self.settings.metrics.set_database_up(false);
        let found = writer.find_out(&accepted).await;
        self.set_unsure(found.is_err());
        match found {
            Ok(true) => {
                self.settings.metrics.set_database_up(true);
                tracing::warn!(members = batch.len(), "the commit had happened");
                return self.answer(writer, batch, written);
            }
            Ok(false) => self.is_away(writer, &error),
            Err(unknown) => {
                tracing::error!(error = %unknown, "the database cannot be written; everything is refused until it can");
                self.is_away(writer, &error);
                if let Some(row) = writer.row() {
                    let whose = (row, &self.settings.node);
                    let unanswered = Unanswered::of(&mut batch, written, error.clone(), whose);
                    // On disk before anybody hears of it: this process may be killed first.
                    if let Some(memo) = &self.settings.memo {
                        memo.keep(&unanswered.refused).await;
                    }
                    self.unanswered = Some(unanswered);
                }
            }
        }
        batch.refuse(&error);
    }

    /// Whether it is known what became of every commit. Nothing else is written before.
    async fn has_settled(&mut self, writer: &mut Writer) -> bool {
        let Some(unanswered) = &mut self.unanswered else { return true };
        let settled = writer.settle(&unanswered.refused).await;
        if let Err(StoreError::Corrupt(error)) = &settled {
            let messages = unanswered.refused.message_ids.len();
            tracing::error!(error, messages, "messages that were refused cannot be withdrawn; they are sent");
            unanswered.refused = Refused::default();
        }
        match settled {
            Ok(was_committed) => {
                self.settle(was_committed);
                if let Some(memo) = &self.settings.memo {
                    memo.forget().await;
                }
                true
            }
            Err(error) => {
                self.is_away(writer, &error);
                false
            }
        }
    }

    /// Tells those who have waited for it what became of their commit.
    fn settle(&mut self, was_committed: bool) {
        let Some(Unanswered { waiting, written, refused, error }) = self.unanswered.take() else { return };
        let withdrawn = if was_committed { refused.message_ids.len() } else { 0 };
        tracing::warn!(was_committed, withdrawn, "what became of a commit that was not answered is known");
        if was_committed {
            self.settings.wake(waiting.leaves_parts(&written.decided));
            self.settings.follow(written.aftermath);
            waiting.answer(written.decided);
        } else {
            waiting.refuse(&error);
        }
        self.set_unsure(false);
    }

    /// Whether anything of this node's may be leased.
    fn set_unsure(&self, is_unsure: bool) {
        if let Some(trouble) = self.writers.trouble() {
            trouble.set_unsure(is_unsure);
        }
    }

    /// The database could not do it.
    fn is_away(&mut self, writer: &mut Writer, error: &StoreError) {
        writer.note(false);
        self.settings.metrics.set_database_up(false);
        let Some(trouble) = self.writers.trouble() else { return };
        trouble.set_failing(true);
        if self.away.is_none() {
            tracing::warn!(
                error = error.reason(),
                "the database is not available: mail is refused until it is"
            );
            self.away = Some(Instant::now());
        }
    }

    /// There is room for an ordinary mail.
    fn is_back(&mut self) {
        self.settings.metrics.set_database_up(true);
        let Some(since) = self.away.take() else { return };
        if let Some(trouble) = self.writers.trouble() {
            trouble.set_failing(false);
        }
        tracing::info!(after_s = since.elapsed().as_secs_f64(), "the database is available again");
    }
}

async fn apply(
    tx: &mut Session<'_>,
    batch: &Batch,
    settings: &Settings,
) -> Result<(Decided, Aftermath), StoreError> {
    let accepts: Vec<&Acceptance> = batch.accepts.iter().map(|(a, _)| a.as_ref()).collect();
    let reports: Vec<&Report> = batch.reports.iter().flat_map(|(reports, _)| reports).collect();
    let news: Vec<&Told> = batch.news.iter().map(|(told, _)| told.as_ref()).collect();
    lock::gathered(tx, (&accepts, &news), &reports).await?;
    for (chunk, _) in &batch.chunks {
        write_chunk(tx, chunk, &settings.node).await?;
    }
    let mut gone = Vec::with_capacity(batch.removals.len());
    for (spool_id, _) in &batch.removals {
        gone.push(remove_some(tx, spool_id).await?);
    }
    // Reports first: what they release may pay for what is accepted.
    let (recorded, aftermath) = if reports.is_empty() {
        Default::default()
    } else {
        report_batch(tx, &reports, &settings.node).await?
    };
    let accepted = if accepts.is_empty() { Vec::new() } else { accept_batch(tx, &accepts, settings).await? };
    let mut heard = Vec::with_capacity(batch.news.len());
    for told in news {
        heard.push(told.keep(tx).await?);
    }
    remember(tx, batch.handled.iter().map(|(handled, _)| handled.as_ref())).await?;
    Ok((Decided { accepted, recorded, gone, heard }, aftermath))
}
