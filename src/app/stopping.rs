//! What a stop begins with, and how long what is to end is waited for.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// SIGTERM and ctrl-c. Until this listens they end the process by themselves, and so it
/// does before anything runs that is to be stopped.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Returns with the next of them.
    pub(super) async fn heard(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Whether everything ended in time.
pub(super) async fn finish(
    what: &str,
    (tasks, stop): (TaskTracker, CancellationToken),
    within: Duration,
) -> bool {
    stop.cancel();
    tasks.close();
    let is_done = tokio::time::timeout(within, tasks.wait()).await.is_ok();
    if !is_done {
        tracing::warn!(left = tasks.len(), "not all {what} finished in time; nothing acknowledged is lost");
    }
    is_done
}
