//! The gathering writer: one commit for everything that came while the last one ran.
//!
//! A member that is refused never fails the others, and one that cannot be
//! written at all fails alone. When a commit itself fails, the connection is
//! opened anew and it is found out what became of the commit before anybody
//! is answered: one that failed late may have happened. While that cannot be found out,
//! senders are refused and nothing else is written; whoever reports waits.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::accept::{Acceptance, Accepted, accept_batch};
use super::event::{Heard, Told};
use super::leftovers::Leftover;
use super::lock;
use super::report::{Aftermath, Recorded, Report, report_batch};
use super::spool::{NewChunk, Reserve, remove_some, write_chunk};
use super::sql::Session;
use super::unanswered::Refused;
use super::webhook::{Handled, remember};
use super::writer::Writer;
use super::writers::Writers;
use super::{Store, StoreError, millis};
use crate::crash::{CrashAt, CrashPoint};
use crate::domain::ids::{MessageId, SpoolId};
use crate::telemetry::Metrics;

/// Most members of one commit.
const MAX_MEMBERS: usize = 1024;
/// A commit takes no further member once its bodies weigh this much, in octets.
const MAX_BODY_BYTES: usize = 16 << 20;
/// A commit takes no further chunk once its chunks weigh this much, in octets:
/// whoever waits to be accepted waits for no more of other people's mail.
const MAX_CHUNK_BYTES: usize = 1 << 20;
/// How often a commit is begun that finds other transactions in its way; and how many of
/// its members are waited for, each alone, before the others are refused with them.
const MAX_TRIES: u32 = 3;

pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// One write that gathers with others.
#[derive(Debug)]
pub(super) enum Member {
    /// A message asks to be taken in.
    Accept(Box<Acceptance>, Answer<Accepted>),
    /// A worker tells what became of a call: of an attempt, or of those of all its members.
    Reports(Vec<Report>, Answer<Vec<Recorded>>),
    /// An event with nothing to follow from it.
    News(Box<Told>, Answer<Heard>),
    /// A webhook was handled.
    Handled(Box<Handled>, Answer<()>),
    /// A piece of a large message that is still arriving.
    Chunk(Box<NewChunk>, Answer<()>),
    /// Some of a spool that nobody wants leaves. Those who ask for this ask for one at a time.
    Remove(SpoolId, Answer<bool>),
}

impl Store {
    /// Asks for acceptance; returns after the commit that decided it.
    pub async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, StoreError> {
        gather(&self.hot, |answer| Member::Accept(Box::new(acceptance), answer)).await
    }

    /// Records a report; returns after its commit.
    pub async fn report(&self, report: Report) -> Result<Recorded, StoreError> {
        let recorded = self.report_all(vec![report]).await?.pop();
        recorded.ok_or_else(|| StoreError::Corrupt("a report has no answer".to_owned()))
    }

    /// Records the reports of all members of one call in one commit, or none of them: a
    /// call of which some were told its end and others not could never be made again.
    pub async fn report_all(&self, reports: Vec<Report>) -> Result<Vec<Recorded>, StoreError> {
        gather(&self.hot, |answer| Member::Reports(reports, answer)).await
    }
}

/// Hands a member in, and waits for its answer.
pub(super) async fn gather<T>(
    lane: &mpsc::Sender<Member>,
    member: impl FnOnce(Answer<T>) -> Member,
) -> Result<T, StoreError> {
    let (answer, answered) = oneshot::channel();
    let gone = || StoreError::Unavailable("the writer has stopped".to_owned());
    lane.send(member(answer)).await.map_err(|_| gone())?;
    answered.await.map_err(|_| gone())?
}

/// Where members come in.
#[derive(Debug)]
pub(super) struct Lanes {
    /// Acceptances and reports.
    pub(super) hot: mpsc::Receiver<Member>,
    /// Chunks.
    pub(super) chunks: mpsc::Receiver<Member>,
    /// What leaves the spool.
    pub(super) removals: mpsc::Receiver<Member>,
}

#[derive(Debug, Default)]
struct Batch {
    accepts: Vec<(Box<Acceptance>, Answer<Accepted>)>,
    reports: Vec<(Vec<Report>, Answer<Vec<Recorded>>)>,
    news: Vec<(Box<Told>, Answer<Heard>)>,
    handled: Vec<(Box<Handled>, Answer<()>)>,
    chunks: Vec<(Box<NewChunk>, Answer<()>)>,
    removals: Vec<(SpoolId, Answer<bool>)>,
    body_bytes: usize,
    chunk_bytes: usize,
}

impl Lanes {
    /// The next member; `None`: nobody is left who could send one.
    async fn next(&mut self) -> Option<Member> {
        tokio::select! {
            Some(member) = self.hot.recv() => Some(member),
            Some(piece) = self.chunks.recv() => Some(piece),
            Some(removal) = self.removals.recv() => Some(removal),
            else => None,
        }
    }

    /// That and whatever else has come meanwhile, as much as a commit takes.
    fn gather(&mut self, first: Member) -> Batch {
        let mut batch = Batch::default();
        batch.push(first);
        while !batch.is_full() {
            let Ok(member) = self.hot.try_recv() else { break };
            batch.push(member);
        }
        while !batch.has_its_chunks() {
            let Ok(piece) = self.chunks.try_recv() else { break };
            batch.push(piece);
        }
        while let Ok(removal) = self.removals.try_recv() {
            batch.push(removal);
        }
        batch
    }
}

impl Batch {
    fn push(&mut self, member: Member) {
        match member {
            Member::Accept(acceptance, answer) => {
                self.body_bytes += acceptance.bytes.len();
                self.accepts.push((acceptance, answer));
            }
            Member::Reports(reports, answer) => self.reports.push((reports, answer)),
            Member::News(told, answer) => self.news.push((told, answer)),
            Member::Handled(handled, answer) => self.handled.push((handled, answer)),
            Member::Chunk(chunk, answer) => {
                self.chunk_bytes += chunk.bytes.len();
                self.chunks.push((chunk, answer));
            }
            Member::Remove(spool_id, answer) => self.removals.push((spool_id, answer)),
        }
    }

    fn len(&self) -> usize {
        let reports: usize = self.reports.iter().map(|(reports, _)| reports.len()).sum();
        let mail = self.accepts.len() + reports + self.news.len() + self.handled.len();
        mail + self.chunks.len() + self.removals.len()
    }

    fn is_full(&self) -> bool {
        self.len() >= MAX_MEMBERS || self.body_bytes >= MAX_BODY_BYTES
    }

    /// Whether it has its share of what arrives of large messages.
    fn has_its_chunks(&self) -> bool {
        self.chunk_bytes >= MAX_CHUNK_BYTES
    }

    /// Refuses its chunks while the disk has no room for them.
    async fn keep_reserve(&mut self, writer: &mut Writer, reserve: &Reserve) {
        if self.chunks.is_empty() {
            return;
        }
        let Some(connection) = writer.connection() else { return };
        let Some(error) = reserve.refusal(connection).await else { return };
        for (_, answer) in self.chunks.drain(..) {
            let _ = answer.send(Err(error.clone()));
        }
    }

    /// The members in the order in which they are written.
    fn into_members(self) -> impl Iterator<Item = Member> {
        let chunks = self.chunks.into_iter().map(|(chunk, answer)| Member::Chunk(chunk, answer));
        let removals = self.removals.into_iter().map(|(spool_id, answer)| Member::Remove(spool_id, answer));
        let reports = self.reports.into_iter().map(|(reports, answer)| Member::Reports(reports, answer));
        let accepts = self.accepts.into_iter().map(|(acceptance, answer)| Member::Accept(acceptance, answer));
        let news = self.news.into_iter().map(|(told, answer)| Member::News(told, answer));
        let handled = self.handled.into_iter().map(|(handled, answer)| Member::Handled(handled, answer));
        chunks.chain(removals).chain(reports).chain(accepts).chain(news).chain(handled)
    }

    /// The messages that it accepts.
    fn accepted<'a>(&'a self, decided: &'a Decided) -> impl Iterator<Item = &'a Acceptance> {
        let each = self.accepts.iter().zip(&decided.accepted);
        let accepted = each.filter(|(_, decided)| matches!(decided, Accepted::Yes { .. }));
        accepted.map(|((acceptance, _), _)| acceptance.as_ref())
    }

    /// Tells each member that it was not written.
    fn refuse(self, error: &StoreError) {
        for (_, answer) in self.accepts {
            let _ = answer.send(Err(error.clone()));
        }
        for (_, answer) in self.reports {
            // Whoever reports does it again, and is told that it is late if this was written.
            let _ = answer.send(Err(error.clone()));
        }
        for (_, answer) in self.news {
            // The webhook is delivered again; what was written is not written twice.
            let _ = answer.send(Err(error.clone()));
        }
        for (_, answer) in self.handled {
            let _ = answer.send(Err(error.clone()));
        }
        for (_, answer) in self.chunks {
            // Its message is refused; a chunk that was written all the same is an orphan's.
            let _ = answer.send(Err(error.clone()));
        }
        for (_, answer) in self.removals {
            let _ = answer.send(Err(error.clone()));
        }
    }

    /// Tells each member what was decided.
    fn answer(self, decided: Decided) {
        for ((_, answer), decided) in self.accepts.into_iter().zip(decided.accepted) {
            // The asker may have hung up; what was committed stays committed.
            let _ = answer.send(Ok(decided));
        }
        let mut recorded = decided.recorded.into_iter();
        for (reports, answer) in self.reports {
            let _ = answer.send(Ok(recorded.by_ref().take(reports.len()).collect()));
        }
        for ((_, answer), is_gone) in self.removals.into_iter().zip(decided.gone) {
            let _ = answer.send(Ok(is_gone));
        }
        for ((_, answer), heard) in self.news.into_iter().zip(decided.heard) {
            let _ = answer.send(Ok(heard));
        }
        for (_, answer) in self.handled {
            let _ = answer.send(Ok(()));
        }
        for (_, answer) in self.chunks {
            let _ = answer.send(Ok(()));
        }
    }
}

/// What was decided of the members of a batch, in their order.
#[derive(Debug, Default)]
struct Decided {
    accepted: Vec<Accepted>,
    recorded: Vec<Recorded>,
    /// Whether there is nothing more to remove.
    gone: Vec<bool>,
    heard: Vec<Heard>,
}

/// Runs until the last [`super::Store`] is gone.
pub(super) async fn run(writers: Writers, mut lanes: Lanes, settings: Settings) {
    let mut gatherer = Gatherer { writers, settings, unanswered: None, away: None };
    loop {
        let first = tokio::select! {
            member = lanes.next() => match member {
                Some(member) => Some(member),
                None => return,
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
    /// Where commits are counted.
    pub(super) metrics: Metrics,
    /// What chunks leave free.
    pub(super) reserve: Reserve,
    /// The line of what leaves the spool.
    pub(super) leftovers: mpsc::WeakUnboundedSender<Leftover>,
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
    InDoubt(StoreError, Written),
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
    fn of(batch: &mut Batch, mut written: Written, error: StoreError) -> Self {
        let unkeyed = batch.accepted(&written.decided).filter(|acceptance| acceptance.keyed.is_none());
        let message_ids = unkeyed.map(|acceptance| acceptance.message_id.clone()).collect();
        let at = batch.accepts.iter().map(|(acceptance, _)| millis(acceptance.accepted_at)).max();
        let refused = Refused { message_ids, at: at.unwrap_or_default() };
        let waiting = Batch { reports: std::mem::take(&mut batch.reports), ..Batch::default() };
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
}

impl Gatherer {
    /// Returns when the database should be looked at though nobody wants anything written.
    async fn to_be_looked_at(&self) {
        match self.writers.trouble() {
            Some(trouble) => trouble.to_be_looked_at().await,
            None => std::future::pending().await,
        }
    }

    /// Finds out whether the database is available.
    async fn look(&mut self, writer: &mut Writer) {
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
            return batch.refuse(&StoreError::Unavailable("the last commit was not answered".to_owned()));
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
            Failure::RolledBack(error @ StoreError::Unavailable(_)) if self.writers.trouble().is_some() => {
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
                rest.refuse(&StoreError::Unavailable("the last commit was not answered".to_owned()));
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
            Err(error) => Err(Failure::InDoubt(error.into(), written)),
        }
    }

    /// Tells the members of a batch that is committed.
    fn answer(&mut self, writer: &mut Writer, batch: Batch, written: Written) {
        let settings = &self.settings;
        writer.note(true);
        settings.follow(written.aftermath);
        settings.pass(!batch.removals.is_empty(), CrashPoint::OrphansSwept);
        settings.pass(!batch.chunks.is_empty(), CrashPoint::ChunkCommitted);
        settings.pass(!batch.accepts.is_empty(), CrashPoint::AcceptCommitted);
        batch.answer(written.decided);
        self.is_back();
    }

    /// Answers a batch that was not written, or may have been: by what is really in the database.
    async fn fail(&mut self, writer: &mut Writer, mut batch: Batch, failure: Failure) {
        let (error, written) = match failure {
            Failure::NotBegun(error) | Failure::RolledBack(error) => (error, None),
            Failure::InDoubt(error, written) => (error, Some(written)),
        };
        let is_in_doubt = written.is_some();
        // An outage is told once: `is_away`.
        let is_told = self.writers.trouble().is_some() && matches!(error, StoreError::Unavailable(_));
        if is_in_doubt || !is_told {
            tracing::error!(%error, members = batch.len(), is_in_doubt, "commit failed");
        }
        let Some(written) = written else {
            if matches!(error, StoreError::Unavailable(_)) {
                self.is_away(writer, &error);
            }
            return batch.refuse(&error);
        };
        // Whoever is told 452 must not be mailed, so nobody is told before this was tried.
        let accepted: Vec<MessageId> =
            batch.accepted(&written.decided).map(|acceptance| acceptance.message_id.clone()).collect();
        match writer.find_out(&accepted).await {
            Ok(true) => {
                tracing::warn!(members = batch.len(), "the commit had happened");
                return self.answer(writer, batch, written);
            }
            Ok(false) => self.is_away(writer, &error),
            Err(unknown) => {
                tracing::error!(error = %unknown, "the database cannot be written; everything is refused until it can");
                self.is_away(writer, &error);
                if let Some(trouble) = self.writers.trouble() {
                    trouble.set_unsure(true);
                    self.unanswered = Some(Unanswered::of(&mut batch, written, error.clone()));
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
            self.settings.follow(written.aftermath);
            waiting.answer(written.decided);
        } else {
            waiting.refuse(&error);
        }
        if let Some(trouble) = self.writers.trouble() {
            trouble.set_unsure(false);
        }
    }

    /// The database could not do it.
    fn is_away(&mut self, writer: &mut Writer, error: &StoreError) {
        writer.note(false);
        let Some(trouble) = self.writers.trouble() else { return };
        trouble.set_failing(true);
        if self.away.is_none() {
            tracing::warn!(%error, "the database is not available: mail is refused until it is");
            self.away = Some(Instant::now());
        }
    }

    /// The database has done something.
    fn is_back(&mut self) {
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
        write_chunk(tx, chunk).await?;
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
