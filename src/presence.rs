//! That this process is there, for the others on its database, and that it goes by the
//! database's time.
//!
//! Leases, due times and what is old are compared across processes, so they are all of one
//! clock: a machine whose own is wrong harms nobody. Where the database is a file there is
//! nobody else, and the machine's clock is the only one.
//!
//! A process whose name another one has taken ([`crate::store::node`]) ends: what it leases
//! would be theirs.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Shown};
use crate::store::node::NameError;
use crate::store::{Store, StoreError};

/// How often the database is asked for its time, and told that we are there.
const ROUND: Duration = Duration::from_secs(5);

/// Who was not seen for so long, though everybody says so every few seconds who is there, has gone.
pub const GONE: Duration = Duration::from_secs(15);

/// What keeps it true.
#[derive(Debug)]
pub struct Presence {
    /// The database.
    pub store: Store,
    /// The clock that goes by it.
    pub clock: Clock,
    /// The end of it.
    pub stop: CancellationToken,
    /// Another process has this one's name.
    pub replaced: CancellationToken,
}

/// The clock to go by on this database.
pub async fn clock(store: &Store) -> Result<Clock, StoreError> {
    Ok(look(store).await?.map_or_else(Clock::system, Clock::followed))
}

async fn look(store: &Store) -> Result<Option<Shown>, StoreError> {
    let asked = Instant::now();
    let time = store.time().await?;
    Ok(time.map(|time| Shown { time, asked, answered: Instant::now() }))
}

impl Presence {
    /// Runs until the stop.
    pub async fn run(self) {
        while self.store.is_shared() {
            match look(&self.store).await {
                Ok(Some(shown)) if !self.clock.correct(shown) => {
                    tracing::warn!("the database took too long to say what time it is");
                }
                Ok(_) => {}
                Err(error) => error.tell("the database's time could not be read"),
            }
            match self.store.appear(self.clock.now()).await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::error!(reason = %NameError::Taken, "this server stops");
                    return self.replaced.cancel();
                }
                Err(error) => error.tell("the other processes could not be told that this one is there"),
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(ROUND) => {}
            }
        }
    }
}
