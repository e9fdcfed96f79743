//! Calls that all nodes of one database make together, counted there.
//!
//! An upstream's limit is its account's, whichever node calls. Each node spreads its own
//! calls by what it was answered; before one leaves, it is drawn from here as well. Alone
//! with its database a node has nothing to ask, and when the database does not answer, the
//! node's own count has to do: a refused call is made again, and nothing hangs on it.

use std::time::Duration;

use crate::clock::Clock;
use crate::store::Store;

/// Shorter than this between two calls, and there is no limit to speak of.
const LEAST_INTERVAL: Duration = Duration::from_millis(2);

/// What is drawn from.
#[derive(Debug, Clone, Default)]
pub struct Ration(Option<Shared>);

#[derive(Debug, Clone)]
struct Shared {
    store: Store,
    clock: Clock,
    service: &'static str,
}

impl Ration {
    /// Dodo's calls.
    pub const DODO: &str = "dodo";
    /// Resend's.
    pub const RESEND: &str = "resend";

    /// The calls to a service from all nodes that share this store.
    pub fn of(service: &'static str, store: &Store, clock: &Clock) -> Self {
        let shared = || Shared { store: store.clone(), clock: clock.clone(), service };
        Self(store.is_shared().then(shared))
    }

    /// Waits until one more call may leave: one each `interval`, or sooner, as long as that
    /// puts those who come later off by no more than `ahead`.
    pub async fn draw(&self, interval: Duration, ahead: Duration) {
        while let Some(wait) = self.try_draw(interval, ahead).await {
            tokio::time::sleep(wait).await;
        }
    }

    /// The same without waiting: `None`, and it may leave; or when to ask again.
    pub async fn try_draw(&self, interval: Duration, ahead: Duration) -> Option<Duration> {
        let Shared { store, clock, service } = self.0.as_ref().filter(|_| interval >= LEAST_INTERVAL)?;
        let drawn = store.take_from_bucket(service, (interval, ahead), clock.now()).await;
        drawn.unwrap_or_else(|error| {
            tracing::debug!(service, %error, "calls are counted by this node alone for now");
            None
        })
    }
}
