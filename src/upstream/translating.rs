//! The turns of large messages at their translation for Resend.
//!
//! A message is translated when it is accepted, since what cannot be carried is refused
//! then, and for each call. Both take their turns here: within one budget of memory
//! (`upstream.max_bytes_translating`), and on threads where they keep nobody waiting.
//! What a customer hands in stands in a line of its own before that, and only the first
//! in it waits for a turn: another customer's message waits for one of each. Whoever has
//! a turn must not wait for somebody who may be waiting for one, nor whoever is the first
//! of a line for somebody who may be standing in it. What this must not know: what a
//! translation is.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::ids::CustomerId;
use crate::domain::message::CHUNK_BYTES;
use crate::memory::{Memory, Share};

/// Messages of no more octets take no turns: those which were never spooled, with all
/// that we write into their headers.
pub const SMALL: usize = CHUNK_BYTES + (8 << 10);

/// Translations of so many octets, in all their requests together, take so little time
/// that they are made at once.
pub const AT_ONCE: usize = 32 << 10;
/// A translation has the message in memory, its parts decoded, the attachments as
/// Resend takes them, and the request.
const FACTOR: usize = 4;
/// The longest wait for a turn. Clients wait ten minutes for the answer to a message
/// (RFC 5321 §4.5.3.2.6).
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// The budget of all turns, and the lines before it.
#[derive(Debug, Clone)]
pub struct Translating {
    memory: Memory,
    lines: Lines,
    threads: Arc<Semaphore>,
}

/// The lines in which somebody stands, each with one place at its head.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<HashMap<CustomerId, Weak<Semaphore>>>>);

/// The head of a customer's line, until it is dropped.
#[derive(Debug)]
pub struct First {
    _head: OwnedSemaphorePermit,
}

/// The turn of one message: room for its translation.
#[derive(Debug)]
pub struct Turn(Share);

/// Why there was no translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTranslated {
    /// No turn came within two minutes.
    #[error("too many large messages wait to be translated")]
    Crowded,
    /// A fault of ours.
    #[error("a translation ended without an answer")]
    Broken,
}

impl Translating {
    /// Turns within so many octets.
    pub fn new(max_bytes: usize) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads = Arc::new(Semaphore::new(threads));
        Self { memory: Memory::new(max_bytes), lines: Lines::default(), threads }
    }

    /// Translates what needs no turn and yet too long for the threads on which others
    /// wait: as many at the same time as there are processors.
    ///
    /// # Errors
    /// [`NotTranslated::Broken`].
    pub async fn aside<T: Send + 'static>(
        &self,
        translate: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotTranslated> {
        // The semaphore is never closed.
        let thread = Arc::clone(&self.threads).acquire_owned().await;
        aside(move || {
            let translated = translate();
            drop(thread);
            translated
        })
        .await
    }

    /// Waits until none of this customer's is before it.
    ///
    /// # Errors
    /// [`NotTranslated::Crowded`].
    pub async fn first(&self, customer_id: &CustomerId) -> Result<First, NotTranslated> {
        let head = self.lines.of(customer_id).acquire_owned();
        let waited = tokio::time::timeout(LONGEST_WAIT, head).await;
        let head = waited.ok().and_then(Result::ok).ok_or(NotTranslated::Crowded)?;
        Ok(First { _head: head })
    }

    /// Waits for the turn of a message of so many octets.
    ///
    /// # Errors
    /// [`NotTranslated::Crowded`].
    pub async fn turn(&self, octets: usize) -> Result<Turn, NotTranslated> {
        let turn = self.memory.wait_for(octets.saturating_mul(FACTOR));
        let waited = tokio::time::timeout(LONGEST_WAIT, turn).await;
        waited.ok().flatten().map(Turn).ok_or(NotTranslated::Crowded)
    }
}

impl Lines {
    fn of(&self, customer_id: &CustomerId) -> Arc<Semaphore> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(customer_id).and_then(Weak::upgrade) {
            return line;
        }
        lines.retain(|_, line| line.strong_count() > 0);
        let line = Arc::new(Semaphore::new(1));
        lines.insert(customer_id.clone(), Arc::downgrade(&line));
        line
    }
}

/// On a thread of its own, where it keeps nobody waiting. It goes on even when nobody
/// waits for it any more.
async fn aside<T: Send + 'static>(
    translate: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NotTranslated> {
    tokio::task::spawn_blocking(translate).await.map_err(|error| {
        tracing::error!(%error, "a translation ended without an answer");
        NotTranslated::Broken
    })
}

impl Turn {
    /// Translates. The turn lasts until that is done, even when nobody waits for it any more.
    ///
    /// # Errors
    /// [`NotTranslated::Broken`].
    pub async fn run<T: Send + 'static>(
        self,
        translate: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(T, Self), NotTranslated> {
        aside(move || (translate(), self)).await
    }

    /// Ends the turn but for so many octets that stay in memory, and never more than it had.
    pub fn keep(mut self, octets: usize) -> Self {
        // What it had is all that there is for it.
        let _ = self.0.resize(octets);
        self
    }

    /// What is left of it.
    #[cfg(test)]
    pub(super) fn octets(&self) -> usize {
        self.0.octets()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::memory::GRAIN;

    #[tokio::test]
    async fn p7_however_many_translate_at_once_they_stay_within_the_budget() {
        const BUDGET: usize = 100 * GRAIN;
        let translating = Translating::new(BUDGET);
        let in_memory = Arc::new(AtomicUsize::new(0));
        let translations = (1..=60_usize).map(|nth| {
            let (translating, in_memory) = (translating.clone(), Arc::clone(&in_memory));
            let octets = nth % 25 * GRAIN + 1;
            tokio::spawn(async move {
                let turn = translating.turn(octets).await.unwrap();
                let work = move || {
                    let before = in_memory.fetch_add(octets * FACTOR, Ordering::SeqCst);
                    std::thread::yield_now();
                    in_memory.fetch_sub(octets * FACTOR, Ordering::SeqCst);
                    before + octets * FACTOR
                };
                turn.run(work).await.unwrap().0
            })
        });
        for translation in translations.collect::<Vec<_>>() {
            let most = translation.await.unwrap();
            assert!(most <= BUDGET, "{most}");
        }
        assert!(translating.memory.share().resize(BUDGET), "all of it came back");
    }

    #[tokio::test]
    async fn a_turn_outlives_whoever_waits_for_it_and_ends_but_for_what_is_kept() {
        let translating = Translating::new(4 * FACTOR * GRAIN);
        let turn = translating.turn(4 * GRAIN).await.unwrap();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let running = tokio::spawn(turn.run(move || wait.recv().is_ok()));
        tokio::task::yield_now().await;
        running.abort();
        assert!(!translating.memory.share().resize(1), "it still translates");
        done.send(()).unwrap();
        let kept = translating.turn(4 * GRAIN).await.unwrap().keep(3 * GRAIN);
        assert!(!translating.memory.share().resize(4 * FACTOR * GRAIN - 2 * GRAIN));
        let mut rest = translating.memory.share();
        assert!(rest.resize(4 * FACTOR * GRAIN - 3 * GRAIN));
        // It has no more than it had.
        let kept = kept.keep(5 * GRAIN);
        drop(rest);
        assert!(translating.memory.share().resize(4 * FACTOR * GRAIN - 3 * GRAIN));
        drop(kept);
        assert!(translating.memory.share().resize(4 * FACTOR * GRAIN));
    }

    #[tokio::test]
    async fn p7_a_customers_messages_wait_for_one_another_and_nobody_elses_for_more_than_the_first() {
        let translating = Translating::new(GRAIN);
        let id = |name: &str| CustomerId::parse(name).unwrap();
        let (ann, bob) = (id("ann"), id("bob"));
        let first = translating.first(&ann).await.unwrap();
        let mut second = Box::pin(translating.first(&ann));
        tokio::select! {
            biased;
            _ = &mut second => panic!("somebody is before it"),
            of_bob = translating.first(&bob) => assert!(of_bob.is_ok()),
        }
        drop(first);
        let second = second.await.unwrap();
        assert_eq!(translating.lines.0.lock().unwrap().len(), 2);
        drop(second);
        drop(translating.first(&id("carol")).await);
        assert_eq!(translating.lines.0.lock().unwrap().len(), 1, "who stands nowhere is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gets_no_turn_is_told_so_in_the_end() {
        let translating = Translating::new(GRAIN);
        let _turn = translating.turn(1).await.unwrap();
        assert!(matches!(translating.turn(1).await, Err(NotTranslated::Crowded)));
        let ann = CustomerId::parse("ann").unwrap();
        let _first = translating.first(&ann).await.unwrap();
        assert!(matches!(translating.first(&ann).await, Err(NotTranslated::Crowded)));
    }
}
