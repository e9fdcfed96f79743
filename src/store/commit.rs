//! The gathering writer: one commit for everything that came while the last one ran.
//!
//! A member that is refused never fails the others. When a commit itself fails,
//! the connection is opened anew and each acceptance of the batch is looked for
//! before its sender is answered: a commit that failed late may have happened.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Mutex, mpsc, oneshot};

use super::accept::{Acceptance, Accepted, accept_batch};
use super::report::{Recorded, Report, report_batch};
use super::{StoreError, Writer};
use crate::telemetry::Metrics;

/// Most members of one commit.
const MAX_MEMBERS: usize = 1024;
/// A commit takes no further member once its bodies weigh this much, in octets.
const MAX_BODY_BYTES: usize = 16 << 20;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// One write that gathers with others.
#[derive(Debug)]
pub(super) enum Member {
    /// A message asks to be taken in.
    Accept(Box<Acceptance>, Answer<Accepted>),
    /// A worker tells what became of an attempt.
    Report(Box<Report>, Answer<Recorded>),
}

#[derive(Debug, Default)]
struct Batch {
    accepts: Vec<(Box<Acceptance>, Answer<Accepted>)>,
    reports: Vec<(Box<Report>, Answer<Recorded>)>,
    body_bytes: usize,
}

impl Batch {
    fn push(&mut self, member: Member) {
        match member {
            Member::Accept(acceptance, answer) => {
                self.body_bytes += acceptance.bytes.len();
                self.accepts.push((acceptance, answer));
            }
            Member::Report(report, answer) => self.reports.push((report, answer)),
        }
    }

    fn is_full(&self) -> bool {
        self.accepts.len() + self.reports.len() >= MAX_MEMBERS || self.body_bytes >= MAX_BODY_BYTES
    }
}

/// Runs until the last [`super::Store`] is gone.
pub(super) async fn run(writer: Arc<Mutex<Writer>>, mut members: mpsc::Receiver<Member>, settings: Settings) {
    while let Some(first) = members.recv().await {
        let mut writer = writer.lock().await;
        let mut batch = Batch::default();
        batch.push(first);
        while !batch.is_full() {
            let Ok(member) = members.try_recv() else { break };
            batch.push(member);
        }
        let began = Instant::now();
        let size = u32::try_from(batch.accepts.len() + batch.reports.len()).unwrap_or(u32::MAX);
        commit(&mut writer, batch, settings.low_mark).await;
        settings.metrics.store_commit(began.elapsed(), size);
    }
}

/// What the writer needs to know besides the members.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// `billing.low_balance_credits`.
    pub(super) low_mark: i64,
    /// Where commits are counted.
    pub(super) metrics: Metrics,
}

async fn commit(writer: &mut Writer, batch: Batch, low_mark: i64) {
    match write(writer, &batch, low_mark).await {
        Ok((accepted, recorded)) => {
            for ((_, answer), decided) in batch.accepts.into_iter().zip(accepted) {
                // The asker may have hung up; what was committed stays committed.
                let _ = answer.send(Ok(decided));
            }
            for ((_, answer), decided) in batch.reports.into_iter().zip(recorded) {
                let _ = answer.send(Ok(decided));
            }
        }
        Err(error) => recover(writer, batch, &error).await,
    }
}

async fn write(
    writer: &mut Writer,
    batch: &Batch,
    low_mark: i64,
) -> Result<(Vec<Accepted>, Vec<Recorded>), StoreError> {
    let mut tx = writer.begin().await?;
    let accepts: Vec<&Acceptance> = batch.accepts.iter().map(|(a, _)| a.as_ref()).collect();
    let reports: Vec<&Report> = batch.reports.iter().map(|(r, _)| r.as_ref()).collect();
    // Reports first: what they release may pay for what is accepted.
    let recorded = if reports.is_empty() { Vec::new() } else { report_batch(&mut tx, &reports).await? };
    let accepted =
        if accepts.is_empty() { Vec::new() } else { accept_batch(&mut tx, &accepts, low_mark).await? };
    tx.commit().await?;
    Ok((accepted, recorded))
}

/// Answers a batch whose commit failed: by what is really in the database.
async fn recover(writer: &mut Writer, batch: Batch, error: &StoreError) {
    tracing::error!(%error, members = batch.accepts.len() + batch.reports.len(), "commit failed");
    let reopened = writer.reopen().await;
    for (acceptance, answer) in batch.accepts {
        let is_there = match &reopened {
            Ok(()) => is_accepted(writer, &acceptance).await,
            Err(error) => Err(StoreError::Unavailable(error.to_string())),
        };
        let _ = answer.send(match is_there {
            Ok(true) => Ok(Accepted::Yes { available: None, low: false }),
            Ok(false) => Err(error.clone()),
            Err(error) => Err(error),
        });
    }
    for (_, answer) in batch.reports {
        let _ = answer.send(Err(error.clone()));
    }
}

async fn is_accepted(writer: &mut Writer, acceptance: &Acceptance) -> Result<bool, StoreError> {
    let found: Option<i64> = sqlx::query_scalar("SELECT 1 FROM message WHERE message_id = ?1")
        .bind(acceptance.message_id.as_str())
        .fetch_optional(&mut writer.connection)
        .await?;
    Ok(found.is_some())
}
