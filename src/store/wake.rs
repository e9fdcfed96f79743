//! What somebody should look at now: in this process, and in the others on the same database.
//!
//! The others are told by NOTIFY, in a statement of its own after the commit that it is about:
//! a transaction that tells anything takes one lock of the whole server when it commits, for
//! which acceptances and reports must not wait. Nothing counts on what is told. Whoever is told
//! looks now and then all the same, often while nobody listens, and once when that begins and
//! when it ends. Anybody who may use the database may tell anything: it only has somebody look.
//!
//! A database that is a file has one process, which tells itself.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::Executor;
use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::sql::in_time;
use super::{Store, StoreError};
use crate::domain::ids::CustomerId;

/// Where it is told.
const CHANNEL: &str = "postmeter";
/// A connection on which nothing was told for so long is asked whether it is still there …
const SILENCE: Duration = Duration::from_secs(15);
/// … which it says within this time.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Between two tries to listen.
const PAUSE: Duration = Duration::from_secs(1);
/// Balances that are told while nobody takes them in; more are forgotten.
const MOST_BALANCES: usize = 256;
/// With this variable a debug build looks at nothing that it is told of unless it is told.
const NO_POLLING: &str = "POSTMETER_TEST_NO_POLLING";
/// How often it does then.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// Parts are due, or fall due at other times than before.
    Parts,
    /// A gate was opened or closed.
    Gates,
    /// There are entries, or captures without one, that nobody sees to.
    Entries,
    /// A customer who owes has another balance.
    Balance(CustomerId),
}

/// What somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bell {
    /// [`Wake::Parts`]
    Parts,
    /// [`Wake::Gates`]
    Gates,
    /// [`Wake::Entries`]
    Entries,
}

impl Wake {
    fn text(&self) -> String {
        match self {
            Self::Parts => "parts".to_owned(),
            Self::Gates => "gates".to_owned(),
            Self::Entries => "entries".to_owned(),
            Self::Balance(customer_id) => format!("balance {customer_id}"),
        }
    }

    /// Nothing, if it says nothing to us: newer processes may tell more.
    fn parse(text: &str) -> Option<Self> {
        match text.split_once(' ') {
            None if text == "parts" => Some(Self::Parts),
            None if text == "gates" => Some(Self::Gates),
            None if text == "entries" => Some(Self::Entries),
            Some(("balance", id)) => CustomerId::parse(id).ok().map(Self::Balance),
            _ => None,
        }
    }
}

/// How often each was rung.
#[derive(Debug, Clone, Copy, Default)]
struct Rung {
    parts: u64,
    gates: u64,
    entries: u64,
}

impl Rung {
    const fn get(self, bell: Bell) -> u64 {
        match bell {
            Bell::Parts => self.parts,
            Bell::Gates => self.gates,
            Bell::Entries => self.entries,
        }
    }
}

/// Who is woken in this process, and by whom.
#[derive(Debug)]
pub(super) struct Bells {
    rung: watch::Sender<Rung>,
    balances: broadcast::Sender<CustomerId>,
    /// Whether what others tell is heard.
    is_listening: AtomicBool,
    /// Whether nothing is looked at that nobody tells of.
    is_blind: AtomicBool,
}

impl Default for Bells {
    fn default() -> Self {
        let is_blind = cfg!(debug_assertions) && std::env::var_os(NO_POLLING).is_some();
        Self {
            rung: watch::Sender::default(),
            balances: broadcast::Sender::new(MOST_BALANCES),
            is_listening: AtomicBool::new(false),
            is_blind: AtomicBool::new(is_blind),
        }
    }
}

impl Bells {
    pub(super) fn ring(&self, wake: &Wake) {
        match wake {
            Wake::Parts => self.rung.send_modify(|rung| rung.parts += 1),
            Wake::Gates => self.rung.send_modify(|rung| rung.gates += 1),
            Wake::Entries => self.rung.send_modify(|rung| rung.entries += 1),
            // Whether anybody is there who keeps anything about it, or not.
            Wake::Balance(customer_id) => drop(self.balances.send(customer_id.clone())),
        }
    }

    /// From now on others are heard, or not any more: what they may have told is looked at.
    fn set_listening(&self, is_listening: bool) {
        if self.is_listening.swap(is_listening, Ordering::SeqCst) != is_listening {
            [Wake::Parts, Wake::Gates, Wake::Entries].iter().for_each(|wake| self.ring(wake));
        }
    }
}

/// Hears one bell.
#[derive(Debug)]
pub struct Ear {
    rung: watch::Receiver<Rung>,
    bell: Bell,
    heard: u64,
}

impl Ear {
    /// Returns when it was rung since this returned last. May be dropped before.
    pub async fn rung(&mut self) {
        let Self { rung, bell, heard } = self;
        let new = rung.wait_for(|rung| rung.get(*bell) != *heard).await.map(|rung| rung.get(*bell));
        match new {
            Ok(new) => *heard = new,
            // Nobody is left who could ring.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Store {
    /// Hears a bell from now on.
    pub fn ear(&self, bell: Bell) -> Ear {
        let rung = self.bells.rung.subscribe();
        let heard = rung.borrow().get(bell);
        Ear { rung, bell, heard }
    }

    /// Customers who owe and have another balance, as this process and the others tell.
    pub fn balances(&self) -> broadcast::Receiver<CustomerId> {
        self.bells.balances.subscribe()
    }

    /// How long somebody waits who is told: `often` is how often they look where not
    /// everybody who could tell is heard.
    pub fn look_again(&self, often: Duration, seldom: Duration) -> Duration {
        let bells = &self.bells;
        match bells.is_listening.load(Ordering::SeqCst) {
            false => often,
            true if bells.is_blind.load(Ordering::SeqCst) => NEVER,
            true => seldom,
        }
    }

    /// Wakes whoever sees to it in this process.
    pub fn ring(&self, wake: &Wake) {
        self.bells.ring(wake);
    }

    /// Wakes whoever sees to it, in the other processes too. What cannot be told they find by themselves.
    pub async fn tell(&self, wake: Wake) {
        self.ring(&wake);
        if let Some(pool) = self.writer.pool()
            && let Err(error) = notify(pool, &wake.text()).await
        {
            tracing::debug!(%error, wake = wake.text(), "the other processes are not told");
        }
    }

    /// Hears what other processes tell, until it is told to stop.
    pub async fn listen(self, stop: CancellationToken) {
        let Some(pool) = &self.listening else { return };
        let mut is_told = false;
        loop {
            let began = Instant::now();
            let Some(Err(error)) = stop.run_until_cancelled(self.heed(pool)).await else { return };
            self.bells.set_listening(false);
            // Whatever ended it may have ended more. Once: what cannot be reached is looked at by others.
            if !is_told || began.elapsed() > SILENCE {
                self.writer.trouble().inspect(|trouble| trouble.suspect());
                StoreError::from(error)
                    .tell("what other processes tell is not heard; it is looked for instead");
            }
            is_told = true;
            if stop.run_until_cancelled(sleep(PAUSE)).await.is_none() {
                return;
            }
        }
    }

    async fn heed(&self, pool: &PgPool) -> Result<Infallible, sqlx::Error> {
        let until = || Instant::now() + ANSWER_LIMIT;
        // One that is dropped still says goodbye, to a host that may be gone: nobody waits for its place.
        let own = pool.options().clone().connect_lazy_with((*pool.connect_options()).clone());
        let mut listener = in_time(until(), PgListener::connect_with(&own)).await?;
        listener.eager_reconnect(false);
        in_time(until(), listener.listen(CHANNEL)).await?;
        self.bells.set_listening(true);
        loop {
            match timeout(SILENCE, listener.try_recv()).await {
                Ok(Ok(Some(told))) => {
                    if let Some(wake) = Wake::parse(told.payload()) {
                        self.ring(&wake);
                    }
                }
                Ok(Ok(None)) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    in_time(until(), listener.execute("SELECT 1")).await?;
                }
            }
        }
    }

    /// Has nothing looked at that nobody tells of.
    #[cfg(test)]
    pub(crate) fn look_at_nothing_untold(&self) {
        self.bells.is_blind.store(true, Ordering::SeqCst);
    }
}

/// Tells them all, those of this process too. It is no harm if it is forgotten, so its commit waits for no disk.
async fn notify(pool: &PgPool, text: &str) -> Result<(), sqlx::Error> {
    const TELL: &str = "SELECT pg_notify($1, $2), set_config('synchronous_commit', 'off', true)";
    let tell = sqlx::query(TELL).bind(CHANNEL).bind(text).execute(pool);
    in_time(Instant::now() + ANSWER_LIMIT, tell).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_understood_and_nothing_else_is() {
        let ann = CustomerId::parse("cus_1").unwrap();
        for wake in [Wake::Parts, Wake::Gates, Wake::Entries, Wake::Balance(ann)] {
            assert_eq!(Wake::parse(&wake.text()), Some(wake));
        }
        for text in ["", "part", "parts ", "parts 1", "balance", "balance ", "balance a b", "\u{fffd}"] {
            assert_eq!(Wake::parse(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_bell_that_was_rung_is_heard_once_and_by_everybody() {
        let bells = Bells::default();
        let ear = |bell| Ear { rung: bells.rung.subscribe(), bell, heard: 0 };
        let (mut one, mut other, mut gates) = (ear(Bell::Parts), ear(Bell::Parts), ear(Bell::Gates));
        bells.ring(&Wake::Parts);
        bells.ring(&Wake::Parts);
        one.rung().await;
        other.rung().await;
        for ear in [&mut one, &mut other, &mut gates] {
            assert!(futures_now(ear.rung()).await.is_none());
        }
        bells.ring(&Wake::Gates);
        gates.rung().await;
        assert!(futures_now(one.rung()).await.is_none());
    }

    /// What is ready without a wait.
    async fn futures_now<T>(future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            ready = future => Some(ready),
            () = std::future::ready(()) => None,
        }
    }
}
