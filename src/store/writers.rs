//! Who may write, and on which connection.
//!
//! SQLite has one writer, and one connection for it: gathered commits and everything else
//! take turns. To PostgreSQL gathered commits have a connection of their own (`lane`), and what
//! comes rarely has a few others, so that a lock that somebody else holds keeps one of those
//! waiting and no acceptance. A rare transaction that finds another one in the way is not made
//! again here, but by whoever asked for it: delivery and the settler look again within a second
//! or so, the sweep in its next round, webhooks are delivered again, and people are told to try again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio::time::Instant;

use super::StoreError;
#[cfg(test)]
use super::sql::On;
use super::sql::{Remote, Session, Tx, in_time};
use super::writer::Writer;

/// What writes.
#[derive(Debug, Clone)]
pub(super) struct Writers {
    gathering: Arc<Mutex<Writer>>,
    rare: Option<Rare>,
}

/// Why nothing is written, and nobody's work begun, while that is to be found out.
pub(super) fn unsure() -> StoreError {
    StoreError::Away("what became of the last commit is not known".to_owned())
}

/// Connections for transactions that come rarely.
#[derive(Debug, Clone)]
pub(super) struct Rare {
    pub(super) pool: PgPool,
    /// For a whole transaction.
    pub(super) limit: Duration,
    pub(super) trouble: Arc<Trouble>,
}

/// How PostgreSQL does, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// The last gathered commit failed since it was not available.
    is_failing: AtomicBool,
    /// What became of the last gathered commit is not known.
    is_unsure: AtomicBool,
    /// Mail may not be acknowledged on the server that was connected to last.
    is_unfit: AtomicBool,
    /// Somebody else found it to be away.
    suspected: Notify,
}

impl Trouble {
    pub(super) fn set_failing(&self, is_failing: bool) {
        self.is_failing.store(is_failing, Ordering::SeqCst);
    }

    pub(super) fn set_unsure(&self, is_unsure: bool) {
        self.is_unsure.store(is_unsure, Ordering::SeqCst);
    }

    /// Why nothing may be written on the server that was just connected to, if so; told when
    /// that begins. A pool's connections lead wherever the last one does.
    pub(super) fn judge(&self, refusal: Option<&str>) {
        let was_unfit = self.is_unfit.swap(refusal.is_some(), Ordering::SeqCst);
        if let Some(reason) = refusal.filter(|_| !was_unfit) {
            tracing::error!(reason, "PostgreSQL may forget what is acknowledged: nothing is written");
        }
    }

    pub(super) fn is_unfit(&self) -> bool {
        self.is_unfit.load(Ordering::SeqCst)
    }

    /// Has it looked at.
    pub(super) fn suspect(&self) {
        self.suspected.notify_one();
    }

    /// Returns when it should be looked at: soon after it has failed, or when somebody asks for it.
    pub(super) async fn to_be_looked_at(&self) {
        const SOON: Duration = Duration::from_millis(500);
        if self.is_failing.load(Ordering::SeqCst) {
            tokio::time::sleep(SOON).await;
        } else {
            self.suspected.notified().await;
        }
    }
}

/// The turn of a transaction that comes rarely.
#[derive(Debug)]
pub(super) enum Turn<'w> {
    /// On the one connection that there is.
    Only(MutexGuard<'w, Writer>),
    /// On whichever is free.
    Rare(&'w Rare),
}

impl Writers {
    /// With SQLite.
    pub(super) fn one(writer: Writer) -> Self {
        Self { gathering: Arc::new(Mutex::new(writer)), rare: None }
    }

    /// With PostgreSQL.
    pub(super) fn several(gathering: Writer, rare: Rare) -> Self {
        Self { gathering: Arc::new(Mutex::new(gathering)), rare: Some(rare) }
    }

    /// Waits for a turn of its own.
    pub(super) async fn lock(&self) -> Turn<'_> {
        match &self.rare {
            Some(rare) => Turn::Rare(rare),
            None => Turn::Only(self.gathering.lock().await),
        }
    }

    /// What gathered commits are made on.
    pub(super) async fn gathering(&self) -> MutexGuard<'_, Writer> {
        self.gathering.lock().await
    }

    /// How PostgreSQL does, if that is what is written to.
    pub(super) fn trouble(&self) -> Option<&Trouble> {
        self.rare.as_ref().map(|rare| &*rare.trouble)
    }

    /// Connections to PostgreSQL for what comes rarely, if that is what is written to.
    pub(super) fn pool(&self) -> Option<&PgPool> {
        self.rare.as_ref().map(|rare| &rare.pool)
    }

    /// Nothing, if whatever can be read may be acted on: asked before a lease is committed that
    /// was read while all was well.
    pub(super) fn is_sure(&self) -> Result<(), StoreError> {
        self.rare.as_ref().map_or(Ok(()), Rare::is_sure)
    }

    /// Whether a write is possible now.
    pub(super) async fn prove(&self) -> Result<(), StoreError> {
        match &self.rare {
            Some(rare) => rare.prove().await,
            None => self.gathering().await.prove().await,
        }
    }
}

impl Turn<'_> {
    /// A transaction that may write.
    pub(super) async fn begin(&mut self) -> Result<Tx<'_>, StoreError> {
        match self {
            Self::Only(writer) => Ok(writer.begin().await?),
            Self::Rare(rare) => rare.begin().await,
        }
    }

    /// What is in the database.
    #[cfg(test)]
    pub(super) fn connection(&mut self) -> On<'_> {
        match self {
            Self::Only(writer) => writer.connection().unwrap(),
            Self::Rare(rare) => On::PostgresPool(&rare.pool),
        }
    }
}

impl Rare {
    pub(super) async fn begin(&self) -> Result<Tx<'_>, StoreError> {
        // Who was told that a message was not accepted is not to find it on its way: nothing
        // is leased before that is sure.
        self.is_sure()?;
        let until = Instant::now() + self.limit;
        match in_time(until, self.pool.begin()).await {
            Ok(_) if self.trouble.is_unfit() => {
                Err(StoreError::Away("PostgreSQL may forget what is acknowledged".to_owned()))
            }
            Ok(tx) => Ok(Tx(Session::Postgres(Remote::pooled(tx, until)))),
            Err(error) => {
                self.trouble.suspect();
                Err(error.into())
            }
        }
    }

    /// Fails while it is not known what the last gathered commit came to.
    fn is_sure(&self) -> Result<(), StoreError> {
        match self.trouble.is_unsure.load(Ordering::SeqCst) {
            true => Err(unsure()),
            false => Ok(()),
        }
    }

    async fn prove(&self) -> Result<(), StoreError> {
        if self.trouble.is_failing.load(Ordering::SeqCst) {
            return Err(StoreError::Away("the last commit failed".to_owned()));
        }
        self.begin().await.map(drop)
    }
}
