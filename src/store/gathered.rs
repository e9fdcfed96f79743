//! What gathers for a commit: whoever asks for a write, and what they are answered.

use tokio::sync::{mpsc, oneshot};

use super::accept::{Acceptance, Accepted};
use super::event::{Heard, Told};
use super::report::{Recorded, Report};
use super::spool::{NewChunk, Reserve};
use super::webhook::Handled;
use super::writer::Writer;
use super::{Store, StoreError};
use crate::domain::ids::SpoolId;

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

/// Those whom one commit is for.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) accepts: Vec<(Box<Acceptance>, Answer<Accepted>)>,
    pub(super) reports: Vec<(Vec<Report>, Answer<Vec<Recorded>>)>,
    pub(super) news: Vec<(Box<Told>, Answer<Heard>)>,
    pub(super) handled: Vec<(Box<Handled>, Answer<()>)>,
    pub(super) chunks: Vec<(Box<NewChunk>, Answer<()>)>,
    pub(super) removals: Vec<(SpoolId, Answer<bool>)>,
    body_bytes: usize,
    chunk_bytes: usize,
}

impl Lanes {
    /// The next member; `None`: nobody is left who could send one.
    pub(super) async fn next(&mut self) -> Option<Member> {
        tokio::select! {
            Some(member) = self.hot.recv() => Some(member),
            Some(piece) = self.chunks.recv() => Some(piece),
            Some(removal) = self.removals.recv() => Some(removal),
            else => None,
        }
    }

    /// That and whatever else has come meanwhile, as much as a commit takes.
    pub(super) fn gather(&mut self, first: Member) -> Batch {
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
    pub(super) fn push(&mut self, member: Member) {
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

    pub(super) fn len(&self) -> usize {
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
    pub(super) async fn keep_reserve(&mut self, writer: &mut Writer, reserve: &Reserve) {
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
    pub(super) fn into_members(self) -> impl Iterator<Item = Member> {
        let chunks = self.chunks.into_iter().map(|(chunk, answer)| Member::Chunk(chunk, answer));
        let removals = self.removals.into_iter().map(|(spool_id, answer)| Member::Remove(spool_id, answer));
        let reports = self.reports.into_iter().map(|(reports, answer)| Member::Reports(reports, answer));
        let accepts = self.accepts.into_iter().map(|(acceptance, answer)| Member::Accept(acceptance, answer));
        let news = self.news.into_iter().map(|(told, answer)| Member::News(told, answer));
        let handled = self.handled.into_iter().map(|(handled, answer)| Member::Handled(handled, answer));
        chunks.chain(removals).chain(reports).chain(accepts).chain(news).chain(handled)
    }

    /// The messages that it accepts.
    pub(super) fn accepted<'a>(&'a self, decided: &'a Decided) -> impl Iterator<Item = &'a Acceptance> {
        let each = self.accepts.iter().zip(&decided.accepted);
        let accepted = each.filter(|(_, decided)| matches!(decided, Accepted::Yes { .. }));
        accepted.map(|((acceptance, _), _)| acceptance.as_ref())
    }

    /// Whether it leaves parts in the queue that are in nobody's hands.
    pub(super) fn leaves_parts(&self, decided: &Decided) -> bool {
        self.accepted(decided).any(|acceptance| acceptance.lease_until.is_none())
            || self.reports.iter().flat_map(|(reports, _)| reports).any(Report::leaves_parts)
    }

    /// Its reports, which it has no more.
    pub(super) fn split_reports(&mut self) -> Self {
        Self { reports: std::mem::take(&mut self.reports), ..Self::default() }
    }

    /// Tells each member that it was not written.
    pub(super) fn refuse(self, error: &StoreError) {
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
    pub(super) fn answer(self, decided: Decided) {
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
pub(super) struct Decided {
    pub(super) accepted: Vec<Accepted>,
    pub(super) recorded: Vec<Recorded>,
    /// Whether there is nothing more to remove.
    pub(super) gone: Vec<bool>,
    pub(super) heard: Vec<Heard>,
}
