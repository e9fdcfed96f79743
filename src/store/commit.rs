//! The gathering writer: one commit for everything that came while the last one ran.
//!
//! A member that is refused never fails the others, and one that cannot be
//! written at all fails alone. When a commit itself fails, the connection is
//! opened anew and each acceptance of the batch is looked for before its sender
//! is answered: a commit that failed late may have happened.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Mutex, mpsc, oneshot};

use super::accept::{Acceptance, Accepted, accept_batch};
use super::event::{Heard, Told};
use super::leftovers::Leftover;
use super::report::{Aftermath, Recorded, Report, report_batch};
use super::spool::{NewChunk, Reserve, remove_some, write_chunk};
use super::sql::{Session, query_scalar};
use super::webhook::{Handled, remember};
use super::writer::Writer;
use super::{Store, StoreError};
use crate::crash::{CrashAt, CrashPoint};
use crate::domain::ids::SpoolId;
use crate::telemetry::Metrics;

/// Most members of one commit.
const MAX_MEMBERS: usize = 1024;
/// A commit takes no further member once its bodies weigh this much, in octets.
const MAX_BODY_BYTES: usize = 16 << 20;
/// A commit takes no further chunk once its chunks weigh this much, in octets:
/// whoever waits to be accepted waits for no more of other people's mail.
const MAX_CHUNK_BYTES: usize = 1 << 20;

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
        let Some(error) = reserve.refusal(writer.connection()).await else { return };
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
pub(super) async fn run(writer: Arc<Mutex<Writer>>, mut lanes: Lanes, settings: Settings) {
    loop {
        let first = tokio::select! {
            Some(member) = lanes.hot.recv() => member,
            Some(piece) = lanes.chunks.recv() => piece,
            Some(removal) = lanes.removals.recv() => removal,
            else => return,
        };
        let mut writer = writer.lock().await;
        let mut batch = Batch::default();
        batch.push(first);
        while !batch.is_full() {
            let Ok(member) = lanes.hot.try_recv() else { break };
            batch.push(member);
        }
        while !batch.has_its_chunks() {
            let Ok(piece) = lanes.chunks.try_recv() else { break };
            batch.push(piece);
        }
        while let Ok(removal) = lanes.removals.try_recv() {
            batch.push(removal);
        }
        batch.keep_reserve(&mut writer, &settings.reserve).await;
        if batch.len() == 0 {
            continue;
        }
        let began = Instant::now();
        let size = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        commit(&mut writer, batch, &settings).await;
        settings.metrics.store_commit(began.elapsed(), size);
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

/// Why a batch was not written.
#[derive(Debug)]
enum Failure {
    /// No transaction could be begun: nothing would go better for one member alone.
    NotBegun(StoreError),
    /// A statement failed, and everything was rolled back.
    RolledBack(StoreError),
    /// The commit itself failed: it may have happened.
    InDoubt(StoreError),
}

async fn commit(writer: &mut Writer, batch: Batch, settings: &Settings) {
    match write(writer, &batch, settings).await {
        Ok(answers) => batch.answer(answers),
        Err(Failure::RolledBack(error)) if batch.len() > 1 => {
            tracing::warn!(%error, members = batch.len(), "a commit was rolled back; its members go one by one");
            one_by_one(writer, batch, settings).await;
        }
        Err(failure) => recover(writer, batch, failure).await,
    }
}

/// One of the members cannot be written; the others can.
async fn one_by_one(writer: &mut Writer, batch: Batch, settings: &Settings) {
    let mut members = batch.into_members();
    while let Some(member) = members.next() {
        let mut alone = Batch::default();
        alone.push(member);
        match write(writer, &alone, settings).await {
            Ok(answers) => alone.answer(answers),
            Err(Failure::NotBegun(error)) => {
                members.for_each(|member| alone.push(member));
                return recover(writer, alone, Failure::NotBegun(error)).await;
            }
            Err(failure) => recover(writer, alone, failure).await,
        }
    }
}

async fn write(writer: &mut Writer, batch: &Batch, settings: &Settings) -> Result<Decided, Failure> {
    let mut tx = writer.begin().await.map_err(|error| Failure::NotBegun(error.into()))?;
    let (decided, aftermath) = apply(&mut tx, batch, settings).await.map_err(Failure::RolledBack)?;
    let (accepts, reports) = (!batch.accepts.is_empty(), !batch.reports.is_empty());
    let (chunks, removals) = (!batch.chunks.is_empty(), !batch.removals.is_empty());
    settings.pass(reports, CrashPoint::ReportWritten);
    settings.pass(accepts, CrashPoint::AcceptWritten);
    tx.commit().await.map_err(|error| Failure::InDoubt(error.into()))?;
    writer.note(true);
    settings.follow(aftermath);
    settings.pass(removals, CrashPoint::OrphansSwept);
    settings.pass(chunks, CrashPoint::ChunkCommitted);
    settings.pass(accepts, CrashPoint::AcceptCommitted);
    Ok(decided)
}

async fn apply(
    tx: &mut Session<'_>,
    batch: &Batch,
    settings: &Settings,
) -> Result<(Decided, Aftermath), StoreError> {
    let accepts: Vec<&Acceptance> = batch.accepts.iter().map(|(a, _)| a.as_ref()).collect();
    let reports: Vec<&Report> = batch.reports.iter().flat_map(|(reports, _)| reports).collect();
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
    for (told, _) in &batch.news {
        heard.push(told.keep(tx).await?);
    }
    for (handled, _) in &batch.handled {
        remember(tx, handled).await?;
    }
    Ok((Decided { accepted, recorded, gone, heard }, aftermath))
}

/// Answers a batch that was not written, or may have been: by what is really in the database.
async fn recover(writer: &mut Writer, batch: Batch, failure: Failure) {
    let (error, is_in_doubt) = match failure {
        Failure::NotBegun(error) | Failure::RolledBack(error) => (error, false),
        Failure::InDoubt(error) => (error, true),
    };
    tracing::error!(%error, members = batch.len(), is_in_doubt, "commit failed");
    if matches!(error, StoreError::Unavailable(_)) {
        writer.note(false);
    }
    // Whoever is told 452 must not be mailed, so nobody is told before this was tried.
    let restored = if is_in_doubt { writer.restore().await } else { Ok(()) };
    if let Err(error) = &restored {
        tracing::error!(%error, "the database cannot be written; everything is refused until it can");
    }
    for (acceptance, answer) in batch.accepts {
        let is_there =
            if is_in_doubt && restored.is_ok() { is_accepted(writer, &acceptance).await } else { Ok(false) };
        let _ = answer.send(match is_there {
            Ok(true) => Ok(Accepted::Yes { available: None, low: false }),
            Ok(false) => Err(error.clone()),
            Err(error) => Err(error),
        });
    }
    for (_, answer) in batch.reports {
        // Whoever reports does it again, and is told that it is late if this was written.
        let _ = answer.send(Err(error.clone()));
    }
    for (_, answer) in batch.news {
        // The webhook is delivered again; what was written is not written twice.
        let _ = answer.send(Err(error.clone()));
    }
    for (_, answer) in batch.handled {
        let _ = answer.send(Err(error.clone()));
    }
    for (_, answer) in batch.chunks {
        // Its message is refused; a chunk that was written all the same is an orphan's.
        let _ = answer.send(Err(error.clone()));
    }
    for (_, answer) in batch.removals {
        let _ = answer.send(Err(error.clone()));
    }
}

async fn is_accepted(writer: &mut Writer, acceptance: &Acceptance) -> Result<bool, StoreError> {
    const READ: &str = "SELECT EXISTS (SELECT 1 FROM message WHERE message_id = $1)";
    let read = query_scalar(READ).bind(acceptance.message_id.as_str());
    Ok(read.fetch_one(writer.connection()).await?)
}
