//! Whether what is being sent is still ours to send.
//!
//! A process that stood still for longer than a lease does not know what became of its parts
//! meanwhile: another one may be sending them. So whoever says the last word of a mail asks
//! first. Where nobody else could have it, the answer is always yes.

use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A part's place in our hands.
#[derive(Debug, Clone)]
pub struct Tenure {
    /// Until when it surely is there; `None`: for good.
    pub sure: watch::Receiver<Option<Instant>>,
    /// It is there no more.
    pub lost: CancellationToken,
    /// Has it found out whether it is.
    pub ask: Arc<Notify>,
}

impl Tenure {
    /// Of what nobody else could have.
    pub fn for_good() -> Self {
        let (_, sure) = watch::channel(None);
        Self { sure, lost: CancellationToken::new(), ask: Arc::default() }
    }

    /// Waits until it is sure that it is still ours; `false`: it is not.
    pub async fn is_ours(&self) -> bool {
        let mut sure = self.sure.clone();
        loop {
            if self.lost.is_cancelled() {
                return false;
            }
            if sure.borrow_and_update().is_none_or(|until| Instant::now() < until) {
                return true;
            }
            self.ask.notify_one();
            tokio::select! {
                () = self.lost.cancelled() => return false,
                asked = sure.changed() => if asked.is_err() { return false },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tenure(until: Option<Instant>) -> (watch::Sender<Option<Instant>>, Tenure) {
        let (knows, sure) = watch::channel(until);
        (knows, Tenure { sure, ..Tenure::for_good() })
    }

    #[tokio::test]
    async fn who_is_not_sure_asks_and_waits_for_the_answer() {
        let (knows, doubtful) = tenure(Some(Instant::now()));
        let waits = doubtful.clone();
        let is_ours = tokio::spawn(async move { waits.is_ours().await });
        doubtful.ask.notified().await;
        assert!(!is_ours.is_finished());
        knows.send_replace(Some(Instant::now() + Duration::from_secs(60)));
        assert!(is_ours.await.unwrap());
        assert!(doubtful.is_ours().await, "it is sure now");
        assert!(Tenure::for_good().is_ours().await);
    }

    #[tokio::test]
    async fn what_is_lost_is_not_ours_however_sure_it_was() {
        for until in [None, Some(Instant::now()), Some(Instant::now() + Duration::from_secs(60))] {
            let (_knows, lost) = tenure(until);
            lost.lost.cancel();
            assert!(!lost.is_ours().await);
        }
    }

    #[tokio::test]
    async fn what_nobody_renews_any_more_is_not_ours() {
        let (knows, forgotten) = tenure(Some(Instant::now()));
        drop(knows);
        assert!(!forgotten.is_ours().await);
    }
}
