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

/// Then it is asked again, whatever was said.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// What is drawn from.
#[derive(Debug, Clone, Default)]
pub struct Ration(Option<Shared>);

#[derive(Debug, Clone)]
struct Shared {
    store: Store,
    clock: Clock,
}

/// A part of an account's limit.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// Which: one of [`Ration`]'s.
    pub name: &'static str,
    /// Between two calls.
    pub interval: Duration,
    /// A call may leave sooner, as long as that puts those who come later off by no more than this.
    pub ahead: Duration,
}

impl Ration {
    /// Calls to Dodo.
    pub const DODO: &str = "dodo";
    /// Those of them that are kept for entries.
    pub const DODO_ENTRIES: &str = "dodo-entries";
    /// Calls to Resend.
    pub const RESEND: &str = "resend";

    /// What all nodes that share this store draw from.
    pub fn of(store: &Store, clock: &Clock) -> Self {
        let shared = || Shared { store: store.clone(), clock: clock.clone() };
        Self(store.is_shared().then(shared))
    }

    /// Waits until one more call may leave, by any of these shares.
    pub async fn draw(&self, shares: &[Share]) {
        while let Some(wait) = self.try_draw(shares).await {
            tokio::time::sleep(wait.min(LONGEST_SLEEP)).await;
        }
    }

    /// The same without waiting: `None`, and it may leave; or when to ask again.
    pub async fn try_draw(&self, shares: &[Share]) -> Option<Duration> {
        let Shared { store, clock } = self.0.as_ref()?;
        let mut wait = None;
        for Share { name, interval, ahead } in shares {
            if *interval < LEAST_INTERVAL {
                return None;
            }
            match store.take_from_bucket(name, (*interval, *ahead), clock.now()).await {
                Ok(None) => return None,
                Ok(Some(empty)) => wait = Some(wait.map_or(empty, |wait: Duration| wait.min(empty))),
                Err(error) => {
                    tracing::debug!(name, %error, "calls are counted by this node alone for now");
                    return None;
                }
            }
        }
        wait
    }
}
